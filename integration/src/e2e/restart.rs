// SPDX-License-Identifier: Apache-2.0
//! containerd is killed and comes back: containers, statuses and output are found again.

use rustix::process::Signal;

use crate::failure::{Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::streams::{Stdin, Stdio};
use crate::tests;

tests!["restart";
    a_running_container_is_found_and_can_be_used,
    output_goes_on_while_containerd_is_down,
    an_exit_while_containerd_is_down_is_found,
    an_exec_that_exits_while_containerd_is_down_is_found,
    a_created_container_is_found_and_can_be_started,
    a_pod_is_found_whole,
    a_terminal_is_found,
    an_exit_after_the_restart_is_told,
];

fn a_running_container_is_found_and_can_be_used(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let container = lab.container(["sleep", "1000"]).start()?;
    let shim = lab.shim_pid(container.id())?;
    lab.containerd().kill()?;
    assert!(host::alive(container.pid()));
    lab.launch_again()?;
    let state = container.state()?;
    assert_eq!(
        (state.status().as_str_name(), state.pid),
        ("RUNNING", container.pid())
    );
    assert_eq!(lab.shim_pid(container.id())?, shim);
    assert_eq!(container.shell("e", "echo fine")?, "fine\n");
    assert_eq!(container.kill_and_finish()?.status, 137);
    Ok(())
}

/// The client's end of the FIFO goes too, and comes back later: nothing is lost, nobody dies of a
/// broken pipe.
fn output_goes_on_while_containerd_is_down(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let script =
        "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; read line";
    let mut container = lab.script(script).with_stdin().start()?;
    let mut stdin = container.streams.stdin()?;
    container.streams.stdout()?.wait_for("line 3\n")?;
    lab.containerd().kill()?;
    container.streams.stdout()?.wait_for("line 30\n")?;
    let first = container.streams.stdout()?.text();
    container.streams.stop_reading();
    lab.launch_again()?;
    assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
    container.streams.read_again()?;
    stdin.write("go\n")?;
    let finished = container.finish()?;
    assert_eq!(finished.status, 0);
    assert!(finished.stdout.ends_with("line 199\n"), "{finished:?}");
    // What the first reader read between the two calls is not known: only order is.
    let seen = format!("{first}{}", finished.stdout);
    assert!(seen.starts_with("line 0\n"));
    Ok(())
}

/// The Go shim of 1.7 and newer loses it: the daemon asks for Pids, gets none because the cgroup is
/// empty, and takes the task for a leak.
fn an_exit_while_containerd_is_down_is_found(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let container = lab.script("read line; exit 9").with_stdin().start()?;
    let mut stdin = container.streams.stdin()?;
    lab.containerd().kill()?;
    stdin.write("go\n")?;
    wait_until(SOON, "the exit", || {
        (!host::alive(container.pid())).then_some(())
    })?;
    lab.launch_again()?;
    if lab.is_reference() && lab.generation.at_least(1, 7) {
        assert!(container.state().is_err());
        return super::crash::remove(lab, container);
    }
    let state = container.state()?;
    assert_eq!(
        (state.status().as_str_name(), state.exit_status),
        ("STOPPED", 9)
    );
    assert_eq!(container.finish()?.status, 9);
    Ok(())
}

fn an_exec_that_exits_while_containerd_is_down_is_found(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let container = lab.container(["sleep", "1000"]).start()?;
    let stdio = Stdio::Fifos(Stdin::Open);
    let exec = container
        .exec("e", ["sh", "-c", "read line; echo out; exit 9"])
        .stdio(stdio);
    let exec = exec.start()?;
    let pid = exec.state()?.pid;
    let mut stdin = exec.streams.stdin()?;
    lab.containerd().kill()?;
    stdin.write("go\n")?;
    wait_until(SOON, "the exit", || (!host::alive(pid)).then_some(()))?;
    lab.launch_again()?;
    let finished = exec.finish_process()?;
    assert_eq!((finished.status, finished.stdout.as_str()), (9, "out\n"));
    container.kill_and_finish()?;
    Ok(())
}

fn a_created_container_is_found_and_can_be_started(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let container = lab.script("echo out; exit 4").create()?;
    lab.containerd().kill()?;
    lab.launch_again()?;
    assert_eq!(container.state()?.status().as_str_name(), "CREATED");
    container.start()?;
    let finished = container.finish()?;
    assert_eq!((finished.status, finished.stdout.as_str()), (4, "out\n"));
    Ok(())
}

fn a_pod_is_found_whole(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let builder = lab.container(["sleep", "1000"]);
    let id = builder.id().to_owned();
    let pod = builder.in_pod(&id).start()?;
    let one = lab.container(["sleep", "1000"]).in_pod(&id).start()?;
    lab.containerd().kill()?;
    lab.launch_again()?;
    for container in [&pod, &one] {
        assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
        assert_eq!(container.shell("e", "echo fine")?, "fine\n");
    }
    let two = lab.container(["sleep", "1000"]).in_pod(&id).start()?;
    assert_eq!(
        host::status_number(two.pid(), "PPid"),
        u64::from(lab.shim_pid(&id)?)
    );
    two.kill_and_finish()?;
    one.kill_and_finish()?;
    pod.kill_and_finish()?;
    Ok(())
}

fn a_terminal_is_found(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let script = "stty -echo; echo ready; while read line; do echo got $line; done";
    let mut container = lab.script(script).with_terminal().start()?;
    container.streams.stdout()?.wait_for("ready")?;
    lab.containerd().kill()?;
    container.streams.stop_reading();
    lab.launch_again()?;
    container.streams.read_again()?;
    container.streams.stdin()?.write("hello\n")?;
    container.streams.stdout()?.wait_for("got hello\r\n")?;
    container.resize(90, 30)?;
    container.kill_and_finish()?;
    Ok(())
}

/// The way of events to the new daemon works.
fn an_exit_after_the_restart_is_told(lab: &Lab) -> Outcome {
    let lab = &lab.another()?;
    let container = lab.container(["sleep", "1000"]).start()?;
    let id = container.id().to_owned();
    // Else the start may be told after the restart.
    lab.expect_events(&id, "create start")?;
    lab.containerd().kill()?;
    lab.launch_again()?;
    container.exec("e", ["true"]).run()?;
    container.kill(Signal::KILL)?;
    container.finish()?;
    lab.expect_events(&id, "exec-added:e exec-started:e exit:e exit delete")?;
    Ok(())
}
