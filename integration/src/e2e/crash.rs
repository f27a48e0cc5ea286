// SPDX-License-Identifier: Apache-2.0
//! The shim is killed: containerd is told, and nothing stays.

use containerd_client::tonic::Code;
use rustix::process::Signal;

use super::assert_refused;
use crate::container::Container;
use crate::failure::{Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::tests;

tests!["crash";
    of_a_created_container,
    of_a_running_container,
    of_a_container_with_execs,
    of_a_stopped_container,
    of_a_container_in_the_hosts_pid_namespace,
    of_a_container_with_a_terminal,
    sigterm_ends_the_shim_and_its_container,
];

/// Removes the record of a container whose task is gone, and checks that nothing is left.
///
/// The Go shim of a killed server leaves the socket: nobody else removes it.
pub(super) fn remove(lab: &Lab, container: Container<'_>) -> Outcome {
    if lab.is_reference() {
        let namespace = lab.containerd().namespace();
        let address = lab.containerd().address();
        for socket in host::shim_sockets(&address, &namespace, container.id()) {
            // It is there or it is not.
            let _ = std::fs::remove_file(socket);
        }
    }
    container.remove()
}

/// Kills the shim, and checks what containerd says of it then.
fn crash(lab: &Lab, container: Container<'_>, signal: Signal) -> Outcome {
    let id = container.id().to_owned();
    let pids = host::processes_in_cgroup(&lab.cgroup(&id));
    host::signal(lab.shim_pid(&id)?, signal);
    let deleted = lab.events().wait_for(&id, "delete")?;
    assert_eq!(deleted.status, 137);
    let exits: Vec<_> = lab.events().of(&id);
    let exit = exits.iter().rfind(|event| event.to_string() == "exit");
    let exit = exit.map(|event| (event.status, event.pid));
    assert_eq!(exit, Some((137, container.pid())), "{exits:?}");
    wait_until(SOON, "containerd to forget it", || {
        container.state().is_err().then_some(())
    })?;
    assert_refused(container.state(), Code::NotFound, "");
    wait_until(SOON, "the processes to end", || {
        (!pids.iter().any(|&pid| host::alive(pid))).then_some(())
    })?;
    remove(lab, container)
}

fn of_a_created_container(lab: &Lab) -> Outcome {
    crash(
        lab,
        lab.container(["sleep", "1000"]).create()?,
        Signal::KILL,
    )
}

fn of_a_running_container(lab: &Lab) -> Outcome {
    crash(
        lab,
        lab.script("sleep 1000 & sleep 1000").start()?,
        Signal::KILL,
    )
}

fn of_a_container_with_execs(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let running = container.exec("running", ["sleep", "1000"]).start()?;
    let stopped = container.exec("stopped", ["true"]).start()?;
    stopped.wait()?;
    let added = container.exec("added", ["true"]).add()?;
    drop((running, stopped, added));
    crash(lab, container, Signal::KILL)
}

/// The exit has been told already; with what status is not said twice.
fn of_a_stopped_container(lab: &Lab) -> Outcome {
    let container = lab.script("exit 3").start()?;
    container.wait()?;
    let id = container.id().to_owned();
    assert_eq!(lab.events().wait_for(&id, "exit")?.status, 3);
    host::signal(lab.shim_pid(&id)?, Signal::KILL);
    lab.events().wait_for(&id, "delete")?;
    remove(lab, container)
}

fn of_a_container_in_the_hosts_pid_namespace(lab: &Lab) -> Outcome {
    let script = "setsid sleep 1000 & sleep 1000 & wait";
    let container = lab.script(script).sharing("pid").start()?;
    let cgroup = lab.cgroup(container.id());
    wait_until(SOON, "the children", || {
        (host::processes_in_cgroup(&cgroup).len() == 3).then_some(())
    })?;
    crash(lab, container, Signal::KILL)
}

fn of_a_container_with_a_terminal(lab: &Lab) -> Outcome {
    let script = "trap '' HUP; echo ready; while :; do sleep 1000; done";
    let container = lab.script(script).with_terminal().start()?;
    container.streams.stdout()?.wait_for("ready")?;
    crash(lab, container, Signal::KILL)
}

/// The shim goes in order; its container is then containerd's to clean up, and it does.
fn sigterm_ends_the_shim_and_its_container(lab: &Lab) -> Outcome {
    crash(lab, lab.container(["sleep", "1000"]).start()?, Signal::TERM)
}
