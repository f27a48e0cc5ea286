// SPDX-License-Identifier: Apache-2.0
//! The life of containers as whoever drives a runtime by command line sees it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use lab::{Killed, Lab, OCIRUN, wait_until};
use serde_json::{Value, json};

#[test]
fn a_container_goes_from_created_to_running_to_stopped_to_gone() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    let pid_file = lab.path("pid");
    let created = lab.ocirun([
        "create",
        "c",
        "--bundle",
        bundle.name(),
        "--pid-file",
        pid_file.to_str().unwrap(),
    ]);
    assert!(
        created.success() && created.stderr.is_empty(),
        "{created:?}"
    );
    let state = lab.state("c");
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], bundle.name());
    assert_eq!(
        state["pid"].to_string(),
        fs::read_to_string(&pid_file).unwrap()
    );
    assert!(lab.root().join("c/state.json").exists());
    let again = lab.ocirun(["create", "-b", bundle.name(), "c"]);
    assert!(again.stderr.contains("already exists"), "{again:?}");

    assert!(lab.ocirun(["start", "c"]).success());
    assert_eq!(lab.state("c")["status"], "running");
    let again = lab.ocirun(["start", "c"]);
    assert!(
        again
            .stderr
            .contains("cannot start an already running container"),
        "{again:?}"
    );
    let early = lab.ocirun(["delete", "c"]);
    assert!(
        early
            .stderr
            .contains("cannot delete container c that is not stopped: running")
    );
    assert_eq!(lab.state("c")["status"], "running");

    assert!(lab.ocirun(["kill", "c", "SIGKILL"]).success());
    wait_until("the end", || lab.state("c")["status"] == "stopped");
    assert_eq!(lab.state("c")["pid"], 0);
    let late = lab.ocirun(["kill", "c", "TERM"]);
    assert!(late.stderr.contains("container not running"), "{late:?}");
    let late = lab.ocirun(["exec", "c", "true"]);
    assert_eq!(late.code, Some(255), "{late:?}");
    assert!(lab.ocirun(["delete", "c"]).success());
    assert!(!lab.root().join("c").exists());
    for verb in ["state", "start", "kill", "delete", "ps"] {
        let gone = lab.ocirun([verb, "c"]);
        assert_eq!(gone.code, Some(1));
        assert!(
            gone.stderr.contains("container does not exist"),
            "{verb}: {gone:?}"
        );
    }
    assert!(lab.ocirun(["delete", "--force", "c"]).success());
}

#[test]
fn a_container_that_was_never_started_can_be_killed_and_deleted() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    for end in ["delete", "TERM", "KILL"] {
        assert!(lab.ocirun(["create", "-b", bundle.name(), "c"]).success());
        let pid = lab.state("c")["pid"].clone();
        if end != "delete" {
            assert!(lab.ocirun(["kill", "c", end]).success());
            wait_until("the end", || lab.state("c")["status"] == "stopped");
            let late = lab.ocirun(["start", "c"]);
            assert!(
                late.stderr
                    .contains("cannot start a container that has stopped"),
                "{late:?}"
            );
        }
        assert!(lab.ocirun(["delete", "c"]).success(), "{end}");
        wait_until("the process's end", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }
}

#[test]
fn run_passes_output_input_and_exit_code_on() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sh", "-c", "echo out; echo err >&2; cat; exit 42"]);
    let mut run = lab.command(["run", "-b", bundle.name(), "c"]);
    run.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut run = run.spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(output.stdout, b"out\nin\n");
    assert_eq!(output.stderr, b"err\n");
    assert!(!lab.root().join("c").exists(), "deleted at its end");

    let bundle = lab.bundle("k", ["sh", "-c", "kill -9 $$; sleep 1"]);
    // Process 1 of a PID namespace cannot kill itself.
    bundle.edit(|spec| spec["process"]["args"] = json!(["sh", "-c", "exit 3"]));
    let kept = lab.ocirun(["run", "--keep", "-b", bundle.name(), "k"]);
    assert_eq!(kept.code, Some(3));
    assert_eq!(lab.state("k")["status"], "stopped");
}

