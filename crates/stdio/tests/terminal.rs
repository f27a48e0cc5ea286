// SPDX-License-Identifier: Apache-2.0
//! Real pseudo-terminals with a process that leads a session on them.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use stdio::{DataPath, Error, Request, Stream, Terminal};

/// A terminal: its master and its slave. No newline is translated.
fn console() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    let mut settings = rustix::termios::tcgetattr(&slave).unwrap();
    settings
        .output_modes
        .remove(rustix::termios::OutputModes::OPOST);
    settings
        .local_modes
        .remove(rustix::termios::LocalModes::ECHO);
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &settings).unwrap();
    (master, slave)
}

fn on_terminal(slave: OwnedFd, script: &str) -> Child {
    let file = File::from(slave);
    Command::new("setsid")
        .args(["--ctty", "/bin/sh", "-c", script])
        .stdin(Stdio::from(file.try_clone().unwrap()))
        .stdout(Stdio::from(file.try_clone().unwrap()))
        .stderr(Stdio::from(file))
        .spawn()
        .unwrap()
}

fn request(fifos: &Fifos) -> Request<'_> {
    Request {
        terminal: Terminal::Yes,
        stderr: "",
        ..fifos.request(DataPath::Relayed)
    }
}

fn start(request: &Request<'_>, script: &str) -> (Reactor, Child) {
    let (mut io, child) = stdio::open(request).unwrap();
    assert!(child.is_none(), "its streams are the terminal");
    let (master, slave) = console();
    io.attach_console(master).unwrap();
    io.begin_input().unwrap();
    (Reactor::new(io), on_terminal(slave, script))
}

#[test]
fn input_reaches_the_process_and_output_the_client() {
    let fifos = Fifos::new();
    let (mut reactor, mut process) = start(&request(&fifos), "read x; echo out $x; echo err >&2");
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let mut input = client(&fifos.stdin, OFlags::WRONLY);
    input.write_all(b"hello\n").unwrap();
    reactor.run_to_the_end(&mut process);
    assert_eq!(output.join().unwrap(), b"out hello\nerr\n");
}

#[test]
fn ten_megabytes_and_exit_lose_no_byte() {
    const BLOCKS: usize = 160;
    let fifos = Fifos::new();
    let data = fifos.path("data");
    let file = File::create(&data).unwrap();
    write_sequence(file.into(), BLOCKS).join().unwrap();
    for _ in 0..5 {
        let script = format!("exec cat {}", text(&data));
        let (mut reactor, mut process) = start(&request(&fifos), &script);
        let reader = check_sequence(client(&fifos.stdout, OFlags::RDONLY));
        reactor.run_to_the_end(&mut process);
        assert_eq!(reader.join().unwrap(), BLOCKS * 65536);
    }
}

#[test]
fn output_left_in_the_terminal_at_exit_waits_for_a_slow_reader() {
    let fifos = Fifos::new();
    // One page: the FIFO and the relay hold a chunk each, the rest is left in the terminal.
    let mut stalled = client(&fifos.stdout, OFlags::RDWR);
    rustix::pipe::fcntl_setpipe_size(&stalled, 4096).unwrap();
    let (mut reactor, mut process) = start(&request(&fifos), "head -c 9000 /dev/zero");
    reactor.run_until("exit", |_| process.try_wait().unwrap().is_some());
    reactor.process_exited();
    reactor.settle();
    assert!(!reactor.io.drained());
    let wakeups = reactor.wakeups;
    reactor.turn(Duration::from_millis(200));
    assert_eq!(reactor.wakeups, wakeups, "the shim sleeps");

    let reader = std::thread::spawn(move || stalled.read_exact(&mut [0; 9000]));
    reactor.run_until("drained", |reactor| reactor.io.drained());
    reader.join().unwrap().unwrap();
}

