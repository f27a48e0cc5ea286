// SPDX-License-Identifier: Apache-2.0
//! Containers and execs with a terminal.

use std::thread;

use containerd_client::tonic::Code;
use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::assert_refused;
use crate::failure::{Outcome, SOON, failed};
use crate::lab::Lab;
use crate::process::EXIT;
use crate::streams::Stdio;
use crate::tests;

tests!["terminal";
    stdio_is_a_terminal,
    the_terminal_has_the_size_of_the_document,
    resize_reaches_the_container,
    resize_without_a_terminal_is_fine,
    resize_of_an_exec_that_has_exited_is_refused,
    ctrl_c_interrupts,
    ten_megabytes_arrive_through_a_terminal,
    a_hundred_execs_with_a_terminal_lose_no_output,
    a_client_can_attach_to_a_terminal_again,
    hangup_comes_when_stdin_is_closed,
    the_terminal_belongs_to_the_user,
    dev_console_is_the_terminal,
];

fn stdio_is_a_terminal(lab: &Lab) -> Outcome {
    let script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; \
                  readlink /proc/self/fd/0; exit 3";
    let finished = lab.script(script).with_terminal().run()?;
    let lines: Vec<_> = finished.stdout.split("\r\n").collect();
    assert!(
        lines[0].starts_with("/dev/pts/") || lines[0] == "/dev/console",
        "{lines:?}"
    );
    assert_eq!(lines[1], "all");
    assert_eq!(finished.status, 3);
    Ok(())
}

fn the_terminal_has_the_size_of_the_document(lab: &Lab) -> Outcome {
    let builder = lab.container(["stty", "size"]).with_terminal();
    let builder = builder.edit(|spec| {
        spec["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    assert_eq!(builder.run()?.success()?, "33 77\r\n");
    Ok(())
}

fn resize_reaches_the_container(lab: &Lab) -> Outcome {
    let script = "while read line; do stty size; done";
    let container = lab.script(script).with_terminal().start()?;
    let mut stdin = container.streams.stdin()?;
    for (width, height) in [(80, 25), (132, 50)] {
        container.resize(width, height)?;
        stdin.write("\n")?;
        container
            .streams
            .stdout()?
            .wait_for(&format!("{height} {width}\r\n"))?;
    }
    let exec = container
        .exec("e", ["sh", "-c", script])
        .stdio(Stdio::Terminal);
    let exec = exec.start()?;
    exec.resize(71, 17)?;
    exec.streams.stdin()?.write("\n")?;
    exec.streams.stdout()?.wait_for("17 71\r\n")?;
    exec.kill(Signal::KILL)?;
    exec.finish_process()?;
    container.kill_and_finish()?;
    Ok(())
}

fn resize_without_a_terminal_is_fine(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    container.resize(80, 25)?;
    container.kill_and_finish()?;
    Ok(())
}

fn resize_of_an_exec_that_has_exited_is_refused(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container
        .exec("e", ["true"])
        .stdio(Stdio::Terminal)
        .start()?;
    exec.wait()?;
    assert_refused(
        exec.resize(80, 25),
        Code::Unknown,
        "cannot resize a stopped container",
    );
    exec.finish_process()?;
    container.kill_and_finish()?;
    Ok(())
}

fn ctrl_c_interrupts(lab: &Lab) -> Outcome {
    let script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.02; done";
    let container = lab.script(script).with_terminal().start()?;
    container.streams.stdout()?.wait_for("ready")?;
    container.streams.stdin()?.write("\x03")?;
    let finished = container.finish()?;
    assert!(finished.stdout.contains("interrupted\r\n"), "{finished:?}");
    assert_eq!(finished.status, 5);
    Ok(())
}

/// Raw mode leaves bytes as they are. The first line is the checksum.
fn ten_megabytes_arrive_through_a_terminal(lab: &Lab) -> Outcome {
    let script = "stty raw; head -c 10485760 /dev/urandom >/tmp/data; \
                  sha256sum </tmp/data | head -c 64; cat /tmp/data";
    let container = lab.script(script).with_terminal().start()?;
    assert_eq!(container.wait()?, 0);
    container.delete()?;
    let data = container.streams.stdout()?.wait_end(EXIT)?;
    assert_eq!(data.len(), 64 + 10_485_760);
    let digest = Sha256::digest(&data[64..]);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest.as_bytes(), &data[..64]);
    container.remove()
}

/// Each writes more than a terminal's buffer holds and exits at once.
fn a_hundred_execs_with_a_terminal_lose_no_output(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let failures: Vec<_> = thread::scope(|scope| {
        let worker = |first: u32| {
            let container = &container;
            scope.spawn(move || -> Outcome {
                for number in (first..100).step_by(4) {
                    let exec = container.exec(&format!("e{number}"), ["seq", "1", "3000"]);
                    let finished = exec.stdio(Stdio::Terminal).run()?;
                    let lines = finished.stdout.lines().count();
                    if lines != 3000 || !finished.stdout.ends_with("\n3000\r\n") {
                        return Err(failed(format!("exec {number}: {lines} of 3000 lines")));
                    }
                }
                Ok(())
            })
        };
        let workers: Vec<_> = (0..4).map(worker).collect();
        let outcomes = workers.into_iter().map(thread::ScopedJoinHandle::join);
        outcomes.filter_map(|outcome| outcome.ok()?.err()).collect()
    });
    assert!(failures.is_empty(), "{failures:#?}");
    container.kill_and_finish()?;
    Ok(())
}

fn a_client_can_attach_to_a_terminal_again(lab: &Lab) -> Outcome {
    let script = "stty -echo; echo ready; while read line; do echo got $line; done";
    let mut container = lab.script(script).with_terminal().start()?;
    container.streams.stdout()?.wait_for("ready")?;
    for word in ["one", "two", "three"] {
        container.streams.read_again()?;
        container.streams.stdin()?.write(format!("{word}\n"))?;
        container
            .streams
            .stdout()?
            .wait_for(&format!("got {word}\r\n"))?;
    }
    container.kill_and_finish()?;
    Ok(())
}

fn hangup_comes_when_stdin_is_closed(lab: &Lab) -> Outcome {
    let script = "trap 'exit 9' HUP; echo ready; while :; do sleep 0.02; done";
    let container = lab.script(script).with_terminal().start()?;
    container.streams.stdout()?.wait_for("ready")?;
    drop(container.streams.stdin()?);
    container.close_stdin()?;
    let answer = lab.client().wait(container.id(), "", SOON)?;
    assert_eq!(answer.exit_status, 9);
    container.finish()?;
    Ok(())
}

fn the_terminal_belongs_to_the_user(lab: &Lab) -> Outcome {
    let builder = lab
        .script("stat -c '%u %g %a' $(tty); echo ok >/dev/tty")
        .with_terminal();
    let builder = builder.edit(|spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let output = builder.run()?.success()?;
    let mut lines = output.lines();
    let first = lines.next().unwrap_or_default();
    assert!(
        first.starts_with("1000 5 ") || first.starts_with("1000 1000 "),
        "{output}"
    );
    assert_eq!(lines.next(), Some("ok"));
    Ok(())
}

fn dev_console_is_the_terminal(lab: &Lab) -> Outcome {
    let script = "stat -c %t:%T /dev/console; stat -L -c %t:%T /proc/self/fd/0; \
                  echo hello >/dev/console";
    let output = lab.script(script).with_terminal().run()?.success()?;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 3, "{output}");
    assert_eq!((lines[0], lines[2]), (lines[1], "hello"));
    Ok(())
}
