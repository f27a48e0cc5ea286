// SPDX-License-Identifier: Apache-2.0
//! `diag`, above all of shims that are in trouble: an answer comes within a tenth of a second.

use std::time::Duration;

use integration::mock::{Bundle, Spec, StdioKind, World};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::scene::{Said, Scene, subject, until};

/// What is promised.
const PROMISE: Duration = Duration::from_millis(100);

/// One that came in time, of many: other tests want the processors, too. The promise is for a built
/// release on a machine that is not overloaded; a debug build beside a compiler gets five times as long,
/// which is still less than one of the timeouts that a shim in trouble could cost.
fn quickest(ask: impl Fn() -> Said) -> Said {
    let allowed = match cfg!(debug_assertions) {
        true => PROMISE * 5,
        false => PROMISE,
    };
    let mut best = ask();
    for _ in 0..40 {
        if best.took <= allowed {
            return best;
        }
        let next = ask();
        if next.took < best.took {
            best = next;
        }
    }
    panic!("it took {:?} at best: {best:?}", best.took)
}

/// A container that is being created by a hook that does not end before `file` is there. A test that fails
/// leaves nothing behind: the hook ends with the file's folder, too, and after a minute.
fn held_back(world: &World, id: &str, file: &str) -> Bundle {
    let folder = world.pod_files();
    let script = format!(
        "n=0; while [ -d {} ] && [ ! -e {file} ] && [ $n -lt 240 ]; do n=$((n+1)); sleep 0.25; done",
        folder.display()
    );
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let spec = Spec::idle().with("/hooks", json!({"createRuntime": hook}));
    world.bundle(id, &spec).unwrap()
}

#[test]
fn the_page_has_everything_that_a_report_needs_and_no_secrets() {
    let spec = Spec::idle().with("/process/env", json!(["PASSWORD=swordfish", "PATH=/bin"]));
    let scene = Scene::of("patient", &spec, |_| ());
    let text = scene.shimctl(&["diag", "patient"]).ok();
    for section in [
        "shim",
        "answer",
        "containers",
        "queues",
        "last events",
        "last log lines",
        "last spans",
        "last messages",
        "process",
        "threads",
        "descriptors",
        "cgroups",
        "init",
        "state",
    ] {
        assert!(
            text.contains(&format!("\n== {section}\n")),
            "{section}: {text}"
        );
    }
    for word in ["wchan", "socket:[", "cgroup.procs", "pids.current", "Ready"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let others = ["also held by", "too many processes"];
    assert!(others.iter().any(|word| text.contains(word)), "{text}");
    assert!(!text.contains("swordfish"));
    let document = scene
        .shimctl(&["diag", &scene.shim.pid().to_string(), "--json"])
        .json();
    assert!(document["sections"]["queues"].is_string(), "{document}");
    assert_eq!(scene.shimctl(&["diag", "nobody"]).status, 3);
}

#[test]
fn a_hook_that_hangs_delays_no_answer_and_is_named() {
    let world = World::new(subject()).unwrap();
    let file = world.pod_files().join("go").display().to_string();
    let bundle = held_back(&world, "held", &file);
    let shim = world.start(&bundle).unwrap();
    let request = shim.create_request(&bundle, &bundle.stdio(StdioKind::Null).unwrap());
    let task = shim.task.clone();
    let creating = std::thread::spawn(move || task.create(&request));
    let shimctl = |arguments: &[&str]| super::scene::said(world.namespace(), arguments);
    until("the hook runs", || {
        shimctl(&["trace", "held"]).out.contains("under way")
    });

    let said = quickest(|| shimctl(&["diag", "held", "--timeout", "500ms"]));
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.out.contains("\"creating\""), "{said:?}");
    let trace = shimctl(&["trace", "held"]).ok();
    let hanging = trace
        .lines()
        .find(|line| line.contains("hook"))
        .unwrap_or_default();
    assert!(hanging.contains("under way"), "{trace}");
    // Statistics of others are read all the same.
    shimctl(&["stats", "--timeout", "500ms"]).ok();

    std::fs::write(&file, "").unwrap();
    creating.join().unwrap().unwrap();
}