#[test]
fn run_and_exec_forward_signals_in_the_foreground() {
    let Some(lab) = Lab::new() else { return };
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.02; done";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    let attempt = |mut command: std::process::Command| {
        let run = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut run = Killed(run);
        let mut stdout = run.0.stdout.take().unwrap();
        let mut text = [0; 6];
        stdout.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"ready\n");
        let pid = rustix::process::Pid::from_child(&run.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "caught\n");
        assert_eq!(run.0.wait().unwrap().code(), Some(9));
    };
    attempt(lab.command(["run", "-b", bundle.name(), "c"]));
    let bundle = lab.bundle("s", ["sleep", "1000"]);
    let running = lab.start("s", &bundle);
    attempt(lab.command(["exec", &running.id, "sh", "-c", script]));
}

#[test]
fn a_program_that_cannot_be_executed_is_told_where_it_is_noticed() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["nope"]);
    let log = lab.path("log.json");
    let created = lab.ocirun([
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "create",
        "-b",
        bundle.name(),
        "c",
    ]);
    assert_eq!(created.code, Some(1));
    let line = fs::read_to_string(&log).unwrap();
    let entry: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    assert_eq!(entry["level"], "error");
    let wanted = "exec: \"nope\": executable file not found in $PATH";
    assert!(entry["msg"].as_str().unwrap().ends_with(wanted), "{entry}");
    assert!(created.stderr.trim_end().ends_with(wanted), "{created:?}");
    assert!(!lab.root().join("c").exists());

    // Only execve itself finds out that this is no program: start is told.
    fs::write(bundle.image("bin/empty"), "not a program").unwrap();
    lab::make_executable(&bundle.image("bin/empty"));
    bundle.edit(|spec| spec["process"]["args"] = json!(["/bin/empty"]));
    assert!(lab.ocirun(["create", "-b", bundle.name(), "c"]).success());
    let started = lab.ocirun(["start", "c"]);
    assert!(
        started
            .stderr
            .contains("exec /bin/empty: exec format error"),
        "{started:?}"
    );
    wait_until("its end", || lab.state("c")["status"] == "stopped");
    assert!(lab.ocirun(["delete", "c"]).success());
}

#[test]
fn exec_has_what_the_command_line_and_the_container_say() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    let running = lab.start("c", &bundle);
    // What is in the bundle now is not what the container was made of.
    bundle.edit(|spec| spec["process"]["env"] = json!(["LATE=1"]));
    let script = "echo $A $LATE; pwd; id; echo $HOME; grep CapEff /proc/self/status; exit 5";
    let finished = lab.ocirun([
        "exec", "-e", "A=b", "--cwd", "/tmp", "--user", "1000:29", "-g", "30", "c", "sh", "-c",
        script,
    ]);
    assert_eq!(finished.code, Some(5), "{finished:?}");
    let lines: Vec<_> = finished.stdout.lines().collect();
    let wanted = [
        "b",
        "/tmp",
        "uid=1000(user) gid=29 groups=30",
        "/home/user",
        "CapEff:\t0000000000000000",
    ];
    assert_eq!(lines, wanted, "{finished:?}");
    let none = running.exec::<&str>([]);
    assert_eq!(none.code, Some(255));
    let missing = running.exec(["nope"]);
    assert_eq!(missing.code, Some(255));
    assert!(
        missing
            .stderr
            .contains("executable file not found in $PATH"),
        "{missing:?}"
    );

    let process = json!({
        "args": ["sh", "-c", "echo $X; exit 6"], "cwd": "/", "env": ["X=y", "PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
    });
    fs::write(lab.path("process.json"), process.to_string()).unwrap();
    let file = lab.path("process.json");
    let finished = lab.ocirun(["exec", "--process", file.to_str().unwrap(), "c"]);
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (Some(6), "y\n"),
        "{finished:?}"
    );
    let pid_file = lab.path("exec.pid");
    let detached = lab.ocirun([
        "exec",
        "-d",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "c",
        "sleep",
        "999",
    ]);
    assert!(detached.success(), "{detached:?}");
    let pid: Value = serde_json::from_str(&fs::read_to_string(pid_file).unwrap()).unwrap();
    let listed: Value =
        serde_json::from_str(&lab.ocirun(["ps", "-f", "json", "c"]).stdout).unwrap();
    assert!(listed.as_array().unwrap().contains(&pid), "{listed}");
    let table = lab.ocirun(["ps", "c"]).stdout;
    assert!(
        table.contains("sleep 999") && table.contains("sleep 1000"),
        "{table}"
    );
}

