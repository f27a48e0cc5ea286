// SPDX-License-Identifier: Apache-2.0
//! What the calls of the task service answer in each state.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use containerd_client::tonic::Code;
use prost::Message;
use rustix::process::Signal;

use super::assert_refused;
use crate::container::RuncOptions;
use crate::failure::{Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::process::EXIT;
use crate::streams::Stdio;
use crate::tests;

tests!["service";
    state_follows_the_life_of_a_container,
    wait_answers_before_start_during_life_and_after_exit,
    many_can_wait_for_the_same_exit,
    pids_are_those_of_all_processes_of_the_container,
    a_running_container_cannot_be_deleted,
    a_created_container_can_be_deleted,
    a_container_cannot_be_started_twice,
    an_unknown_container_or_exec_is_not_found,
    the_shim_is_a_bit_more_killable_than_containerd,
    the_shim_joins_the_cgroup_it_is_told_to,
    the_shims_socket_is_where_and_how_containerd_has_it,
    the_shim_ends_when_its_container_is_deleted,
    the_runtimes_state_is_below_the_chosen_root,
];

fn state_follows_the_life_of_a_container(lab: &Lab) -> Outcome {
    let container = lab.script("exit 7").create()?;
    let state = container.state()?;
    assert_eq!(state.status().as_str_name(), "CREATED");
    assert_eq!(
        (state.id.as_str(), state.pid),
        (container.id(), container.pid())
    );
    assert_eq!((state.exit_status, state.terminal), (0, false));
    assert_eq!(state.stdout, container.streams.names[1]);
    // Go's zero time: a client takes everything else for an exit.
    let never = state.exited_at.map(|time| time.seconds);
    assert_eq!(never, Some(-62_135_596_800), "{state:?}");
    container.start()?;
    container.wait()?;
    let state = container.state()?;
    assert_eq!(
        (state.status().as_str_name(), state.exit_status),
        ("STOPPED", 7)
    );
    assert!(
        state
            .exited_at
            .is_some_and(|time| time.seconds > 1_600_000_000)
    );
    container.finish()?;

    let container = lab.container(["sleep", "1000"]).start()?;
    let state = container.state()?;
    assert_eq!(
        (state.status().as_str_name(), state.pid),
        ("RUNNING", container.pid())
    );
    container.kill_and_finish()?;
    Ok(())
}

fn wait_answers_before_start_during_life_and_after_exit(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).create()?;
    thread::scope(|scope| -> Outcome {
        let before = scope.spawn(|| container.wait());
        container.start()?;
        let during = scope.spawn(|| container.wait());
        container.kill(Signal::KILL)?;
        for waiter in [before, during] {
            let status = waiter.join().unwrap_or_else(|_| panic!("see above"))?;
            assert_eq!(status, 137);
        }
        Ok(())
    })?;
    assert_eq!(container.wait()?, 137);
    container.finish()?;
    Ok(())
}

fn many_can_wait_for_the_same_exit(lab: &Lab) -> Outcome {
    let container = lab.script("read line; exit 3").with_stdin().start()?;
    thread::scope(|scope| -> Outcome {
        let waiters: Vec<_> = (0..30).map(|_| scope.spawn(|| container.wait())).collect();
        container.streams.stdin()?.write("\n")?;
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap_or_else(|_| panic!("see above"))?, 3);
        }
        Ok(())
    })?;
    container.finish()?;
    Ok(())
}

/// `containerd.runc.v1.ProcessDetails`.
#[derive(Clone, PartialEq, Message)]
struct ProcessDetails {
    #[prost(string, tag = "1")]
    exec_id: String,
}

fn pids_are_those_of_all_processes_of_the_container(lab: &Lab) -> Outcome {
    let container = lab.script("sleep 1000; true").start()?;
    let client = lab.client();
    let pids = wait_until(SOON, "two processes", || {
        let pids = client.pids(container.id()).ok()?;
        (pids.len() == 2).then_some(pids)
    })?;
    assert!(
        pids.iter().any(|process| process.pid == container.pid()),
        "{pids:?}"
    );
    let exec = container.exec("e", ["sleep", "1000"]).start()?;
    let pids = client.pids(container.id())?;
    assert_eq!(pids.len(), 3, "{pids:?}");
    let pid = exec.state()?.pid;
    for process in &pids {
        let details = process.info.as_ref().map(|info| info.value.as_slice());
        let details = details.map(ProcessDetails::decode).transpose()?;
        let wanted = (process.pid == pid).then_some("e");
        assert_eq!(
            details.as_ref().map(|details| details.exec_id.as_str()),
            wanted
        );
    }
    container.kill_and_finish()?;
    Ok(())
}

