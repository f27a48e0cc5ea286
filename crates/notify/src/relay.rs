// SPDX-License-Identifier: Apache-2.0
//! One container's relay: its socket, what it has said, the way to the host.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;
use sys::Errno;
use sys::datagram::Received;

use crate::Error;
use crate::host::{Host, Outgoing, Sender};
use crate::members::Members;
use crate::message::{self, Datagram, LONGEST, Message};
use crate::server::{Place, Server};
use crate::setting::Setting;
use crate::state::State;

/// How many datagrams are taken before others get their turn.
const BATCH: usize = 32;
/// How many datagrams are taken at the end: more than a socket's queue holds.
const LAST_BATCH: usize = 1024;
/// How many news are told in each second.
const NEWS: u32 = 10;

/// The signals that ask a service to end, in the numbers of the host's C library: SIGINT, SIGQUIT,
/// SIGKILL, SIGTERM, SIGPWR, and SIGRTMIN+3, which systemd knows as init.
const STOP_SIGNALS: [i32; 6] = [2, 3, 9, 15, 30, 37];

/// How a relay is to be driven on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// When its socket is readable.
    Idle,
    /// Now, after others.
    Again,
    /// In a moment: the host's queue is full.
    Blocked,
}

/// A container's relay.
#[derive(Debug)]
pub struct Relay {
    /// Until the container has ended.
    server: Option<Server>,
    host: Option<Host>,
    init: Option<Pid>,
    pending: VecDeque<Outgoing>,
    state: State,
    news: Vec<String>,
    told: (Option<Instant>, u32),
}

impl Relay {
    /// Makes the container's socket in `directory`, which is made too; `None` if there is to be none.
    ///
    /// # Errors
    /// The directory or the socket cannot be made, or the host's address is none.
    pub fn new(directory: &Path, setting: &Setting) -> Result<Option<Self>, Error> {
        Self::at(Place::Made(directory.to_owned()), setting)
    }

    /// As [`Relay::new`], with the socket in a directory that is there already: that of a container
    /// which waits to be started.
    ///
    /// # Errors
    /// As [`Relay::new`].
    pub fn within(directory: &Path, setting: &Setting) -> Result<Option<Self>, Error> {
        Self::at(Place::Found(directory.to_owned()), setting)
    }

    fn at(place: Place, setting: &Setting) -> Result<Option<Self>, Error> {
        let host = match setting {
            Setting::Off => return Ok(None),
            Setting::Local => None,
            Setting::Own(address) => Some(Host::new(address, Sender::Ourselves)?),
            Setting::Named(address) => Some(Host::new(address, Sender::Init)?),
        };
        Ok(Some(Self {
            server: Some(Server::bind(place)?),
            host,
            init: None,
            pending: VecDeque::new(),
            state: State::default(),
            news: Vec::new(),
            told: (None, 0),
        }))
    }

