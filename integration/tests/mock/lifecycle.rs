// SPDX-License-Identifier: Apache-2.0
//! A container's life: states, events in order, exit statuses.

use integration::mock::api::Status;
use integration::mock::{Code, Event, Process, Spec, StdioKind, Subject, World};

use crate::scene::{ID, Scene, assert_ends, assert_events, assert_nothing_left, assert_refused};
use crate::{Outcome, Test, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("life_in_order", life_in_order),
    shared("exit_statuses_of_init", exit_statuses_of_init),
    shared("signals_end_init", signals_end_init),
    shared("killed_before_start", killed_before_start),
    shared("deleted_before_start", deleted_before_start),
    shared(
        "short_processes_are_never_missed",
        short_processes_are_never_missed,
    ),
    shared("one_exit_time_everywhere", one_exit_time_everywhere),
    shared("many_wait_for_one_exit", many_wait_for_one_exit),
    shared("kill_all_ends_every_process", kill_all_ends_every_process),
    shared("failed_create_leaves_nothing", failed_create_leaves_nothing),
];

fn life_in_order(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::shell("exit 3"), StdioKind::Null)?;
    let Scene {
        container,
        shim,
        bundle,
        world,
    } = &scene;
    assert_eq!(container.status()?, Status::CREATED);
    assert_eq!(shim.task.connect(ID)?.task_pid, container.pid);
    let state = shim.task.state(ID, "")?;
    assert_eq!((state.id.as_str(), state.pid), (ID, container.pid));
    assert_eq!(state.bundle, bundle.path().display().to_string());
    assert_eq!(container.start()?, container.pid);
    assert_eq!(container.wait()?, 3);
    assert_eq!(container.status()?, Status::STOPPED);
    world.events.wait_exit(ID, ID)?;
    let deleted = container.delete()?;
    assert_eq!((deleted.pid, deleted.exit_status), (container.pid, 3));
    assert_refused(
        container.status(),
        Code::NOT_FOUND,
        "container not created: not found",
    );
    let (id, process, pid) = (ID.to_owned(), ID.to_owned(), container.pid);
    let events = world.events.wait_delete(ID)?;
    assert_eq!(
        events,
        [
            Event::Create {
                id: id.clone(),
                pid
            },
            Event::Start {
                id: id.clone(),
                pid
            },
            Event::Exit {
                id: id.clone(),
                process,
                pid,
                status: 3
            },
            // Empty in the Go shim too.
            Event::Delete {
                id,
                process: String::new(),
                pid,
                status: 3
            },
        ]
    );
    shim.shutdown(ID)?;
    assert!(!shim.socket().exists(), "the socket is left");
    assert_eq!(world.shim_processes().len(), 0);
    world.delete(bundle)?;
    assert_nothing_left(world, bundle);
    assert_eq!(world.events.refused(), [""; 0]);
    Ok(())
}

/// Containers after each other in one shim, which a holder keeps alive.
fn exit_statuses_of_init(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let holder = world.bundle("holder", &Spec::pod_sandbox("holder"))?;
    let shim = world.start(&holder)?;
    shim.create(&holder, StdioKind::Null)?.start()?;
    for status in [0, 1, 42, 126, 127, 128, 137, 255] {
        let id = format!("exit-{status}");
        let bundle = world.bundle(&id, &Spec::shell(&format!("exit {status}")))?;
        let container = shim.create(&bundle, StdioKind::Null)?;
        assert_eq!(container.run()?, status);
        assert_eq!(container.delete()?.exit_status, status);
        let (exit, delete) = (format!("exit {status}"), format!("delete {status}"));
        assert_events(&world, &id, &["create", "start", &exit, &delete])?;
        assert_nothing_left(&world, &bundle);
    }
    Ok(())
}

fn signals_end_init(subject: &Subject) -> Outcome {
    // Init of a PID namespace ignores what it has no handler for: only SIGKILL, or a handler.
    let killed = Scene::idle(subject)?;
    killed.container.kill(9)?;
    assert_eq!(killed.container.wait()?, 137);
    killed.finish()?;
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let asked = Scene::created(subject, &Spec::shell(script), StdioKind::Output)?;
    asked.container.start()?;
    asked.container.io.out.wait_text("ready")?;
    asked.container.kill(15)?;
    assert_eq!(asked.container.wait()?, 5);
    asked.finish()?;
    let shared = Spec::shell("kill -TERM $$; sleep 100").without_namespace("pid");
    let scene = Scene::created(subject, &shared, StdioKind::Null)?;
    assert_eq!(scene.container.run()?, 143);
    scene.finish()
}

fn killed_before_start(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::idle(), StdioKind::Null)?;
    scene.container.kill(9)?;
    assert_eq!(scene.container.wait()?, 137);
    scene.world.events.wait_exit(ID, ID)?;
    assert_eq!(scene.container.delete()?.exit_status, 137);
    assert_events(&scene.world, ID, &["create", "exit 137", "delete 137"])?;
    scene.shim.shutdown(ID)?;
    assert_nothing_left(&scene.world, &scene.bundle);
    Ok(())
}

