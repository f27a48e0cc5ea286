// SPDX-License-Identifier: Apache-2.0
//! How long each step of init took, told to the shim in init's last words.
//!
//! Ready, Executing and Failed carry the times behind their body. On the shim's side they become
//! spans: parts of what the thread is doing that waits for init.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use telemetry::recorder::{self, Outcome};

use crate::sync::Kind;

/// Longer lists are nobody's.
const MOST: usize = 128;

/// What init tells.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timings {
    /// Which list of steps: an exec's, else an init's.
    exec: bool,
    /// When the first step began: CLOCK_MONOTONIC, nanoseconds.
    began: u64,
    /// Nanoseconds of each step that has ended well, in the list's order.
    steps: Vec<u64>,
}

struct Clock {
    timings: Timings,
    last: u64,
    /// Name of the step under way.
    step: &'static str,
}

static CLOCK: Mutex<Clock> = Mutex::new(Clock {
    timings: Timings {
        exec: false,
        began: 0,
        steps: Vec::new(),
    },
    last: 0,
    step: "",
});

fn clock() -> MutexGuard<'static, Clock> {
    // No code that can panic runs under the lock.
    CLOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In init: the first step begins.
pub(crate) fn begin(exec: bool, steps: usize) {
    let mut clock = clock();
    let now = recorder::now();
    clock.last = now;
    clock.timings = Timings {
        exec,
        began: now,
        steps: Vec::with_capacity(steps),
    };
}

/// In init: a step begins.
pub(crate) fn step(name: &'static str) {
    clock().step = name;
}

/// In init: a step has ended well. Returns its nanoseconds.
pub(crate) fn step_done() -> u64 {
    let mut clock = clock();
    let now = recorder::now();
    // Joining a time namespace moves the clock.
    let took = now.saturating_sub(clock.last);
    clock.last = now;
    clock.timings.steps.push(took);
    took
}

/// In init: the step under way.
pub(crate) fn current_step() -> &'static str {
    clock().step
}

/// In init: what is told, once.
pub(crate) fn take(kind: Kind) -> Vec<u8> {
    if !matches!(kind, Kind::Ready | Kind::Executing | Kind::Failed) {
        return Vec::new();
    }
    let timings = std::mem::take(&mut clock().timings);
    if timings.began == 0 {
        return Vec::new();
    }
    // Losing the times is no reason not to start.
    postcard::to_stdvec(&timings).unwrap_or_default()
}

/// In the shim: makes spans of what came behind a message's body.
pub(crate) fn report(told: &[u8], failed: bool) {
    if told.is_empty() || !recorder::is_recording() {
        return;
    }
    let Ok(timings) = postcard::from_bytes::<Timings>(told) else {
        return;
    };
    if timings.steps.len() > MOST {
        return;
    }
    let total = timings.steps.iter().fold(0u64, |a, b| a.saturating_add(*b));
    let now = recorder::now();
    // A clock of another time namespace, or nonsense: as if it had ended now.
    let latest = now.saturating_sub(total);
    let mut start = timings.began;
    if start > latest || latest - start > total.saturating_add(1_000_000_000) {
        start = latest;
    }
    let outcome = if failed {
        Outcome::Failed(0)
    } else {
        Outcome::Done
    };
    let context = telemetry::Context::current();
    let whole = if failed { now - start } else { total };
    let inside = context.add("init", start, whole, outcome);
    for (index, took) in timings.steps.iter().enumerate() {
        if let Some(name) = super::step_name(timings.exec, index) {
            inside.add(name, start, *took, Outcome::Done);
        }
        start = start.saturating_add(*took);
    }
    if failed {
        if let Some(name) = super::step_name(timings.exec, timings.steps.len()) {
            inside.add(name, start, now.saturating_sub(start), outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_become_spans_in_their_order_and_the_failed_one_is_marked() {
        recorder::set_recording(true);
        let call = telemetry::Call::begin("Create", "timings", "", None);
        let _entered = call.context().enter();
        begin(false, 3);
        step("join cgroups");
        step_done();
        step_done();
        assert_eq!(current_step(), "join cgroups");
        assert!(take(Kind::Plan).is_empty(), "the plan is the shim's");
        let told = take(Kind::Failed);
        assert!(take(Kind::Failed).is_empty(), "told once");
        report(&told, true);
        report(b"garbage", true);
        let (records, _) = recorder::ended(0, 999, |record| {
            let scope = record.scope.as_deref();
            scope.is_some_and(|scope| &*scope.container == "timings")
        });
        let found: Vec<_> = records.iter().map(|(_, r)| (r.name, r.outcome)).collect();
        let names = [0, 1, 2].map(|index| super::super::step_name(false, index).unwrap());
        assert_eq!(
            found,
            [
                ("init", Outcome::Failed(0)),
                (names[0], Outcome::Done),
                (names[1], Outcome::Done),
                (names[2], Outcome::Failed(0)),
            ]
        );
        assert_eq!(records[1].1.parent, records[0].1.id);
        assert_eq!(records[1].1.start, records[0].1.start);
        call.forget();
    }
}
