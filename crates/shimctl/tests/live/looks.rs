// SPDX-License-Identifier: Apache-2.0
//! `ps`, `top`, `stats`, `sync`, `log-level`: what is, now.

use std::time::Duration;

use integration::mock::{Spec, StdioKind};

use super::scene::{Scene, until};

#[test]
fn ps_shows_containers_execs_and_what_people_call_them() {
    let spec = Spec::idle()
        .annotation("io.kubernetes.cri.sandbox-name", "shop")
        .annotation("io.kubernetes.cri.container-name", "web");
    let scene = Scene::of("looked-at", &spec, |_| ());
    let exec = scene
        .container
        .exec("probe", &["sleep", "1000"], StdioKind::Null);
    let exec = exec.unwrap();
    exec.start().unwrap();

    let text = scene.shimctl(&["ps"]).ok();
    let row = text
        .lines()
        .find(|line| line.contains("looked-at"))
        .unwrap();
    let pid = scene.container.pid.to_string();
    let shim = scene.shim.pid().to_string();
    for word in ["shop/web", "running", &pid, &shim, scene.world.namespace()] {
        assert!(
            row.split_whitespace().any(|cell| cell == word),
            "{word}: {text}"
        );
    }
    assert!(text.contains("probe"), "{text}");
    assert!(!text.contains('\x1b'), "colours without a terminal");
    assert!(!scene.shimctl(&["ps", "--no-execs"]).ok().contains("probe"));

    let document = scene.shimctl(&["ps", "--json"]).json();
    let container = &document["shims"][0]["containers"][0];
    assert_eq!(container["id"], "looked-at");
    assert_eq!(container["init"]["pid"], scene.container.pid);
    assert_eq!(
        container["labels"]["io.kubernetes.cri.container-name"],
        "web"
    );
    assert_eq!(container["execs"][0]["exec"], "probe");
    assert_eq!(container["restarts"], 0);
    let nothing = scene.shimctl(&["ps", "nobody"]);
    assert_eq!((nothing.out.as_str(), nothing.status), ("", 0));
    assert_eq!(nothing.err, "shimctl: no containers\n");
}

#[test]
fn a_container_of_the_same_name_in_its_pod_counts_as_a_restart() {
    let named = Spec::new(&["/bin/true"]).annotation("io.kubernetes.cri.container-name", "web");
    let scene = Scene::of("pod", &Spec::pod_sandbox("pod"), |_| ());
    for (id, restarts) in [("web-0", 0), ("web-1", 1)] {
        let bundle = scene.world.bundle(id, &named).unwrap();
        let container = scene.shim.create(&bundle, StdioKind::Null).unwrap();
        container.run().unwrap();
        let document = scene.shimctl(&["ps", id, "--json"]).json();
        let containers = document["shims"][0]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1, "{document}");
        assert_eq!(containers[0]["restarts"], restarts);
        container.delete().unwrap();
    }
}

#[test]
fn stats_and_top_show_what_is_used() {
    let busy = Spec::shell("x=$(head -c 8000000 /dev/zero | tr '\\0' a); while :; do :; done");
    let scene = Scene::of("busy", &busy, |_| ());
    until("it has used a processor", || {
        let stats = scene.shimctl(&["stats", "--json"]).json();
        let stats = &stats["stats"][0];
        let used = stats["cpu"]["usage_ns"].as_u64().unwrap_or(0);
        assert_eq!(stats["container"], "busy");
        used > 50_000_000
    });
    let text = scene.shimctl(&["stats", "busy"]).ok();
    assert!(text.contains("busy") && text.contains("CPU"), "{text}");

    let lines = scene
        .shimctl(&["top", "--count", "2", "--interval", "200ms", "--json"])
        .lines();
    let last = lines.last().unwrap();
    assert_eq!(last["container"], "busy");
    assert!(
        last["rates"]["cpu_percent"].as_f64().unwrap() > 1.0,
        "{last}"
    );
    let screen = scene.shimctl(&["top", "--count", "1"]).ok();
    assert!(screen.contains("busy"), "{screen}");
}

#[test]
fn sync_is_a_chart_of_two_columns_in_the_order_of_time() {
    let scene = Scene::idle("talker");
    let chart = scene.shimctl(&["sync", "talker"]).ok();
    let at = |word: &str| {
        chart
            .find(word)
            .unwrap_or_else(|| panic!("{word}: {chart}"))
    };
    assert!(at("Plan") < at("Ready") && at("Ready") < at("Run"));
    assert!(at("Run") < at("Executing"));
    let document = scene.shimctl(&["sync", "talk", "--json"]).json();
    let messages = document["messages"].as_array().unwrap();
    assert_eq!(messages[0]["kind"], "Plan");
    assert_eq!(messages[0]["from"], "shim");
    let numbers: Vec<u64> = messages
        .iter()
        .map(|m| m["number"].as_u64().unwrap())
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(
        !chart.contains("PATH="),
        "the environment is nobody's business"
    );
}

#[test]
fn the_log_level_is_shown_and_changed_at_run_time() {
    let scene = Scene::idle("chatty");
    let before = scene.shimctl(&["log-level", "chatty"]).ok();
    assert_eq!(before, "info\n");
    let changed = scene.shimctl(&["log-level", "chatty", "debug"]).ok();
    assert!(changed.contains("info -> debug"), "{changed}");
    let document = scene.shimctl(&["log-level", "chatty", "--json"]).json();
    assert_eq!(document["level"], "debug");
    assert_eq!(scene.shimctl(&["log-level", "chatty", "loud"]).status, 2);
    assert_eq!(scene.shimctl(&["log-level", "nobody"]).status, 3);
    until("debug lines come", || {
        scene.container.status().unwrap();
        scene.bundle.log().contains("level=debug")
    });
}

#[test]
fn a_shim_that_died_and_one_of_two_that_is_stopped_are_shown_as_such() {
    let scene = Scene::idle("first");
    let bundle = scene.world.bundle("second", &Spec::idle()).unwrap();
    let second = scene.world.start(&bundle).unwrap();
    second
        .create(&bundle, StdioKind::Null)
        .unwrap()
        .start()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(second.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    until("it is told as stopped", || {
        let said = scene.shimctl(&["ps", "--json"]);
        assert_eq!(said.status, 4, "{said:?}");
        let document: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let shims = document["shims"].as_array().unwrap();
        assert_eq!(shims.len(), 2, "{document}");
        assert_eq!(shims[0]["answer"], "ok");
        shims[1]["answer"] == "stopped"
    });
    let said = scene.shimctl(&["ps"]);
    assert!(
        said.took < Duration::from_secs(5),
        "nobody is waited for: {said:?}"
    );
    assert!(
        said.out.contains("stopped by a signal (SIGSTOP)"),
        "{said:?}"
    );
    second.kill().unwrap();
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let scene = Scene::idle("plain");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            scene
                .shimctl(&["completions", shell])
                .ok()
                .contains("shimctl")
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    scene.shimctl(&["man", path]).ok();
    assert!(folder.path().join("shimctl-trace.1").exists());
    assert_eq!(scene.shimctl(&["nonsense"]).status, 2);
}
