// SPDX-License-Identifier: Apache-2.0
//! TaskOOM: processes of a container that the kernel killed for memory.
//!
//! One event for each growth of the kernel's counter, between TaskStart and TaskExit of what was
//! killed. See [`cgroups::oom`](runtime::cgroups::oom) for what counts.

use std::time::{Duration, Instant};

use runtime::cgroups::oom::{Interest, Look};
use runtime::cgroups::{MemoryEvents, Oom};
use rustix::event::epoll::EventFlags;

use crate::container::Phase;
use crate::events;
use crate::server::{Server, Timer};
use crate::timers::TimerId;
use crate::token::Token;

/// v1 wakes before it kills: when to look again. A kill takes microseconds, unless others are being
/// killed at the same time.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];

/// What is known of a container's kills.
pub(crate) struct OomState {
    counter: Oom,
    /// Kills that are not told yet: its TaskStart comes first.
    untold: bool,
    /// The count of kills when a TaskOOM was published last, or when it was created.
    told: u64,
    again: Option<TimerId>,
}

impl OomState {
    /// The counters at the last look.
    pub(crate) fn last(&self) -> &MemoryEvents {
        self.counter.last()
    }

    /// How many kills have been told, as the kernel counted them.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }
}

impl Server {
    /// Begins to watch a container that was just created.
    pub(crate) fn watch_oom(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(runtime) = container.runtime.clone() else {
            return;
        };
        let mut counter = Oom::since(runtime.oom_kills_before);
        // Without a watch, kills are still told when the process ends.
        if let Err(e) = counter.watch(&runtime.cgroup) {
            log::warn!("{id}: {e}");
        }
        let state = container.oom.insert(OomState {
            counter,
            untold: false,
            told: runtime.oom_kills_before,
            again: None,
        });
        let key = container.init.key;
        if let Some((fd, interest)) = state.counter.poll() {
            let flags = match interest {
                Interest::Readable => EventFlags::IN,
                Interest::Priority => EventFlags::PRI,
            };
            let watched = rustix::event::epoll::add(
                &self.epoll,
                fd,
                rustix::event::epoll::EventData::new_u64(Token::Memory(key).encode()),
                flags | EventFlags::ET,
            );
            if let Err(errno) = watched {
                log::warn!("{id}: watch memory: epoll_ctl: {errno}");
            }
        }
        // What has happened up to now has not woken anybody.
        self.look_for_oom(id);
    }

    /// A watch has fired.
    pub(crate) fn memory_event(&mut self, key: u64) {
        let Some(name) = self.processes.get(&key).cloned() else {
            return;
        };
        let id = name.container;
        self.look_for_oom(&id);
        let Some(oom) = self.oom(&id) else { return };
        let fires_early = matches!(oom.counter.poll(), Some((_, Interest::Readable)));
        let before = oom.again.take();
        if let Some(timer) = before {
            self.timers.cancel(timer);
        }
        if fires_early {
            self.look_again(&id, 0);
        }
    }

    /// The time to look again has come.
    pub(crate) fn oom_again(&mut self, id: &str, step: usize) {
        let Some(oom) = self.oom(id) else { return };
        oom.again = None;
        if self.look_for_oom(id) == Look::Quiet {
            self.look_again(id, step + 1);
        }
    }

    fn look_again(&mut self, id: &str, step: usize) {
        let Some(wait) = AGAIN.get(step) else { return };
        let container = id.to_owned();
        let timer = Timer::OomAgain { container, step };
        let timer = self.timers.set(Instant::now() + *wait, timer);
        if let Some(oom) = self.oom(id) {
            oom.again = Some(timer);
        }
    }

    /// Looks at the counter, and tells of its growth.
    pub(crate) fn look_for_oom(&mut self, id: &str) -> Look {
        let Some(container) = self.containers.get_mut(id) else {
            return Look::Gone;
        };
        let (Some(oom), Some(runtime)) = (&mut container.oom, &container.runtime) else {
            return Look::Gone;
        };
        let look = oom.counter.look(&runtime.cgroup);
        match look {
            Look::Killed => oom.untold = true,
            // On v1 the count shrinks when a cgroup below is removed.
            Look::Quiet => oom.told = oom.told.min(oom.counter.last().oom_kill),
            Look::Gone => return look,
        }
        let hit = oom.counter.last().max + oom.counter.last().high > 0;
        let running = container.init.phase == Phase::Running;
        if running {
            self.tell_oom(id);
        }
        if hit {
            self.memory_is_short(id);
        }
        look
    }

    /// The last look before the end of a container's init is told.
    pub(crate) fn last_look_for_oom(&mut self, id: &str) {
        self.look_for_oom(id);
        // Also if it was killed before it was ever started.
        self.tell_oom(id);
        // From now on the watch would tell of what follows a TaskExit.
        if let Some(timer) = self.oom(id).and_then(|oom| oom.again.take()) {
            self.timers.cancel(timer);
        }
    }

    /// Tells of kills that are not told yet.
    pub(crate) fn tell_oom(&mut self, id: &str) {
        let Some(oom) = self.oom(id) else { return };
        if std::mem::take(&mut oom.untold) {
            oom.told = oom.counter.last().oom_kill;
            self.publish(events::task_oom(id));
        }
    }

    fn oom(&mut self, id: &str) -> Option<&mut OomState> {
        self.containers.get_mut(id)?.oom.as_mut()
    }
}
