// SPDX-License-Identifier: Apache-2.0
//! A shim costs the same after many containers and execs as after few.

use integration::mock::{Shim, Spec, StdioKind, Subject, Usage, World};

use crate::scene::assert_events;
use crate::{Outcome, Test, shared};

pub(crate) const TESTS: &[Test] = &[shared(
    "lives_and_execs_leave_the_shim_as_it_was",
    lives_and_execs,
)];

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
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = shim.process().usage()?;
        if (now.threads, now.descriptors) == (last.threads, last.descriptors) && now.threads == 1 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}
