// SPDX-License-Identifier: Apache-2.0
//! Real FIFOs and real processes: what a client of containerd sees.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use common::*;
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use stdio::{DataPath, Owner, Request, Stream};

const BOTH: [DataPath; 2] = [DataPath::Direct, DataPath::Relayed];

#[test]
fn output_arrives_and_ends_with_the_process() {
    for path in BOTH {
        let fifos = Fifos::new();
        let (mut reactor, child) = Reactor::open(&fifos.request(path));
        let stdout = read_all(client(&fifos.stdout, OFlags::RDONLY));
        let stderr = read_all(client(&fifos.stderr, OFlags::RDONLY));
        let mut process = container(child.unwrap(), "echo out; echo err >&2");
        reactor.run_to_the_end(&mut process);
        assert_eq!(stdout.join().unwrap(), b"out\n");
        assert_eq!(stderr.join().unwrap(), b"err\n");
    }
}

#[test]
fn what_was_written_while_no_client_was_there_waits_for_one_and_then_ends() {
    for path in BOTH {
        let fifos = Fifos::new();
        let (mut reactor, child) = Reactor::open(&fifos.request(path));
        let mut process = container(child.unwrap(), "echo out; echo err >&2");
        // Drained though nobody has read: a Delete must not wait for a client.
        reactor.run_to_the_end(&mut process);
        reactor.settle();
        let wakeups = reactor.wakeups;
        reactor.turn(Duration::from_millis(100));
        assert_eq!(reactor.wakeups, wakeups, "nothing to do meanwhile");

        // Opened as a client does, waiting for a writer.
        let stdout = read_all(std::fs::File::open(&fifos.stdout).unwrap());
        let stderr = read_all(std::fs::File::open(&fifos.stderr).unwrap());
        reactor.run_until("both read", |_| {
            stdout.is_finished() && stderr.is_finished()
        });
        assert_eq!(stdout.join().unwrap(), b"out\n");
        assert_eq!(stderr.join().unwrap(), b"err\n");
        assert!(reactor.done.contains(&Stream::Stdout));
    }
}

#[test]
fn a_client_that_goes_and_comes_back_breaks_no_pipe_and_loses_nothing() {
    for path in BOTH {
        let fifos = Fifos::new();
        let (mut reactor, child) = Reactor::open(&fifos.request(path));
        let mut first = client(&fifos.stdout, OFlags::RDONLY);
        let mut input = client(&fifos.stdin, OFlags::WRONLY);
        let mut process = container(child.unwrap(), "while read line; do echo got $line; done");
        input.write_all(b"1\n").unwrap();
        let mut line = [0; 6];
        let reader = std::thread::spawn(move || {
            first.read_exact(&mut line).unwrap();
            line
        });
        reactor.run_until("first line", |_| reader.is_finished());
        assert_eq!(&reader.join().unwrap(), b"got 1\n");
        // Both of the client's ends are closed now, or soon.
        input.write_all(b"2\n").unwrap();
        drop(input);
        reactor.settle();
        assert!(
            process.try_wait().unwrap().is_none(),
            "a client that goes is no end of input"
        );

        let again = read_all(client(&fifos.stdout, OFlags::RDONLY));
        let mut input = client(&fifos.stdin, OFlags::WRONLY);
        input.write_all(b"3\n").unwrap();
        reactor.io.close_stdin();
        reactor.io.close_stdin();
        input.write_all(b"4\n").unwrap();
        drop(input);
        reactor.run_to_the_end(&mut process);
        assert_eq!(again.join().unwrap(), b"got 2\ngot 3\ngot 4\n");
    }
}

#[test]
fn close_io_ends_the_input_after_the_data_that_is_still_on_its_way() {
    for path in BOTH {
        let fifos = Fifos::new();
        let (mut reactor, child) = Reactor::open(&fifos.request(path));
        let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
        let mut input = client(&fifos.stdin, OFlags::WRONLY);
        let data = vec![b'x'; 60_000];
        input.write_all(&data).unwrap();
        drop(input);
        // Nothing is read yet; the end comes after 60000 bytes nevertheless.
        reactor.io.close_stdin();
        let mut process = container(child.unwrap(), "wc -c");
        reactor.run_to_the_end(&mut process);
        assert_eq!(output.join().unwrap(), b"60000\n");
    }
}

