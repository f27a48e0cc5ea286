// SPDX-License-Identifier: Apache-2.0
//! `delete` after the shim was killed with SIGKILL, in every state.

use std::time::Duration;

use integration::mock::{
    Bundle, Code, Container, Process, Shim, Spec, Stdio, StdioKind, Subject, World,
};

use crate::scene::{
    ID, Scene, assert_ends, assert_nothing_left, can_delete_what_was_never_created, until,
};
use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("killed_after_start", killed_after_start),
    shared(
        "killed_with_created_container",
        killed_with_created_container,
    ),
    shared(
        "killed_with_running_container",
        killed_with_running_container,
    ),
    shared("killed_with_execs", killed_with_execs),
    shared("killed_with_paused_container", killed_with_paused_container),
    shared(
        "killed_with_stopped_container",
        killed_with_stopped_container,
    ),
    shared(
        "killed_with_shared_pid_namespace",
        killed_with_shared_pid_namespace,
    ),
    shared("stale_socket_is_replaced", stale_socket_is_replaced),
    ours("killed_during_create", killed_during_create),
    ours("delete_is_silent", delete_is_silent),
];

/// Kills the shim, runs `delete`, and looks for what is left.
fn crash(scene: &Scene, processes: &[Process]) -> Outcome {
    scene.shim.kill()?;
    let deletion = scene.world.delete(&scene.bundle)?;
    assert_eq!(deletion.response.exit_status, 137);
    assert!(deletion.response.exited_at.seconds > 0, "no time of exit");
    for process in processes {
        assert_ends(process);
    }
    assert_nothing_left(&scene.world, &scene.bundle);
    // The daemon may run it again.
    scene.world.delete(&scene.bundle)?;
    Ok(())
}

fn init(container: &Container) -> integration::mock::Result<Process> {
    Process::open(container.pid)
}

fn killed_after_start(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::idle())?;
    world.start(&bundle)?.kill()?;
    if can_delete_what_was_never_created(subject) {
        assert_eq!(world.delete(&bundle)?.response.exit_status, 137);
    }
    assert_nothing_left(&world, &bundle);
    Ok(())
}

fn killed_with_created_container(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::idle(), StdioKind::Full)?;
    let init = init(&scene.container)?;
    crash(&scene, &[init])
}

fn killed_with_running_container(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::idle(), StdioKind::Full)?;
    scene.container.start()?;
    let init = init(&scene.container)?;
    crash(&scene, &[init])
}

fn killed_with_execs(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let exec = scene
        .container
        .exec("e", &["/bin/sleep", "1000"], StdioKind::Full)?;
    let exec = Process::open(exec.start()?)?;
    let init = init(&scene.container)?;
    crash(&scene, &[init, exec])
}

fn killed_with_paused_container(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    match scene.shim.task.pause(ID) {
        // Comes with cgroups; then there is nothing to see here yet.
        Err(error) if subject.is_ours() && error.code() == Some(Code::UNIMPLEMENTED) => {
            return scene.end();
        }
        result => result?,
    }
    let init = init(&scene.container)?;
    crash(&scene, &[init])
}

fn killed_with_stopped_container(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::shell("exit 4"), StdioKind::Null)?;
    assert_eq!(scene.container.run()?, 4);
    crash(&scene, &[])
}

fn killed_with_shared_pid_namespace(subject: &Subject) -> Outcome {
    let spec = Spec::shell("sleep 1000 & echo up; wait").without_namespace("pid");
    let scene = Scene::created(subject, &spec, StdioKind::Output)?;
    scene.container.start()?;
    scene.container.io.out.wait_text("up")?;
    let pids = scene.shim.task.pids(ID)?;
    let processes: Vec<Process> = pids
        .iter()
        .map(|pid| Process::open(*pid))
        .collect::<Result<_, _>>()?;
    assert_eq!(processes.len(), 2);
    crash(&scene, &processes)
}

fn stale_socket_is_replaced(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::shell("exit 1"))?;
    let first: Shim = world.start(&bundle)?;
    first.kill()?;
    assert!(first.socket().exists(), "nobody could have removed it");
    let second = world.start(&bundle)?;
    assert_ne!(first.pid(), second.pid());
    assert_eq!(second.create(&bundle, StdioKind::Null)?.run()?, 1);
    Ok(())
}

/// The logger never says that it is ready, so Create has made some things and not others.
fn killed_during_create(subject: &Subject) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new(subject)?;
    let bundle: Bundle = world.bundle(ID, &Spec::idle())?;
    let shim = world.start(&bundle)?;
    let (folder, logger) = (world.folder().display(), world.folder().join("logger"));
    let busybox = format!("{folder}/image/bin/busybox");
    let script = format!("#!{busybox} sh\n: >{folder}/runs\nexec {busybox} sleep 1000\n");
    std::fs::write(&logger, script)?;
    std::fs::set_permissions(&logger, std::fs::Permissions::from_mode(0o755))?;
    let address = format!("binary://{}", logger.display());
    let request = shim.create_request(&bundle, &Stdio::addresses("", &address, &address));
    let create = shim.task.begin(move |task| task.create(&request));
    let runs = world.folder().join("runs");
    assert!(
        until(Duration::from_secs(5), || runs.exists()),
        "the logger did not start"
    );
    shim.kill()?;
    assert!(create.finish().is_err());
    assert_eq!(world.delete(&bundle)?.response.exit_status, 137);
    assert_nothing_left(&world, &bundle);
    Ok(())
}

/// containerd logs what it says as a warning.
fn delete_is_silent(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene.shim.kill()?;
    for _ in 0..3 {
        assert_eq!(scene.world.delete(&scene.bundle)?.stderr, "");
    }
    let empty = scene.world.bundle("never", &Spec::idle())?;
    assert_eq!(scene.world.delete(&empty)?.stderr, "");
    std::fs::remove_file(empty.path().join("config.json"))?;
    assert_eq!(scene.world.delete(&empty)?.stderr, "");
    Ok(())
}
