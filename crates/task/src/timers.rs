// SPDX-License-Identifier: Apache-2.0
//! Things to be done at a later moment, on the reactor thread.

use std::collections::BTreeMap;
use std::time::Instant;

/// A timer that has been set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerId(Instant, u64);

/// Timers in the order of their moments.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    set: BTreeMap<TimerId, T>,
    next: u64,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self {
            set: BTreeMap::new(),
            next: 0,
        }
    }

    /// Sets a timer.
    pub(crate) fn set(&mut self, at: Instant, what: T) -> TimerId {
        let id = TimerId(at, self.next);
        self.next += 1;
        self.set.insert(id, what);
        id
    }

    /// Takes a timer back; one that has fired already is fine.
    pub(crate) fn cancel(&mut self, id: TimerId) {
        self.set.remove(&id);
    }

    /// How many are set.
    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }

    /// The next moment something is due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.set.first_key_value().map(|(id, _)| id.0)
    }

    /// Takes one timer that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<T> {
        let (id, _) = self.set.first_key_value()?;
        if id.0 > now {
            return None;
        }
        self.set.pop_first().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_fire_in_order_and_not_when_cancelled() {
        let mut timers = Timers::new();
        let now = Instant::now();
        let second = |n| now + Duration::from_secs(n);
        timers.set(second(2), "b");
        let cancelled = timers.set(second(1), "x");
        timers.set(second(1), "a");
        timers.cancel(cancelled);
        assert_eq!(timers.next_at(), Some(second(1)));
        assert_eq!(timers.take_due(now), None);
        assert_eq!(timers.take_due(second(3)), Some("a"));
        assert_eq!(timers.take_due(second(3)), Some("b"));
        assert_eq!(timers.take_due(second(3)), None);
    }
}
