// SPDX-License-Identifier: Apache-2.0
//! A caller with a `NOTIFY_SOCKET`, as systemd and podman are.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::*;

/// What the socket is called in a container.
const INSIDE: &str = "run/notify/notify.sock";

/// The caller's socket.
struct Host {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Host {
    fn new(lab: &Lab) -> Self {
        let path = lab.path("host.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self { socket, path }
    }

    fn heard(&self) -> String {
        let mut data = [0; 4096];
        let size = self.socket.recv(&mut data).unwrap();
        String::from_utf8_lossy(&data[..size]).into_owned()
    }

    /// Calls `ocirun` with the variable set.
    fn command<'a>(&self, lab: &Lab, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = lab.command(args);
        command.env("NOTIFY_SOCKET", &self.path);
        command
    }
}

/// The pid of a container's init, once there is one with a socket.
fn listening(lab: &Lab, id: &str) -> i64 {
    let pid = || {
        let state = lab.ocirun(["state", id]).stdout;
        let state: Value = serde_json::from_str(&state).ok()?;
        state["pid"].as_i64().filter(|pid| *pid > 0)
    };
    let socket = |pid| PathBuf::from(format!("/proc/{pid}/root/{INSIDE}"));
    wait_until("a socket in the container", || {
        pid().is_some_and(|pid| socket(pid).exists())
    });
    pid().unwrap()
}

/// Speaks where the container's processes do.
fn say(pid: i64, text: &str) {
    let client = UnixDatagram::unbound().unwrap();
    let path = format!("/proc/{pid}/root/{INSIDE}");
    client.send_to(text.as_bytes(), path).unwrap();
}

#[test]
fn start_returns_when_the_container_is_ready() {
    let Some(lab) = Lab::new() else { return };
    let host = Host::new(&lab);
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    let created = lab.finish(&mut host.command(&lab, ["create", "-b", bundle.name(), "c"]));
    assert!(created.success(), "{created:?}");
    let start = host.command(&lab, ["start", "c"]).spawn().unwrap();
    let mut start = Killed(start);
    let pid = listening(&lab, "c");
    say(pid, "STATUS=loading");
    assert_eq!(host.heard(), "STATUS=loading");
    assert_eq!(start.0.try_wait().unwrap(), None, "it is not ready yet");
    say(pid, "FDSTORE=1\nREADY=1");
    let heard = host.heard();
    let lines: Vec<&str> = heard.lines().collect();
    assert!(lines.contains(&"READY=1"), "{heard:?}");
    let main = format!("MAINPID={pid}");
    assert!(lines.contains(&main.as_str()), "{heard:?}");
    assert_eq!(lines.len(), 2, "{heard:?}");
    assert!(start.0.wait().unwrap().success());

    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let variable = format!("NOTIFY_SOCKET=/{INSIDE}");
    assert!(
        environment.split('\0').any(|entry| entry == variable),
        "{environment:?}"
    );
    assert!(lab.ocirun(["delete", "--force", "c"]).success());
    assert!(!lab.root().join("c").exists());
}

#[test]
fn nobody_waits_for_a_container_that_has_ended_or_has_no_socket() {
    let Some(lab) = Lab::new() else { return };
    let host = Host::new(&lab);
    let bundle = lab.bundle("b", ["true"]);
    let run = ["run", "-d", "-b", bundle.name(), "c"];
    let ran = lab.finish(&mut host.command(&lab, run));
    assert!(ran.success(), "{ran:?}");
    assert_eq!(lab.state("c")["status"], "stopped");

    let bundle = lab.bundle("silent", ["sleep", "1000"]);
    let created = lab.ocirun(["create", "-b", bundle.name(), "silent"]);
    assert!(created.success(), "{created:?}");
    let started = lab.finish(&mut host.command(&lab, ["start", "silent"]));
    assert!(started.success(), "{started:?}");
    let pid = lab.state("silent")["pid"].as_i64().unwrap();
    assert!(!fs::exists(format!("/proc/{pid}/root/run/notify")).unwrap());
}

#[test]
fn run_passes_words_on_as_long_as_the_container_lives() {
    let Some(lab) = Lab::new() else { return };
    let host = Host::new(&lab);
    let script = "trap 'exit 9' TERM; while :; do sleep 0.02; done";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    let run = host.command(&lab, ["run", "-b", bundle.name(), "c"]);
    let mut run = Killed({ run }.spawn().unwrap());
    let pid = listening(&lab, "c");
    say(pid, "READY=1");
    assert!(host.heard().contains("READY=1"));
    say(pid, "STATUS=at work");
    assert_eq!(host.heard(), "STATUS=at work");
    // Its trap is set: a signal before that would be ignored, as it is init.
    wait_until("its trap", || {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << 14 != 0)
        })
    });
    let process = rustix::process::Pid::from_child(&run.0);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(host.heard(), "STOPPING=1");
    assert_eq!(run.0.wait().unwrap().code(), Some(9));
}
