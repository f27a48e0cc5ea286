// SPDX-License-Identifier: Apache-2.0
//! The command line that people use first.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

use crate::failure::{Outcome, SOON, wait_until};
use crate::lab::Lab;
use crate::tests;

tests!["ctr";
    run_rm_prints_and_passes_the_status_on,
    run_passes_stdin_through,
    run_with_a_terminal_works_under_script,
    tasks_can_be_listed_executed_and_killed,
    tasks_can_be_measured_paused_and_resumed,
    a_read_only_root_and_a_mount_can_be_asked_for,
    the_network_of_the_host_can_be_asked_for,
];

const IMAGE: &str = "docker.io/library/busybox:latest";

/// `ctr run --runtime … FLAGS IMAGE ID COMMAND`.
fn run(lab: &Lab, flags: &[&str], id: &str, command: &[&str]) -> Outcome<Output> {
    let head = ["run", "--runtime", lab.shim.runtime()];
    let all: Vec<_> = [&head[..], flags, &[IMAGE, id], command].concat();
    lab.containerd().ctr(&all)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run_rm_prints_and_passes_the_status_on(lab: &Lab) -> Outcome {
    let id = lab.new_id();
    let script = "echo out; echo err >&2; exit 7";
    let output = run(lab, &["--rm"], &id, &["sh", "-c", script])?;
    assert_eq!(text(&output.stdout), "out\n");
    assert!(text(&output.stderr).contains("err\n"), "{output:?}");
    assert_eq!(output.status.code(), Some(7));
    lab.expect_nothing_left_of(&id)
}

fn run_passes_stdin_through(lab: &Lab) -> Outcome {
    let id = lab.new_id();
    let mut command = lab.containerd().ctr_command();
    command.args([
        "run",
        "--rm",
        "--runtime",
        lab.shim.runtime(),
        IMAGE,
        &id,
        "cat",
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        crate::fail!("no pipes");
    };
    stdin.write_all(b"some\nlines\n")?;
    // An end that comes before the task is there ctr does not see.
    let mut stdout = BufReader::new(stdout);
    let mut seen = String::new();
    while !seen.ends_with("lines\n") && stdout.read_line(&mut seen)? > 0 {}
    drop(stdin);
    stdout.read_to_string(&mut seen)?;
    assert_eq!(seen, "some\nlines\n");
    assert!(child.wait()?.success());
    lab.expect_nothing_left_of(&id)
}

/// `script` gives ctr a terminal.
fn run_with_a_terminal_works_under_script(lab: &Lab) -> Outcome {
    let id = lab.new_id();
    let ctr = lab.containerd().ctr_command();
    let words = std::iter::once(ctr.get_program()).chain(ctr.get_args());
    let words: Vec<_> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = format!(
        "{} run --rm -t --runtime {} {IMAGE} {id} sh -c 'test -t 0 && echo terminal; exit 5'",
        words.join(" "),
        lab.shim.runtime(),
    );
    let output = Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()?;
    assert!(text(&output.stdout).contains("terminal\r"), "{output:?}");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    lab.expect_nothing_left_of(&id)
}

fn tasks_can_be_listed_executed_and_killed(lab: &Lab) -> Outcome {
    let id = lab.new_id();
    let ctr = |args: &[&str]| lab.containerd().ctr(args);
    let output = run(lab, &["-d"], &id, &["sleep", "1000"])?;
    assert!(output.status.success(), "{output:?}");
    let list = text(&ctr(&["task", "ls"])?.stdout);
    let line = list
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&id));
    assert!(line.is_some_and(|line| line.ends_with("RUNNING")), "{list}");
    let output = ctr(&[
        "task",
        "exec",
        "--exec-id",
        "e",
        &id,
        "sh",
        "-c",
        "echo hi; exit 3",
    ])?;
    assert_eq!(
        (text(&output.stdout).as_str(), output.status.code()),
        ("hi\n", Some(3))
    );
    let pids = text(&ctr(&["task", "ps", &id])?.stdout);
    assert_eq!(pids.lines().count(), 2, "{pids}");
    assert!(
        ctr(&["task", "kill", "-s", "SIGKILL", &id])?
            .status
            .success()
    );
    wait_until(SOON, "STOPPED in the list", || {
        let list = text(&ctr(&["task", "ls"]).ok()?.stdout);
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&id))?;
        line.ends_with("STOPPED").then_some(())
    })?;
    // Some releases of ctr pass on the status of the task that they delete.
    ctr(&["task", "rm", &id])?;
    assert!(ctr(&["container", "rm", &id])?.status.success());
    lab.expect_nothing_left_of(&id)
}

fn tasks_can_be_measured_paused_and_resumed(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let id = container.id();
    let ctr = |words: &[&str]| -> Outcome<String> {
        let output = lab.containerd().ctr(words)?;
        assert!(output.status.success(), "{words:?}: {output:?}");
        Ok(text(&output.stdout))
    };
    let metrics = ctr(&["task", "metrics", id])?;
    assert!(
        metrics.contains("memory") && metrics.contains("pids"),
        "{metrics}"
    );
    ctr(&["task", "pause", id])?;
    assert!(ctr(&["task", "ls"])?.contains("PAUSED"));
    ctr(&["task", "resume", id])?;
    assert!(!ctr(&["task", "ls"])?.contains("PAUSED"));
    container.kill_and_finish()?;
    Ok(())
}

fn a_read_only_root_and_a_mount_can_be_asked_for(lab: &Lab) -> Outcome {
    let id = lab.new_id();
    let folder = lab.containerd().folder().join("ctr-mount");
    std::fs::create_dir_all(&folder)?;
    let mount = format!(
        "type=bind,src={},dst=/mnt,options=rbind:rw",
        folder.display()
    );
    let flags = [
        "--rm",
        "--read-only",
        "--mount",
        &mount,
        "--cwd",
        "/mnt",
        "--env",
        "NAME=value",
    ];
    let script = "touch /file || echo refused; echo $NAME >file; pwd";
    let output = run(lab, &flags, &id, &["sh", "-c", script])?;
    assert_eq!(text(&output.stdout), "refused\n/mnt\n", "{output:?}");
    assert_eq!(std::fs::read_to_string(folder.join("file"))?, "value\n");
    lab.expect_nothing_left_of(&id)
}

fn the_network_of_the_host_can_be_asked_for(lab: &Lab) -> Outcome {
    let id = lab.new_id();
    let output = run(
        lab,
        &["--rm", "--net-host"],
        &id,
        &["readlink", "/proc/self/ns/net"],
    )?;
    let own = std::fs::read_link("/proc/self/ns/net")?;
    assert_eq!(
        text(&output.stdout).trim(),
        own.to_string_lossy(),
        "{output:?}"
    );
    lab.expect_nothing_left_of(&id)
}
