// SPDX-License-Identifier: Apache-2.0
//! What is refused in which state, with which code and text. Clients match on both.

use integration::mock::api::Status;
use integration::mock::{Code, Spec, StdioKind, Subject};

use crate::scene::{ID, Scene, assert_events, assert_refused};
use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("unknown_container", unknown_container),
    shared("created_refuses", created_refuses),
    shared("running_refuses", running_refuses),
    shared("stopped_refuses", stopped_refuses),
    shared("exec_refuses", exec_refuses),
    ours("exec_start_after_init_exit", exec_start_after_init_exit),
    ours("second_create_already_exists", second_create_already_exists),
];

fn unknown_container(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let task = &scene.shim.task;
    let text = "container not created: not found";
    let id = "nobody";
    let kill = integration::mock::api::KillRequest {
        id: id.to_owned(),
        signal: 9,
        ..Default::default()
    };
    assert_refused(task.state(id, ""), Code::NOT_FOUND, text);
    assert_refused(task.start(id, ""), Code::NOT_FOUND, text);
    assert_refused(task.wait(id, ""), Code::NOT_FOUND, text);
    assert_refused(task.kill(&kill), Code::NOT_FOUND, text);
    assert_refused(task.delete(id, ""), Code::NOT_FOUND, text);
    assert_refused(task.pids(id), Code::NOT_FOUND, text);
    assert_refused(task.resize(id, "", 80, 25), Code::NOT_FOUND, text);
    assert_refused(task.close_io(id, ""), Code::NOT_FOUND, text);
    // Never refused.
    let connect = task.connect(id)?;
    assert_eq!((connect.shim_pid, connect.task_pid), (scene.shim.pid(), 0));
    task.shutdown(id)?;
    assert_eq!(scene.container.status()?, Status::RUNNING);
    scene.end()
}

fn created_refuses(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::idle(), StdioKind::Null)?;
    let task = &scene.shim.task;
    let missing = "process does not exist ghost: not found";
    assert_refused(task.state(ID, "ghost"), Code::NOT_FOUND, missing);
    assert_refused(task.start(ID, "ghost"), Code::NOT_FOUND, missing);
    assert_refused(task.delete(ID, "ghost"), Code::NOT_FOUND, missing);
    // Nothing open, nothing wrong.
    task.resize(ID, "", 80, 25)?;
    task.close_io(ID, "")?;
    task.close_io(ID, "")?;
    scene.end()
}

fn running_refuses(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let (task, container) = (&scene.shim.task, &scene.container);
    assert_refused(
        container.start(),
        Code::UNKNOWN,
        "cannot start a running process",
    );
    assert_refused(
        container.delete(),
        Code::UNKNOWN,
        "cannot delete a running process",
    );
    assert_eq!(task.pids(ID)?, [container.pid]);
    let request = scene.shim.create_request(&scene.bundle, &container.io);
    assert!(task.create(&request).is_err(), "created twice");
    assert_eq!(container.status()?, Status::RUNNING);
    assert_events(&scene.world, ID, &["create", "start"])?;
    scene.end()
}

fn stopped_refuses(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::new(&["/bin/true"]), StdioKind::Null)?;
    let container = &scene.container;
    container.run()?;
    assert_refused(
        container.start(),
        Code::UNKNOWN,
        "cannot start a stopped process",
    );
    assert_refused(
        container.kill(9),
        Code::NOT_FOUND,
        "process already finished: not found",
    );
    assert_refused(
        container.kill(15),
        Code::NOT_FOUND,
        "process already finished: not found",
    );
    let exec = container.exec("late", &["/bin/true"], StdioKind::Null);
    assert_refused(exec, Code::UNKNOWN, "cannot exec in a stopped state");
    container.delete()?;
    assert_refused(
        container.delete(),
        Code::NOT_FOUND,
        "container not created: not found",
    );
    Ok(())
}

fn exec_refuses(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let container = &scene.container;
    let exec = container.exec("one", &["/bin/sleep", "1000"], StdioKind::Null)?;
    assert_refused(
        container.exec("one", &["/bin/true"], StdioKind::Null),
        Code::ALREADY_EXISTS,
        "id one: already exists",
    );
    assert_refused(
        exec.kill(9),
        Code::FAILED_PRECONDITION,
        "process not created: failed precondition",
    );
    exec.start()?;
    assert_refused(
        exec.delete(),
        Code::UNKNOWN,
        "cannot delete a running process",
    );
    exec.kill(9)?;
    assert_eq!(exec.wait()?, 137);
    assert_refused(
        exec.kill(9),
        Code::NOT_FOUND,
        "process already finished: not found",
    );
    exec.delete()?;
    assert_refused(
        exec.status(),
        Code::NOT_FOUND,
        "process does not exist one: not found",
    );
    scene.end()
}

/// Releases of the reference before 2.0 try, and fail with runc's text.
fn exec_start_after_init_exit(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let exec = scene
        .container
        .exec("late", &["/bin/true"], StdioKind::Null)?;
    scene.container.kill(9)?;
    scene.container.wait()?;
    let text = "container main init process is not running: failed precondition";
    assert_refused(exec.start(), Code::FAILED_PRECONDITION, text);
    assert!(
        !scene
            .world
            .events
            .texts(ID)
            .iter()
            .any(|text| text.starts_with("started"))
    );
    Ok(())
}

/// The reference fails too, but says Unknown, after having touched the rootfs.
fn second_create_already_exists(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let request = scene
        .shim
        .create_request(&scene.bundle, &scene.container.io);
    let mounts = scene.world.traces(&scene.bundle);
    let text = "container with given ID already exists";
    assert_refused(scene.shim.task.create(&request), Code::ALREADY_EXISTS, text);
    assert_eq!(scene.world.traces(&scene.bundle), mounts);
    scene.end()
}
