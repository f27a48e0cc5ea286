// SPDX-License-Identifier: Apache-2.0
//! Moving data between two descriptors until one of them would block.
//!
//! Between two pipes (a FIFO is one) whole pages change hands with `splice(2)` and no data is
//! touched. A terminal cannot do better than `read(2)` and `write(2)`: splicing from it allocates
//! pages to copy into and measures the same. What a sink did not take is kept until it does; this
//! is the only memory that a relay has, at most [`CHUNK`] bytes, and only while the sink is full.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{SpliceFlags, splice};
use sys::Errno;

use crate::fifo::Outlet;

/// What is read at once, into the stack. More is not faster: a terminal's queue holds 4 KiB, and
/// only what is refilled while it is read makes it more.
const CHUNK: usize = 8 * 1024;

/// What one stream may move before others get their turn.
const SHARE: usize = 1 << 20;

/// Where data goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// containerd's FIFO.
    Fifo(Outlet),
    /// A pipe to the container or to a logger, or a terminal. Non-blocking.
    Plain(OwnedFd),
    /// Nobody wants it: read, so that the container goes on, and forget.
    Nowhere,
}

impl Sink {
    /// What to wait on when it is full.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::Fifo(outlet) => Some(outlet.writer()),
            Sink::Plain(fd) => Some(fd.as_fd()),
            Sink::Nowhere => None,
        }
    }
}

/// How data is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Both are pipes.
    Splice,
    /// One is a terminal.
    Copy,
}

/// Why a relay stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Its share is used up; there may be more.
    Share,
    /// The source has nothing more now, or (splicing) the sink is full.
    Waiting,
    /// The sink is full.
    SinkFull,
    /// The source is at its end, the sink has everything.
    End,
    /// The source failed; the sink has everything before. `EIO`: no process has the terminal open.
    SourceFailed(Errno),
    /// The sink takes nothing, for ever.
    SinkFailed(Errno),
}

/// A source, a sink and what is between.
#[derive(Debug)]
pub(crate) struct Relay {
    source: OwnedFd,
    sink: Sink,
    method: Method,
    /// Read, not yet written.
    pending: Vec<u8>,
}

impl Relay {
    /// Of non-blocking descriptors.
    pub(crate) fn new(source: OwnedFd, sink: Sink, method: Method) -> Self {
        Self {
            source,
            sink,
            method,
            pending: Vec::new(),
        }
    }

    pub(crate) fn source(&self) -> &OwnedFd {
        &self.source
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Whether nobody reads the pipe that is the sink any more. Moving nothing does not tell.
    pub(crate) fn is_unheard(&self) -> bool {
        let Some(sink) = self.sink.fd() else {
            return false;
        };
        let mut fds = [PollFd::from_borrowed_fd(sink, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }

    pub(crate) fn into_sink(self) -> Sink {
        self.sink
    }

    /// From now on everything is read and forgotten.
    pub(crate) fn discard(&mut self) {
        self.sink = Sink::Nowhere;
        self.pending = Vec::new();
    }

    /// Moves at most one share.
    pub(crate) fn run(&mut self) -> Progress {
        let mut left = SHARE;
        while left > 0 {
            let step = match self.method {
                Method::Splice if self.sink.fd().is_some() => self.splice(left),
                _ => self.copy(),
            };
            match step {
                Ok(moved) => left = left.saturating_sub(moved),
                Err(stop) => return stop,
            }
        }
        Progress::Share
    }

    fn splice(&mut self, length: usize) -> Result<usize, Progress> {
        let Some(sink) = self.sink.fd() else {
            return self.copy();
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match splice(&self.source, None, sink, None, length, flags) {
            Ok(0) => Err(Progress::End),
            Ok(moved) => Ok(moved),
            Err(Errno::AGAIN) => Err(Progress::Waiting),
            Err(Errno::INTR) => Ok(0),
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                self.method = Method::Copy;
                Ok(0)
            }
            Err(errno) => Err(Progress::SinkFailed(errno)),
        }
    }

    fn copy(&mut self) -> Result<usize, Progress> {
        if !self.pending.is_empty() {
            let taken = self.write(&self.pending)?;
            self.pending.drain(..taken);
            if !self.pending.is_empty() {
                return Ok(taken);
            }
            self.pending = Vec::new();
        }
        let mut chunk = [0; CHUNK];
        let length = match rustix::io::read(&self.source, &mut chunk) {
            Ok(0) => return Err(Progress::End),
            Ok(length) => length,
            Err(Errno::AGAIN) => return Err(Progress::Waiting),
            Err(Errno::INTR) => return Ok(0),
            Err(errno) => return Err(Progress::SourceFailed(errno)),
        };
        match self.write(&chunk[..length]) {
            Ok(taken) => {
                self.pending.extend_from_slice(&chunk[taken..length]);
                Ok(length)
            }
            Err(Progress::SinkFull) => {
                self.pending.extend_from_slice(&chunk[..length]);
                Err(Progress::SinkFull)
            }
            Err(stop) => Err(stop),
        }
    }

    fn write(&self, data: &[u8]) -> Result<usize, Progress> {
        let Some(sink) = self.sink.fd() else {
            return Ok(data.len());
        };
        match rustix::io::retry_on_intr(|| rustix::io::write(sink, data)) {
            // A terminal says so when its input buffer is full.
            Ok(0) | Err(Errno::AGAIN) => Err(Progress::SinkFull),
            Ok(taken) => Ok(taken),
            Err(errno) => Err(Progress::SinkFailed(errno)),
        }
    }
}