#[test]
fn a_daemon_that_keeps_the_terminal_open_holds_nothing_up() {
    let fifos = Fifos::new();
    let script = "trap '' HUP; sleep 60 & echo $!";
    let (mut reactor, mut process) = start(&request(&fifos), script);
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    reactor.run_to_the_end(&mut process);
    let daemon = String::from_utf8(output.join().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(daemon.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_terminal_that_is_closed_and_opened_again_goes_on() {
    let fifos = Fifos::new();
    let (mut io, _) = stdio::open(&request(&fifos)).unwrap();
    let mut output = client(&fifos.stdout, OFlags::RDONLY);
    let (master, slave) = console();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    io.attach_console(master).unwrap();
    let mut reactor = Reactor::new(io);
    File::from(slave).write_all(b"one").unwrap();
    reactor.settle();
    let flags = OFlags::WRONLY | OFlags::NOCTTY;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    File::from(slave).write_all(b"two").unwrap();
    reactor.settle();
    let mut data = [0; 6];
    output.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"onetwo");
}

#[test]
fn close_io_hangs_the_terminal_up_only_when_the_client_has_closed_too() {
    let fifos = Fifos::new();
    let script = "while read x; do echo $x; done; exec sleep 60";
    let (mut reactor, mut process) = start(&request(&fifos), script);
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let mut input = client(&fifos.stdin, OFlags::WRONLY);
    reactor.io.close_stdin();
    reactor.settle();
    input.write_all(b"on\n").unwrap();
    reactor.settle();
    assert!(process.try_wait().unwrap().is_none());
    drop(input);
    reactor.run_until("hang-up", |_| process.try_wait().unwrap().is_some());
    reactor.process_exited();
    reactor.run_until("drained", |reactor| reactor.io.drained());
    assert_eq!(output.join().unwrap(), b"on\n");
}

#[test]
fn a_client_that_leaves_does_not_hang_the_terminal_up() {
    let fifos = Fifos::new();
    let (mut reactor, mut process) = start(&request(&fifos), "read x; echo $x");
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let input = client(&fifos.stdin, OFlags::WRONLY);
    drop(input);
    reactor.settle();
    assert!(process.try_wait().unwrap().is_none());
    client(&fifos.stdin, OFlags::WRONLY)
        .write_all(b"back\n")
        .unwrap();
    reactor.run_to_the_end(&mut process);
    assert_eq!(output.join().unwrap(), b"back\n");
}

#[test]
fn much_input_waits_until_the_process_reads_it() {
    let fifos = Fifos::new();
    let script = "stty raw -echo; echo ready; sleep 0.2; head -c 200000 | md5sum";
    let (mut reactor, mut process) = start(&request(&fifos), script);
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let mut input = client(&fifos.stdin, OFlags::WRONLY);
    reactor.settle();
    let data: Vec<u8> = (0..200_000u32)
        .map(|n| b"0123456789abcdef"[(n % 15) as usize])
        .collect();
    let sent = data.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    reactor.run_to_the_end(&mut process);
    writer.join().unwrap();
    let sum = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut sum = sum.unwrap();
    sum.stdin.take().unwrap().write_all(&data).unwrap();
    let expected = sum.wait_with_output().unwrap().stdout;
    assert_eq!(
        output.join().unwrap(),
        [b"ready\n", expected.as_slice()].concat()
    );
}

#[test]
fn a_resize_is_seen_by_the_process_and_after_the_end_is_nothing() {
    let fifos = Fifos::new();
    let (mut reactor, mut process) = start(&request(&fifos), "read x; stty size");
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let input = client(&fifos.stdin, OFlags::WRONLY);
    reactor.io.resize(132, 43).unwrap();
    let mut input = input;
    input.write_all(b"\n").unwrap();
    reactor.run_to_the_end(&mut process);
    assert_eq!(output.join().unwrap(), b"43 132\n");
    reactor.io.resize(80, 25).unwrap();

    let (reactor, _) = Reactor::open(&empty());
    reactor.io.resize(80, 25).unwrap();
}

#[test]
fn a_terminal_without_a_client_does_not_stop_its_process() {
    let request = Request {
        terminal: Terminal::Yes,
        ..empty()
    };
    let (mut reactor, mut process) = start(&request, "head -c 1000000 /dev/zero");
    reactor.run_to_the_end(&mut process);
}

#[test]
fn only_one_console_and_only_a_master_is_accepted() {
    let fifos = Fifos::new();
    let (mut io, _) = stdio::open(&request(&fifos)).unwrap();
    let (master, slave) = console();
    assert!(matches!(
        io.attach_console(slave),
        Err(Error::NotATerminal(_))
    ));
    let null = File::open("/dev/null").unwrap();
    assert!(matches!(
        io.attach_console(null.into()),
        Err(Error::NotATerminal(_))
    ));
    // Watched first, connected then.
    let mut reactor = Reactor::new(io);
    reactor.io.attach_console(master).unwrap();
    let (other, _slave) = console();
    assert!(matches!(
        reactor.io.attach_console(other),
        Err(Error::UnexpectedConsole)
    ));
    let (mut io, _) = stdio::open(&empty()).unwrap();
    let (other, _slave) = console();
    assert!(matches!(
        io.attach_console(other),
        Err(Error::UnexpectedConsole)
    ));
}

#[test]
fn a_console_that_never_comes_ends_at_the_exit() {
    let fifos = Fifos::new();
    let (mut reactor, _) = Reactor::open(&request(&fifos));
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    reactor.process_exited();
    assert!(reactor.io.drained());
    assert_eq!(output.join().unwrap(), b"");
    assert!(reactor.io.drive(Stream::Stdin) == stdio::Drive::Done);
}
