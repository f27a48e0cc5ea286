// SPDX-License-Identifier: Apache-2.0
//! Logging programs (shell scripts) and log files.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::*;
use rustix::fs::OFlags;
use stdio::{Error, Request, Stream};

/// A logger that runs `script`, and its URI.
struct Script {
    fifos: Fifos,
    uri: String,
}

impl Script {
    fn new(scheme: &str, script: &str) -> Self {
        let fifos = Fifos::new();
        let path = fifos.path("logger.sh");
        let place = fifos.path(".");
        write_script(
            &path,
            &format!("#!/bin/sh\ncd {}\n{script}\n", text(&place)),
        );
        let uri = format!("{scheme}://{}?z=last&a=b%20c", text(&path));
        Self { fifos, uri }
    }

    fn request(&self) -> Request<'_> {
        Request {
            stdout: &self.uri,
            stderr: &self.uri,
            ..empty()
        }
    }

    fn output(&self, name: &str) -> String {
        std::fs::read_to_string(self.fifos.path(name)).unwrap_or_default()
    }
}

/// What a logger is expected to do: say that it is ready, store both streams.
const GOOD: &str = "echo \"$@\" >args; cat /proc/self/environ | tr '\\0' '\\n' | grep CONT >env
    printf x >&5; exec 5>&-; cat <&4 >err.log & cat <&3 >out.log; wait; echo yes >done";

#[test]
fn a_logger_gets_both_streams_its_arguments_and_the_containers_names() {
    for scheme in ["binary", "binary-v2"] {
        let script = Script::new(scheme, GOOD);
        let (mut reactor, child) = Reactor::open(&script.request());
        assert_eq!(script.output("args"), "z last a b c\n");
        assert_eq!(
            script.output("env"),
            "CONTAINER_ID=box\nCONTAINER_NAMESPACE=tests\n"
        );
        let mut process = container(child.unwrap(), "echo out; echo err >&2");
        reactor.run_to_the_end(&mut process);
        reactor.run_until("logger's end", |_| script.output("done") == "yes\n");
        if let Some(end) = reactor.io.cut() {
            end.finish();
        }
        assert_eq!(script.output("out.log"), "out\n");
        assert_eq!(script.output("err.log"), "err\n");
    }
}

#[test]
fn a_logger_with_a_backlog_is_given_time_at_the_end() {
    let script = Script::new("binary", "exec 5>&-; sleep 0.3; cat <&3 >out.log");
    let (mut reactor, child) = Reactor::open(&script.request());
    let mut process = container(child.unwrap(), "head -c 50000 /dev/zero");
    reactor.run_to_the_end(&mut process);
    reactor.io.cut().unwrap().finish();
    assert_eq!(script.output("out.log").len(), 50_000);
}

#[test]
fn a_logger_that_does_not_end_is_terminated() {
    let script = Script::new(
        "binary",
        "trap 'echo term >out.log; kill $!; exit' TERM; exec 5>&-; sleep 60 & wait",
    );
    let (mut reactor, _child) = Reactor::open(&script.request());
    let start = Instant::now();
    let end = reactor.io.cut().unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "cut does not wait"
    );
    end.finish();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(script.output("out.log"), "term\n");
    assert!(reactor.io.cut().is_none());
}

#[test]
fn a_logger_that_crashes_at_once_fails_v2_only() {
    let script = Script::new("binary-v2", "exit 3");
    let error = stdio::open(&script.request()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "logging binary did not call ready (it may have crashed or exited prematurely)"
    );

    let script = Script::new("binary", "exit 3");
    let (mut reactor, child) = Reactor::open(&script.request());
    // Neither killed by SIGPIPE nor stalled.
    let mut process = container(child.unwrap(), "head -c 1000000 /dev/zero && exit 7");
    reactor.run_until("exit", |_| process.try_wait().unwrap().is_some());
    assert_eq!(process.wait().unwrap().code(), Some(7));
    reactor.process_exited();
    reactor.run_until("drained", |reactor| reactor.io.drained());
    assert!(reactor.io.cut().is_none(), "reaped already");
}

#[test]
fn a_logger_that_dies_later_does_not_stop_the_container() {
    let script = Script::new("binary", "exec 5>&-; head -c 10 <&3 >out.log");
    let (mut reactor, child) = Reactor::open(&script.request());
    let mut process = container(
        child.unwrap(),
        "head -c 1000000 /dev/zero && head -c 1000000 /dev/zero >&2 && exit 7",
    );
    reactor.run_until("exit", |_| process.try_wait().unwrap().is_some());
    assert_eq!(process.wait().unwrap().code(), Some(7));
    assert_eq!(script.output("out.log").len(), 10);
}