fn deleted_before_start(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::idle(), StdioKind::Null)?;
    let init = Process::open(scene.container.pid)?;
    scene.container.delete()?;
    assert_ends(&init);
    // Whether there is an exit before is left open by the reference.
    scene.world.events.wait_delete(ID)?;
    let texts = scene.world.events.texts(ID);
    assert_eq!(
        texts.first().map(String::as_str),
        Some("create"),
        "{texts:?}"
    );
    scene.shim.shutdown(ID)?;
    assert_nothing_left(&scene.world, &scene.bundle);
    Ok(())
}

fn short_processes_are_never_missed(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let holder = world.bundle("holder", &Spec::pod_sandbox("holder"))?;
    let shim = world.start(&holder)?;
    shim.create(&holder, StdioKind::Null)?.start()?;
    for round in 0..25 {
        let id = format!("short-{round}");
        let bundle = world.bundle(&id, &Spec::new(&["/bin/true"]))?;
        let container = shim.create(&bundle, StdioKind::Null)?;
        let waiting = container.begin_wait();
        assert_ne!(container.start()?, 0);
        assert_eq!(waiting.finish()?.exit_status, 0);
        container.delete()?;
        assert_events(&world, &id, &["create", "start", "exit 0", "delete 0"])?;
        world.remove(bundle);
    }
    Ok(())
}

/// containerd's clients show it, and tell "not yet" by Go's zero time.
fn one_exit_time_everywhere(subject: &Subject) -> Outcome {
    const GO_ZERO: i64 = -62_135_596_800;
    let scene = Scene::created(subject, &Spec::new(&["/bin/true"]), StdioKind::Null)?;
    let before = scene.shim.task.state(ID, "")?.exited_at;
    assert!(
        before.as_ref().is_none_or(|time| time.seconds == GO_ZERO),
        "{before:?}"
    );
    scene.container.start()?;
    let waited = scene.shim.task.wait(ID, "")?.exited_at;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let seconds = waited.as_ref().map_or(0, |time| time.seconds);
    assert!(seconds.abs_diff(i64::try_from(now)?) < 60, "{waited:?}");
    assert_eq!(scene.shim.task.state(ID, "")?.exited_at, waited);
    assert_eq!(scene.shim.task.wait(ID, "")?.exited_at, waited);
    assert_eq!(scene.container.delete()?.exited_at, waited);
    Ok(())
}

fn many_wait_for_one_exit(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let other = scene.shim.reconnect()?;
    let waiting: Vec<_> = (0..20)
        .map(|number| {
            if number % 2 == 0 {
                &scene.shim.task
            } else {
                &other
            }
        })
        .map(|task| task.begin_wait(ID, ""))
        .collect();
    assert_eq!(scene.container.status()?, Status::RUNNING);
    assert!(
        waiting.iter().all(|call| !call.is_finished()),
        "answered too early"
    );
    scene.container.kill(9)?;
    for call in waiting {
        assert_eq!(call.finish()?.exit_status, 137);
    }
    scene.finish()
}

fn kill_all_ends_every_process(subject: &Subject) -> Outcome {
    let script = "sleep 1000 & sleep 1000 & echo ready; wait";
    let spec = Spec::shell(script).without_namespace("pid");
    let scene = Scene::created(subject, &spec, StdioKind::Output)?;
    scene.container.start()?;
    scene.container.io.out.wait_text("ready")?;
    let pids = scene.shim.task.pids(ID)?;
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.contains(&scene.container.pid), "{pids:?}");
    let processes: Vec<Process> = pids
        .iter()
        .map(|pid| Process::open(*pid))
        .collect::<Result<_, _>>()?;
    scene.container.kill_all(9)?;
    assert_eq!(scene.container.wait()?, 137);
    for process in processes {
        assert_ends(&process);
    }
    scene.finish()
}

fn failed_create_leaves_nothing(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::new(&["/no/such/program"]))?;
    let shim = world.start(&bundle)?;
    // An embedded runtime may find out at Create, or only at Start.
    let outcome = shim
        .create(&bundle, StdioKind::Null)
        .and_then(|container| container.start());
    let Err(error) = outcome else {
        return Err("a missing program was started".into());
    };
    assert_eq!(error.code(), Some(Code::UNKNOWN), "{error}");
    let text = error.message();
    assert!(text.contains("/no/such/program"), "{text}");
    assert!(text.contains("no such file or directory"), "{text}");
    // As the daemon does.
    let _ = shim.task.delete(ID, "");
    shim.shutdown(ID)?;
    world.delete(&bundle)?;
    assert_nothing_left(&world, &bundle);
    let texts = world.events.texts(ID);
    assert!(!texts.iter().any(|text| text == "start"), "{texts:?}");
    Ok(())
}
