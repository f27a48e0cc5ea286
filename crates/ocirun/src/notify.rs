// SPDX-License-Identifier: Apache-2.0
//! `sd_notify(3)`: who calls us with a `NOTIFY_SOCKET` hears what the container has to say.
//!
//! As with runc, `create` and `run` give the container a directory with a socket, and `start` and
//! `run` listen at it: `start` and `run --detach` until the container is ready, or has ended; `run`
//! as long as the container lives.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use notify::members::Processes;
use notify::{Error as NotifyError, Progress, Relay, Setting};
use runtime::state::Directory;
use runtime::{Bundle, Container};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::Call as _;

use crate::error::{Error, system};

/// The socket's directory beside the container's state, under runc's name.
const DIRECTORY: &str = "notify";
/// When a host whose queue is full is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// The socket that our caller wants to be told at.
fn host() -> Option<String> {
    std::env::var(notify::VARIABLE)
        .ok()
        .filter(|address| !address.is_empty())
}

/// Whether somebody wants to be told, and the container has a socket to say it to.
pub(crate) fn is_wanted(state: &Directory) -> bool {
    host().is_some() && state.path().join(DIRECTORY).is_dir()
}

/// Tells a new container of its socket, if somebody will listen; the name of the directory that has
/// to be made beside its state.
pub(crate) fn prepare(bundle: &mut Bundle, state: &Directory) -> Option<&'static str> {
    host()?;
    let place = Path::new(notify::DIRECTORY);
    bundle.add_sealed_mount(&state.path().join(DIRECTORY), place);
    let socket = place.join(notify::SOCKET);
    bundle.add_variable(notify::VARIABLE, &socket.to_string_lossy());
    Some(DIRECTORY)
}

/// The ear at a container's socket.
pub(crate) struct Listener<'a> {
    container: &'a Container,
    relay: Relay,
    progress: Progress,
}

impl<'a> Listener<'a> {
    /// Begins to listen, before the container's program runs. `None` if our caller does not want to
    /// be told, or the container has no socket.
    pub(crate) fn new(container: &'a Container, state: &Directory) -> Result<Option<Self>, Error> {
        let Some(address) = host().filter(|_| is_wanted(state)) else {
            return Ok(None);
        };
        let directory = state.path().join(DIRECTORY);
        let relay = match Relay::within(&directory, &Setting::Own(address)) {
            // Our environment is nothing that the container asked for.
            Err(e @ NotifyError::Address { .. }) => {
                log::warn!("{e}: the container can notify nobody");
                return Ok(None);
            }
            other => other?,
        };
        Ok(relay.map(|mut relay| {
            relay.set_init(container.pid);
            Self {
                container,
                relay,
                progress: Progress::Idle,
            }
        }))
    }

    /// Passes on what the container has said so far.
    pub(crate) fn step(&mut self) {
        let container = self.container;
        self.progress = self.relay.drive(|| members(container));
    }

    /// What to wait for: the container's next word, unless the host has to take one first.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.relay
            .socket()
            .filter(|_| self.progress != Progress::Blocked)
    }

    /// How long to wait at most.
    pub(crate) fn timeout(&self) -> Option<Timespec> {
        let wait = match self.progress {
            Progress::Idle => return None,
            Progress::Again => Duration::ZERO,
            Progress::Blocked => PAUSE,
        };
        Some(Timespec {
            tv_sec: 0,
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    /// The container's init is about to get a signal.
    pub(crate) fn signalled(&mut self, signal: i32) {
        self.relay.signalled(signal);
    }

    /// The container's init has ended and is still a zombie, or somebody else's affair.
    pub(crate) fn end(mut self) {
        let container = self.container;
        self.relay.end(|| members(container));
    }

    /// Listens until the container is ready and the host knows it, or has ended.
    pub(crate) fn wait_until_ready(mut self) -> Result<(), Error> {
        loop {
            self.step();
            if self.relay.state().ready && self.progress != Progress::Blocked {
                return Ok(());
            }
            let mut fds = vec![PollFd::new(&self.container.pidfd, PollFlags::IN)];
            fds.extend(
                self.socket()
                    .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)),
            );
            let timeout = self.timeout();
            let polled = rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))
                .call("poll", || "notify socket of a container");
            system("wait for the container to be ready", polled)?;
            if fds.first().is_some_and(|init| !init.revents().is_empty()) {
                self.end();
                return Ok(());
            }
        }
    }
}

fn members(container: &Container) -> Processes {
    let pids = container.pids().unwrap_or_else(|e| {
        log::warn!("{}: {e}", container.id);
        Vec::new()
    });
    Processes {
        pids,
        init: container.pid.as_raw_nonzero().get(),
    }
}
