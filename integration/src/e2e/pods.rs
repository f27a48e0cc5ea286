// SPDX-License-Identifier: Apache-2.0
//! Several containers in one shim.

use containerd_client::tonic::Code;
use rustix::process::Signal;

use super::assert_refused;
use crate::container::Container;
use crate::failure::{Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::tests;

tests!["pods";
    containers_of_a_pod_share_a_shim,
    the_shim_ends_with_the_last_container,
    containers_of_a_pod_join_its_namespaces,
    containers_of_a_pod_come_and_go,
    deleting_the_sandbox_first_leaves_nothing_in_the_end,
    a_killed_shim_is_told_for_every_container,
    a_container_of_another_pod_has_another_shim,
    the_other_annotation_groups_too,
    names_of_execs_are_each_containers_own,
];

/// The pod's first container: its id is the pod's.
fn sandbox(lab: &Lab) -> Outcome<Container<'_>> {
    let builder = lab.container(["sleep", "1000"]);
    let id = builder.id().to_owned();
    builder.in_pod(&id).start()
}

fn member<'a>(lab: &'a Lab, sandbox: &Container<'_>, script: &str) -> Outcome<Container<'a>> {
    lab.script(script).in_pod(sandbox.id()).start()
}

/// Kills, waits and deletes, but looks not for what is left: the shim is still somebody's.
fn end(container: &Container<'_>) -> Outcome {
    container.kill(Signal::KILL)?;
    assert_eq!(container.wait()?, 137);
    container.delete()?;
    Ok(())
}

fn containers_of_a_pod_share_a_shim(lab: &Lab) -> Outcome {
    let pod = sandbox(lab)?;
    let shim = lab.shim_pid(pod.id())?;
    let one = member(lab, &pod, "sleep 1000")?;
    let two = member(lab, &pod, "sleep 1000")?;
    for container in [&one, &two] {
        let address = lab.containerd().address();
        assert!(host::shims(&address, container.id()).is_empty());
        assert_eq!(container.shell("e", "echo fine")?, "fine\n");
        let parent = host::status_number(container.pid(), "PPid");
        assert_eq!(parent, u64::from(shim));
    }
    one.kill_and_finish()?;
    two.kill_and_finish()?;
    pod.kill_and_finish()?;
    Ok(())
}

fn the_shim_ends_with_the_last_container(lab: &Lab) -> Outcome {
    let pod = sandbox(lab)?;
    let shim = lab.shim_pid(pod.id())?;
    let one = member(lab, &pod, "sleep 1000")?;
    one.kill_and_finish()?;
    assert!(host::alive(shim));
    assert_eq!(pod.state()?.status().as_str_name(), "RUNNING");
    pod.kill_and_finish()?;
    assert!(!host::alive(shim));
    Ok(())
}

fn containers_of_a_pod_join_its_namespaces(lab: &Lab) -> Outcome {
    let pod = sandbox(lab)?;
    let member = lab.script("sleep 1000; true").in_pod(pod.id());
    let member = member
        .joining("network", pod.pid(), "net")
        .joining("ipc", pod.pid(), "ipc")
        .joining("uts", pod.pid(), "uts")
        .joining("pid", pod.pid(), "pid")
        .start()?;
    wait_until(SOON, "the member's child", || {
        let pids = lab.client().pids(member.id()).ok()?;
        (pids.len() == 2).then_some(())
    })?;
    // All die with the PID namespace, and each exit is told.
    pod.kill(Signal::KILL)?;
    assert_eq!(member.wait()?, 137);
    assert_eq!(pod.wait()?, 137);
    for container in [&member, &pod] {
        assert_eq!(lab.events().wait_for(container.id(), "exit")?.status, 137);
    }
    member.finish()?;
    pod.finish()?;
    Ok(())
}

fn containers_of_a_pod_come_and_go(lab: &Lab) -> Outcome {
    let pod = sandbox(lab)?;
    for number in 0..10u32 {
        let container = member(lab, &pod, &format!("echo {number}; exit {number}"))?;
        let id = container.id().to_owned();
        let finished = container.finish()?;
        assert_eq!(
            (finished.status, finished.stdout),
            (number, format!("{number}\n"))
        );
        lab.expect_events(&id, "create start exit delete")?;
    }
    pod.kill_and_finish()?;
    Ok(())
}

fn deleting_the_sandbox_first_leaves_nothing_in_the_end(lab: &Lab) -> Outcome {
    let pod = sandbox(lab)?;
    let one = member(lab, &pod, "sleep 1000")?;
    let shim = lab.shim_pid(pod.id())?;
    end(&pod)?;
    assert_eq!(one.shell("e", "echo fine")?, "fine\n");
    end(&one)?;
    one.remove()?;
    pod.remove()?;
    wait_until(SOON, "the shim to end", || {
        (!host::alive(shim)).then_some(())
    })
}

fn a_killed_shim_is_told_for_every_container(lab: &Lab) -> Outcome {
    let pod = sandbox(lab)?;
    let one = member(lab, &pod, "sleep 1000")?;
    host::signal(lab.shim_pid(pod.id())?, Signal::KILL);
    for container in [&pod, &one] {
        let id = container.id();
        assert_eq!(lab.events().wait_for(id, "exit")?.status, 137);
        assert_refused(container.state(), Code::NotFound, "");
        wait_until(SOON, "the end of the init", || {
            (!host::alive(container.pid())).then_some(())
        })?;
    }
    super::crash::remove(lab, one)?;
    super::crash::remove(lab, pod)
}

fn a_container_of_another_pod_has_another_shim(lab: &Lab) -> Outcome {
    let one = sandbox(lab)?;
    let two = sandbox(lab)?;
    assert_ne!(lab.shim_pid(one.id())?, lab.shim_pid(two.id())?);
    one.kill_and_finish()?;
    assert_eq!(two.shell("e", "echo fine")?, "fine\n");
    two.kill_and_finish()?;
    Ok(())
}

fn the_other_annotation_groups_too(lab: &Lab) -> Outcome {
    let annotate = |id: &str| {
        let id = id.to_owned();
        move |spec: &mut serde_json::Value| {
            spec["annotations"]["io.containerd.runc.v2.group"] = id.into();
        }
    };
    let builder = lab.container(["sleep", "1000"]);
    let id = builder.id().to_owned();
    let one = builder.edit(annotate(&id)).start()?;
    let two = lab
        .container(["sleep", "1000"])
        .edit(annotate(&id))
        .start()?;
    let shim = u64::from(lab.shim_pid(&id)?);
    assert_eq!(host::status_number(two.pid(), "PPid"), shim);
    two.kill_and_finish()?;
    one.kill_and_finish()?;
    Ok(())
}

fn names_of_execs_are_each_containers_own(lab: &Lab) -> Outcome {
    let pod = sandbox(lab)?;
    let one = member(lab, &pod, "sleep 1000")?;
    let first = pod.exec("same", ["sh", "-c", "sleep 1000"]).start()?;
    let second = one.exec("same", ["sh", "-c", "exit 6"]).run()?;
    assert_eq!(second.status, 6);
    assert_eq!(first.state()?.status().as_str_name(), "RUNNING");
    first.kill(Signal::KILL)?;
    first.finish_process()?;
    one.kill_and_finish()?;
    pod.kill_and_finish()?;
    Ok(())
}
