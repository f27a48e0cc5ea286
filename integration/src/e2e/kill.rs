// SPDX-License-Identifier: Apache-2.0
//! Signals: whom they reach, and what is answered when there is nobody.

use containerd_client::tonic::Code;
use rustix::process::Signal;

use super::assert_refused;
use crate::client::Reach;
use crate::container::Container;
use crate::failure::{Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::tests;

tests!["kill";
    a_handler_in_the_container_decides,
    init_without_a_handler_ignores_what_the_kernel_lets_it_ignore,
    sigkill_ends_init_and_all_its_children,
    killing_all_is_accepted,
    an_exec_is_killed_alone,
    killing_after_exit_is_not_found,
    an_exec_cannot_be_killed_before_start_or_after_exit,
    sigkill_ends_a_created_container,
    sigterm_ends_a_created_container,
    an_unknown_signal_is_refused,
    without_a_pid_namespace_children_die_with_the_init,
    in_a_joined_pid_namespace_children_die_with_the_init,
    a_fork_storm_is_ended,
];

fn a_handler_in_the_container_decides(lab: &Lab) -> Outcome {
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let container = lab.script(script).start()?;
    container.streams.stdout()?.wait_for("ready")?;
    container.kill(Signal::TERM)?;
    let finished = container.finish()?;
    assert_eq!(
        (finished.status, finished.stdout.as_str()),
        (7, "ready\nbye\n")
    );
    Ok(())
}

/// Process 1 of a PID namespace gets no signal that it has no handler for, SIGKILL excepted.
fn init_without_a_handler_ignores_what_the_kernel_lets_it_ignore(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    container.kill(Signal::TERM)?;
    container.kill(Signal::INT)?;
    assert_eq!(container.shell("e", "echo alive")?, "alive\n");
    assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
    assert_eq!(container.kill_and_finish()?.status, 137);
    Ok(())
}

/// The pids of `count` processes of a container, as the host has them.
fn pids(container: &Container<'_>, lab: &Lab, count: usize) -> Outcome<Vec<u32>> {
    wait_until(SOON, format!("{count} processes"), || {
        let pids = host::processes_in_cgroup(&lab.cgroup(container.id()));
        (pids.len() == count).then_some(pids)
    })
}

fn sigkill_ends_init_and_all_its_children(lab: &Lab) -> Outcome {
    let script = "setsid sleep 1000 & sleep 1000 & wait";
    let container = lab.script(script).start()?;
    let pids = pids(&container, lab, 3)?;
    assert_eq!(container.kill_and_finish()?.status, 137);
    assert!(!pids.iter().any(|&pid| host::alive(pid)));
    Ok(())
}

fn killing_all_is_accepted(lab: &Lab) -> Outcome {
    let container = lab.script("sleep 1000 & sleep 1000 & wait").start()?;
    let pids = pids(&container, lab, 3)?;
    container.kill_raw(Signal::KILL.as_raw(), Reach::All)?;
    assert_eq!(container.wait()?, 137);
    wait_until(SOON, "the children to end", || {
        (!pids.iter().any(|&pid| host::alive(pid))).then_some(())
    })?;
    container.finish()?;
    Ok(())
}

fn an_exec_is_killed_alone(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let one = container.exec("one", ["sleep", "1000"]).start()?;
    let two = container.exec("two", ["sleep", "1000"]).start()?;
    one.kill(Signal::TERM)?;
    assert_eq!(one.finish_process()?.status, 143);
    assert_eq!(two.state()?.status().as_str_name(), "RUNNING");
    two.kill(Signal::KILL)?;
    assert_eq!(two.finish_process()?.status, 137);
    assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
    container.kill_and_finish()?;
    Ok(())
}

fn killing_after_exit_is_not_found(lab: &Lab) -> Outcome {
    let container = lab.container(["true"]).start()?;
    container.wait()?;
    let text = "process already finished: not found";
    assert_refused(container.kill(Signal::TERM), Code::NotFound, text);
    assert_refused(container.kill(Signal::KILL), Code::NotFound, text);
    container.finish()?;
    Ok(())
}

fn an_exec_cannot_be_killed_before_start_or_after_exit(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["true"]).add()?;
    let text = "process not created: failed precondition";
    assert_refused(exec.kill(Signal::KILL), Code::FailedPrecondition, text);
    exec.start()?;
    exec.wait()?;
    let text = "process already finished: not found";
    assert_refused(exec.kill(Signal::KILL), Code::NotFound, text);
    exec.finish_process()?;
    container.kill_and_finish()?;
    Ok(())
}

