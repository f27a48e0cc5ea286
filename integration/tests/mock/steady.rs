// SPDX-License-Identifier: Apache-2.0
//! A shim costs the same after many containers and execs as after few.

use std::time::{Duration, Instant};

use integration::mock::{Shim, Spec, StdioKind, Subject, Usage, World};

use crate::scene::{ID, Scene, assert_events};
use crate::{Outcome, Test, complain, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("lives_and_execs_leave_the_shim_as_it_was", lives_and_execs),
    ours("stats_leave_the_shim_as_it_was", stats),
];

/// Anonymous memory that a heap may grow by and still count as constant, kB.
const SLACK: u64 = 128;

fn lives_and_execs(subject: &Subject) -> Outcome {
    // What the shim remembers of the latest events fills rings of fixed size first.
    let (warm, rounds) = if subject.is_ours() {
        (100, 120)
    } else {
        (10, 20)
    };
    let world = World::new(subject)?;
    let holder = world.bundle("holder", &Spec::pod_sandbox("holder"))?;
    let shim = world.start(&holder)?;
    let container = shim.create(&holder, StdioKind::Null)?;
    container.start()?;
    let round = |number: u32| -> Outcome {
        live(&world, &shim, number)?;
        let exec = format!("e{number}");
        let script = format!("echo {number}");
        let (status, text) = container.output_of(&exec, &["/bin/sh", "-c", &script])?;
        assert_eq!((status, text), (0, format!("{number}\n")));
        Ok(())
    };
    for number in 0..warm {
        round(number)?;
    }
    let before = settled(&shim)?;
    for number in warm..warm + rounds {
        round(number)?;
    }
    let after = settled(&shim)?;
    // A garbage collector has its own ideas of memory and threads, and closes late.
    let slack = if subject.is_ours() { 0 } else { 4 };
    assert!(
        after.descriptors <= before.descriptors + slack,
        "{before:?} {after:?}"
    );
    if subject.is_ours() {
        assert!(after.threads <= before.threads, "{before:?} {after:?}");
        assert!(
            after.anonymous <= before.anonymous + SLACK,
            "{before:?} {after:?}"
        );
    }
    container.end()?;
    shim.shutdown("holder")?;
    let exits = world.events.of("holder").len();
    // create, start, exit; delete may still be on its way.
    assert!(
        (3..=4).contains(&(exits - 3 * usize::try_from(warm + rounds)?)),
        "{exits}"
    );
    Ok(())
}

fn live(world: &World, shim: &Shim, number: u32) -> Outcome {
    let id = format!("c{number}");
    let bundle = world.bundle(&id, &Spec::shell("echo out; exit 1"))?;
    let container = shim.create(&bundle, StdioKind::Output)?;
    assert_eq!(container.run()?, 1);
    assert_eq!(container.io.out.text()?, "out\n");
    container.delete()?;
    assert_events(world, &id, &["create", "start", "exit 1", "delete 1"])?;
    world.remove(bundle);
    Ok(())
}

/// Threads and descriptors of finished work go away a little later.
fn settled(shim: &Shim) -> integration::mock::Result<Usage> {
    let mut last = shim.process().usage()?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        let now = shim.process().usage()?;
        if (now.threads, now.descriptors) == (last.threads, last.descriptors) && now.threads == 1 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Calls of Stats.
struct Effort {
    /// Before anything is measured.
    warm: u32,
    most: u32,
    limit: Duration,
    /// What anonymous memory may grow by, kB. Pages of the executable are private or not as other shims come
    /// and go.
    slack: u64,
}

impl Effort {
    /// `STATS_CALLS` says how many, `E2E_SCALE=full` means a million or a minute of them: after the rings of
    /// fixed size, in which the shim remembers the latest calls, are full. Otherwise they fill meanwhile.
    fn new() -> Result<Self, std::num::ParseIntError> {
        let long = |most, limit| Self {
            warm: 12_000,
            most,
            limit,
            slack: 256,
        };
        if let Ok(calls) = std::env::var("STATS_CALLS") {
            return Ok(long(calls.parse()?, Duration::MAX));
        }
        if std::env::var("E2E_SCALE").is_ok_and(|scale| scale == "full") {
            return Ok(long(1_000_000, Duration::from_secs(60)));
        }
        Ok(Self {
            warm: 500,
            most: 3_000,
            limit: Duration::from_secs(3),
            slack: 192,
        })
    }
}

/// Each answer is made of some thirty files and a message of many parts: nothing of that stays.
fn stats(subject: &Subject) -> Outcome {
    let effort = Effort::new()?;
    let scene = Scene::idle(subject)?;
    let task = scene.shim.reconnect_lean()?;
    for _ in 0..effort.warm {
        task.stats(ID)?;
    }
    let before = settled(&scene.shim)?;
    let (begun, mut calls) = (Instant::now(), 0);
    while calls < effort.most && begun.elapsed() < effort.limit {
        task.stats(ID)?;
        calls += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = settled(&scene.shim)?;
    let rate = f64::from(calls) / seconds;
    complain(&format!(
        "{calls} calls of Stats in {seconds:.1} s, {rate:.0} in a second; anonymous memory {} kB, then {} kB",
        before.anonymous, after.anonymous
    ));
    assert!(
        after.anonymous <= before.anonymous + effort.slack,
        "{before:?} {after:?}"
    );
    assert_eq!(after.descriptors, before.descriptors);
    scene.end()
}