#[test]
fn no_client_can_send_before_the_input_is_begun() {
    let fifos = Fifos::new();
    let (io, child) = stdio::open(&fifos.request(DataPath::Direct)).unwrap();
    let mut reactor = Reactor::new(io);
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let mut process = container(child.unwrap(), "cat; echo over");
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let early = rustix::fs::open(&fifos.stdin, flags, rustix::fs::Mode::empty());
    assert_eq!(early.unwrap_err(), rustix::io::Errno::NXIO);
    // What waits is a client as containerd's: it opens, sends and closes.
    let path = fifos.stdin.clone();
    let waiting = std::thread::spawn(move || std::fs::write(path, "sent\n"));
    reactor.settle();
    assert!(!waiting.is_finished());
    reactor.io.begin_input().unwrap();
    reactor.io.begin_input().unwrap();
    reactor.run_until("sent", |_| waiting.is_finished());
    waiting.join().unwrap().unwrap();
    reactor.io.close_stdin();
    reactor.run_to_the_end(&mut process);
    assert_eq!(output.join().unwrap(), b"sent\nover\n");
}

#[test]
fn close_io_before_the_input_is_begun_is_its_end() {
    let fifos = Fifos::new();
    let (io, child) = stdio::open(&fifos.request(DataPath::Direct)).unwrap();
    let mut reactor = Reactor::new(io);
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let mut process = container(child.unwrap(), "cat; echo over");
    reactor.io.close_stdin();
    reactor.settle();
    assert!(process.try_wait().unwrap().is_none());
    reactor.io.begin_input().unwrap();
    reactor.run_to_the_end(&mut process);
    assert_eq!(output.join().unwrap(), b"over\n");
}

#[test]
fn close_io_is_no_end_while_the_client_has_its_end_open() {
    for path in BOTH {
        let fifos = Fifos::new();
        let (mut reactor, child) = Reactor::open(&fifos.request(path));
        let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
        let mut input = client(&fifos.stdin, OFlags::WRONLY);
        let mut process = container(child.unwrap(), "cat");
        reactor.io.close_stdin();
        reactor.settle();
        assert!(process.try_wait().unwrap().is_none());
        input.write_all(b"late").unwrap();
        drop(input);
        reactor.run_to_the_end(&mut process);
        assert_eq!(output.join().unwrap(), b"late");
    }
}

#[test]
fn a_hundred_megabytes_arrive_to_the_last_byte() {
    const BLOCKS: usize = 1600;
    let fifos = Fifos::new();
    let (mut reactor, child) = Reactor::open(&fifos.request(DataPath::Relayed));
    let child = child.unwrap();
    let reader = check_sequence(client(&fifos.stdout, OFlags::RDONLY));
    let writer = write_sequence(child.stdout, BLOCKS);
    reactor.run_until("written", |_| writer.is_finished());
    reactor.process_exited();
    reactor.run_until("read", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), BLOCKS * 65536);
    assert!(reactor.done.contains(&Stream::Stdout));
}

#[test]
fn input_of_ten_megabytes_arrives_to_the_last_byte() {
    const BLOCKS: usize = 160;
    let fifos = Fifos::new();
    let (mut reactor, child) = Reactor::open(&fifos.request(DataPath::Relayed));
    let reader = check_sequence(child.unwrap().stdin.into());
    let writer = write_sequence(client(&fifos.stdin, OFlags::WRONLY).into(), BLOCKS);
    reactor.io.close_stdin();
    reactor.run_until("read", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), BLOCKS * 65536);
    writer.join().unwrap();
}

#[test]
fn a_stalled_reader_stalls_the_container_and_costs_the_shim_nothing() {
    const BLOCKS: usize = 32;
    let fifos = Fifos::new();
    let (mut reactor, child) = Reactor::open(&fifos.request(DataPath::Relayed));
    let stalled = client(&fifos.stdout, OFlags::RDONLY);
    let writer = write_sequence(child.unwrap().stdout, BLOCKS);
    reactor.settle();
    assert!(!writer.is_finished(), "the container waits");
    let wakeups = reactor.wakeups;
    reactor.turn(Duration::from_millis(200));
    assert_eq!(reactor.wakeups, wakeups, "the shim sleeps");
    assert!(!reactor.io.drained());

    let reader = check_sequence(stalled);
    reactor.run_until("read", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), BLOCKS * 65536);
    writer.join().unwrap();
}