#[test]
fn thirty_two_hooks_that_hang_delay_no_answer() {
    let scene = Scene::of("pod", &Spec::pod_sandbox("pod"), |_| ());
    let file = scene.world.pod_files().join("go").display().to_string();
    let tasks: Vec<_> = (0..34)
        .map(|number| {
            let bundle = held_back(&scene.world, &format!("held{number}"), &file);
            let stdio = bundle.stdio(StdioKind::Null).unwrap();
            let request = scene.shim.create_request(&bundle, &stdio);
            let task = scene.shim.task.clone();
            std::thread::spawn(move || task.create(&request))
        })
        .collect();
    until("every worker hangs", || {
        let document = scene.shimctl(&["ps", "pod", "--json"]).json();
        let workers = &document["shims"][0]["queues"]["workers"];
        workers["waiting"].as_u64().unwrap_or(0) >= 2
    });
    let said = quickest(|| scene.shimctl(&["diag", "pod", "--timeout", "500ms"]));
    assert_eq!(said.status, 0, "{said:?}");
    let stats = scene.shimctl(&["stats", "pod", "--json"]).json();
    let stats = stats["stats"].as_array().unwrap();
    let of_pod = stats.iter().find(|of| of["container"] == "pod").unwrap();
    assert!(of_pod["cpu"]["usage_ns"].is_u64(), "{of_pod}");
    scene.container.task.stats("pod").unwrap();
    std::fs::write(&file, "").unwrap();
    for task in tasks {
        task.join().unwrap().unwrap();
    }
}

#[test]
fn a_shim_whose_containerd_is_gone_answers_and_says_so() {
    let scene = Scene::idle("lonely");
    scene.world.events.stop();
    scene.container.output_of("e1", &["true"]).unwrap();
    let said = quickest(|| scene.shimctl(&["diag", "lonely", "--timeout", "500ms"]));
    assert_eq!(said.status, 0, "{said:?}");
    let document = scene.shimctl(&["ps", "--json"]).json();
    let publisher = &document["shims"][0]["queues"]["publisher"];
    assert!(publisher["pending"].as_u64().unwrap() > 0, "{publisher}");
    scene.world.events.restart().unwrap();
}

#[test]
fn a_containerd_that_hangs_delays_no_answer() {
    let scene = Scene::idle("patient");
    scene.world.events.hang();
    scene.container.output_of("e1", &["true"]).unwrap();
    let said = quickest(|| scene.shimctl(&["diag", "patient", "--timeout", "500ms"]));
    assert_eq!(said.status, 0, "{said:?}");
}

#[test]
fn a_stopped_shim_is_described_from_outside_at_once() {
    let scene = Scene::of("pod", &Spec::pod_sandbox("pod"), |_| ());
    let spec = Spec::idle()
        .annotation("io.kubernetes.cri.container-type", "container")
        .annotation("io.kubernetes.cri.sandbox-id", "pod");
    let bundle = scene.world.bundle("member", &spec).unwrap();
    let same = scene.world.start(&bundle).unwrap();
    assert_eq!(same.pid(), scene.shim.pid(), "it is grouped");
    let member = same.create(&bundle, StdioKind::Null).unwrap();
    member.start().unwrap();
    let shim = Pid::from_raw(scene.shim.pid() as i32).unwrap();
    kill_process(shim, Signal::STOP).unwrap();
    until("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", scene.shim.pid())).unwrap();
        stat.contains(") T ")
    });
    // By the pod's name, and by that of a container that only the file system knows of now.
    for name in ["pod", "member"] {
        let said = quickest(|| scene.shimctl(&["diag", name, "--timeout", "500ms"]));
        assert_eq!(said.status, 4, "{said:?}");
        for word in [
            "is stopped by a signal (SIGSTOP)",
            "descriptors",
            "wchan",
            "== cgroups",
        ] {
            assert!(said.out.contains(word), "{word}: {said:?}");
        }
    }
    let said = scene.shimctl(&["diag", "member"]);
    assert!(said.out.contains(&format!("/proc/{}", member.pid)) || said.out.contains("sleep"));
    kill_process(shim, Signal::CONT).unwrap();
    scene.container.status().unwrap();
}
