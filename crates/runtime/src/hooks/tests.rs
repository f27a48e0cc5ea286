// SPDX-License-Identifier: Apache-2.0

use std::fs;
use std::sync::mpsc;

use super::*;

fn hook(script: &str) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: vec!["sh".into(), "-c".into(), script.into()],
        env: Vec::new(),
        timeout: None,
    }
}

fn lifecycle(kind: Kind, list: Vec<Hook>) -> Lifecycle {
    let mut hooks = Hooks::default();
    match kind {
        Kind::CreateContainer => hooks.create_container = list,
        Kind::StartContainer => hooks.start_container = list,
        Kind::Poststop => hooks.poststop = list,
        _ => hooks.create_runtime = list,
    }
    Lifecycle {
        hooks,
        id: "c1".into(),
        bundle: "/tmp".into(),
        annotations: [("a=b".to_owned(), "c".to_owned())].into(),
    }
}

fn error(list: Vec<Hook>) -> Error {
    lifecycle(Kind::CreateRuntime, list)
        .run_on_host(Kind::CreateRuntime, 7)
        .unwrap_err()
}

#[test]
fn a_hook_reads_the_state_and_has_its_own_environment_directory_and_no_descriptor() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    // What a library may leave open without close-on-exec.
    let leak = fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let script = format!(
        "exec >{}; cat; echo; tr '\\0' '\\n' </proc/$$/environ; pwd; ls -m /proc/self/fd; \
         grep -E 'Sig(Blk|Ign)' /proc/self/status",
        out.display()
    );
    let mut hook = hook(&script);
    hook.env = vec!["X=1".into()];
    let mut lifecycle = lifecycle(Kind::CreateRuntime, vec![hook]);
    lifecycle.bundle = directory.path().to_owned();
    lifecycle.run_on_host(Kind::CreateRuntime, 7).unwrap();
    let text = fs::read_to_string(&out).unwrap();
    let (state, rest) = text.split_once('\n').unwrap();
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    let bundle = directory.path().to_str().unwrap();
    assert_eq!(
        state,
        serde_json::json!({
            "ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 7, "bundle": bundle,
            "annotations": {"a=b": "c"},
        })
    );
    // 3 is the directory that ls reads. An older C library ignores its own signals, 32 and 33, in
    // what it spawns.
    let rest = rest.replace("SigIgn:\t0000000180000000", "SigIgn:\t0000000000000000");
    let wanted = format!(
        "X=1\n{bundle}\n0, 1, 2, 3\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
    assert_eq!(rest, wanted);
}

#[test]
fn the_state_says_what_the_specification_wants_for_each_kind() {
    for (kind, status) in [
        (Kind::Prestart, "creating"),
        (Kind::CreateRuntime, "creating"),
        (Kind::CreateContainer, "creating"),
        (Kind::StartContainer, "created"),
        (Kind::Poststart, "running"),
        (Kind::Poststop, "stopped"),
    ] {
        let state = lifecycle(kind, vec![]).state(kind, 0);
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(state["status"], status);
        assert!(state.get("pid").is_none());
    }
}

#[test]
fn a_state_larger_than_a_pipe_arrives_whole_and_may_be_left_unread() {
    let mut lifecycle = lifecycle(
        Kind::CreateRuntime,
        vec![hook("test $(wc -c) -gt 300000"), hook("exec true")],
    );
    lifecycle
        .annotations
        .insert("big".into(), "x".repeat(300_000));
    lifecycle.run_on_host(Kind::CreateRuntime, 7).unwrap();
}

#[test]
fn a_failure_is_told_in_runcs_words_with_what_the_hook_wrote() {
    let failing = hook("echo out; echo why >&2; exit 3");
    assert_eq!(
        error(vec![hook("true"), failing, hook("touch /nope")]).to_string(),
        "error running createRuntime hook #1: exit status 3, stdout: out, stderr: why"
    );
    let killed = hook("kill -9 $$");
    assert_eq!(
        error(vec![killed]).to_string(),
        "error running createRuntime hook #0: signal: killed, stdout: , stderr: "
    );
    let mut missing = hook("");
    missing.path = "/no/such/hook".into();
    let error = error(vec![missing]);
    assert_eq!(
        error.to_string(),
        "error running createRuntime hook #0: fork/exec /no/such/hook: no such file or directory"
    );
    assert_eq!(error.cause.errno(), Some(sys::Errno::NOENT));
}

