// SPDX-License-Identifier: Apache-2.0
//! How fast output flows, and what it costs the shim: `throughput [MiB]`.
//!
//! Each way is measured beside the copying that it replaces or is bounded by: a plain pipe, a
//! relay that copies through 4 KiB (FIFO) or 32 KiB (terminal) as the Go shim does. Rounds are
//! interleaved; the best of each is printed.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};
use stdio::{DataPath, Drive, Owner, ProcessIo, Request, Stream, Terminal};

const ROUNDS: usize = 5;

/// Sends so many MiB.
type Way = fn(usize) -> Outcome;

struct Outcome {
    elapsed: Duration,
    cpu: Duration,
}

fn main() {
    let mib = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(256);
    let ways: [(&str, Way); 6] = [
        ("pipe, nobody between", plain_pipe),
        ("FIFO, direct", |mib| fifo(mib, DataPath::Direct)),
        ("FIFO, relayed", |mib| fifo(mib, DataPath::Relayed)),
        ("FIFO, copied through 4 KiB", copied_fifo),
        ("terminal, relayed", terminal),
        ("terminal, copied through 32 KiB", copied_terminal),
    ];
    let mut best: Vec<Option<Outcome>> = ways.iter().map(|_| None).collect();
    for _ in 0..ROUNDS {
        for ((_, run), best) in ways.iter().zip(&mut best) {
            let outcome = run(mib);
            if best
                .as_ref()
                .is_none_or(|best| outcome.elapsed < best.elapsed)
            {
                *best = Some(outcome);
            }
        }
    }
    for ((name, _), outcome) in ways.iter().zip(best) {
        let outcome = outcome.unwrap();
        let speed = (mib << 20) as f64 / 1e6 / outcome.elapsed.as_secs_f64();
        let cpu = outcome.cpu.as_secs_f64() * 1e9 / (mib << 20) as f64;
        println!("{name:32} {speed:7.0} MB/s, shim's CPU {cpu:6.3} ns/byte");
    }
}

fn writer(mib: usize, stdout: OwnedFd) -> Child {
    Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", &format!("count={}", mib * 16)])
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn reader(mut from: File) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let (mut data, mut total) = (vec![0; 65536], 0);
        loop {
            match from.read(&mut data).unwrap() {
                0 => return total,
                length => total += length,
            }
        }
    })
}

/// Of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measure(mib: usize, from: File, run: impl FnOnce()) -> Outcome {
    let reader = reader(from);
    let (start, used) = (Instant::now(), cpu());
    run();
    let cpu = cpu() - used;
    assert_eq!(reader.join().unwrap(), mib << 20);
    Outcome {
        elapsed: start.elapsed(),
        cpu,
    }
}

fn plain_pipe(mib: usize) -> Outcome {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    measure(mib, from.into(), || {
        writer(mib, to).wait().unwrap();
    })
}

struct Fifo(tempfile::TempDir);

impl Fifo {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kind = rustix::fs::FileType::Fifo;
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("out"), kind, mode, 0).unwrap();
        Self(dir)
    }

    fn path(&self) -> String {
        self.0.path().join("out").to_str().unwrap().to_owned()
    }
}

fn open(path: &str, flags: OFlags) -> File {
    rustix::fs::open(Path::new(path), flags | OFlags::CLOEXEC, Mode::empty())
        .unwrap()
        .into()
}

fn request(stdout: &str, terminal: Terminal, path: DataPath) -> Request<'_> {
    Request {
        stdin: "",
        stdout,
        stderr: "",
        terminal,
        owner: Owner::default(),
        container_id: "box",
        namespace: "bench",
        path,
    }
}

/// Runs the reactor until the process has exited and everything is drained.
fn react(mut io: ProcessIo, mut process: Child) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    io.register(epoll.as_fd(), |stream| stream as u64).unwrap();
    let pid = rustix::process::Pid::from_raw(process.id() as i32).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    epoll::add(
        &epoll,
        &pidfd,
        epoll::EventData::new_u64(9),
        epoll::EventFlags::IN,
    )
    .unwrap();
    let mut exited = false;
    while !(exited && io.drained()) {
        let mut events = Vec::with_capacity(8);
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in events {
            if event.data.u64() != 9 {
                while io.drive(Stream::ALL[event.data.u64() as usize]) == Drive::Again {}
            } else if !exited {
                exited = true;
                process.wait().unwrap();
                epoll::delete(&epoll, &pidfd).unwrap();
                let mut drive = io.process_exited();
                while drive == Drive::Again {
                    drive = io.drive(Stream::Stdout);
                }
            }
        }
    }
    assert!(io.cut().is_none());
}

fn fifo(mib: usize, path: DataPath) -> Outcome {
    let fifo = Fifo::new();
    let name = fifo.path();
    let (io, child) = stdio::open(&request(&name, Terminal::No, path)).unwrap();
    let stdout = child.unwrap().stdout;
    measure(mib, open(&name, OFlags::RDONLY), || {
        react(io, writer(mib, stdout))
    })
}

fn copied_fifo(mib: usize) -> Outcome {
    let fifo = Fifo::new();
    let name = fifo.path();
    let _keeper = open(&name, OFlags::RDONLY | OFlags::NONBLOCK);
    let mut to = open(&name, OFlags::WRONLY);
    let (from, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    measure(mib, open(&name, OFlags::RDONLY), move || {
        let mut process = writer(mib, stdout);
        let (mut from, mut data) = (File::from(from), [0; 4096]);
        loop {
            match from.read(&mut data).unwrap() {
                0 => break,
                length => to.write_all(&data[..length]).unwrap(),
            }
        }
        process.wait().unwrap();
    })
}

fn console() -> (OwnedFd, OwnedFd) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags | rustix::pty::OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    (master, slave)
}

fn terminal(mib: usize) -> Outcome {
    let fifo = Fifo::new();
    let name = fifo.path();
    let request = request(&name, Terminal::Yes, DataPath::Relayed);
    let (mut io, _) = stdio::open(&request).unwrap();
    let (master, slave) = console();
    io.attach_console(master).unwrap();
    measure(mib, open(&name, OFlags::RDONLY), || {
        react(io, writer(mib, slave))
    })
}

/// Non-blocking reads into a large buffer, waiting when there is nothing: Go's `io.Copy`.
fn copied_terminal(mib: usize) -> Outcome {
    let fifo = Fifo::new();
    let name = fifo.path();
    let _keeper = open(&name, OFlags::RDONLY | OFlags::NONBLOCK);
    let mut to = open(&name, OFlags::WRONLY);
    let (master, slave) = console();
    rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
    measure(mib, open(&name, OFlags::RDONLY), move || {
        let mut process = writer(mib, slave);
        let mut data = vec![0; 32768];
        loop {
            match rustix::io::read(&master, &mut data) {
                Ok(length) => to.write_all(&data[..length]).unwrap(),
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&master, PollFlags::IN)], None).unwrap();
                }
                Err(_) => break,
            }
        }
        process.wait().unwrap();
    })
}
