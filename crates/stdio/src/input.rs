// SPDX-License-Identifier: Apache-2.0
//! One stdin.
//!
//! Its end comes only when the client *and* we have closed the FIFO: a client that disconnects may
//! come back, `CloseIO` alone may overtake data on its way.
//!
//! Opening the FIFO is what lets the client's own opening return: from then on it sends, sees the
//! end of what it has, and calls `CloseIO`, all within a millisecond. If containerd does not know
//! the task by then, that call is lost, and the process would wait for its end of input for ever
//! (`echo | nerdctl run -i`). So nothing is opened before [`Input::begin`].

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;

use crate::fifo::Inlet;
use crate::node::Handle;
use crate::process::Watch;
use crate::relay::{Method, Progress, Relay, Sink};
use crate::request::Stream;

/// One stdin, seen from the shim.
#[derive(Debug)]
pub(crate) struct Input {
    /// A write end of the FIFO, until `CloseIO`.
    keeper: Option<OwnedFd>,
    /// `CloseIO` was called.
    closed: bool,
    flow: Flow,
}

#[derive(Debug)]
enum Flow {
    /// There is no input, or it is over.
    Over,
    /// Something is missing yet.
    Pending {
        source: Source,
        /// The pipe, or the console once it has come. Non-blocking.
        sink: Option<(OwnedFd, Method)>,
    },
    Relayed(Relay),
}

/// The FIFO.
#[derive(Debug)]
enum Source {
    Unopened(Handle),
    /// The read end, non-blocking.
    Opened(OwnedFd),
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
            closed: false,
            flow: Flow::Over,
        }
    }

    /// FIFO to `pipe`, whose write end is non-blocking.
    pub(crate) fn to_pipe(fifo: Handle, pipe: OwnedFd) -> Self {
        Self::pending(fifo, Some((pipe, Method::Splice)))
    }

    /// FIFO to a console.
    pub(crate) fn awaiting_console(fifo: Handle) -> Self {
        Self::pending(fifo, None)
    }

    fn pending(fifo: Handle, sink: Option<(OwnedFd, Method)>) -> Self {
        Self {
            keeper: None,
            closed: false,
            flow: Flow::Pending {
                source: Source::Unopened(fifo),
                sink,
            },
        }
    }

    pub(crate) fn attach_console(&mut self, master: OwnedFd) {
        if let Flow::Pending { sink, .. } = &mut self.flow {
            *sink = Some((master, Method::Copy));
            self.connect();
        }
    }

    /// Opens the FIFO; says whether data flows from now on. On failure there is no input. Idempotent.
    pub(crate) fn begin(&mut self) -> sys::Result<bool> {
        let Flow::Pending { source, .. } = &mut self.flow else {
            return Ok(false);
        };
        let Source::Unopened(handle) = source else {
            return Ok(false);
        };
        match Inlet::open(handle) {
            Ok(Inlet { reader, keeper }) => {
                *source = Source::Opened(reader);
                self.keeper = (!self.closed).then_some(keeper);
                self.connect();
                Ok(matches!(self.flow, Flow::Relayed(_)))
            }
            Err(e) => {
                self.cut();
                Err(e)
            }
        }
    }

    /// Both ends are there: data may flow.
    fn connect(&mut self) {
        self.flow = match std::mem::replace(&mut self.flow, Flow::Over) {
            Flow::Pending {
                source: Source::Opened(fifo),
                sink: Some((sink, method)),
            } => Flow::Relayed(Relay::new(fifo, Sink::Plain(sink), method)),
            other => other,
        };
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

    /// Lets go of our write end, now or when it is there.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.keeper = None;
    }

    /// The process is gone. What is relayed may have other readers yet: it ends when none is left.
    pub(crate) fn process_exited(&mut self) {
        if !matches!(self.flow, Flow::Relayed(_)) {
            self.cut();
        }
    }

    /// Closes everything.
    pub(crate) fn cut(&mut self) {
        *self = Self::none();
    }
}
