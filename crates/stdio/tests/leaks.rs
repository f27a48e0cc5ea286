// SPDX-License-Identifier: Apache-2.0
//! Whatever happens, no descriptor and no thread is left. One test: the count is the process's.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use rustix::fs::OFlags;
use stdio::{DataPath, Request, Terminal};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Opens, lets data flow for some turns, and cuts.
fn cut_after(request: &Request<'_>, turns: usize) {
    let (mut reactor, child) = Reactor::open(request);
    if request.terminal == Terminal::Yes {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        reactor.io.attach_console(master).unwrap();
    }
    let writer = child.map(|child| write_sequence_until_closed(child.stdout));
    for _ in 0..turns {
        reactor.turn(Duration::from_millis(1));
    }
    if turns % 2 == 0 {
        reactor.process_exited();
    }
    if let Some(end) = reactor.io.cut() {
        end.finish();
    }
    assert!(reactor.io.cut().is_none());
    for stream in stdio::Stream::ALL {
        assert_eq!(reactor.io.drive(stream), stdio::Drive::Done);
    }
    reactor.io.close_stdin();
    drop(reactor);
    if let Some(writer) = writer {
        writer.join().unwrap();
    }
}

fn write_sequence_until_closed(to: std::os::fd::OwnedFd) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        // At most what a FIFO and a pipe hold, so that it ends without a reader, too.
        let data = [b'x'; 4096];
        for _ in 0..4 {
            if rustix::io::write(&to, &data).is_err() {
                return;
            }
        }
    })
}

#[test]
fn no_descriptor_and_no_thread_outlives_a_cut_at_any_time() {
    let fifos = Fifos::new();
    let file = format!("file://{}", text(&fifos.path("log")));
    let logger = fifos.path("logger.sh");
    std::fs::write(&logger, "#!/bin/sh\nexec 5>&-; cat <&3 >/dev/null\n").unwrap();
    std::fs::set_permissions(&logger, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let logger = format!("binary://{}", text(&logger));
    let direct = fifos.request(DataPath::Direct);
    let relayed = fifos.request(DataPath::Relayed);
    let terminal = Request {
        terminal: Terminal::Yes,
        ..relayed
    };
    let requests = [
        empty(),
        direct,
        relayed,
        terminal,
        Request {
            stdout: &file,
            stderr: &file,
            ..relayed
        },
        Request {
            stdout: &logger,
            stderr: &logger,
            ..relayed
        },
        Request {
            stdout: &file,
            ..terminal
        },
        Request {
            stdout: &logger,
            ..terminal
        },
        Request {
            terminal: Terminal::Yes,
            ..empty()
        },
    ];
    let before = (open_descriptors(), threads());
    for request in &requests {
        for turns in 0..6 {
            cut_after(request, turns);
        }
        let output = client(&fifos.stdout, OFlags::RDONLY);
        let input = client(&fifos.stdin, OFlags::RDWR);
        cut_after(request, 3);
        drop((input, output));
        // Failing late leaves nothing either.
        let broken = Request {
            stdin: "/nope",
            ..*request
        };
        assert!(stdio::open(&broken).is_err());
        let broken = Request {
            stdout: "/nope",
            ..*request
        };
        assert!(stdio::open(&broken).is_err());
    }
    // A thread that appends to a file ends soon, not at once.
    let start = Instant::now();
    while (open_descriptors(), threads()) != before {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{before:?} {}",
            open_descriptors()
        );
        std::thread::yield_now();
    }
}