#[test]
fn a_terminal_goes_through_the_console_socket() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sh", "-c", "tty; stty size; read x; echo got $x"]);
    bundle.edit(|spec| {
        spec["process"]["terminal"] = true.into();
        spec["process"]["consoleSize"] = json!({"height": 33, "width": 44});
    });
    let refused = lab.ocirun(["create", "-b", bundle.name(), "c"]);
    assert!(
        refused.stderr.contains("without setting console socket"),
        "{refused:?}"
    );
    let path = lab.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let created = lab.ocirun([
        "create",
        "-b",
        bundle.name(),
        "--console-socket",
        path.to_str().unwrap(),
        "c",
    ]);
    assert!(created.success(), "{created:?}");
    let (socket, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let (_, mut fds) = sys::packet::receive(socket.as_fd(), &mut name, 1).unwrap();
    let mut master = fs::File::from(fds.pop().unwrap());
    assert!(lab.ocirun(["start", "c"]).success());
    master.write_all(b"word\n").unwrap();
    let mut text = String::new();
    let mut bytes = [0; 256];
    // The end is EIO: nobody has the other side open any more.
    while let Ok(count) = master.read(&mut bytes) {
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    // The echo of what we wrote may come at any point between.
    assert!(text.contains("/dev/pts/0\r\n"), "{text:?}");
    assert!(text.contains("33 44\r\n"), "{text:?}");
    assert!(text.ends_with("got word\r\n"), "{text:?}");
}

#[test]
fn descriptors_are_passed_on_when_asked_for_and_no_others() {
    let Some(lab) = Lab::new() else { return };
    let script = "cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    fs::write(lab.path("one"), "one\n").unwrap();
    fs::write(lab.path("two"), "two\n").unwrap();
    let shell = |flags: &str, before: &str| {
        let line = format!(
            "{before} exec {OCIRUN} --root {} run {flags} -b {} c 3<{} 4<{} 5</etc/passwd",
            lab.root().display(),
            bundle.name(),
            lab.path("one").display(),
            lab.path("two").display()
        );
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &line])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(
        shell("--preserve-fds 2", ""),
        "one\ntwo\n\n0\n1\n2\n3\n4\n5\n"
    );
    let activated = shell("--preserve-fds 1", "export LISTEN_FDS=1 LISTEN_PID=$$;");
    assert_eq!(activated, "one\ntwo\n1 1\n0\n1\n2\n3\n4\n5\n");
    // 3 is the directory that ls reads.
    assert_eq!(shell("", ""), "\n0\n1\n2\n3\n");
    let running = lab.start("r", lab.bundle("r", ["sleep", "1000"]).edit(|_| ()));
    let line = format!(
        "exec {OCIRUN} --root {} exec --preserve-fds 1 {} cat /proc/self/fd/3 3<{}",
        lab.root().display(),
        running.id,
        lab.path("one").display()
    );
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &line])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"one\n");
}

