// SPDX-License-Identifier: Apache-2.0
//! A reactor for one process, a client, and data that tells when a byte is missing.

#![allow(dead_code, reason = "every test file uses a part")]
#![allow(clippy::unwrap_used, reason = "all of it is test code")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fs::{Mode, OFlags};
use stdio::{ChildStdio, DataPath, Drive, Owner, ProcessIo, Request, Stream, Terminal};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// FIFOs as containerd makes them.
pub(crate) struct Fifos {
    dir: tempfile::TempDir,
    pub(crate) stdin: PathBuf,
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
}

impl Fifos {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                Mode::from_raw_mode(0o700),
                0,
            )
            .unwrap();
            path
        };
        let (stdin, stdout, stderr) = (make("in"), make("out"), make("err"));
        Self {
            dir,
            stdin,
            stdout,
            stderr,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For all three streams, without a terminal.
    pub(crate) fn request(&self, path: DataPath) -> Request<'_> {
        Request {
            stdin: text(&self.stdin),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            path,
            ..empty()
        }
    }
}

/// Makes a script that can be executed. Another program writes it: what a test has open for writing is
/// open for a moment in each child that other tests make meanwhile, and cannot be executed (ETXTBSY).
pub(crate) fn write_script(path: &Path, script: &str) {
    let mut writer = Command::new("sh")
        .args(["-c", r#"cat >"$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.take().unwrap();
    input.write_all(script.as_bytes()).unwrap();
    drop(input);
    assert!(writer.wait().unwrap().success());
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// No streams.
pub(crate) fn empty() -> Request<'static> {
    Request {
        stdin: "",
        stdout: "",
        stderr: "",
        terminal: Terminal::No,
        owner: Owner::default(),
        container_id: "box",
        namespace: "tests",
        path: DataPath::Relayed,
    }
}

/// Opens a FIFO as a client that does not wait.
pub(crate) fn client(path: &Path, flags: OFlags) -> File {
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK).unwrap();
    File::from(fd)
}

/// Reads everything on a thread of its own.
pub(crate) fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut data = Vec::new();
        from.read_to_end(&mut data).unwrap();
        data
    })
}

/// A sequence without period within any test: each position has a byte of its own making.
pub(crate) struct Sequence(u64);

impl Sequence {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn fill(&mut self, data: &mut [u8]) {
        for chunk in data.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

const BLOCK: usize = 64 * 1024;

/// Writes `blocks` of 64 KiB and closes.
pub(crate) fn write_sequence(to: OwnedFd, blocks: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut file, mut sequence, mut data) = (File::from(to), Sequence::new(), vec![0; BLOCK]);
        for _ in 0..blocks {
            sequence.fill(&mut data);
            file.write_all(&data).unwrap();
        }
    })
}

/// Reads to the end and returns the number of right bytes; a wrong one panics.
pub(crate) fn check_sequence(mut from: File) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let (mut sequence, mut expected, mut data) =
            (Sequence::new(), vec![0; BLOCK], vec![0; BLOCK]);
        let mut total = 0;
        loop {
            let mut length = 0;
            while length < BLOCK {
                match from.read(&mut data[length..]).unwrap() {
                    0 => break,
                    count => length += count,
                }
            }
            sequence.fill(&mut expected);
            assert!(
                data[..length] == expected[..length],
                "wrong data after {total} bytes"
            );
            total += length;
            if length < BLOCK {
                return total;
            }
        }
    })
}

/// The reactor.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    pub(crate) io: ProcessIo,
    again: Vec<Stream>,
    pub(crate) done: Vec<Stream>,
    pub(crate) wakeups: usize,
}

impl Reactor {
    pub(crate) fn open(request: &Request<'_>) -> (Self, Option<ChildStdio>) {
        let (io, child) = stdio::open(request).unwrap();
        let mut reactor = Self::new(io);
        reactor.io.begin_input().unwrap();
        (reactor, child)
    }

    pub(crate) fn new(mut io: ProcessIo) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        io.register(epoll.as_fd(), |stream| 100 + stream as u64)
            .unwrap();
        Self {
            epoll,
            io,
            again: Vec::new(),
            done: Vec::new(),
            wakeups: 0,
        }
    }

    /// One turn; waits at most `limit` for something to do.
    pub(crate) fn turn(&mut self, limit: Duration) {
        let mut events = Vec::with_capacity(8);
        let limit = if self.again.is_empty() {
            limit
        } else {
            Duration::ZERO
        };
        let timeout = Timespec::try_from(limit).unwrap();
        rustix::io::retry_on_intr(|| {
            let space = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&self.epoll, space, Some(&timeout))
        })
        .unwrap();
        self.wakeups += events.len();
        let mut streams = std::mem::take(&mut self.again);
        for event in events {
            let stream = Stream::ALL[event.data.u64() as usize - 100];
            if !streams.contains(&stream) {
                streams.push(stream);
            }
        }
        for stream in streams {
            self.drive(stream);
        }
    }

    fn drive(&mut self, stream: Stream) {
        let drive = self.io.drive(stream);
        self.note(stream, drive);
    }

    fn note(&mut self, stream: Stream, drive: Drive) {
        match drive {
            Drive::Again => self.again.push(stream),
            Drive::Idle => {}
            Drive::Done => self.done.push(stream),
        }
    }

    pub(crate) fn process_exited(&mut self) {
        let drive = self.io.process_exited();
        self.note(Stream::Stdout, drive);
    }

    pub(crate) fn run_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < LIMIT, "never: {what}");
            self.turn(Duration::from_millis(5));
        }
    }

    /// Runs until the child has exited, tells of it, and runs until all is drained.
    pub(crate) fn run_to_the_end(&mut self, child: &mut Child) {
        self.run_until("exit", |_| child.try_wait().unwrap().is_some());
        self.process_exited();
        self.run_until("drained", |reactor| reactor.io.drained());
    }

    /// Runs until nothing has happened for a moment.
    pub(crate) fn settle(&mut self) {
        loop {
            let before = self.wakeups;
            self.turn(Duration::from_millis(50));
            if self.wakeups == before && self.again.is_empty() {
                return;
            }
        }
    }
}

/// Runs a script as the container.
pub(crate) fn container(child: ChildStdio, script: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(Stdio::from(child.stdin))
        .stdout(Stdio::from(child.stdout))
        .stderr(Stdio::from(child.stderr))
        .spawn()
        .unwrap()
}

pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