    /// The socket to be watched for input, until the container has ended.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.server.as_ref().map(AsFd::as_fd)
    }

    /// The container's init exists.
    pub fn set_init(&mut self, init: Pid) {
        self.init = Some(init);
    }

    /// What the container has said.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes what is worth an event: messages that changed the state, a bounded number of them.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Passes on what waits, until the container has said nothing more or the host takes no more.
    pub fn drive<M: Members>(&mut self, members: impl Fn() -> M) -> Progress {
        self.pass(BATCH, &members)
    }

    /// The container's init is about to get a signal. If it is one that ends a service, the
    /// container ends by our doing: says so, unless it has said so itself.
    pub fn signalled(&mut self, signal: i32) {
        if STOP_SIGNALS.contains(&signal) {
            self.stopping();
        }
    }

    fn stopping(&mut self) {
        if self.server.is_none() || self.state.stopping {
            return;
        }
        self.accept(Message {
            stopping: true,
            ..Message::default()
        });
        self.flush();
    }

    /// The container's init has ended and is still a zombie: passes on its last words, and closes
    /// the socket.
    pub fn end<M: Members>(&mut self, members: impl Fn() -> M) {
        if self.server.is_none() {
            return;
        }
        self.pass(LAST_BATCH, &members);
        self.state.undelivered += self.pending.len() as u64;
        self.pending.clear();
        self.server = None;
        self.host = None;
        self.state.ready = false;
        self.state.reloading = false;
    }

    fn pass<M: Members>(&mut self, most: usize, members: &impl Fn() -> M) -> Progress {
        let mut data = [0; LONGEST];
        for _ in 0..most {
            if !self.flush() {
                return Progress::Blocked;
            }
            let Some(server) = &self.server else {
                return Progress::Idle;
            };
            match server.receive(&mut data) {
                Ok(received) => self.take(received, &data, members),
                Err(e) if e.errno() == Errno::AGAIN => return Progress::Idle,
                Err(e) => {
                    log::warn!("notify socket: {e}");
                    return Progress::Idle;
                }
            }
        }
        if self.flush() {
            Progress::Again
        } else {
            Progress::Blocked
        }
    }

    /// Sends what waits; says whether all of it is gone.
    fn flush(&mut self) -> bool {
        while let Some(datagram) = self.pending.front() {
            let sent = match &self.host {
                Some(host) => host.send(datagram, self.init),
                None => Ok(()),
            };
            match sent {
                Err(e) if e.errno() == Errno::AGAIN => return false,
                Err(e) => {
                    self.state.undelivered += 1;
                    // A container can make this happen as often as it likes.
                    if self.state.undelivered.is_power_of_two() {
                        let count = self.state.undelivered;
                        log::warn!("notify the host: {e} ({count} times so far)");
                    }
                }
                Ok(()) => {}
            }
            self.pending.pop_front();
        }
        true
    }

    /// One datagram of the container. Descriptors that do not go on are closed when this returns.
    fn take<M: Members>(&mut self, mut received: Received, data: &[u8], members: &impl Fn() -> M) {
        let sender = received.sender.and_then(|sender| sender.pid);
        if received.truncated {
            return self.refuse(&"it is too long");
        }
        let message = match message::parse(&data[..received.size]) {
            Ok(Datagram::Message(message)) => message,
            Ok(Datagram::Barrier) if received.fds.len() == 1 => {
                self.state.taken += 1;
                return self.pending.push_back(Outgoing {
                    data: b"BARRIER=1".to_vec(),
                    fd: received.fds.pop(),
                });
            }
            Ok(Datagram::Barrier) => return self.refuse(&"a barrier has one descriptor"),
            Err(refused) => return self.refuse(&refused),
        };
        let message = self.translate(message, sender, members);
        if message.is_empty() {
            return self.refuse(&"nothing in it may be passed on");
        }
        self.accept(message);
    }

    /// Pids and times of the container become ours.
    fn translate<M: Members>(
        &mut self,
        mut message: Message,
        sender: Option<Pid>,
        members: &impl Fn() -> M,
    ) -> Message {
        if message.main_pid.is_none() && message.monotonic_usec.is_none() {
            return message;
        }
        let members = members();
        if let Some(pid) = message.main_pid {
            message.main_pid = sender
                .map(|sender| sender.as_raw_nonzero().get())
                .filter(|sender| members.contains(*sender))
                .and_then(|sender| members.translate(sender, pid));
            if message.main_pid.is_none() {
                self.refuse(&format_args!("MAINPID={pid} is not the container's"));
            }
        }
        let offset = members.clock_offset_usec();
        message.monotonic_usec = message
            .monotonic_usec
            .and_then(|time| u64::try_from(i128::from(time) - offset).ok());
        message
    }

    /// Keeps a message that has been checked, and queues it for the host.
    fn accept(&mut self, mut message: Message) {
        if self.state.add(&message, SystemTime::now()) {
            self.tell(&message);
        }
        if self.host.is_none() {
            return;
        }
        if message.ready {
            let init = self.init.map(|init| init.as_raw_nonzero().get());
            message.main_pid = self.state.main_pid.or(init);
        }
        self.pending.push_back(Outgoing {
            data: message.encode(),
            fd: None,
        });
    }

    fn tell(&mut self, message: &Message) {
        let now = Instant::now();
        let (since, count) = &mut self.told;
        if since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            (*since, *count) = (Some(now), 0);
        }
        *count += 1;
        if *count <= NEWS {
            self.news.push(message.to_string());
        }
    }

    fn refuse(&mut self, why: &dyn std::fmt::Display) {
        self.state.refused += 1;
        log::debug!("notify socket: refused: {why}");
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
