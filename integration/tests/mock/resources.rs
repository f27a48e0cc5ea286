// SPDX-License-Identifier: Apache-2.0
//! Statistics, processes killed for memory, pausing.

use std::io::Write as _;
use std::time::{Duration, Instant};

use containerd_shim_protos::cgroups::metrics::Metrics as V1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as V2;
use integration::mock::api::Status;
use integration::mock::{Code, Result, Spec, StdioKind, Subject, Task, World};
use protobuf::Message as _;
use serde_json::json;

use crate::pressure::disk;
use crate::scene::{ID, Scene, assert_refused, until};
use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("stats_tell_what_was_used", stats_tell_what_was_used),
    shared("stats_tell_the_limits", stats_tell_the_limits),
    ours("stats_are_quick", stats_are_quick),
    ours("stats_tell_of_the_network", stats_tell_of_the_network),
    shared(
        "stats_of_a_killed_container_tell_of_the_kill",
        stats_of_a_killed_container_tell_of_the_kill,
    ),
    ours(
        "oom_is_told_once_and_before_the_exit",
        oom_is_told_once_and_before_the_exit,
    ),
    ours(
        "every_oom_of_a_living_container_is_told",
        every_oom_of_a_living_container_is_told,
    ),
    ours(
        "oom_of_an_exec_is_told_before_its_exit",
        oom_of_an_exec_is_told_before_its_exit,
    ),
    ours(
        "no_oom_where_nobody_was_killed",
        no_oom_where_nobody_was_killed,
    ),
    shared(
        "pause_stops_and_resume_goes_on",
        pause_stops_and_resume_goes_on,
    ),
    shared("paused_and_killed", paused_and_killed),
    shared("what_a_pause_forbids", what_a_pause_forbids),
    ours("paused_from_outside", paused_from_outside),
];

/// Eats memory until it is killed.
pub(crate) const EATER: &str = "exec tail /dev/zero";
pub(crate) const MIB: u64 = 1 << 20;
/// `linux/magic.h`.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

pub(crate) fn limited(script: &str, limit: u64) -> Spec {
    let memory = json!({"limit": limit, "swap": limit});
    Spec::shell(script).with("/linux/resources/memory", memory)
}

/// What both messages have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numbers {
    cpu_ns: u64,
    memory: u64,
    memory_limit: u64,
    memory_peak: u64,
    pids: u64,
    pids_limit: u64,
    oom_kills: u64,
    interfaces: Vec<String>,
}

fn numbers(task: &Task, id: &str) -> Result<Numbers> {
    let stats = task.stats(id)?.stats.unwrap_or_default();
    let none = |_| Numbers::default();
    Ok(match stats.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            V1::parse_from_bytes(&stats.value).map_or_else(none, |m| Numbers {
                cpu_ns: m.cpu.usage.total,
                memory: m.memory.usage.usage,
                memory_limit: m.memory.usage.limit,
                memory_peak: m.memory.usage.max,
                pids: m.pids.current,
                pids_limit: m.pids.limit,
                oom_kills: m.memory_oom_control.oom_kill,
                interfaces: m.network.iter().map(|i| i.name.clone()).collect(),
            })
        }
        "io.containerd.cgroups.v2.Metrics" => {
            V2::parse_from_bytes(&stats.value).map_or_else(none, |m| Numbers {
                cpu_ns: m.cpu.usage_usec * 1000,
                memory: m.memory.usage,
                memory_limit: m.memory.usage_limit,
                memory_peak: m.memory.max_usage,
                pids: m.pids.current,
                pids_limit: m.pids.limit,
                oom_kills: m.memory_events.oom_kill,
                interfaces: m.network.iter().map(|i| i.name.clone()).collect(),
            })
        }
        other => panic!("type {other:?}"),
    })
}

fn stats_tell_what_was_used(subject: &Subject) -> Outcome {
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=32; sleep 1000 & wait";
    let scene = Scene::created(subject, &Spec::shell(script), StdioKind::Null)?;
    scene.container.start()?;
    let begun = Instant::now();
    let enough = until(Duration::from_secs(10), || {
        numbers(&scene.shim.task, ID).is_ok_and(|now| now.memory > 32 * MIB && now.pids == 2)
    });
    let seen = numbers(&scene.shim.task, ID)?;
    assert!(enough, "{seen:?}");
    assert!(
        seen.cpu_ns > 0 && Duration::from_nanos(seen.cpu_ns) < begun.elapsed() * 4,
        "{seen:?}"
    );
    assert!(seen.memory < 64 * MIB, "{seen:?}");
    scene.end()
}

fn stats_tell_the_limits(subject: &Subject) -> Outcome {
    let spec = limited("sleep 1000", 64 * MIB).with("/linux/resources/pids", json!({"limit": 17}));
    let scene = Scene::created(subject, &spec, StdioKind::Null)?;
    scene.container.start()?;
    let seen = numbers(&scene.shim.task, ID)?;
    assert_eq!((seen.memory_limit, seen.pids_limit), (64 * MIB, 17));
    let nobody = scene.shim.task.stats("nobody");
    assert_refused(nobody, Code::NOT_FOUND, "container not created");
    scene.end()
}

