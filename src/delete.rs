// SPDX-License-Identifier: Apache-2.0
//! `delete`: cleans up after a container whose server may be dead.
//!
//! containerd runs it after every container, mostly with nothing left to do; the bundle, which is
//! the working directory, may be gone already. It answers in any case: a failure would make
//! containerd keep the bundle. Standard error, which containerd logs as a warning, stays empty
//! unless something of the container is really left.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use options::Options;
use protobuf::Message as _;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::args::Args;
use crate::error::chain;
use crate::{RUNTIME, group, socket};

/// As if by SIGKILL.
const EXIT_STATUS: u32 = 128 + 9;

/// Runs the action; returns the reply.
pub(crate) fn run(args: &Args) -> Vec<u8> {
    let bundle = bundle(args);
    let options = Options::read(&bundle).unwrap_or_else(|error| {
        warn(&error);
        Options::default()
    });
    let root = Path::new(options.state_root());
    let pid = match runtime::cleanup::force(root, &args.namespace, &args.id, &bundle) {
        Ok(report) => report.pid,
        Err(error) => {
            warn(&error);
            0
        }
    };
    remove_sockets(args, &bundle);
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0);
    reply(pid.or_else(|| pid_file(&bundle)).unwrap_or(0))
}

/// The container's bundle: beside the working directory, because containerd may start us in the
/// bundle of another container of the same server.
fn bundle(args: &Args) -> PathBuf {
    let cwd = std::env::current_dir().or_else(|_| {
        // The directory has been removed: the kernel still knows where it was.
        let text = std::fs::read_link("/proc/self/cwd")?;
        let text = text.to_string_lossy();
        Ok::<_, std::io::Error>(PathBuf::from(
            text.strip_suffix(" (deleted)").unwrap_or(&text),
        ))
    });
    let parent = cwd.ok().and_then(|cwd| cwd.parent().map(Path::to_owned));
    parent.unwrap_or_default().join(&args.id)
}

fn pid_file(bundle: &Path) -> Option<u32> {
    std::fs::read_to_string(bundle.join("init.pid"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Removes the sockets that a killed server has left; a live one serves other containers.
fn remove_sockets(args: &Args, bundle: &Path) {
    let Ok(address) = std::fs::read_to_string(bundle.join("address")) else {
        return;
    };
    let Some(path) = address.trim().strip_prefix(socket::SCHEME).map(Path::new) else {
        return;
    };
    socket::remove_stale(path);
    let group = group::of(bundle, &args.id).unwrap_or_else(|_| args.id.clone());
    if let Some(dir) = path.parent() {
        // There is one if containerd logs at debug level.
        let debug = socket::path(dir, &args.address, &[&args.namespace, &group, "debug"]);
        socket::remove_stale(&debug);
    }
}

fn reply(pid: u32) -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mut exited_at = Timestamp::new();
    exited_at.seconds = i64::try_from(now.as_secs()).unwrap_or_default();
    exited_at.nanos = i32::try_from(now.subsec_nanos()).unwrap_or_default();
    let mut response = DeleteResponse::new();
    response.pid = pid;
    response.exit_status = EXIT_STATUS;
    response.exited_at = Some(exited_at).into();
    // Encoding into memory fails only for a message without a size: none of ours.
    response.write_to_bytes().unwrap_or_default()
}

fn warn(error: &dyn std::error::Error) {
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "{RUNTIME}: {}", chain(error));
}
