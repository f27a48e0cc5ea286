// SPDX-License-Identifier: Apache-2.0
//! What a container has said of itself, kept whether or not anybody on the host listens.

use std::time::SystemTime;

use crate::message::Message;

/// The sum of all messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Startup is finished, and no reload under way.
    pub ready: bool,
    /// A reload is under way.
    pub reloading: bool,
    /// The end has begun.
    pub stopping: bool,
    /// The last status.
    pub status: String,
    /// The last errno.
    pub errno: Option<i32>,
    /// The last D-Bus error.
    pub bus_error: Option<String>,
    /// The main process that it has named, in our PID namespace.
    pub main_pid: Option<i32>,
    /// When it was last heard of.
    pub last: Option<SystemTime>,
    /// When it last fed the watchdog.
    pub watchdog: Option<SystemTime>,
    /// Datagrams that were taken.
    pub taken: u64,
    /// Datagrams, or parts of them, that were refused.
    pub refused: u64,
    /// Datagrams that the host could not be given.
    pub undelivered: u64,
}

impl State {
    /// Adds a message; says whether it changes anything that is worth an event.
    pub(crate) fn add(&mut self, message: &Message, now: SystemTime) -> bool {
        let before = (self.ready, self.reloading, self.stopping, self.main_pid);
        self.last = Some(now);
        self.taken += 1;
        if message.reloading {
            self.reloading = true;
            self.ready = false;
        }
        // In one datagram with a reload, it is the reload's end.
        if message.ready {
            self.ready = true;
            self.reloading = false;
        }
        if message.stopping {
            self.stopping = true;
            self.ready = false;
            self.reloading = false;
        }
        if message.watchdog {
            self.watchdog = Some(now);
        }
        let mut news = false;
        if let Some(status) = &message.status {
            news |= self.status != *status;
            self.status.clone_from(status);
        }
        if let Some(errno) = message.errno {
            news |= self.errno.replace(errno) != Some(errno);
        }
        if let Some(error) = &message.bus_error {
            news |= self.bus_error.as_ref() != Some(error);
            self.bus_error = Some(error.clone());
        }
        self.main_pid = message.main_pid.or(self.main_pid);
        news || before != (self.ready, self.reloading, self.stopping, self.main_pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_starts_reloads_and_stops() {
        let mut state = State::default();
        let now = SystemTime::UNIX_EPOCH;
        let mut add = |message: Message| {
            let news = state.add(&message, now);
            (news, state.ready, state.reloading, state.stopping)
        };
        let ready = Message {
            ready: true,
            ..Message::default()
        };
        assert_eq!(add(ready.clone()), (true, true, false, false));
        assert_eq!(add(ready.clone()), (false, true, false, false));
        let reloading = Message {
            reloading: true,
            ..Message::default()
        };
        assert_eq!(add(reloading), (true, false, true, false));
        assert_eq!(add(ready), (true, true, false, false));
        let watchdog = Message {
            watchdog: true,
            ..Message::default()
        };
        assert_eq!(add(watchdog), (false, true, false, false));
        let stopping = Message {
            stopping: true,
            status: Some("bye".into()),
            ..Message::default()
        };
        assert_eq!(add(stopping), (true, false, false, true));
        assert_eq!(state.status, "bye");
        assert_eq!(state.taken, 6);
        assert_eq!(state.watchdog, Some(now));
    }
}
