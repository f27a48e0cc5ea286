// SPDX-License-Identifier: Apache-2.0
//! A non-blocking unix socket that carries frames both ways.
//!
//! Invariants: nothing blocks; frames leave whole and in the order they were given; what the
//! peer does not take is kept up to [`BACKLOG_MAX`], then the peer is given up. The socket is
//! watched edge-triggered, for writing only while there is something to write, so a peer that
//! reads its answers does not wake us for each one.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use sys::Call;

use super::Error;
use super::wire::{Body, Frames, Header, Input};

/// Unsent bytes after which a peer that never reads is given up.
pub(crate) const BACKLOG_MAX: usize = 16 << 20;

/// A framed socket.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    frames: Frames,
    outbox: Outbox,
    watched: Watched,
}

/// What epoll was last told about the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    No,
    Read,
    ReadWrite,
}

/// The sending half, usable while frames are being read.
pub(crate) struct Sender<'a> {
    socket: BorrowedFd<'a>,
    outbox: &'a mut Outbox,
}

impl Sender<'_> {
    pub(crate) fn send(&mut self, frame: Vec<u8>) -> Result<(), Error> {
        self.outbox.send(self.socket, frame)
    }
}

impl Stream {
    /// Takes a connected socket, which must be non-blocking or only be waited for by the caller.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        let (frames, outbox) = (Frames::default(), Outbox::default());
        Self {
            socket,
            frames,
            outbox,
            watched: Watched::No,
        }
    }

    /// Reads what there is, a fair share at a time. The first error of `sink` is the result.
    pub(crate) fn read(
        &mut self,
        mut sink: impl FnMut(&mut Sender<'_>, Header, Body<'_>) -> Result<(), Error>,
    ) -> Result<Input, Error> {
        let socket = self.socket.as_fd();
        let mut sender = Sender {
            socket,
            outbox: &mut self.outbox,
        };
        let mut verdict = Ok(());
        let input = self.frames.read(socket, &mut |header, body| {
            if verdict.is_ok() {
                verdict = sink(&mut sender, header, body);
            }
        });
        verdict?;
        match input {
            Err(Errno::CONNRESET) => Ok(Input::Closed),
            input => Ok(input.call("recv", || format!("{socket:?}"))?),
        }
    }

    /// Sends a frame now as far as the peer takes it, the rest with [`Stream::flush`].
    pub(crate) fn send(&mut self, frame: Vec<u8>) -> Result<(), Error> {
        self.outbox.send(self.socket.as_fd(), frame)
    }

    /// Sends what was left; called when the socket becomes writable.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.outbox.flush(self.socket.as_fd())
    }

    /// Whether something is still to be sent.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.outbox.frames.is_empty()
    }

    /// Tells `epoll` what to watch, if that changed since the last time.
    pub(crate) fn watch(&mut self, epoll: BorrowedFd<'_>, token: u64) -> Result<(), Error> {
        let wanted = if self.has_backlog() {
            Watched::ReadWrite
        } else {
            Watched::Read
        };
        if wanted == self.watched {
            return Ok(());
        }
        let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if wanted == Watched::ReadWrite {
            flags |= EventFlags::OUT;
        }
        let (socket, data) = (self.socket.as_fd(), EventData::new_u64(token));
        let result = match self.watched {
            Watched::No => epoll::add(epoll, socket, data, flags),
            Watched::Read | Watched::ReadWrite => epoll::modify(epoll, socket, data, flags),
        };
        result.call("epoll_ctl", || format!("{epoll:?}, {socket:?}, {flags:?}"))?;
        self.watched = wanted;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.frames.held() + self.outbox.frames.capacity()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Frames on their way out.
#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that are gone already.
    sent: usize,
    /// Bytes not sent, in all frames.
    bytes: usize,
}

impl Outbox {
    fn send(&mut self, socket: BorrowedFd<'_>, frame: Vec<u8>) -> Result<(), Error> {
        if self.bytes > BACKLOG_MAX {
            return Err(Error::Backlog(self.bytes));
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        // With others waiting the socket was full a moment ago: its edge will come.
        if self.frames.len() == 1 {
            self.flush(socket)
        } else {
            Ok(())
        }
    }

    fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        while let Some(frame) = self.frames.front() {
            let rest = &frame[self.sent..];
            match rustix::net::send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.bytes -= count;
                    self.sent += count;
                    if count == rest.len() {
                        self.sent = 0;
                        self.frames.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Disconnected),
                Err(errno) => {
                    return Err(sys::Error::new("send", format!("{socket:?}"), errno).into());
                }
            }
        }
        self.frames = VecDeque::new();
        Ok(())
    }
}
