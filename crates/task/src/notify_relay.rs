// SPDX-License-Identifier: Apache-2.0
//! The relays of `sd_notify(3)`: made with a container, driven by the reactor, ended with its init.

use std::path::Path;
use std::time::{Duration, Instant};

use notify::members::Processes;
use notify::{Error, Progress, Relay, Setting};
use runtime::Bundle;
use rustix::event::epoll::EventFlags;
use rustix::process::Pid;

use crate::container::Container;
use crate::server::{Server, Timer};
use crate::status::{Status, chain};
use crate::token::Token;

/// The directory in the bundle that is mounted into the container.
const DIRECTORY: &str = "notify";
/// When a host whose queue is full is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// A container's relay and whether it waits for the host.
#[derive(Debug)]
pub(crate) struct Notify {
    pub(crate) relay: Relay,
    waiting: bool,
}

/// Makes the socket and tells the container of it; a worker's task. `None` if there is to be none.
pub(crate) fn prepare(bundle: &mut Bundle, own: Option<&str>) -> Result<Option<Relay>, Status> {
    let failed = |e: &Error| {
        Status::unknown(format!(
            "OCI runtime create failed: notify socket: {}",
            chain(e)
        ))
    };
    let annotation = bundle.annotation(notify::ANNOTATION);
    let setting = Setting::decide(annotation, own).map_err(Status::invalid_argument)?;
    let directory = bundle.path.join(DIRECTORY);
    let relay = match Relay::new(&directory, &setting) {
        // The container did not ask for what is wrong with our environment.
        Err(e @ Error::Address { .. }) if matches!(setting, Setting::Own(_)) => {
            log::warn!("{e}: containers can notify nobody");
            Relay::new(&directory, &Setting::Local)
        }
        other => other,
    };
    let relay = relay.map_err(|e| failed(&e))?;
    if relay.is_some() {
        let place = Path::new(notify::DIRECTORY);
        bundle.add_sealed_mount(&directory, place);
        let socket = place.join(notify::SOCKET);
        bundle.add_variable(notify::VARIABLE, &socket.to_string_lossy());
    }
    Ok(relay)
}

fn members(container: &runtime::Container) -> Processes {
    let pids = container.pids().unwrap_or_else(|e| {
        log::warn!("{}: {e}", container.id);
        Vec::new()
    });
    Processes {
        pids,
        init: container.pid.as_raw_nonzero().get(),
    }
}

impl Server {
    /// Watches the socket of a container whose init exists.
    pub(crate) fn adopt_notify(&mut self, id: &str, relay: Option<Relay>) {
        let Some(mut relay) = relay else { return };
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let key = container.init.key;
        if let Some(init) = Pid::from_raw(container.init.pid) {
            relay.set_init(init);
        }
        container.notify = Some(Notify {
            relay,
            waiting: false,
        });
        self.watch_notify(id, key);
    }

    fn watch_notify(&self, id: &str, key: u64) {
        let notify = self.containers.get(id).and_then(|c| c.notify.as_ref());
        let Some(socket) = notify.and_then(|notify| notify.relay.socket()) else {
            return;
        };
        // Edge-triggered: while the host's queue is full, what waits is left to wait.
        let flags = EventFlags::IN | EventFlags::ET;
        if let Err(e) = self.watch(socket, Token::Notify(key), flags) {
            log::error!("{id}: notify socket: {e}");
        }
    }

    /// The container with this key has said something, or may be listened to again.
    pub(crate) fn drive_notify(&mut self, key: u64) {
        let Some(id) = self.processes.get(&key).map(|name| name.container.clone()) else {
            return;
        };
        let Some(Container {
            runtime: Some(runtime),
            notify: Some(notify),
            ..
        }) = self.containers.get_mut(&id)
        else {
            return;
        };
        match notify.relay.drive(|| members(runtime)) {
            Progress::Idle => {}
            Progress::Again => self.again.push_back(Token::Notify(key)),
            Progress::Blocked if notify.waiting => {}
            Progress::Blocked => {
                notify.waiting = true;
                self.timers.set(Instant::now() + PAUSE, Timer::Notify(key));
            }
        }
        self.tell_notify(&id);
    }

    /// The host is tried again.
    pub(crate) fn retry_notify(&mut self, key: u64) {
        let name = self.processes.get(&key).map(|name| name.container.clone());
        let container = name.and_then(|id| self.containers.get_mut(&id));
        if let Some(notify) = container.and_then(|container| container.notify.as_mut()) {
            notify.waiting = false;
        }
        self.drive_notify(key);
    }

    /// A signal is about to go to a container's init.
    pub(crate) fn notify_of_signal(&mut self, id: &str, signal: i32) {
        let container = self.containers.get_mut(id);
        let Some(notify) = container.and_then(|container| container.notify.as_mut()) else {
            return;
        };
        notify.relay.signalled(signal);
        self.tell_notify(id);
    }

    /// A container's init has ended; its status has not been collected yet.
    pub(crate) fn end_notify(&mut self, id: &str) {
        let Some(Container {
            runtime: Some(runtime),
            notify: Some(notify),
            ..
        }) = self.containers.get_mut(id)
        else {
            return;
        };
        let runtime = std::sync::Arc::clone(runtime);
        notify.relay.end(|| members(&runtime));
        self.tell_notify(id);
    }

    fn tell_notify(&mut self, id: &str) {
        let container = self.containers.get_mut(id);
        let Some(notify) = container.and_then(|container| container.notify.as_mut()) else {
            return;
        };
        for news in notify.relay.take_news() {
            self.note("notify", id, &news);
        }
    }
}
