// SPDX-License-Identifier: Apache-2.0
//! The reactor: one thread that owns all descriptors and all state.
//!
//! It answers at once what needs no waiting and hands the rest to workers, whose completions come
//! back to it. Nothing here blocks.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use sys::Call;

use crate::container::{Container, ReplyTo};
use crate::diagnostics::Observed;
use crate::events::Event;
use crate::log_pipe::LogPipe;
use crate::publisher::Publisher;
use crate::status::Status;
use crate::timers::{TimerId, Timers};
use crate::token::Token;
use crate::ttrpc::{self, Connection, Incoming, Input, Method};
use crate::workers::Workers;
use crate::{Config, Error};

/// How long a refused Shutdown waits, once the last container is gone, for another one to come.
const GRACE: Duration = Duration::from_secs(1);
/// How long the end of the server waits for containerd to take the last events.
const FLUSH: Duration = Duration::from_secs(5);
/// How long after the last container operation memory is given back.
const QUIET: Duration = Duration::from_millis(500);
/// How long a listener without free descriptors is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a timer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A Wait's caller gives up.
    WaitDeadline(ReplyTo),
    /// Output that nobody reads is given up: the Delete goes on.
    DrainLimit {
        container: String,
        exec: Option<String>,
    },
    /// A created container gets its input though nobody has started it.
    Input { container: String, key: u64 },
    /// A Shutdown that was refused: ask again.
    ShutdownGrace,
    /// The last moment to publish events before the end.
    FlushLimit,
    /// Memory is given back.
    Trim,
    /// The publisher asked to be called.
    Publisher,
    /// Connections are accepted again.
    Accept,
    /// Held polls of the Diagnostics service are looked at.
    Polls,
    /// What was told is compared with what the kernel says.
    Watchdog,
    /// A container's OOM counter is looked at again.
    OomAgain { container: String, step: usize },
    /// A container's memory pressure is looked at.
    Pressure(u64),
    /// A container's notifications are offered to the host again.
    Notify(u64),
}

/// How far the end of the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Serving.
    No,
    /// Events are still to be delivered.
    Flushing,
    /// The loop ends.
    Now,
}

/// Names a process in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessName {
    pub(crate) container: String,
    pub(crate) exec: Option<String>,
}

/// All of the shim's state.
pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) runtime: Arc<runtime::Runtime>,
    pub(crate) epoll: OwnedFd,
    pub(crate) containers: HashMap<String, Container>,
    pub(crate) workers: Workers<Server>,
    pub(crate) timers: Timers<Timer>,
    /// Processes by the keys in their tokens.
    pub(crate) processes: HashMap<u64, ProcessName>,
    /// Streams and connections that have more to do, without an edge to tell so.
    pub(crate) again: VecDeque<Token>,
    /// A Shutdown came while there were containers.
    pub(crate) shutdown_wanted: bool,
    pub(crate) started: Instant,
    pub(crate) connections: HashMap<u64, Connection>,
    pub(crate) publisher: Publisher,
    /// Calls that are not answered yet.
    pub(crate) calls: HashMap<ReplyTo, (Method, telemetry::Call)>,
    pub(crate) observed: Observed,
    publisher_timer: Option<TimerId>,
    trim_timer: Option<TimerId>,
    pub(crate) signals: OwnedFd,
    pub(crate) log_pipe: LogPipe,
    strangers: bool,
    next_key: u64,
    ending: Ending,
}

