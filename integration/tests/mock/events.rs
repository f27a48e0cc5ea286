// SPDX-License-Identifier: Apache-2.0
//! Events while containerd is away, or hangs.

use std::time::Duration;

use integration::mock::{Code, Spec, StdioKind, Subject, World};

use crate::scene::{ID, Scene};
use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared(
        "exit_while_containerd_is_away",
        exit_while_containerd_is_away,
    ),
    shared(
        "started_while_containerd_is_away",
        started_while_containerd_is_away,
    ),
    ours("long_absence_loses_nothing_and_keeps_order", long_absence),
    ours("hung_containerd_is_survived", hung_containerd),
    ours(
        "requests_are_answered_during_an_absence",
        requests_during_absence,
    ),
];

fn exit_while_containerd_is_away(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene
        .world
        .events
        .wait(ID, Duration::from_secs(5), |events| events.len() == 2)?;
    scene.world.events.stop();
    scene.container.kill(9)?;
    assert_eq!(scene.container.wait()?, 137);
    std::thread::sleep(Duration::from_millis(300));
    scene.world.events.restart()?;
    scene.world.events.wait_exit(ID, ID)?;
    let later = scene.shim.reconnect()?;
    assert_eq!(later.wait(ID, "")?.exit_status, 137);
    assert_eq!(
        scene.world.events.texts(ID),
        ["create", "start", "exit 137"]
    );
    scene.finish()
}

/// The reference may mix up the order here, but it delivers.
fn started_while_containerd_is_away(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    world.events.stop();
    let bundle = world.bundle(ID, &Spec::shell("exit 2"))?;
    let shim = world.start(&bundle)?;
    let container = shim.create(&bundle, StdioKind::Null)?;
    assert_eq!(container.run()?, 2);
    std::thread::sleep(Duration::from_millis(300));
    world.events.restart()?;
    world
        .events
        .wait(ID, Duration::from_secs(20), |events| events.len() >= 3)?;
    let mut texts = world.events.texts(ID);
    texts.sort_unstable();
    assert_eq!(texts, ["create", "exit 2", "start"]);
    Ok(())
}

/// Several containers and execs live and die while nobody listens.
fn long_absence(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene.world.events.stop();
    let mut expected = vec!["create".to_owned(), "start".to_owned()];
    for number in 0..40 {
        let exec = format!("e{number}");
        assert_eq!(
            scene
                .container
                .exec(&exec, &["/bin/true"], StdioKind::Null)?
                .run()?,
            0
        );
        expected.push(format!("added {exec}"));
        expected.push(format!("started {exec}"));
        expected.push(format!("exit of {exec} 0"));
    }
    for number in 0..10 {
        let bundle = scene
            .world
            .bundle(&format!("c{number}"), &Spec::shell("exit 1"))?;
        let container = scene.shim.create(&bundle, StdioKind::Null)?;
        assert_eq!(container.run()?, 1);
        container.delete()?;
    }
    std::thread::sleep(Duration::from_secs(3));
    scene.world.events.restart()?;
    for number in 0..10 {
        let id = format!("c{number}");
        scene.world.events.wait_delete(&id)?;
        assert_eq!(
            scene.world.events.texts(&id),
            ["create", "start", "exit 1", "delete 1"]
        );
    }
    let complete = |events: &[_]| events.len() >= expected.len();
    scene
        .world
        .events
        .wait(ID, Duration::from_secs(10), complete)?;
    assert_eq!(scene.world.events.texts(ID), expected);
    scene.end()
}

/// containerd takes the connection but never answers, then is restarted.
fn hung_containerd(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene
        .world
        .events
        .wait(ID, Duration::from_secs(5), |events| events.len() == 2)?;
    scene.world.events.hang();
    let bundle = scene.world.bundle("other", &Spec::shell("exit 1"))?;
    let container = scene.shim.create(&bundle, StdioKind::Null)?;
    assert_eq!(container.run()?, 1);
    container.delete()?;
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(scene.world.events.texts("other"), [""; 0]);
    scene.world.events.stop();
    scene.world.events.restart()?;
    scene.world.events.wait_delete("other")?;
    assert_eq!(
        scene.world.events.texts("other"),
        ["create", "start", "exit 1", "delete 1"]
    );
    scene.end()
}

/// The reference's queue of 128 fills, and its handlers wait.
fn requests_during_absence(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene.world.events.hang();
    for _ in 0..150 {
        let exec = scene.container.exec("e", &["/bin/true"], StdioKind::Null)?;
        exec.delete()?;
        std::fs::remove_dir_all(scene.world.folder().join("io/main/e"))?;
    }
    let status = scene
        .container
        .exec("last", &["/bin/sh", "-c", "exit 3"], StdioKind::Null)?
        .run()?;
    assert_eq!(status, 3);
    let unknown = scene.shim.task.state("nobody", "");
    assert!(unknown.is_err_and(|error| error.code() == Some(Code::NOT_FOUND)));
    scene.world.events.resume();
    scene.world.events.wait_exit(ID, "last")?;
    assert_eq!(scene.world.events.of(ID).len(), 2 + 150 + 3);
    scene.end()
}
