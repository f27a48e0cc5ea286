// SPDX-License-Identifier: Apache-2.0
//! What is announced, in which order, how often.

use rustix::process::Signal;

use crate::failure::Outcome;
use crate::lab::Lab;
use crate::tests;

tests!["events";
    a_life_is_announced_in_order_and_once,
    an_exec_is_announced_in_order_and_its_delete_is_not,
    a_failed_exec_has_no_exit,
    events_carry_pid_status_and_time,
    exits_of_many_execs_come_before_the_exit_of_the_init,
];

fn a_life_is_announced_in_order_and_once(lab: &Lab) -> Outcome {
    let container = lab.script("exit 5").start()?;
    let id = container.id().to_owned();
    container.finish()?;
    lab.expect_events(&id, "create start exit delete")?;
    Ok(())
}

fn an_exec_is_announced_in_order_and_its_delete_is_not(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let id = container.id().to_owned();
    container.exec("one", ["sh", "-c", "exit 3"]).run()?;
    container.exec("two", ["true"]).run()?;
    container.kill_and_finish()?;
    let one = "exec-added:one exec-started:one exit:one";
    let two = "exec-added:two exec-started:two exit:two";
    lab.expect_events(&id, &format!("create start {one} {two} exit delete"))?;
    Ok(())
}

fn a_failed_exec_has_no_exit(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let id = container.id().to_owned();
    let exec = container.exec("bad", ["no-such-program"]).add()?;
    assert!(exec.start().is_err());
    exec.delete()?;
    container.kill_and_finish()?;
    lab.expect_events(&id, "create start exec-added:bad exit delete")?;
    Ok(())
}

fn events_carry_pid_status_and_time(lab: &Lab) -> Outcome {
    let container = lab.script("sleep 1000").start()?;
    let (id, pid) = (container.id().to_owned(), container.pid());
    let exec = container.exec("e", ["sh", "-c", "exit 9"]).start()?;
    exec.wait()?;
    let exec_pid = exec.state()?.pid;
    exec.delete()?;
    container.kill(Signal::KILL)?;
    let waited = lab.client().wait(&id, "", crate::process::EXIT)?;
    container.finish()?;
    lab.expect_events(
        &id,
        "create start exec-added:e exec-started:e exit:e exit delete",
    )?;
    for event in lab.events().of(&id) {
        let of_exec = event.exec.is_some();
        if event.what != "exec-added" {
            assert_eq!(event.pid, if of_exec { exec_pid } else { pid }, "{event:?}");
        }
        if matches!(event.what.as_str(), "exit" | "delete") {
            assert_eq!(event.status, if of_exec { 9 } else { 137 }, "{event:?}");
            assert!(
                event
                    .exited_at
                    .is_some_and(|time| time.seconds > 1_600_000_000)
            );
            assert!(
                of_exec || event.exited_at == waited.exited_at,
                "{event:?} {waited:?}"
            );
        }
    }
    Ok(())
}

/// All processes die at the same moment; still the order is kept.
fn exits_of_many_execs_come_before_the_exit_of_the_init(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let id = container.id().to_owned();
    for number in 0..20 {
        container
            .exec(&format!("e{number}"), ["sleep", "1000"])
            .start()?;
    }
    container.kill_and_finish()?;
    lab.events().wait_for(&id, "exit")?;
    let names = lab.events().names(&id);
    let exits: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("exit"))
        .collect();
    assert_eq!(exits.len(), 21, "{names:?}");
    assert_eq!(exits[20], "exit", "{names:?}");
    Ok(())
}
