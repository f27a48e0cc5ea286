// SPDX-License-Identifier: Apache-2.0
//! Further processes in a running container.

use std::thread;

use containerd_client::tonic::Code;
use rustix::process::Signal;
use serde_json::json;

use super::assert_refused;
use crate::failure::{Outcome, SOON, failed, wait_until};
use crate::lab::Lab;
use crate::streams::{Stdin, Stdio};
use crate::tests;

tests!["exec";
    an_exec_has_its_own_environment_cwd_and_user,
    an_exec_is_in_the_containers_namespaces_and_cgroup,
    an_exec_has_the_capabilities_that_it_asks_for,
    an_exec_reads_stdin_until_it_is_closed,
    an_exec_may_have_a_terminal,
    a_hundred_execs_at_once_each_keep_their_output_and_status,
    an_exec_id_can_be_used_again_after_delete,
    an_exec_id_in_use_is_refused,
    an_exec_that_was_not_started_can_be_deleted,
    a_running_exec_cannot_be_deleted,
    execs_end_with_the_init,
    nothing_can_be_executed_after_the_init_has_exited,
    an_exec_leaves_its_pid_file_to_nobody,
];

fn an_exec_has_its_own_environment_cwd_and_user(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let script = "pwd; id -u; id -g; id -G; echo $NAME; umask";
    let exec = container.exec("e", ["sh", "-c", script]).edit(|process| {
        process["cwd"] = "/home/tester".into();
        process["user"] =
            json!({"uid": 1000, "gid": 1000, "additionalGids": [10, 29], "umask": 0o27});
        process["env"] = json!([crate::spec::PATH, "NAME=value"]);
    });
    let output = exec.run()?.success()?;
    let lines: Vec<_> = output.lines().collect();
    // runc gives an exec the container's umask.
    let umask = if lab.is_reference() { "0022" } else { "0027" };
    let wanted = ["/home/tester", "1000", "1000", "1000 10 29", "value", umask];
    assert_eq!(lines, wanted);
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_is_in_the_containers_namespaces_and_cgroup(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    // A hierarchy of network marks comes and goes with a test of them.
    let script = "for n in mnt pid ipc uts net; do for p in 1 self; do readlink /proc/$p/ns/$n; done; done; \
                  grep -v net_cls /proc/self/cgroup >/tmp/a; \
                  grep -v net_cls /proc/1/cgroup | diff - /tmp/a && echo same";
    let output = container.shell("e", script)?;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 11, "{output}");
    for pair in lines[..10].chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    assert_eq!(lines[10], "same");
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_has_the_capabilities_that_it_asks_for(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sh", "-c", "grep Cap /proc/self/status"]);
    let exec = exec.edit(|process| {
        let some = json!(["CAP_CHOWN", "CAP_KILL"]);
        process["capabilities"] = json!({"bounding": some, "effective": some, "permitted": some});
    });
    let output = exec.run()?.success()?;
    for field in ["CapPrm", "CapEff", "CapBnd"] {
        let line = format!("{field}:\t0000000000000021");
        assert!(output.contains(&line), "no {line:?} in {output}");
    }
    assert!(output.contains("CapAmb:\t0000000000000000"), "{output}");
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_reads_stdin_until_it_is_closed(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container
        .exec("e", ["cat"])
        .stdio(Stdio::Fifos(Stdin::Open));
    let exec = exec.start()?;
    let mut stdin = exec.streams.stdin()?;
    stdin.write("one\n")?;
    exec.streams.stdout()?.wait_for("one\n")?;
    stdin.write("two\n")?;
    drop(stdin);
    exec.streams.stdout()?.wait_for("two\n")?;
    assert!(!exec.streams.stdout()?.ended());
    exec.close_stdin()?;
    let finished = exec.finish_process()?;
    assert_eq!(
        (finished.status, finished.stdout.as_str()),
        (0, "one\ntwo\n")
    );
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_may_have_a_terminal(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sh", "-c", "tty; read line; echo got $line; exit 4"]);
    let exec = exec.stdio(Stdio::Terminal).start()?;
    exec.streams.stdout()?.wait_for("/dev/pts/")?;
    let mut stdin = exec.streams.stdin()?;
    stdin.write("hello\n")?;
    let finished = exec.finish_process()?;
    assert!(finished.stdout.contains("got hello\r\n"), "{finished:?}");
    assert_eq!(finished.status, 4);
    container.kill_and_finish()?;
    Ok(())
}

fn a_hundred_execs_at_once_each_keep_their_output_and_status(lab: &Lab) -> Outcome {
    // The Go shim of 1.6 can be brought to a standstill by so many.
    let few = lab.is_reference() && !lab.generation.at_least(1, 7);
    let container = lab.container(["sleep", "1000"]).start()?;
    let failures = thread::scope(|scope| {
        let start = |number: u32| {
            let script = format!("echo out {number}; echo err {number} >&2; exit {number}");
            let exec = container.exec(&format!("e{number}"), ["sh", "-c", &script]);
            scope.spawn(move || {
                let finished = exec.run()?;
                let wanted = (number, format!("out {number}\n"), format!("err {number}\n"));
                if (
                    finished.status,
                    finished.stdout.clone(),
                    finished.stderr.clone(),
                ) != wanted
                {
                    return Err(failed(format!("exec {number}: {finished:?}")));
                }
                Ok(())
            })
        };
        let threads: Vec<_> = (0..if few { 10 } else { 100 }).map(start).collect();
        let outcomes = threads.into_iter().map(thread::ScopedJoinHandle::join);
        outcomes
            .filter_map(|outcome| match outcome {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure.to_string()),
                Err(_) => Some("panicked".to_owned()),
            })
            .collect::<Vec<_>>()
    });
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(lab.client().pids(container.id())?.len(), 1);
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_id_can_be_used_again_after_delete(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    for number in 0..3u32 {
        let script = format!("exit {number}");
        assert_eq!(
            container.exec("same", ["sh", "-c", &script]).run()?.status,
            number
        );
    }
    assert_refused(
        lab.client().state(container.id(), "same"),
        Code::NotFound,
        "",
    );
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_id_in_use_is_refused(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("same", ["sleep", "1000"]).start()?;
    let request = containerd_client::services::v1::ExecProcessRequest {
        container_id: container.id().to_owned(),
        exec_id: "same".to_owned(),
        spec: Some(crate::client::document(
            "Process",
            &crate::spec::process(&["true".into()]),
        )?),
        ..Default::default()
    };
    let second = lab.client().exec(request);
    assert_refused(second, Code::AlreadyExists, "id same: already exists");
    exec.kill(Signal::KILL)?;
    assert_eq!(exec.finish_process()?.status, 137);
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_that_was_not_started_can_be_deleted(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["true"]).add()?;
    let state = exec.state()?;
    assert_eq!((state.pid, state.status().as_str_name()), (0, "CREATED"));
    assert_eq!(exec.delete()?.exit_status, 0);
    assert_refused(exec.state(), Code::NotFound, "");
    container.kill_and_finish()?;
    Ok(())
}

fn a_running_exec_cannot_be_deleted(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sleep", "1000"]).start()?;
    assert_refused(
        exec.delete(),
        Code::Unknown,
        "cannot delete a running process",
    );
    exec.kill(Signal::TERM)?;
    assert_eq!(exec.finish_process()?.status, 143);
    container.kill_and_finish()?;
    Ok(())
}

fn execs_end_with_the_init(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let execs: Result<Vec<_>, _> = (0..5)
        .map(|number| {
            container
                .exec(&format!("e{number}"), ["sleep", "1000"])
                .start()
        })
        .collect();
    container.kill(Signal::KILL)?;
    for exec in execs? {
        assert_eq!(exec.finish_process()?.status, 137);
    }
    let id = container.id().to_owned();
    container.finish()?;
    lab.events().wait_for(&id, "exit")?;
    let names = lab.events().names(&id);
    let exits: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("exit"))
        .collect();
    assert_eq!(exits.len(), 6, "{names:?}");
    assert_eq!(exits[5], "exit", "{names:?}");
    Ok(())
}

fn nothing_can_be_executed_after_the_init_has_exited(lab: &Lab) -> Outcome {
    let container = lab.script("sleep 1000").start()?;
    let early = container.exec("early", ["true"]).add()?;
    container.kill(Signal::KILL)?;
    container.wait()?;
    let id = container.id().to_owned();
    let started = early.start();
    if lab.is_reference() && !lab.generation.at_least(1, 7) {
        assert_refused(started, Code::Unknown, "OCI runtime exec failed");
    } else {
        let text = format!("container {id} init process is not running: failed precondition");
        assert_refused(started, Code::FailedPrecondition, &text);
    }
    let late = container.exec("late", ["true"]).add();
    let Err(_) = late else {
        crate::fail!("an exec was added to a stopped container");
    };
    early.delete()?;
    container.finish()?;
    Ok(())
}

fn an_exec_leaves_its_pid_file_to_nobody(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let bundle = lab.containerd().bundle(container.id());
    let exec = container.exec("e", ["sleep", "1000"]).start()?;
    let pid = exec.state()?.pid.to_string();
    let written = wait_until(SOON, "e.pid", || {
        std::fs::read_to_string(bundle.join("e.pid")).ok()
    })?;
    assert_eq!(written, pid);
    let init = std::fs::read_to_string(bundle.join("init.pid"))?;
    assert_eq!(init, container.pid().to_string());
    exec.kill(Signal::KILL)?;
    exec.finish_process()?;
    assert!(!bundle.join("e.pid").exists());
    container.kill_and_finish()?;
    Ok(())
}