#[test]
fn a_child_that_keeps_an_execs_output_open_is_cut_off_and_the_client_sees_the_end() {
    let fifos = Fifos::new();
    let (mut reactor, child) = Reactor::open(&fifos.request(DataPath::Relayed));
    let output = read_all(client(&fifos.stdout, OFlags::RDONLY));
    let mut process = container(child.unwrap(), "sleep 60 & echo $!");
    reactor.run_until("exit", |_| process.try_wait().unwrap().is_some());
    reactor.process_exited();
    reactor.settle();
    assert!(!reactor.io.drained());
    assert!(reactor.io.cut().is_none());
    let daemon: i32 = String::from_utf8(output.join().unwrap())
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(reactor.io.drained());
    let pid = rustix::process::Pid::from_raw(daemon).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_client_is_told_that_nobody_reads_its_input_any_more() {
    for path in BOTH {
        let fifos = Fifos::new();
        let (mut reactor, child) = Reactor::open(&fifos.request(path));
        let mut input = client(&fifos.stdin, OFlags::WRONLY);
        let mut process = container(child.unwrap(), "exec sleep 60 <&-");
        if path == DataPath::Relayed {
            // Without a byte from the client.
            reactor.run_until("stdin over", |r| r.done.contains(&Stream::Stdin));
        }
        let mut broken =
            || matches!(input.write(b"x"), Err(e) if e.kind() == ErrorKind::BrokenPipe);
        reactor.run_until("broken pipe", |_| broken());
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn the_container_gets_blocking_descriptors_that_are_close_on_exec_and_its_own() {
    for path in BOTH {
        let fifos = Fifos::new();
        let owner = Owner {
            uid: 1234,
            gid: 4321,
        };
        let request = Request {
            owner,
            ..fifos.request(path)
        };
        let (_reactor, child) = Reactor::open(&request);
        let child = child.unwrap();
        for fd in [&child.stdin, &child.stdout, &child.stderr] {
            assert!(
                !rustix::fs::fcntl_getfl(fd)
                    .unwrap()
                    .contains(OFlags::NONBLOCK)
            );
            assert!(
                rustix::io::fcntl_getfd(fd)
                    .unwrap()
                    .contains(FdFlags::CLOEXEC)
            );
            let stat = rustix::fs::fstat(fd).unwrap();
            assert_eq!((stat.st_uid, stat.st_gid), (1234, 4321));
        }
        let metadata = std::fs::metadata(&fifos.stdout).unwrap();
        let expected = if path == DataPath::Direct {
            1234
        } else {
            metadata.uid()
        };
        assert_eq!(metadata.uid(), expected);
    }
}

#[test]
fn no_streams_are_dev_null_and_an_empty_one_too() {
    let null = |fd: &std::os::fd::OwnedFd| {
        let stat = rustix::fs::fstat(fd).unwrap();
        stat.st_rdev == rustix::fs::makedev(1, 3)
    };
    let (mut reactor, child) = Reactor::open(&empty());
    let child = child.unwrap();
    assert!(null(&child.stdin) && null(&child.stdout) && null(&child.stderr));
    reactor.process_exited();
    assert!(reactor.io.drained());

    let fifos = Fifos::new();
    let request = Request {
        stdin: "",
        stderr: "",
        ..fifos.request(DataPath::Direct)
    };
    let (_reactor, child) = Reactor::open(&request);
    let child = child.unwrap();
    assert!(null(&child.stdin) && !null(&child.stdout) && null(&child.stderr));

    let request = Request {
        stdout: "",
        ..fifos.request(DataPath::Direct)
    };
    let (_reactor, child) = Reactor::open(&request);
    let child = child.unwrap();
    assert!(!null(&child.stdin) && null(&child.stdout) && !null(&child.stderr));
}

#[test]
fn an_unknown_scheme_and_mixed_kinds_are_refused() {
    let refuse = |stdout: &str, stderr: &str| {
        let request = Request {
            stdout,
            stderr,
            ..empty()
        };
        stdio::open(&request).err().unwrap().to_string()
    };
    assert_eq!(refuse("npipe:///x", ""), "unknown STDIO scheme npipe");
    let fifos = Fifos::new();
    let text = refuse(text(&fifos.stdout), "file:///x");
    assert!(text.contains("different kinds"), "{text}");
}
