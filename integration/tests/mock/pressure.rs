// SPDX-License-Identifier: Apache-2.0
//! Memory pressure: events of the Diagnostics service, and of nobody else.

use std::time::Duration;

use integration::mock::diagnostics::v1;
use integration::mock::{Code, Diagnostics, Result, Spec, StdioKind, Subject, World};
use serde_json::json;
use tempfile::TempDir;

use crate::scene::{ID, Scene, assert_refused, until};
use crate::{Outcome, Test, ours};

pub(crate) const TESTS: &[Test] = &[
    ours(
        "memory_pressure_is_told_to_diagnostics_only",
        memory_pressure_is_told_to_diagnostics_only,
    ),
    ours(
        "memory_pressure_at_a_limit_is_told_unasked",
        memory_pressure_at_a_limit_is_told_unasked,
    ),
    ours(
        "memory_pressure_of_triggers_is_told",
        memory_pressure_of_triggers_is_told,
    ),
    ours(
        "memory_pressure_is_not_watched_where_it_is_not_wanted",
        memory_pressure_is_not_watched_where_it_is_not_wanted,
    ),
    ours(
        "a_wrong_setting_of_memory_pressure_is_refused",
        a_wrong_setting_of_memory_pressure_is_refused,
    ),
];

const ANNOTATION: &str = "io.containerd.rust.memory-pressure";
/// Longer than any window by default.
const SOON: Duration = Duration::from_secs(20);

/// A container that writes more to a file than it has memory for, over and over. The file is on a
/// disk, if the machine has one there.
fn short_of_memory(disk: &TempDir) -> Spec {
    let limit = json!({"limit": 16 << 20, "swap": 16 << 20});
    Spec::shell("while :; do dd if=/dev/zero of=/disk/x bs=1M count=48 2>/dev/null; done")
        .volume(&disk.path().display().to_string(), "/disk")
        .with("/linux/resources/memory", limit)
}

/// A folder for the files of a container, on a disk if the machine has one there.
pub(crate) fn disk() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/var/tmp")
}

fn events(diagnostics: &Diagnostics) -> Result<Vec<v1::Event>> {
    let mut request = v1::EventsRequest::new();
    request.kinds = vec!["pressure".to_owned()];
    Ok(diagnostics.call(&request)?.events)
}

fn counted(diagnostics: &Diagnostics) -> Result<Option<v1::MemoryPressure>> {
    let answer = diagnostics.call(&v1::ContainersRequest::new())?;
    let found = answer.containers.into_iter().find(|c| c.id == ID);
    Ok(found.and_then(|container| container.memory_pressure.into_option()))
}

fn watched(diagnostics: &Diagnostics) -> Result<usize> {
    let answer = diagnostics.call(&v1::DescriptorsRequest::new())?;
    let all = answer.descriptors.iter();
    Ok(all.filter(|fd| fd.purpose == "memory pressure").count())
}

/// Runs a container until pressure is told.
fn under_pressure(scene: &Scene, diagnostics: &Diagnostics) -> Outcome {
    scene.container.start()?;
    let told = until(SOON, || events(diagnostics).is_ok_and(|e| !e.is_empty()));
    assert!(told, "{:?}", counted(diagnostics)?);
    Ok(())
}

fn memory_pressure_is_told_to_diagnostics_only(subject: &Subject) -> Outcome {
    let disk = disk()?;
    let spec = short_of_memory(&disk).annotation(ANNOTATION, "on");
    let scene = Scene::created(subject, &spec, StdioKind::Null)?;
    let diagnostics = scene.shim.diagnostics()?;
    assert_eq!(watched(&diagnostics)?, 3);
    under_pressure(&scene, &diagnostics)?;
    let counts = counted(&diagnostics)?.unwrap_or_default();
    assert!(counts.low + counts.medium + counts.critical > 0);
    // However much of it there is, each level is told once in these few seconds.
    std::thread::sleep(Duration::from_millis(300));
    let events = events(&diagnostics)?;
    assert!((1..=3).contains(&events.len()), "{events:?}");
    for event in &events {
        let level = event.text.split(' ').next().unwrap_or_default();
        assert!(["low", "medium", "critical"].contains(&level), "{event:?}");
        assert_eq!(event.container, ID);
    }
    scene.container.kill(9)?;
    scene.container.wait()?;
    // At the end of the container, not of its deletion.
    let released = until(SOON, || watched(&diagnostics).is_ok_and(|n| n == 0));
    assert!(released, "descriptors are left");
    assert!(
        counted(&diagnostics)?.is_some(),
        "the counts are still told"
    );
    scene.world.events.wait_exit(ID, ID)?;
    let mut texts = scene.world.events.texts(ID);
    // Where there is no disk.
    texts.retain(|text| text != "oom");
    assert_eq!(texts, ["create", "start", "exit 137"]);
    scene.finish()
}

/// On v2 from the moment on when the limit is hit.
fn memory_pressure_at_a_limit_is_told_unasked(subject: &Subject) -> Outcome {
    let disk = disk()?;
    let scene = Scene::created(subject, &short_of_memory(&disk), StdioKind::Null)?;
    let diagnostics = scene.shim.diagnostics()?;
    under_pressure(&scene, &diagnostics)?;
    scene.end()
}

fn memory_pressure_of_triggers_is_told(subject: &Subject) -> Outcome {
    let triggers = "critical=some 1 2000000";
    let disk = disk()?;
    let spec = short_of_memory(&disk).annotation(ANNOTATION, triggers);
    let scene = Scene::created(subject, &spec, StdioKind::Null)?;
    let diagnostics = scene.shim.diagnostics()?;
    match counted(&diagnostics)? {
        None => crate::complain("SKIPPED: no pressure stall information, or no cgroup v2"),
        Some(counts) => {
            assert_eq!(counts.source, "psi");
            under_pressure(&scene, &diagnostics)?;
            let events = events(&diagnostics)?;
            assert_eq!(events[0].text, "critical (1 signal)");
        }
    }
    scene.end()
}

fn memory_pressure_is_not_watched_where_it_is_not_wanted(subject: &Subject) -> Outcome {
    let disk = disk()?;
    let spec = short_of_memory(&disk).annotation(ANNOTATION, "off");
    let scene = Scene::created(subject, &spec, StdioKind::Null)?;
    let diagnostics = scene.shim.diagnostics()?;
    scene.container.start()?;
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(
        (watched(&diagnostics)?, events(&diagnostics)?.len()),
        (0, 0)
    );
    assert_eq!(counted(&diagnostics)?, None);
    scene.end()
}

fn a_wrong_setting_of_memory_pressure_is_refused(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::idle().annotation(ANNOTATION, "high"))?;
    let shim = world.start(&bundle)?;
    let refused = shim.create(&bundle, StdioKind::Null);
    assert_refused(refused.map(drop), Code::INVALID_ARGUMENT, ANNOTATION);
    shim.shutdown(ID)?;
    Ok(())
}