fn stats_are_quick(subject: &Subject) -> Outcome {
    const CALLS: u32 = 200;
    let scene = Scene::idle(subject)?;
    let mut times: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let begun = Instant::now();
            scene.shim.task.stats(ID).map(|_| begun.elapsed())
        })
        .collect::<Result<_>>()?;
    times.sort();
    // Client and machine are slower than the shim, an emulated one by far: the limit tells from
    // anything that waits.
    let median = times[times.len() / 2];
    assert!(median < Duration::from_millis(50), "{median:?}");
    scene.end()
}

fn stats_tell_of_the_network(subject: &Subject) -> Outcome {
    // A new network namespace has nothing but its loopback, and perhaps tunnels of the kernel.
    let scene = Scene::idle(subject)?;
    let own = numbers(&scene.shim.task, ID)?.interfaces;
    assert!(!own.contains(&"lo".to_owned()), "{own:?}");
    scene.end()?;
    // The host's traffic is not the container's.
    let spec = Spec::idle().without_namespace("network");
    let scene = Scene::created(subject, &spec, StdioKind::Null)?;
    scene.container.start()?;
    assert_eq!(numbers(&scene.shim.task, ID)?.interfaces, [""; 0]);
    scene.end()
}

fn stats_of_a_killed_container_tell_of_the_kill(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &limited(EATER, 16 * MIB), StdioKind::Null)?;
    assert_eq!(scene.container.run()?, 137);
    // What CRI asks for to say OOMKilled.
    assert_eq!(numbers(&scene.shim.task, ID)?.oom_kills, 1);
    scene.finish()
}

fn oom_is_told_once_and_before_the_exit(subject: &Subject) -> Outcome {
    for _ in 0..5 {
        let scene = Scene::created(subject, &limited(EATER, 16 * MIB), StdioKind::Null)?;
        assert_eq!(scene.container.run()?, 137);
        scene.container.delete()?;
        scene.world.events.wait_delete(ID)?;
        let texts = scene.world.events.texts(ID);
        assert_eq!(texts, ["create", "start", "oom", "exit 137", "delete 137"]);
    }
    Ok(())
}

fn every_oom_of_a_living_container_is_told(subject: &Subject) -> Outcome {
    // Each is told before the next one begins.
    let script = "for i in 1 2 3; do tail /dev/zero; read -t 20 x; done; exit 3";
    let scene = Scene::created(subject, &limited(script, 16 * MIB), StdioKind::Full)?;
    let mut input = scene.container.io.open_stdin()?;
    scene.container.start()?;
    for count in 1..=3 {
        let told = until(Duration::from_secs(10), || ooms(&scene.world, ID) == count);
        assert!(told, "{:?}", scene.world.events.texts(ID));
        input.write_all(b"go\n")?;
    }
    assert_eq!(scene.container.wait()?, 3);
    scene.world.events.wait_exit(ID, ID)?;
    let texts = scene.world.events.texts(ID);
    assert_eq!(texts, ["create", "start", "oom", "oom", "oom", "exit 3"]);
    scene.finish()
}

pub(crate) fn ooms(world: &World, id: &str) -> usize {
    let texts = world.events.texts(id);
    texts.iter().filter(|text| *text == "oom").count()
}

fn oom_of_an_exec_is_told_before_its_exit(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &limited("sleep 1000", 16 * MIB), StdioKind::Null)?;
    scene.container.start()?;
    let exec = scene
        .container
        .exec("e", &["/bin/sh", "-c", EATER], StdioKind::Null)?;
    assert_eq!(exec.run()?, 137);
    scene.world.events.wait_exit(ID, "e")?;
    let texts = scene.world.events.texts(ID);
    assert_eq!(texts[2..], ["added e", "started e", "oom", "exit of e 137"]);
    scene.end()
}

/// Neither a SIGKILL from outside nor the removal of the cgroup is an OOM, and a limit that only
/// made the kernel reclaim is none either; nor is it this container's that another one of the pod was
/// killed.
fn no_oom_where_nobody_was_killed(subject: &Subject) -> Outcome {
    let disk = disk()?;
    if rustix::fs::statfs(disk.path())?.f_type == TMPFS_MAGIC {
        crate::complain("SKIPPED: no disk below /var/tmp");
        return Ok(());
    }
    let script = "dd if=/dev/zero of=/disk/x bs=1M count=64 && : >/disk/done; sleep 1000";
    let spec = limited(script, 16 * MIB).volume(&disk.path().display().to_string(), "/disk");
    let scene = Scene::created(subject, &spec, StdioKind::Null)?;
    scene.container.start()?;
    let (world, container) = (&scene.world, &scene.container);
    let written = || disk.path().join("done").exists();
    assert!(until(Duration::from_secs(60), written), "dd failed");
    // Four times what there is room for went through.
    let peak = numbers(&scene.shim.task, ID)?.memory_peak;
    assert!(peak > 14 * MIB, "the limit was not felt: {peak}");

    let bundle = world.bundle("other", &limited(EATER, 16 * MIB))?;
    let other = scene.shim.create(&bundle, StdioKind::Null)?;
    assert_eq!(other.run()?, 137);
    other.delete()?;
    world.events.wait_delete("other")?;
    assert_eq!(ooms(world, "other"), 1);

    let exec = container.exec("e", &["sleep", "1000"], StdioKind::Null)?;
    exec.start()?;
    exec.kill(9)?;
    assert_eq!(exec.wait()?, 137);
    container.kill(9)?;
    assert_eq!(container.wait()?, 137);
    container.delete()?;
    world.events.wait_delete(ID)?;
    let texts = world.events.texts(ID);
    assert_eq!(
        texts,
        [
            "create",
            "start",
            "added e",
            "started e",
            "exit of e 137",
            "exit 137",
            "delete 137"
        ]
    );
    Ok(())
}

