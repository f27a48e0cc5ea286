// SPDX-License-Identifier: Apache-2.0
//! One container as containerd would run it, as far as the shim binary is concerned: a bundle, an
//! id, the command line, and the server that `start` leaves.

#![allow(dead_code, reason = "each test program uses another part")]

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, Extension};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_containerd-shim-rust-v2");
pub(crate) const ADDRESS: &str = "/run/containerd/containerd.sock";
pub(crate) const NAMESPACE: &str = "contract-test";
pub(crate) const DEFAULT_DIR: &str = "/run/containerd/s";

/// Which containerd calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Containerd {
    V1_6,
    V1_7,
    V2_0,
    V2_3,
}

/// A container; what is left of it goes when this is dropped.
pub(crate) struct Container {
    pub(crate) id: String,
    /// Holds the bundle, so that `dirname(cwd)/<id>` is the bundle.
    pub(crate) root: tempfile::TempDir,
    pub(crate) bundle: PathBuf,
    pub(crate) containerd: Containerd,
    /// For bootstrap parameters.
    pub(crate) socket_dir: String,
    pub(crate) options: Option<Any>,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Container {
    pub(crate) fn new(containerd: Containerd) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("c{}-{count}", std::process::id());
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join(&id);
        fs::create_dir(&bundle).unwrap();
        let this = Self {
            id,
            root,
            bundle,
            containerd,
            socket_dir: String::new(),
            options: None,
            flags: Vec::new(),
            env: Vec::new(),
        };
        this.spec("{}");
        this
    }

    /// Writes `config.json` with these annotations.
    pub(crate) fn spec(&self, annotations: &str) {
        let text = format!(r#"{{"ociVersion":"1.2.0","annotations":{annotations}}}"#);
        fs::write(self.bundle.join("config.json"), text).unwrap();
    }

    pub(crate) fn command(&self, action: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["-namespace", NAMESPACE, "-address", ADDRESS]);
        command.args(["-publish-binary", "/usr/bin/containerd", "-id", &self.id]);
        if action == "delete" {
            command.arg("-bundle").arg(&self.bundle);
        }
        command
            .args(&self.flags)
            .arg(action)
            .current_dir(&self.bundle);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("GOMAXPROCS", "2");
        command.env("TTRPC_ADDRESS", "/nonexistent/containerd.sock.ttrpc");
        if self.containerd != Containerd::V1_6 {
            command
                .env("MAX_SHIM_VERSION", "2")
                .env("NAMESPACE", NAMESPACE);
            command.env("GRPC_ADDRESS", ADDRESS);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What this containerd writes to the standard input of `start`.
    pub(crate) fn input(&self) -> Vec<u8> {
        if self.containerd != Containerd::V2_3 {
            return self
                .options
                .as_ref()
                .map_or(Vec::new(), |any| any.write_to_bytes().unwrap());
        }
        let mut params = BootstrapParams::new();
        params.instance_id = self.id.clone();
        params.namespace = NAMESPACE.into();
        params.containerd_version = "2.3.0".into();
        params.containerd_grpc_address = ADDRESS.into();
        params.containerd_ttrpc_address = format!("unix://{ADDRESS}.ttrpc");
        params.socket_dir = Some(self.socket_dir.clone()).filter(|dir| !dir.is_empty());
        if let Some(any) = &self.options {
            let mut extension = Extension::new();
            extension.value = Some(any.clone()).into();
            params.extensions.push(extension);
        }
        params.write_to_bytes().unwrap()
    }

    pub(crate) fn start(&self) -> Output {
        feed(self.command("start"), &self.input())
    }

    /// Starts and insists on success and a silent standard error; returns the reply.
    pub(crate) fn started(&self) -> Vec<u8> {
        let output = self.start();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr, "");
        output.stdout
    }

    pub(crate) fn delete(&self) -> Output {
        feed(self.command("delete"), b"")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket_of(&self.id, "")
    }

    pub(crate) fn socket_of(&self, group: &str, suffix: &str) -> PathBuf {
        let hash = Sha256::digest(format!("{ADDRESS}/{NAMESPACE}/{group}{suffix}"));
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let dir = if self.socket_dir.is_empty() {
            DEFAULT_DIR
        } else {
            &self.socket_dir
        };
        Path::new(dir).join(hex)
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The servers that were started with this container's id.
    pub(crate) fn servers(&self) -> Vec<i32> {
        let mark = format!("\0-id\0{}\0", self.id);
        let is_server = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains(&mark) && line.contains("-ready-fd"))
        };
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .filter(is_server)
            .collect()
    }

    pub(crate) fn server(&self) -> i32 {
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "{servers:?}");
        servers[0]
    }

    /// Ends the servers without giving them a chance to clean up.
    pub(crate) fn kill(&self) {
        for pid in self.servers() {
            // It may have ended by itself.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            wait_until("the server is gone", || is_gone(pid));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
        for socket in [self.socket(), self.socket_of(&self.id, "/debug")] {
            let _ = fs::remove_file(socket);
        }
    }
}

/// Runs a command with this standard input.
pub(crate) fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A child that does not read its input has ended; its output says why.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

pub(crate) fn is_gone(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => true,
    }
}

pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn any(type_url: &str, value: &[u8]) -> Any {
    Any {
        type_url: type_url.into(),
        value: value.into(),
        ..Any::default()
    }
}

pub(crate) fn accepts(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}
