// SPDX-License-Identifier: Apache-2.0
//! Many containers of one shim that run out of memory. `E2E_SCALE=full` makes them very many.

use std::time::Duration;

use integration::mock::{Bundle, Container, Result, Shim, Spec, StdioKind, Subject, World};

use crate::resources::{EATER, MIB, limited, ooms};
use crate::scene::{ID, until};
use crate::{Outcome, Test, ours};

pub(crate) const TESTS: &[Test] = &[
    ours("oom_storm_loses_nothing", oom_storm_loses_nothing),
    ours("oom_loops_leave_nothing", oom_loops_leave_nothing),
];

/// How many, usually and at full scale.
fn scaled(usual: usize, full: usize) -> usize {
    match std::env::var("E2E_SCALE").is_ok_and(|scale| scale == "full") {
        true => full,
        false => usual,
    }
}

fn descriptors_of(pid: u32) -> std::io::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// A shim whose first container does nothing.
fn pod(world: &World) -> Result<(Shim, Container)> {
    let sandbox = world.bundle(ID, &Spec::idle())?;
    let shim = world.start(&sandbox)?;
    let holder = shim.create(&sandbox, StdioKind::Null)?;
    holder.start()?;
    Ok((shim, holder))
}

fn start_many(
    world: &World,
    shim: &Shim,
    count: usize,
    script: &str,
) -> Result<Vec<(Bundle, Container)>> {
    let mut running = Vec::with_capacity(count);
    for number in 0..count {
        // No name is the beginning of another: what is left is found by it.
        let bundle = world.bundle(&format!("c{number:03}"), &limited(script, 8 * MIB))?;
        let container = shim.create(&bundle, StdioKind::Null)?;
        container.start()?;
        running.push((bundle, container));
    }
    Ok(running)
}

/// What is left of a container that was deleted.
#[track_caller]
fn assert_gone(world: &World, bundle: &Bundle) {
    let gone = until(Duration::from_secs(10), || world.traces(bundle).is_empty());
    assert!(gone, "{:?}", world.traces(bundle));
}

#[track_caller]
fn assert_descriptors(shim: &Shim, before: usize) {
    let now = || descriptors_of(shim.pid()).unwrap_or(usize::MAX);
    let same = until(Duration::from_secs(10), || now() <= before);
    assert!(same, "descriptors: {before} before, {} after", now());
}

/// Kills in many containers of one shim: for each an event, before the exit of its own container.
fn oom_storm_loses_nothing(subject: &Subject) -> Outcome {
    let (containers, kills) = (scaled(4, 20), scaled(3, 10));
    let world = World::new(subject)?;
    // Slow enough that each kill is a growth of its own: the next waits until the shim has looked.
    let script = format!(
        "i=0; while [ $i -lt {kills} ]; do tail /dev/zero; sleep 0.4; i=$((i+1)); done; {EATER}"
    );
    let (shim, holder) = pod(&world)?;
    let before = descriptors_of(shim.pid())?;
    for (bundle, container) in &start_many(&world, &shim, containers, &script)? {
        assert_eq!(container.wait()?, 137);
        container.delete()?;
        world.events.wait_delete(bundle.id())?;
        let texts = world.events.texts(bundle.id());
        assert_eq!(ooms(&world, bundle.id()), kills + 1, "{texts:?}");
        let tail = &texts[texts.len() - 3..];
        assert_eq!(tail, ["oom", "exit 137", "delete 137"]);
        assert_gone(&world, bundle);
    }
    assert_descriptors(&shim, before);
    holder.end()?;
    Ok(())
}

/// Containers that are killed for memory all the time, until they are ended: no descriptor, watch,
/// cgroup or mount is left of them.
fn oom_loops_leave_nothing(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let (shim, holder) = pod(&world)?;
    let before = descriptors_of(shim.pid())?;
    let script = "while :; do tail /dev/zero; done";
    let running = start_many(&world, &shim, scaled(6, 100), script)?;
    for (bundle, _) in &running {
        let told = until(Duration::from_secs(60), || ooms(&world, bundle.id()) >= 2);
        assert!(
            told,
            "{}: {:?}",
            bundle.id(),
            world.events.texts(bundle.id())
        );
    }
    for (bundle, container) in &running {
        container.kill(9)?;
        assert_eq!(container.wait()?, 137);
        container.delete()?;
        world.events.wait_delete(bundle.id())?;
        let texts = world.events.texts(bundle.id());
        let tail = &texts[texts.len() - 2..];
        assert_eq!(tail, ["exit 137", "delete 137"], "{}", bundle.id());
        assert_gone(&world, bundle);
    }
    assert_descriptors(&shim, before);
    holder.end()?;
    Ok(())
}