fn pause_stops_and_resume_goes_on(subject: &Subject) -> Outcome {
    let script = "while :; do echo; sleep 0.01; done";
    let scene = Scene::created(subject, &Spec::shell(script), StdioKind::Null)?;
    let task = &scene.shim.task;
    assert_refused(
        task.pause(ID),
        Code::UNKNOWN,
        "cannot pause task in created state",
    );
    assert_refused(
        task.resume(ID),
        Code::UNKNOWN,
        "cannot resume task in created state",
    );
    scene.container.start()?;
    assert_refused(
        task.resume(ID),
        Code::UNKNOWN,
        "cannot resume a running process",
    );
    task.pause(ID)?;
    assert_eq!(scene.container.status()?, Status::PAUSED);
    assert_refused(
        task.pause(ID),
        Code::UNKNOWN,
        "cannot pause a paused container",
    );
    let used = || -> Result<u64> { Ok(numbers(task, ID)?.cpu_ns) };
    let at_pause = used()?;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(used()?, at_pause, "it runs on");
    task.resume(ID)?;
    assert_eq!(scene.container.status()?, Status::RUNNING);
    let goes_on = until(Duration::from_secs(5), || {
        used().is_ok_and(|now| now > at_pause)
    });
    assert!(goes_on, "it does not go on");
    let told = until(Duration::from_secs(5), || {
        scene.world.events.texts(ID) == ["create", "start", "paused", "resumed"]
    });
    assert!(told, "{:?}", scene.world.events.texts(ID));
    scene.end()
}

fn paused_and_killed(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::shell("sleep 1000 & wait"), StdioKind::Null)?;
    scene.container.start()?;
    scene.shim.task.pause(ID)?;
    scene.container.kill(9)?;
    assert_eq!(scene.container.wait()?, 137);
    assert_eq!(scene.container.status()?, Status::STOPPED);
    let task = &scene.shim.task;
    assert_refused(
        task.pause(ID),
        Code::UNKNOWN,
        "cannot pause a stopped container",
    );
    assert_refused(
        task.resume(ID),
        Code::UNKNOWN,
        "cannot resume a stopped container",
    );
    scene.finish()
}

fn what_a_pause_forbids(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let before = scene
        .container
        .exec("before", &["/bin/true"], StdioKind::Null)?;
    scene.shim.task.pause(ID)?;
    let added = scene
        .container
        .exec("after", &["/bin/true"], StdioKind::Null);
    assert_refused(
        added.map(drop),
        Code::UNKNOWN,
        "cannot exec in a paused state",
    );
    assert_refused(
        before.start(),
        Code::UNKNOWN,
        "cannot exec in a paused container",
    );
    assert_refused(
        scene.container.start(),
        Code::UNKNOWN,
        "cannot start a paused process",
    );
    let deleted = scene.container.delete();
    assert_refused(deleted, Code::UNKNOWN, "cannot delete a paused process");
    // What needs no process of the container still works.
    assert_eq!(scene.shim.task.pids(ID)?, [scene.container.pid]);
    assert!(numbers(&scene.shim.task, ID)?.memory > 0);
    scene.shim.task.resume(ID)?;
    // Not the one that was refused: a second start of it ends the Go shim.
    let (status, _) = scene.container.output_of("later", &["/bin/true"])?;
    assert_eq!(status, 0);
    scene.end()
}

/// Whoever froze it: an exec would never answer.
fn paused_from_outside(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let exec = scene.container.exec("e", &["/bin/true"], StdioKind::Null)?;
    let switch = |v1: &str, v2: &str| -> std::io::Result<()> {
        for folder in scene.world.cgroup_folders(&scene.bundle) {
            let v1_file = folder.join("freezer.state");
            if v1_file.exists() {
                return std::fs::write(v1_file, v1);
            }
        }
        for folder in scene.world.cgroup_folders(&scene.bundle) {
            let v2_file = folder.join("cgroup.freeze");
            if v2_file.exists() {
                std::fs::write(v2_file, v2)?;
            }
        }
        Ok(())
    };
    switch("FROZEN", "1")?;
    assert_refused(
        exec.start(),
        Code::UNKNOWN,
        "cannot exec in a paused container",
    );
    switch("THAWED", "0")?;
    assert_eq!(exec.run()?, 0);
    scene.end()
}