fn a_running_container_cannot_be_deleted(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    assert_refused(
        container.delete(),
        Code::Unknown,
        "cannot delete a running process",
    );
    assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
    container.kill_and_finish()?;
    Ok(())
}

fn a_created_container_can_be_deleted(lab: &Lab) -> Outcome {
    let container = lab
        .container(["sleep", "1000"])
        .stdio(Stdio::Null)
        .create()?;
    let pid = container.pid();
    container.delete()?;
    container.remove()?;
    wait_until(SOON, "the end of the init", || {
        (!host::alive(pid)).then_some(())
    })
}

fn a_container_cannot_be_started_twice(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    assert_refused(
        container.start(),
        Code::Unknown,
        "cannot start a running process",
    );
    container.kill(Signal::KILL)?;
    container.wait()?;
    assert_refused(
        container.start(),
        Code::Unknown,
        "cannot start a stopped process",
    );
    container.finish()?;
    Ok(())
}

fn an_unknown_container_or_exec_is_not_found(lab: &Lab) -> Outcome {
    let client = lab.client();
    assert_refused(client.state("unknown", ""), Code::NotFound, "");
    assert_refused(client.delete_task("unknown"), Code::NotFound, "");
    let container = lab.container(["sleep", "1000"]).start()?;
    let id = container.id();
    let text = "process does not exist unknown: not found";
    assert_refused(client.state(id, "unknown"), Code::NotFound, text);
    assert_refused(client.start(id, "unknown"), Code::NotFound, text);
    assert_refused(client.delete_exec(id, "unknown"), Code::NotFound, text);
    assert_refused(client.resize(id, "unknown", (1, 1)), Code::NotFound, text);
    assert_refused(client.close_stdin(id, "unknown"), Code::NotFound, text);
    assert_refused(client.wait(id, "unknown", EXIT), Code::NotFound, text);
    let killed = client.kill(id, "unknown", 9, crate::client::Reach::One);
    assert_refused(killed, Code::NotFound, text);
    container.kill_and_finish()?;
    Ok(())
}

fn the_shim_is_a_bit_more_killable_than_containerd(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let score = |pid: u32| -> Outcome<i32> {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
        Ok(text.trim().parse()?)
    };
    let shim = lab.shim_pid(container.id())?;
    let daemon = lab.containerd().pid();
    assert_eq!(score(shim)?, score(daemon)? + 1);
    container.kill_and_finish()?;
    Ok(())
}

fn the_shim_joins_the_cgroup_it_is_told_to(lab: &Lab) -> Outcome {
    let cgroup = format!("/{}/shims", lab.containerd().namespace());
    let unified = fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok();
    host::make_cgroup(&cgroup)?;
    let options = RuncOptions {
        shim_cgroup: cgroup.clone(),
        ..RuncOptions::default()
    };
    let container = lab.container(["sleep", "1000"]).options(&options).start()?;
    let shim = lab.shim_pid(container.id())?;
    let of_shim = fs::read_to_string(format!("/proc/{shim}/cgroup"))?;
    let mark = if unified { "0::" } else { ":memory:" };
    let line = of_shim.lines().find(|line| line.contains(mark));
    assert!(
        line.is_some_and(|line| line.ends_with(&cgroup)),
        "{of_shim}"
    );
    container.kill_and_finish()?;
    host::remove_cgroups(&cgroup);
    Ok(())
}

fn the_shims_socket_is_where_and_how_containerd_has_it(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let namespace = lab.containerd().namespace();
    let address = lab.containerd().address();
    let [socket, _] = host::shim_sockets(&address, &namespace, container.id());
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
    container.kill_and_finish()?;
    assert!(!socket.exists());
    Ok(())
}

fn the_shim_ends_when_its_container_is_deleted(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let shim = lab.shim_pid(container.id())?;
    container.kill(Signal::KILL)?;
    container.wait()?;
    assert!(host::alive(shim));
    container.delete()?;
    let begun = Instant::now();
    wait_until(SOON, "the shim to end", || {
        (!host::alive(shim)).then_some(())
    })?;
    let taken = begun.elapsed();
    assert!(
        taken < Duration::from_secs(5),
        "the shim needed {taken:?} to end"
    );
    container.remove()
}

fn the_runtimes_state_is_below_the_chosen_root(lab: &Lab) -> Outcome {
    let root = lab.containerd().folder().join("runtime-root");
    let options = RuncOptions {
        root: root.to_string_lossy().into_owned(),
        ..RuncOptions::default()
    };
    let container = lab.container(["sleep", "1000"]).options(&options).start()?;
    let namespace = lab.containerd().namespace();
    let state = root.join(namespace).join(container.id());
    assert!(state.join("state.json").exists());
    container.kill_and_finish()?;
    assert!(!state.exists());
    Ok(())
}
