// SPDX-License-Identifier: Apache-2.0
//! The same again and again: nothing piles up. `E2E_SCALE=full` for the long form.

use std::thread;

use crate::failure::{Outcome, failed};
use crate::host;
use crate::lab::Lab;
use crate::streams::Stdio;
use crate::suite;
use crate::tests;

tests!["endurance";
    many_lives_in_one_shim_leave_it_as_it_was,
    many_execs_leave_the_shim_as_it_was,
    forty_lives_at_once,
];

/// Descriptors, threads and resident kilobytes of a process.
type Footprint = (usize, u64, u64);

fn footprint(pid: u32) -> Footprint {
    let threads = host::status_number(pid, "Threads");
    (
        host::descriptors(pid),
        threads,
        host::status_number(pid, "VmRSS"),
    )
}

/// Descriptors must be the same again; memory may grow by a buffer, not with the number of rounds.
/// A Go shim's heap, threads and descriptors breathe: only ours is judged.
fn compare(lab: &Lab, shim: u32, before: Footprint) -> Outcome {
    if lab.is_reference() {
        return Ok(());
    }
    // Worker threads may still be ending.
    let settled = crate::failure::wait_until(crate::failure::SOON, "", || {
        let (descriptors, threads, _) = footprint(shim);
        (descriptors <= before.0 && threads <= before.1).then_some(())
    });
    let after = footprint(shim);
    settled.map_err(|_| failed(format!("the shim had {before:?} and has {after:?}")))?;
    assert!(
        after.2 <= before.2 + 512,
        "resident kilobytes: {} became {}",
        before.2,
        after.2
    );
    Ok(())
}

fn rounds(lab: &Lab) -> u32 {
    match (suite::full_scale(), lab.is_reference()) {
        (true, false) => 2000,
        (_, true) => 30,
        (false, false) => 200,
    }
}

fn many_lives_in_one_shim_leave_it_as_it_was(lab: &Lab) -> Outcome {
    let pod = lab.container(["sleep", "1000"]);
    let sandbox = pod.id().to_owned();
    let pod = pod.in_pod(&sandbox).start()?;
    let shim = lab.shim_pid(&sandbox)?;
    let live = || -> Outcome {
        let container = lab.script("echo out; exit 3").in_pod(&sandbox).start()?;
        let id = container.id().to_owned();
        let finished = container.finish()?;
        assert_eq!((finished.status, finished.stdout.as_str()), (3, "out\n"));
        lab.expect_events(&id, "create start exit delete")?;
        Ok(())
    };
    for _ in 0..20 {
        live()?;
    }
    let before = footprint(shim);
    for _ in 0..rounds(lab) {
        live()?;
    }
    compare(lab, shim, before)?;
    pod.kill_and_finish()?;
    Ok(())
}

fn many_execs_leave_the_shim_as_it_was(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let id = container.id().to_owned();
    let shim = lab.shim_pid(&id)?;
    let exec = |number: u32| -> Outcome {
        let name = format!("e{number}");
        let terminal = number % 4 == 0;
        let builder = container.exec(&name, ["sh", "-c", "echo out; exit 3"]);
        let builder = if terminal {
            builder.stdio(Stdio::Terminal)
        } else {
            builder
        };
        let finished = builder.run()?;
        let wanted = if terminal { "out\r\n" } else { "out\n" };
        assert_eq!((finished.status, finished.stdout.as_str()), (3, wanted));
        Ok(())
    };
    let warm = 20;
    for number in 0..warm {
        exec(number)?;
    }
    let before = footprint(shim);
    for number in warm..warm + rounds(lab) {
        exec(number)?;
    }
    compare(lab, shim, before)?;
    assert_eq!(lab.client().pids(&id)?.len(), 1);
    container.kill_and_finish()?;
    lab.events().wait_for(&id, "exit")?;
    let count = lab
        .events()
        .of(&id)
        .iter()
        .filter(|event| event.exec.is_some())
        .count();
    let expected = 3 * (warm + rounds(lab));
    assert_eq!(u32::try_from(count)?, expected, "events lost or doubled");
    Ok(())
}

fn forty_lives_at_once(lab: &Lab) -> Outcome {
    let count = if lab.is_reference() { 10 } else { 40 };
    let failures: Vec<_> = thread::scope(|scope| {
        let live = |number: u32| -> Outcome {
            let container = lab
                .script(&format!("echo {number}; exit {number}"))
                .start()?;
            let id = container.id().to_owned();
            let finished = container.finish()?;
            assert_eq!(
                (finished.status, finished.stdout),
                (number, format!("{number}\n"))
            );
            lab.expect_events(&id, "create start exit delete")?;
            Ok(())
        };
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || live(number)))
            .collect();
        let outcomes = threads.into_iter().map(thread::ScopedJoinHandle::join);
        outcomes
            .filter_map(|outcome| match outcome {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure),
                Err(_) => Some(failed("panicked")),
            })
            .collect()
    });
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}
