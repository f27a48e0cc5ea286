// SPDX-License-Identifier: Apache-2.0
//! One stdout or stderr (or what a terminal shows).

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::fs::OFlags;
use sys::Errno;

use crate::appender::Appender;
use crate::fifo::{Ending, Outlet};
use crate::node::reopen;
use crate::process::{Drive, Watch};
use crate::relay::{Method, Progress, Relay, Sink};
use crate::request::Stream;

/// One stream of output, seen from the shim.
#[derive(Debug)]
pub(crate) struct Output {
    flow: Flow,
    /// Takes what flows into a pipe to a file.
    appender: Option<Appender>,
}

#[derive(Debug)]
enum Flow {
    /// Not through us, and we hold nothing.
    Elsewhere,
    /// The container writes into the FIFO itself.
    Direct(Outlet),
    /// The container writes into the pipe to the logger. This is our read end of it: should the
    /// logger die, the container is not to be killed by `SIGPIPE`.
    Logged(OwnedFd),
    /// To come from a console.
    Awaiting(Sink),
    Relayed(Relay),
    /// All is in the FIFO.
    Ended(Ending),
}

/// Whether an empty source is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenEmpty {
    Wait,
    /// A console whose process has exited: that hung the terminal up, and the kernel shows what
    /// was written before that. Others may have it open still, but cannot write to it.
    End,
}

impl Output {
    /// Nothing to do: `/dev/null`, or the same pipe as the other stream's.
    pub(crate) fn none() -> Self {
        Self::of(Flow::Elsewhere, None)
    }

    pub(crate) fn direct(outlet: Outlet) -> Self {
        Self::of(Flow::Direct(outlet), None)
    }

    pub(crate) fn appended(appender: Appender) -> Self {
        Self::of(Flow::Elsewhere, Some(appender))
    }

    pub(crate) fn logged(reader: OwnedFd) -> Self {
        Self::of(Flow::Logged(reader), None)
    }

    /// `pipe`, a non-blocking read end, to a FIFO.
    pub(crate) fn relayed(pipe: OwnedFd, outlet: Outlet) -> Self {
        let relay = Relay::new(pipe, Sink::Fifo(outlet), Method::Splice);
        Self::of(Flow::Relayed(relay), None)
    }

    pub(crate) fn awaiting_console(sink: Sink, appender: Option<Appender>) -> Self {
        Self::of(Flow::Awaiting(sink), appender)
    }

    fn of(flow: Flow, appender: Option<Appender>) -> Self {
        Self { flow, appender }
    }

    pub(crate) fn is_awaiting_console(&self) -> bool {
        matches!(self.flow, Flow::Awaiting(_))
    }

    pub(crate) fn attach_console(
        &mut self,
        master: OwnedFd,
        watch: Option<&Watch>,
    ) -> sys::Result<()> {
        match std::mem::replace(&mut self.flow, Flow::Elsewhere) {
            Flow::Awaiting(sink) => {
                self.flow = Flow::Relayed(Relay::new(master, sink, Method::Copy));
            }
            other => self.flow = other,
        }
        watch.map_or(Ok(()), |watch| self.register_relay(Stream::Stdout, watch))
    }

    /// What is being read, by us.
    pub(crate) fn source(&self) -> Option<&OwnedFd> {
        match &self.flow {
            Flow::Relayed(relay) => Some(relay.source()),
            _ => None,
        }
    }

    pub(crate) fn register(&self, stream: Stream, watch: &Watch) -> sys::Result<()> {
        self.register_relay(stream, watch)?;
        match &self.appender {
            Some(appender) => watch.add(appender.link(), stream, EventFlags::IN),
            None => Ok(()),
        }
    }

    fn register_relay(&self, stream: Stream, watch: &Watch) -> sys::Result<()> {
        let Flow::Relayed(relay) = &self.flow else {
            return Ok(());
        };
        watch.add(relay.source().as_fd(), stream, EventFlags::IN)?;
        match relay.sink().fd() {
            Some(sink) => watch.add(sink, stream, EventFlags::OUT),
            None => Ok(()),
        }
    }

    pub(crate) fn drive(&mut self, whom: &Whom<'_>, empty: WhenEmpty) -> Drive {
        if self.appender.as_ref().is_some_and(Appender::has_ended) {
            self.appender = None;
        }
        let flow = self.drive_flow(whom, empty);
        match (flow, &self.appender) {
            (Drive::Done, Some(_)) => Drive::Idle,
            (flow, _) => flow,
        }
    }