#[test]
fn what_runs_is_listed() {
    let Some(lab) = Lab::new() else { return };
    assert_eq!(lab.ocirun(["list", "-f", "json"]).stdout, "[]\n");
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    bundle.edit(|spec| spec["annotations"] = json!({"com.example.key": "value"}));
    let _running = lab.start("one", &bundle);
    assert!(
        lab.ocirun(["create", "-b", lab.bundle("d", ["true"]).name(), "two"])
            .success()
    );
    assert_eq!(lab.ocirun(["list", "-q"]).stdout, "one\ntwo\n");
    let list: Value = serde_json::from_str(&lab.ocirun(["list", "--format=json"]).stdout).unwrap();
    assert_eq!(list[0]["status"], "running");
    assert_eq!(list[1]["status"], "created");
    assert_eq!(list[0]["annotations"]["com.example.key"], "value");
    let table = lab.ocirun(["list"]).stdout;
    assert!(
        table.starts_with("ID          PID         STATUS"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 3);
}

#[test]
fn kill_all_reaches_processes_that_are_not_init() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    // Without a PID namespace the kernel does not end the rest with init.
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    for kill in [&["kill", "--all", "c", "9"][..], &["kill", "c", "KILL"]] {
        let running = lab.start("c", &bundle);
        let pid_file = lab.path("exec.pid");
        let file = pid_file.to_str().unwrap();
        assert!(
            lab.ocirun(["exec", "-d", "--pid-file", file, "c", "sleep", "999"])
                .success()
        );
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert!(lab.ocirun(kill).success());
        wait_until("the end of all", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
        drop(running);
    }
}

#[test]
fn a_creator_that_is_killed_leaves_nothing_that_delete_cannot_remove() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    for microseconds in (0..12_000).step_by(750) {
        let create = lab.command(["create", "-b", bundle.name(), "c"]);
        let mut create = { create }
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(microseconds));
        // It may have ended by itself.
        let _ = create.kill();
        create.wait().unwrap();
        let deleted = lab.ocirun(["delete", "--force", "c"]);
        assert!(deleted.success(), "after {microseconds} us: {deleted:?}");
        assert!(!lab.root().join("c").exists());
    }
}

#[test]
fn the_version_is_what_clients_parse_and_features_are_json() {
    let Some(lab) = Lab::new() else { return };
    let version = lab.ocirun(["--version"]).stdout;
    let lines: Vec<_> = version.lines().collect();
    assert!(lines[0].starts_with("ocirun version "), "{version}");
    assert!(
        lines[1].starts_with("commit: ") && lines[2].starts_with("spec: 1."),
        "{version}"
    );
    let features: Value = serde_json::from_str(&lab.ocirun(["features"]).stdout).unwrap();
    assert!(
        features["mountOptions"]
            .as_array()
            .unwrap()
            .contains(&json!("rro"))
    );
    assert_eq!(lab.ocirun(["no-such-verb", "c"]).code, Some(1));
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed_or_killed() {
    let Some(lab) = Lab::new() else { return };
    let script = "while :; do echo x; sleep 0.01; done";
    let running = lab.start("c", &lab.bundle("b", ["sh", "-c", script]));
    let length = || running.output().len();
    wait_until("output", || length() > 0);
    assert!(lab.ocirun(["pause", "c"]).success());
    assert_eq!(lab.state("c")["status"], "paused");
    let then = length();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(length(), then);
    for (args, text) in [
        (&["pause", "c"][..], "container already paused"),
        (
            &["start", "c"],
            "cannot start a container in the paused state",
        ),
        (&["exec", "c", "true"], "cannot exec in a paused container"),
        (&["delete", "c"], "that is not stopped: paused"),
    ] {
        let finished = lab.ocirun(args);
        assert!(finished.stderr.contains(text), "{args:?}: {finished:?}");
    }
    assert!(lab.ocirun(["resume", "c"]).success());
    wait_until("more output", || length() > then);
    assert!(
        lab.ocirun(["resume", "c"])
            .stderr
            .contains("container not paused")
    );
    assert!(lab.ocirun(["pause", "c"]).success());
    assert!(lab.ocirun(["kill", "c", "KILL"]).success());
    wait_until("its end", || lab.state("c")["status"] == "stopped");
}

#[test]
fn statistics_and_the_kernels_kills_are_events() {
    let Some(lab) = Lab::new() else { return };
    // Grows until it is killed; init lives on.
    let script = "echo ready; read x; (a=x; while :; do a=$a$a; done); sleep 1000";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    bundle.edit(|spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    });
    let input = lab.path("input");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &input,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let mut writer = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&input)
        .unwrap();
    let output = fs::File::create(lab.path("c.out")).unwrap();
    let status = lab
        .command(["run", "-d", "-b", bundle.name(), "c"])
        .stdin(fs::File::open(&input).unwrap())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap();
    assert!(status.success(), "{}", lab.output("c"));
    let stats = lab.ocirun(["events", "--stats", "c"]).stdout;
    assert!(
        stats.starts_with("{\"type\":\"stats\",\"id\":\"c\",\"data\":{"),
        "{stats}"
    );
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert!(
        stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0,
        "{stats}"
    );
    assert!(
        stats["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0,
        "{stats}"
    );
    assert!(
        stats["data"]["pids"]["current"].as_u64().unwrap() > 0,
        "{stats}"
    );

    let events = lab.path("events");
    let follower = lab
        .command(["events", "--interval", "50ms", "c"])
        .stdout(fs::File::create(&events).unwrap())
        .spawn()
        .unwrap();
    let mut follower = Killed(follower);
    let text = || fs::read_to_string(&events).unwrap();
    wait_until("statistics", || text().contains("\"stats\""));
    writer.write_all(b"go\n").unwrap();
    wait_until("the kill", || {
        text().contains("{\"type\":\"oom\",\"id\":\"c\"}\n")
    });
    assert!(lab.ocirun(["delete", "--force", "c"]).success());
    assert!(
        follower.0.wait().unwrap().success(),
        "it ends with the container"
    );
    let wrong = lab.ocirun(["events", "--interval", "0s", "c"]);
    assert!(wrong.stderr.contains("greater than 0"), "{wrong:?}");
}

