// SPDX-License-Identifier: Apache-2.0
//! One stdin.
//!
//! Whatever reads it, its end comes only when the client *and* we have closed the FIFO: a client
//! that disconnects may come back, `CloseIO` alone may overtake data on its way.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;

use crate::fifo::Inlet;
use crate::process::Watch;
use crate::relay::{Method, Progress, Relay, Sink};
use crate::request::Stream;

/// One stdin, seen from the shim.
#[derive(Debug)]
pub(crate) struct Input {
    /// A write end of the FIFO, until `CloseIO`.
    keeper: Option<OwnedFd>,
    flow: Flow,
}

#[derive(Debug)]
enum Flow {
    /// Not through us: the container reads the FIFO, or there is none, or it is over.
    Elsewhere,
    /// From this FIFO to a console that has not come yet.
    Awaiting(OwnedFd),
    Relayed(Relay),
}

/// What driving has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Again,
    Idle,
    /// The client has ended it, just now.
    Ended,
    /// Nothing flows here.
    Over,
}

impl Input {
    /// Nothing to read.
    pub(crate) fn none() -> Self {
        Self {
            keeper: None,
            flow: Flow::Elsewhere,
        }
    }

    /// The container reads the FIFO itself.
    pub(crate) fn direct(keeper: OwnedFd) -> Self {
        Self {
            keeper: Some(keeper),
            flow: Flow::Elsewhere,
        }
    }

    /// FIFO to `pipe`, whose write end is non-blocking.
    pub(crate) fn relayed(inlet: Inlet, pipe: OwnedFd) -> Self {
        let relay = Relay::new(inlet.reader, Sink::Plain(pipe), Method::Splice);
        Self {
            keeper: Some(inlet.keeper),
            flow: Flow::Relayed(relay),
        }
    }

    /// FIFO to a console.
    pub(crate) fn awaiting_console(inlet: Inlet) -> Self {
        Self {
            keeper: Some(inlet.keeper),
            flow: Flow::Awaiting(inlet.reader),
        }
    }

    pub(crate) fn attach_console(&mut self, master: OwnedFd) {
        if let Flow::Awaiting(fifo) = std::mem::replace(&mut self.flow, Flow::Elsewhere) {
            self.flow = Flow::Relayed(Relay::new(fifo, Sink::Plain(master), Method::Copy));
        }
    }

    pub(crate) fn register(&self, watch: &Watch) -> sys::Result<()> {
        let Flow::Relayed(relay) = &self.flow else {
            return Ok(());
        };
        watch.add(relay.source().as_fd(), Stream::Stdin, EventFlags::IN)?;
        match relay.sink().fd() {
            Some(sink) => watch.add(sink, Stream::Stdin, EventFlags::OUT),
            None => Ok(()),
        }
    }

    pub(crate) fn drive(&mut self) -> State {
        let Flow::Relayed(relay) = &mut self.flow else {
            return State::Over;
        };
        match relay.run() {
            Progress::Share => State::Again,
            Progress::Waiting if relay.is_unheard() => {
                self.cut();
                State::Over
            }
            Progress::Waiting | Progress::SinkFull => State::Idle,
            Progress::End => {
                self.cut();
                State::Ended
            }
            // Nobody reads any more: the client is told by an error, as with a pipe.
            Progress::SourceFailed(_) | Progress::SinkFailed(_) => {
                self.cut();
                State::Over
            }
        }
    }

    /// Lets go of our write end.
    pub(crate) fn close(&mut self) {
        self.keeper = None;
    }

    /// The process is gone, and with it every reader of what it read directly.
    pub(crate) fn process_exited(&mut self) {
        if matches!(self.flow, Flow::Elsewhere) {
            self.close();
        }
    }

    /// Closes everything.
    pub(crate) fn cut(&mut self) {
        *self = Self::none();
    }
}
