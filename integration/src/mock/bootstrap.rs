// SPDX-License-Identifier: Apache-2.0
//! `start` and `delete`: how each generation of containerd calls them, and what it understands.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::bootstrap_api::{
    BootstrapParams, BootstrapResult, Extension, LogLevel,
};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::error::{CallError, During as _, Error, Result};
use super::orphans;
use super::subject::{Generation, Subject};
use super::wire;

/// containerd gives `start` as long as its client has patience.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the daemon passes to every call of the binary.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    pub(crate) namespace: String,
    /// Path of the gRPC socket, which nobody listens at.
    pub(crate) address: String,
    /// Path of the events socket.
    pub(crate) events: String,
    /// Sockets of shims, 2.3 and newer.
    pub(crate) sockets: String,
    /// What its environment has besides.
    pub(crate) environment: Vec<(String, String)>,
}

/// What `start` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Of the task service.
    pub version: i32,
    /// Where the shim listens.
    pub address: String,
    /// As printed.
    pub raw: Vec<u8>,
}

/// What `delete` said.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// The message on stdout.
    pub response: DeleteResponse,
    /// Should be empty: containerd would log it as a warning.
    pub stderr: String,
}

fn command(subject: &Subject, daemon: &Daemon, bundle: &super::Bundle, action: &str) -> Command {
    let mut command = Command::new(&subject.path);
    command
        .args(["-namespace", &daemon.namespace])
        .args(["-address", &daemon.address])
        .args(["-publish-binary", "/usr/bin/containerd"])
        .args(["-id", bundle.id()]);
    if action == "delete" {
        command.arg("-bundle").arg(bundle.path());
    }
    command
        .arg(action)
        .current_dir(bundle.path())
        .process_group(0)
        .env("PATH", subject.search_path())
        .env("GOMAXPROCS", "2")
        .env("TTRPC_ADDRESS", &daemon.events)
        .env_remove("MAX_SHIM_VERSION")
        .env_remove("GRPC_ADDRESS")
        .env_remove("NAMESPACE")
        .envs(daemon.environment.iter().cloned());
    if subject.generation != Generation::V1_6 {
        command
            .env("MAX_SHIM_VERSION", "2")
            .env("GRPC_ADDRESS", &daemon.address)
            .env("NAMESPACE", &daemon.namespace);
    }
    command
}

/// Runs `start`. Its stdout and stderr are one pipe, and it is over when nobody holds that any
/// more: so does the daemon.
pub(crate) fn start(
    subject: &Subject,
    daemon: &Daemon,
    bundle: &super::Bundle,
    options: Option<&Any>,
) -> Result<Reply> {
    let input = start_input(subject, daemon, bundle, options)?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).during(|| "pipe".to_owned())?;
    let errors = write.try_clone().during(|| "dup".to_owned())?;
    let mut command = command(subject, daemon, bundle, "start");
    command
        .stdout(Stdio::from(write))
        .stderr(Stdio::from(errors));
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child =
        orphans::spawn(&mut command).during(|| format!("execute {}", subject.path.display()))?;
    // Holds the write ends.
    drop(command);
    if let (Some(input), Some(mut stdin)) = (input, child.stdin()) {
        // A shim may leave its input unread, as some of Go's do.
        let _ = stdin.write_all(&input);
    }
    let raw = read_to_end(&File::from(read));
    if raw.is_err() {
        child.kill();
    }
    let status = child.wait().during(|| "wait for start".to_owned())?;
    let raw = raw?;
    if !status.success() {
        return Err(failed("start", status, &raw));
    }
    understand(subject.generation, &raw)
}