fn sigkill_ends_a_created_container(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).create()?;
    let id = container.id().to_owned();
    container.kill(Signal::KILL)?;
    assert_eq!(container.wait()?, 137);
    assert_eq!(container.state()?.status().as_str_name(), "STOPPED");
    assert_eq!(lab.events().wait_for(&id, "exit")?.status, 137);
    container.finish()?;
    lab.expect_events(&id, "create exit delete")?;
    Ok(())
}

/// The init that waits for Start has no handlers of its own... in a PID namespace of its own the
/// kernel then drops the signal, unless the runtime's init is made to react. Whatever happens,
/// SIGKILL afterwards ends it, and the status is one of the two.
fn sigterm_ends_a_created_container(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).create()?;
    container.kill(Signal::TERM)?;
    // Not found: the first one was enough.
    let second = container.kill(Signal::KILL);
    assert!(second.is_ok() || second.is_err_and(|status| status.code() == Code::NotFound));
    let status = container.wait()?;
    // runc's init is a Go program: that ends with 2.
    let by_go = lab.is_reference() && status == 2;
    assert!(by_go || [137, 143].contains(&status), "status {status}");
    container.finish()?;
    Ok(())
}

fn an_unknown_signal_is_refused(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let Err(status) = container.kill_raw(1000, Reach::One) else {
        crate::fail!("signal 1000 was accepted");
    };
    assert_ne!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
    container.kill_and_finish()?;
    Ok(())
}

fn without_a_pid_namespace_children_die_with_the_init(lab: &Lab) -> Outcome {
    let script = "setsid sleep 1000 & sleep 1000 & wait";
    for reach in [Reach::One, Reach::All] {
        let container = lab.script(script).sharing("pid").start()?;
        let pids = pids(&container, lab, 3)?;
        container.kill_raw(Signal::KILL.as_raw(), reach)?;
        assert_eq!(container.wait()?, 137);
        wait_until(SOON, "the children to end", || {
            (!pids.iter().any(|&pid| host::alive(pid))).then_some(())
        })?;
        container.finish()?;
    }
    // The same when init ends by itself. runc 1.3 may miss the child then, until Delete.
    let builder = lab.script("setsid sleep 1000 & echo $!").sharing("pid");
    let container = builder.start()?;
    let child: u32 = container.streams.stdout()?.wait_for("\n")?.trim().parse()?;
    assert_eq!(container.wait()?, 0);
    let ended = || (!host::alive(child)).then_some(());
    if !lab.is_reference() {
        wait_until(SOON, "the child to end", ended)?;
    }
    container.finish()?;
    wait_until(SOON, "the child to end", ended)?;
    Ok(())
}

fn in_a_joined_pid_namespace_children_die_with_the_init(lab: &Lab) -> Outcome {
    let first = lab.container(["sleep", "1000"]).start()?;
    let second = lab.script("setsid sleep 1000 & sleep 1000 & wait");
    let second = second.joining("pid", first.pid(), "pid").start()?;
    let pids = pids(&second, lab, 3)?;
    assert_eq!(second.kill_and_finish()?.status, 137);
    wait_until(SOON, "the children to end", || {
        (!pids.iter().any(|&pid| host::alive(pid))).then_some(())
    })?;
    assert_eq!(first.state()?.status().as_str_name(), "RUNNING");
    first.kill_and_finish()?;
    Ok(())
}

/// Children that fork as fast as they can, in the host's PID namespace: only a kill of the whole
/// cgroup ends them.
fn a_fork_storm_is_ended(lab: &Lab) -> Outcome {
    let script = "while :; do (sleep 0.01; sleep 1000) & sleep 0.01; done";
    let container = lab.script(script).sharing("pid").start()?;
    let cgroup = lab.cgroup(container.id());
    wait_until(SOON, "a few processes", || {
        (host::processes_in_cgroup(&cgroup).len() > 10).then_some(())
    })?;
    container.kill(Signal::KILL)?;
    assert_eq!(container.wait()?, 137);
    wait_until(SOON, "the children to end", || {
        let alive = host::processes_in_cgroup(&cgroup);
        (!alive.iter().any(|&pid| host::alive(pid))).then_some(())
    })?;
    container.finish()?;
    Ok(())
}
