// SPDX-License-Identifier: Apache-2.0
//! What runs in a container: by run and by exec.

use super::*;

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
                    "names": ["openat2", "statx", "fstatfs", "close_range", "readlinkat", "dup3"],
                    "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                }],
            });
        });
        let run = lab.ocirun(["run", "-b", bundle.name(), "c"]);
        assert_eq!(run.code, Some(7), "{run:?}");
    }
}