fn start_input(
    subject: &Subject,
    daemon: &Daemon,
    bundle: &super::Bundle,
    options: Option<&Any>,
) -> Result<Option<Vec<u8>>> {
    let wrap = |cause: CallError| Error::Call {
        method: "start".to_owned(),
        cause,
    };
    if subject.generation != Generation::V2_3 {
        return options.map(wire::encode).transpose().map_err(wrap);
    }
    let extensions = options.map(|any| {
        let mut extension = Extension::new();
        extension.value = Some(any.clone()).into();
        extension
    });
    let params = BootstrapParams {
        instance_id: bundle.id().to_owned(),
        namespace: daemon.namespace.clone(),
        log_level: LogLevel::default().into(),
        containerd_version: "v2.3.0".to_owned(),
        containerd_ttrpc_address: daemon.events.clone(),
        containerd_grpc_address: daemon.address.clone(),
        containerd_binary: "/usr/bin/containerd".to_owned(),
        extensions: extensions.into_iter().collect(),
        socket_dir: Some(daemon.sockets.clone()),
        ..Default::default()
    };
    wire::encode(&params).map(Some).map_err(wrap)
}

/// Runs `delete`.
pub(crate) fn delete(
    subject: &Subject,
    daemon: &Daemon,
    bundle: &super::Bundle,
) -> Result<Deletion> {
    let mut command = command(subject, daemon, bundle, "delete");
    let output =
        orphans::run(&mut command).during(|| format!("execute {}", subject.path.display()))?;
    if !output.status.success() {
        return Err(failed(
            "delete",
            output.status,
            &[output.stdout, output.stderr].concat(),
        ));
    }
    let response = wire::decode(&output.stdout).map_err(|cause| Error::Call {
        method: "delete".to_owned(),
        cause,
    })?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Deletion { response, stderr })
}

fn failed(action: &'static str, status: ExitStatus, output: &[u8]) -> Error {
    let output = String::from_utf8_lossy(output).trim().to_owned();
    Error::Binary {
        action,
        status: status.to_string(),
        output,
    }
}

fn read_to_end(mut pipe: &File) -> Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).during(|| "poll start's output".to_owned()),
            Ok(0) => {
                let have = String::from_utf8_lossy(&all);
                let what = format!("end of start's output, have {have:?}");
                return Err(Error::Late {
                    what,
                    limit: PATIENCE,
                });
            }
            Ok(_) => {}
        }
        match pipe
            .read(&mut buffer)
            .during(|| "read start's output".to_owned())?
        {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Reads a reply as this generation does, and refuses what it would refuse.
fn understand(generation: Generation, raw: &[u8]) -> Result<Reply> {
    let text = String::from_utf8_lossy(raw).trim().to_owned();
    let refuse = |why: &str| Error::Reply {
        why: why.to_owned(),
        reply: text.clone(),
    };
    let (version, address, protocol) = match generation {
        Generation::V1_6 => (2, text.clone(), "ttrpc".to_owned()),
        Generation::V1_7 | Generation::V2_0 => json_or_plain(&text),
        Generation::V2_3 => match BootstrapResult::parse_from_bytes(raw) {
            Ok(result) if result.version > 0 && !result.address.is_empty() => {
                (result.version, result.address, result.protocol)
            }
            _ => json_or_plain(&text),
        },
    };
    if protocol != "ttrpc" {
        return Err(refuse("unexpected protocol"));
    }
    if !(2..=generation.newest_api()).contains(&version) {
        return Err(refuse("unsupported shim version"));
    }
    if !address.starts_with("unix://") || address.contains(char::is_whitespace) {
        return Err(refuse("not the address of a socket"));
    }
    Ok(Reply {
        version,
        address,
        raw: raw.to_vec(),
    })
}

fn json_or_plain(text: &str) -> (i32, String, String) {
    let Ok(serde_json::Value::Object(map)) = serde_json::from_str(text) else {
        return (2, text.to_owned(), "ttrpc".to_owned());
    };
    let string = |key: &str| {
        map.get(key)
            .and_then(|value| value.as_str())
            .unwrap_or("")
            .to_owned()
    };
    let version = map
        .get("version")
        .and_then(serde_json::Value::as_i64)
        .unwrap_or(0);
    (
        i32::try_from(version).unwrap_or(0),
        string("address"),
        string("protocol"),
    )
}