impl Server {
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).call("epoll_create1", || "reactor")?;
        let signals =
            sys::signals::watch(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1])?;
        let workers = Workers::new()?;
        let (log_pipe, log_writer) = LogPipe::new()?;
        let exe = rustix::io::fcntl_dupfd_cloexec(&config.exe, 0).call("fcntl", || "exe")?;
        let runtime = runtime::Runtime::new(exe, log_writer, config.debug)?;
        let publisher = Publisher::new(&config.containerd_ttrpc_address, &config.namespace);
        let server = Self {
            runtime: Arc::new(runtime),
            epoll,
            containers: HashMap::new(),
            workers,
            timers: Timers::new(),
            processes: HashMap::new(),
            again: VecDeque::new(),
            shutdown_wanted: false,
            started: Instant::now(),
            connections: HashMap::new(),
            publisher,
            calls: HashMap::new(),
            observed: Observed::new(),
            publisher_timer: None,
            trim_timer: None,
            signals,
            log_pipe,
            strangers: false,
            next_key: 1,
            ending: Ending::No,
            config,
        };
        rustix::io::ioctl_fionbio(&server.config.listener, true).call("ioctl", || "FIONBIO")?;
        let level = EventFlags::IN;
        server.watch(server.config.listener.as_fd(), Token::Listener, level)?;
        server.watch(server.signals.as_fd(), Token::Signals, level)?;
        server.watch(server.workers.wake_fd(), Token::Workers, level)?;
        server.watch(server.log_pipe.as_fd(), Token::LogPipe, level)?;
        Ok(server)
    }

    /// Adds a descriptor to the reactor.
    pub(crate) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: Token,
        flags: EventFlags,
    ) -> sys::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.encode()), flags)
            .call("epoll_ctl", || format!("EPOLL_CTL_ADD, {token:?}"))
    }

    /// Takes a descriptor out of the reactor; one that is not in it is fine.
    pub(crate) fn unwatch(&self, fd: impl AsFd) {
        if let Err(errno) = epoll::delete(&self.epoll, &fd) {
            log::debug!("epoll_ctl EPOLL_CTL_DEL: {errno}");
        }
    }

    /// A key for a new process.
    pub(crate) fn new_key(&mut self, name: ProcessName) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.processes.insert(key, name);
        key
    }

    /// Serves until there is nothing left to do.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(32);
        while self.ending != Ending::Now {
            let timeout = self.timeout();
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(sys::Error::new("epoll_wait", "reactor", errno).into());
                }
            }
            for event in &events {
                if let Some(token) = Token::decode(event.data.u64()) {
                    self.dispatch(token, event.flags);
                }
            }
            for token in std::mem::take(&mut self.again) {
                self.dispatch(token, EventFlags::IN | EventFlags::OUT);
            }
            let now = Instant::now();
            while let Some(timer) = self.timers.take_due(now) {
                self.fire(timer);
            }
            if self.strangers && reaper::reap_strangers() == reaper::Sweep::Done {
                self.strangers = false;
            }
            self.wake_polls();
            self.check_ending();
        }
        Ok(())
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let wait = if self.again.is_empty() {
            self.timers
                .next_at()?
                .saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        Some(rustix::event::Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        })
    }

    fn dispatch(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.take_signals(),
            Token::Workers => {
                for completion in self.workers.take_done() {
                    completion(self);
                }
            }
            Token::LogPipe => self.log_pipe.forward(),
            Token::Publisher => self.drive_publisher(),
            Token::Connection(key) => self.serve_connection(key, flags),
            Token::Exit(key) => self.process_ended(key),
            Token::Memory(key) => self.memory_event(key),
            Token::Pressure(key, level) => self.pressure_event(key, level, flags),
            Token::Notify(key) => self.drive_notify(key),
            Token::Stream(key, stream) => self.drive_stream(key, stream),
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::WaitDeadline(to) => self.give_up_wait(to),
            Timer::DrainLimit { container, exec } => {
                let what = exec.as_deref().unwrap_or(&container);
                log::warn!("{what}: output is not read or not closed: given up after the limit");
                self.drained(&container, exec.as_deref());
            }
            Timer::Input { container, key } => self.begin_input_of_created(&container, key),
            Timer::ShutdownGrace => {
                if self.shutdown_wanted && self.containers.is_empty() {
                    self.end();
                }
            }
            Timer::FlushLimit => {
                let pending = self.publisher.pending();
                log::warn!("ending with {pending} events that containerd did not take");
                self.ending = Ending::Now;
            }
            Timer::Trim => {
                self.trim_timer = None;
                self.containers.shrink_to_fit();
                self.processes.shrink_to_fit();
                sys::memory::trim();
            }
            Timer::Publisher => {
                self.publisher_timer = None;
                self.drive_publisher();
            }
            Timer::OomAgain { container, step } => self.oom_again(&container, step),
            Timer::Pressure(key) => self.pressure_due(key),
            Timer::Notify(key) => self.retry_notify(key),
            Timer::Polls => self.look_at_polls(),
            Timer::Watchdog => self.watch_over(),
            Timer::Accept => {
                let watched = self.watch(
                    self.config.listener.as_fd(),
                    Token::Listener,
                    EventFlags::IN,
                );
                if let Err(e) = watched {
                    log::error!("accept connections again: {e}");
                }
            }
        }
    }

    /// Begins the orderly end: what is queued for containerd is still delivered.
    pub(crate) fn end(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::Flushing;
            self.timers.set(Instant::now() + FLUSH, Timer::FlushLimit);
        }
    }

    fn check_ending(&mut self) {
        let answered = self
            .connections
            .values()
            .all(|connection| !connection.has_backlog());
        if self.ending == Ending::Flushing && self.publisher.is_idle() && answered {
            self.ending = Ending::Now;
        }
    }

    /// The last container has been deleted, or none was ever created.
    pub(crate) fn container_is_gone(&mut self) {
        if self.shutdown_wanted && self.containers.is_empty() {
            self.timers
                .set(Instant::now() + GRACE, Timer::ShutdownGrace);
        }
        self.note_activity();
    }

    /// Memory is given back once nothing has happened for a moment.
    pub(crate) fn note_activity(&mut self) {
        if let Some(timer) = self.trim_timer.take() {
            self.timers.cancel(timer);
        }
        self.trim_timer = Some(self.timers.set(Instant::now() + QUIET, Timer::Trim));
    }

    fn accept(&mut self) {
        loop {
            match ttrpc::accept(&self.config.listener) {
                Ok(Some(connection)) => {
                    let key = self.next_key;
                    self.next_key += 1;
                    self.connections.insert(key, connection);
                    self.keep_connection(key, Ok(()));
                }
                Ok(None) => return,
                Err(e) => {
                    // Out of descriptors: the listener stays readable, so it is left alone a while.
                    log::error!("accept connection: {e}");
                    self.unwatch(self.config.listener.as_fd());
                    self.timers
                        .set(Instant::now() + ACCEPT_PAUSE, Timer::Accept);
                    return;
                }
            }
        }
    }

    fn take_signals(&mut self) {
        while let Some(signal) = sys::signals::next(&self.signals) {
            match signal {
                libc::SIGCHLD => self.strangers = true,
                libc::SIGUSR1 => self.dump(),
                // Containers are left running: containerd cleans up after us.
                _ => {
                    log::info!("received signal {signal}: ending");
                    self.end();
                }
            }
        }
    }

    fn serve_connection(&mut self, key: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if flags.contains(EventFlags::OUT) {
            let flushed = connection.flush();
            if !self.keep_connection(key, flushed) {
                return;
            }
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP)
        {
            return;
        }
        let mut requests = Vec::new();
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let input = connection.read(&mut requests);
        for request in requests {
            self.serve(key, request);
        }
        match input {
            Ok(Input::Drained) => {
                self.keep_connection(key, Ok(()));
            }
            Ok(Input::More) => self.again.push_back(Token::Connection(key)),
            Ok(Input::Closed) => {
                self.keep_connection(key, Err(ttrpc::Error::Disconnected));
            }
            Err(e) => {
                self.keep_connection(key, Err(e));
            }
        }
    }

    fn serve(&mut self, connection: u64, request: Incoming) {
        let to = ReplyTo {
            connection,
            stream: request.stream,
        };
        self.call(to, request);
    }

    /// After each use of a connection: registers it for what it waits for, or drops it.
    fn keep_connection(&mut self, key: u64, used: Result<(), ttrpc::Error>) -> bool {
        let token = Token::Connection(key).encode();
        let epoll = self.epoll.as_fd();
        let kept = used.and_then(|()| match self.connections.get_mut(&key) {
            Some(connection) => connection.watch(epoll, token),
            None => Ok(()),
        });
        match kept {
            Ok(()) => true,
            Err(e) => {
                if !matches!(e, ttrpc::Error::Disconnected) {
                    log::warn!("drop connection: {e}");
                }
                self.connections.remove(&key);
                self.forget_waiters(key);
                self.forget_polls(key);
                false
            }
        }
    }

    /// Answers a call. Its connection may be gone: then nobody is waiting.
    pub(crate) fn reply(&mut self, to: ReplyTo, result: Result<Vec<u8>, Status>) {
        self.call_ended(to, result.as_ref().err());
        let Some(connection) = self.connections.get_mut(&to.connection) else {
            return;
        };
        let sent = connection.reply(to.stream, result);
        self.keep_connection(to.connection, sent);
    }

    /// Queues an event for containerd.
    pub(crate) fn publish(&mut self, event: Event) {
        let now = SystemTime::now();
        self.observe(&event, now);
        self.publisher.publish(event, now);
        self.drive_publisher();
    }

    fn drive_publisher(&mut self) {
        let token = Token::Publisher.encode();
        let next = self
            .publisher
            .drive(self.epoll.as_fd(), token, Instant::now());
        if let Some(timer) = self.publisher_timer.take() {
            self.timers.cancel(timer);
        }
        self.publisher_timer = next.wake_at.map(|at| self.timers.set(at, Timer::Publisher));
    }

    /// Timers that are set.
    pub(crate) fn timer_count(&self) -> usize {
        self.timers.len()
    }

    /// Whether the server is about to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending != Ending::No
    }

    /// Events that containerd has not taken yet.
    pub(crate) fn events_pending(&self) -> usize {
        self.publisher.pending()
    }

    /// Open connections.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.len()
    }
}
