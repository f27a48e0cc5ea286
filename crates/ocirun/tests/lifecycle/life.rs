// SPDX-License-Identifier: Apache-2.0
//! From created to gone.

use super::*;

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
fn what_runs_is_listed() {
    let Some(lab) = Lab::new() else { return };
    assert!(!lab.ocirun(["list"]).success(), "there is no such root");
    fs::create_dir(lab.root()).unwrap();
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