#[test]
fn a_missing_logger_is_an_error_with_its_cause() {
    let request = Request {
        stdout: "binary:///nope",
        ..empty()
    };
    let error = stdio::open(&request).err().unwrap();
    assert!(matches!(error, Error::LoggerStart(_)));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.ends_with("no such file or directory"), "{cause}");
}

/// Shows `text` on a terminal, exits, and drains.
fn show(request: &Request<'_>, text: &[u8]) -> Reactor {
    let terminal = stdio::Terminal::Yes;
    let (mut io, _) = stdio::open(&Request {
        terminal,
        ..*request
    })
    .unwrap();
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    io.attach_console(master).unwrap();
    let mut reactor = Reactor::new(io);
    rustix::io::write(&slave, text).unwrap();
    drop(slave);
    reactor.process_exited();
    reactor.run_until("drained", |reactor| reactor.io.drained());
    reactor
}

#[test]
fn a_terminal_goes_to_a_logger_too() {
    let script = Script::new("binary", GOOD);
    let mut reactor = show(&script.request(), b"hello\n");
    reactor.run_until("logger's end", |_| script.output("done") == "yes\n");
    assert_eq!(script.output("out.log"), "hello\r\n");
    if let Some(end) = reactor.io.cut() {
        end.finish();
    }
}

#[test]
fn a_terminal_goes_to_a_log_file_too() {
    let fifos = Fifos::new();
    let path = fifos.path("log");
    let uri = format!("file://{}", text(&path));
    let mut reactor = show(&file_request(&uri), b"hello\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\r\n");
    reactor.run_until("told by an event", |r| r.done.contains(&Stream::Stdout));
}

fn file_request(uri: &str) -> Request<'_> {
    Request {
        stdout: uri,
        stderr: uri,
        ..empty()
    }
}

#[test]
fn a_log_file_is_made_with_its_directories_and_appended_to_in_order() {
    let fifos = Fifos::new();
    let path: PathBuf = fifos.path("a b/c/log");
    let uri = format!("file://{}?x=y", text(&path).replace(' ', "%20"));
    for round in 1..=2 {
        let (mut reactor, child) = Reactor::open(&file_request(&uri));
        let mut process = container(child.unwrap(), "echo 1; echo 2 >&2; echo 3");
        reactor.run_to_the_end(&mut process);
        reactor.run_until("told by an event", |r| r.done.contains(&Stream::Stdout));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "1\n2\n3\n".repeat(round)
        );
    }
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

#[test]
fn a_file_that_exists_is_accepted_as_a_path_and_the_container_cannot_reach_it() {
    let fifos = Fifos::new();
    let path = fifos.path("log");
    std::fs::write(&path, "old\n").unwrap();
    let (mut reactor, child) = Reactor::open(&file_request(text(&path)));
    // Neither truncates nor changes the mode.
    let script = "echo 1; echo 2 >/dev/stderr; chmod 4777 /dev/stdout; echo 3 >/dev/stdout";
    let mut process = container(child.unwrap(), script);
    reactor.run_to_the_end(&mut process);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\n1\n2\n3\n");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o644
    );

    // Two files: one for each.
    let other = fifos.path("other");
    std::fs::write(&other, "").unwrap();
    let request = Request {
        stdout: text(&path),
        stderr: text(&other),
        ..empty()
    };
    let (mut reactor, child) = Reactor::open(&request);
    let mut process = container(child.unwrap(), "echo 4; echo e >&2");
    reactor.run_to_the_end(&mut process);
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("3\n4\n"));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "e\n");
}

#[test]
fn a_full_disk_does_not_stop_the_container() {
    let request = file_request("/dev/full");
    assert!(matches!(
        stdio::open(&request),
        Err(Error::WrongKind { .. })
    ));
    let fifos = Fifos::new();
    // Sealed against growing: the second write fails as on a full disk.
    let file = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::GROW).unwrap();
    let link = fifos.path("log");
    let target = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&file)
    );
    std::os::unix::fs::symlink(target, &link).unwrap();
    let (mut reactor, child) = Reactor::open(&file_request(text(&link)));
    let mut process = container(child.unwrap(), "head -c 1000000 /dev/zero; exit 7");
    reactor.run_to_the_end(&mut process);
    assert_eq!(process.wait().unwrap().code(), Some(7));
}
