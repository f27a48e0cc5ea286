// SPDX-License-Identifier: Apache-2.0
//! `diag`, above all of shims that are in trouble: an answer comes within a tenth of a second.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use integration::mock::{Bundle, Spec, StdioKind, World};
use rustix::fs::{CWD, Mode, mkfifoat};
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

/// What hooks wait for, without a look at anything: they are to hang, and not to be busy.
struct Gate(PathBuf);

impl Gate {
    fn new(world: &World) -> Self {
        let path = world.pod_files().join("gate");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        Self(path)
    }

    /// A container that is being created by a hook that does not end before the gate is open. A test that
    /// fails leaves nothing behind: the hook ends after a minute, too.
    fn holds(&self, world: &World, id: &str) -> Bundle {
        let script = format!("exec timeout 60 sh -c ': <{}'", self.0.display());
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let spec = Spec::idle().with("/hooks", json!({"createRuntime": hook}));
        world.bundle(id, &spec).unwrap()
    }

    /// Lets all through, those who come later as well, for as long as it is kept.
    fn open(&self) -> File {
        File::options().write(true).open(&self.0).unwrap()
    }
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
    let gate = Gate::new(&world);
    let bundle = gate.holds(&world, "held");
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

    let _open = gate.open();
    creating.join().unwrap().unwrap();
}

#[test]
fn thirty_two_hooks_that_hang_delay_no_answer() {
    let scene = Scene::of("pod", &Spec::pod_sandbox("pod"), |_| ());
    let gate = Gate::new(&scene.world);
    let tasks: Vec<_> = (0..34)
        .map(|number| {
            let bundle = gate.holds(&scene.world, &format!("held{number}"));
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
    let _open = gate.open();
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