#[test]
fn limits_are_changed_by_flags_and_by_a_document() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    bundle.edit(|spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        spec["linux"]["resources"]["pids"] = json!({"limit": 100});
    });
    let _running = lab.start("c", &bundle);
    let limits = || {
        let stats = lab.ocirun(["events", "--stats", "c"]).stdout;
        let stats: Value = serde_json::from_str(&stats).unwrap();
        let data = &stats["data"];
        (
            data["memory"]["usage"]["limit"].clone(),
            data["pids"]["limit"].clone(),
        )
    };
    assert_eq!(limits(), (json!(64 << 20), json!(100)));
    let updated = lab.ocirun(["update", "c", "--memory", "48m", "--pids-limit=50"]);
    assert!(updated.success(), "{updated:?}");
    assert_eq!(limits(), (json!(48 << 20), json!(50)));
    let file = lab.path("resources.json");
    fs::write(&file, json!({"pids": {"limit": 60}}).to_string()).unwrap();
    let command = lab
        .command(["update", "--resources", "-", "c"])
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert!(command.status.success(), "{command:?}");
    assert_eq!(limits(), (json!(48 << 20), json!(60)));
    let wrong = lab.ocirun(["update", "--memory", "much", "c"]);
    assert!(
        wrong.stderr.contains("invalid value for memory"),
        "{wrong:?}"
    );
}

#[test]
fn a_process_of_exec_has_the_filter_of_the_container() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    bundle.edit(|spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{
                "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
            }],
        });
    });
    let running = lab.start("c", &bundle);
    let finished = running.exec(["sh", "-c", "mkdir /x; grep Seccomp: /proc/self/status"]);
    assert!(finished.stderr.contains("not supported"), "{finished:?}");
    assert_eq!(finished.stdout, "Seccomp:\t2\n", "{finished:?}");
}

#[test]
fn the_gate_needs_no_system_call_that_old_filters_forbid() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sh", "-c", "exit 7"]);
    for no_new_privileges in [true, false] {
        bundle.edit(|spec| {
            spec["process"]["noNewPrivileges"] = no_new_privileges.into();
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{
                    "names": ["openat2", "statx", "fstatfs", "close_range", "readlinkat"],
                    "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                }],
            });
        });
        let run = lab.ocirun(["run", "-b", bundle.name(), "c"]);
        assert_eq!(run.code, Some(7), "{run:?}");
    }
}