#[test]
fn of_a_flood_only_the_end_is_kept() {
    let flood = hook("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1");
    let text = error(vec![flood]).to_string();
    assert!(text.len() < 5000 && text.ends_with("xxend"), "{text}");
    assert!(text.contains("stderr: ...x"), "{text}");
}

#[test]
fn at_its_time_limit_a_hook_is_killed_with_all_that_it_has_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    // Ignores what can be ignored, and leaves the work to others.
    let script = format!(
        "trap '' TERM HUP; (trap '' TERM; echo $$ >&2; exec sleep 1000) & echo $! >{}; wait",
        file.display()
    );
    let mut slow = hook(&script);
    slow.timeout = Some(200_000_000);
    let begin = std::time::Instant::now();
    let text = error(vec![slow]).to_string();
    assert!(begin.elapsed() < Duration::from_secs(4), "{text}");
    assert!(
        text.starts_with(
            "error running createRuntime hook #0: hook ran past specified timeout of 0.2s"
        ),
        "{text}"
    );
    let pid = fs::read_to_string(file).unwrap();
    let status = format!("/proc/{}/status", pid.trim());
    let gone = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        !status.contains("State:") || status.contains("State:\tZ")
    };
    while !gone() {
        assert!(begin.elapsed() < Duration::from_secs(5), "{pid} lives");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_hook_leaves_in_the_background_is_not_waited_for() {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let hook = hook("sleep 30 & echo $! >&2; exit 4");
        let text = error(vec![hook]).to_string();
        done.send(()).unwrap();
        text
    });
    finished.recv_timeout(Duration::from_secs(10)).unwrap();
    let text = thread.join().unwrap();
    let pid = text.rsplit("stderr: ").next().unwrap().trim();
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn after_the_end_all_hooks_are_run_whatever_becomes_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let note = |text: &str| hook(&format!("echo {text} >>{}", out.display()));
    let list = vec![note("one"), hook("exit 1"), note("two")];
    let mut lifecycle = lifecycle(Kind::Poststop, list);
    // The bundle is gone by now.
    lifecycle.bundle = "/no/such/bundle".into();
    lifecycle.run_poststop();
    assert_eq!(fs::read_to_string(out).unwrap(), "one\ntwo\n");
}

#[test]
fn hooks_survive_the_state_file() {
    let mut hook = hook("true");
    hook.timeout = Some(5);
    let lifecycle = lifecycle(Kind::Poststop, vec![hook]);
    let json = serde_json::to_value(lifecycle.hooks()).unwrap();
    assert_eq!(json["poststop"][0]["timeout"], 5, "runc's names: {json}");
    let hooks: Hooks = serde_json::from_value(json).unwrap();
    assert_eq!(hooks, *lifecycle.hooks());
}

#[test]
fn impossible_hooks_are_refused_by_their_json_path() {
    for (hook, text) in [
        (
            serde_json::json!({"path": "x"}),
            "hooks.poststart[1].path: must be an absolute path",
        ),
        (
            serde_json::json!({"path": "/x", "timeout": 0}),
            "hooks.poststart[1].timeout: must be greater than zero",
        ),
        (
            serde_json::json!({"path": "/x", "timeout": -1}),
            "hooks.poststart[1].timeout: must be greater than zero",
        ),
        (
            serde_json::json!({"path": "/x", "args": ["a\u{0}"]}),
            "hooks.poststart[1].args: contains a NUL byte",
        ),
    ] {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.1.0", "hooks": {"poststart": [{"path": "/ok", "timeout": 1}, hook]},
        }))
        .unwrap();
        let error = Hooks::from_spec(&spec).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