    fn drive_flow(&mut self, whom: &Whom<'_>, empty: WhenEmpty) -> Drive {
        let relay = match &mut self.flow {
            Flow::Relayed(relay) => relay,
            Flow::Direct(_) | Flow::Logged(_) | Flow::Awaiting(_) => return Drive::Idle,
            Flow::Elsewhere | Flow::Ended(Ending::Told(_)) => return Drive::Done,
            Flow::Ended(Ending::Unread(_)) => return self.look_for_client(),
        };
        match relay.run() {
            Progress::Share => Drive::Again,
            Progress::SinkFull => Drive::Idle,
            Progress::Waiting if empty == WhenEmpty::Wait => Drive::Idle,
            // No process has the terminal open; one may open it again.
            Progress::SourceFailed(Errno::IO) if empty == WhenEmpty::Wait => Drive::Idle,
            Progress::Waiting | Progress::End | Progress::SourceFailed(_) => self.end(whom),
            Progress::SinkFailed(errno) => {
                let (name, stream) = (whom.name, whom.stream);
                let why = sys::error::describe(errno);
                log::warn!("{name}: writing {stream}: {why}; output is dropped");
                relay.discard();
                Drive::Again
            }
        }
    }

    fn look_for_client(&mut self) -> Drive {
        if let Flow::Ended(Ending::Unread(unread)) =
            std::mem::replace(&mut self.flow, Flow::Elsewhere)
        {
            self.flow = Flow::Ended(unread.check());
        }
        match self.flow {
            Flow::Ended(Ending::Unread(_)) => Drive::Idle,
            _ => Drive::Done,
        }
    }

    /// Nothing more will come: the reader is told.
    pub(crate) fn end(&mut self, whom: &Whom<'_>) -> Drive {
        let outlet = match std::mem::replace(&mut self.flow, Flow::Elsewhere) {
            Flow::Direct(outlet) | Flow::Awaiting(Sink::Fifo(outlet)) => Some(outlet),
            Flow::Relayed(relay) => match relay.into_sink() {
                Sink::Fifo(outlet) => Some(outlet),
                Sink::Plain(_) | Sink::Nowhere => None,
            },
            Flow::Awaiting(_) | Flow::Elsewhere => None,
            keep @ (Flow::Logged(_) | Flow::Ended(_)) => {
                self.flow = keep;
                return Drive::Idle;
            }
        };
        let Some(outlet) = outlet else {
            return Drive::Done;
        };
        self.flow = Flow::Ended(match outlet.end() {
            Ending::Unread(unread) => match whom.watch {
                Some(watch)
                    if watch
                        .add(unread.watch(), whom.stream, EventFlags::IN)
                        .is_ok() =>
                {
                    Ending::Unread(unread)
                }
                // Nobody would tell us of a client.
                _ => unread.give_up(),
            },
            told => told,
        });
        match self.flow {
            Flow::Ended(Ending::Unread(_)) => Drive::Idle,
            _ => Drive::Done,
        }
    }

    /// The process has exited; what it wrote directly is all there is.
    pub(crate) fn process_exited(&mut self, whom: &Whom<'_>) {
        if matches!(self.flow, Flow::Direct(_) | Flow::Awaiting(_)) {
            // For what is not relayed nothing remains to be driven.
            let _ = self.end(whom);
        }
    }

    /// The logger is dead: what it does not read any more is dropped, the container goes on.
    pub(crate) fn logger_ended(&mut self, whom: &Whom<'_>) {
        let Flow::Logged(reader) = &self.flow else {
            return;
        };
        // The logger's children may share our open file description: make one of our own.
        match (
            reopen(reader, OFlags::RDONLY | OFlags::NONBLOCK),
            whom.watch,
        ) {
            (Ok(own), Some(watch)) => {
                self.flow = Flow::Relayed(Relay::new(own, Sink::Nowhere, Method::Copy));
                // Cannot fail but for lack of kernel memory; then the container waits.
                let _ = self.register_relay(whom.stream, watch);
            }
            // Not to be watched: let the container have its SIGPIPE rather than wait for ever.
            _ => self.flow = Flow::Elsewhere,
        }
    }

    /// Whether nothing more will flow through us.
    pub(crate) fn is_drained(&self) -> bool {
        let flowing = match &self.flow {
            Flow::Relayed(relay) => !matches!(relay.sink(), Sink::Nowhere),
            _ => false,
        };
        !flowing && self.appender.as_ref().is_none_or(Appender::has_ended)
    }

    /// Closes everything.
    pub(crate) fn cut(&mut self) {
        *self = Self::none();
    }
}

/// Which stream of which process, and by what it is watched.
pub(crate) struct Whom<'a> {
    pub(crate) name: &'a str,
    pub(crate) stream: Stream,
    pub(crate) watch: Option<&'a Watch>,
}
