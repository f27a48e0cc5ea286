// SPDX-License-Identifier: Apache-2.0
//! Hooks of a container that one process creates, another starts and a third deletes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::fs;

use lab::{Bundle, Lab, wait_until};
use serde_json::{Value, json};

/// Adds a hook that is a shell script.
fn hook(bundle: &Bundle, kind: &str, script: &str) {
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script],
                      "env": ["PATH=/usr/bin:/bin"]});
    bundle.edit(|spec| spec["hooks"][kind] = json!([hook]));
}

#[test]
fn hooks_are_run_by_whoever_creates_starts_and_deletes() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    bundle.edit(|spec| spec["annotations"]["org.example.key"] = "value".into());
    let word = |name: &str| lab.path(name);
    for kind in ["createRuntime", "createContainer", "poststart", "poststop"] {
        let script = format!("cat >{}", word(kind).display());
        hook(&bundle, kind, &script);
    }
    let status = |kind: &str| {
        let state: Value = serde_json::from_slice(&fs::read(word(kind)).unwrap()).unwrap();
        assert_eq!(state["id"], "c");
        assert_eq!(state["annotations"]["org.example.key"], "value");
        state["status"].clone()
    };
    assert!(lab.ocirun(["create", "-b", bundle.name(), "c"]).success());
    assert_eq!(status("createRuntime"), "creating");
    assert_eq!(status("createContainer"), "creating");
    assert!(!word("poststart").exists());
    assert!(lab.ocirun(["start", "c"]).success());
    assert_eq!(status("poststart"), "running");
    assert!(lab.ocirun(["kill", "c", "KILL"]).success());
    wait_until("the end", || lab.state("c")["status"] == "stopped");
    assert!(!word("poststop").exists());
    assert!(lab.ocirun(["delete", "c"]).success());
    assert_eq!(status("poststop"), "stopped");
}

#[test]
fn start_is_told_of_a_hook_that_fails() {
    let Some(lab) = Lab::new() else { return };
    for kind in ["startContainer", "poststart"] {
        let bundle = lab.bundle(kind, ["sleep", "1000"]);
        hook(&bundle, kind, "echo the reason >&2; exit 3");
        assert!(lab.ocirun(["create", "-b", bundle.name(), kind]).success());
        let started = lab.ocirun(["start", kind]);
        assert_eq!(started.code, Some(1), "{started:?}");
        let wanted = format!("error running {kind} hook #0: exit status 3");
        assert!(started.stderr.contains(&wanted), "{started:?}");
        assert!(started.stderr.contains("the reason"), "{started:?}");
        wait_until("the end", || lab.state(kind)["status"] == "stopped");
        assert!(lab.ocirun(["delete", kind]).success());
    }
}
