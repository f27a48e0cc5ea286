// SPDX-License-Identifier: Apache-2.0
//! The service itself: start, protocol, bad clients, deadlines, Shutdown.

use std::time::{Duration, Instant};

use integration::mock::api::{
    ConnectRequest, StartRequest, StateRequest, Status, WaitRequest, WaitResponse,
};
use integration::mock::{
    CallError, Code, Generation, Result, Spec, Stdio, StdioKind, Subject, Task, World,
};

use crate::scene::{
    ID, Scene, assert_events, assert_refused, can_delete_what_was_never_created, until,
};
use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("started_but_never_used", started_but_never_used),
    shared("start_is_silent_and_private", start_is_silent_and_private),
    shared(
        "shutdown_only_without_containers",
        shutdown_only_without_containers,
    ),
    shared(
        "unknown_methods_are_unimplemented",
        unknown_methods_are_unimplemented,
    ),
    ours("a_checkpoint_is_refused_by_name", checkpoint_is_refused),
    shared(
        "oversize_message_harms_nobody",
        oversize_message_harms_nobody,
    ),
    shared("garbage_harms_nobody", garbage_harms_nobody),
    shared("client_that_leaves_mid_call", client_that_leaves_mid_call),
    shared("new_client_finds_everything", new_client_finds_everything),
    ours("every_generation_is_served", every_generation_is_served),
    ours("both_versions_on_one_socket", both_versions_on_one_socket),
    ours(
        "client_that_leaves_during_start",
        client_that_leaves_during_start,
    ),
    ours("wait_with_a_deadline", wait_with_a_deadline),
    ours("oversize_message_is_answered", oversize_message_is_answered),
    ours("answers_while_a_create_hangs", answers_while_a_create_hangs),
    ours(
        "refused_shutdown_is_remembered",
        refused_shutdown_is_remembered,
    ),
];

const PATIENCE: Duration = Duration::from_secs(20);
/// What a client notices as "at once".
const PROMPT: Duration = Duration::from_millis(50);

fn checkpoint_is_refused(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let request = StateRequest {
        id: ID.to_owned(),
        ..Default::default()
    };
    let task = &scene.container.task;
    let refused = task.call::<WaitResponse>(task.service(), "Checkpoint", &request, PATIENCE);
    assert_refused(refused, Code::UNIMPLEMENTED, "checkpoint");
    scene.end()
}

fn started_but_never_used(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::idle())?;
    let shim = world.start(&bundle)?;
    assert_eq!(shim.task.connect(ID)?.shim_pid, shim.pid());
    shim.shutdown(ID)?;
    assert!(!shim.socket().exists(), "the socket is left");
    if can_delete_what_was_never_created(subject) {
        world.delete(&bundle)?;
    }
    assert_eq!(world.events.all().len(), 0);
    Ok(())
}

fn start_is_silent_and_private(subject: &Subject) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::idle())?;
    let shim = world.start(&bundle)?;
    let mode = std::fs::metadata(shim.socket())?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    if subject.generation != Generation::V2_3 {
        assert_eq!(shim.socket(), world.socket(ID));
    }
    if subject.generation.newest_api() == 2 {
        let address = std::fs::read_to_string(bundle.path().join("address"))?;
        assert_eq!(address, shim.reply().address);
    }
    let score = |pid| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    let mine: i32 = score(std::process::id())?.trim().parse()?;
    assert_eq!(
        score(shim.pid())?.trim().parse::<i32>()?,
        (mine + 1).min(1000)
    );
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", shim.pid()))?;
    let group = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(2));
    assert_eq!(
        group,
        Some(shim.pid().to_string().as_str()),
        "process group"
    );
    Ok(())
}

fn every_generation_is_served(subject: &Subject) -> Outcome {
    for generation in Generation::ALL {
        let subject = subject.called_by(generation);
        let scene = Scene::created(&subject, &Spec::shell("exit 8"), StdioKind::Null)?;
        let version = if generation == Generation::V2_3 { 3 } else { 2 };
        assert_eq!(scene.shim.reply().version, version, "{generation:?}");
        let address = std::fs::read_to_string(scene.bundle.path().join("address"))?;
        assert_eq!(address, scene.shim.reply().address, "{generation:?}");
        assert_eq!(scene.container.run()?, 8, "{generation:?}");
        scene.finish()?;
    }
    Ok(())
}

fn both_versions_on_one_socket(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    for version in [2, 3] {
        let task = scene.shim.reconnect_as(version)?;
        let state = task.state(ID, "")?;
        assert_eq!(state.status.enum_value_or(Status::UNKNOWN), Status::RUNNING);
    }
    scene.end()
}

fn shutdown_only_without_containers(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene.shim.task.shutdown(ID)?;
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(scene.container.status()?, Status::RUNNING);
    scene.end()
}

fn refused_shutdown_is_remembered(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene.shim.task.shutdown(ID)?;
    scene.container.kill(9)?;
    scene.container.wait()?;
    scene.container.delete()?;
    scene.shim.process().wait_end(Duration::from_secs(5))?;
    assert!(!scene.shim.socket().exists(), "the socket is left");
    scene.world.events.wait_delete(ID)?;
    Ok(())
}

fn unknown_methods_are_unimplemented(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let task = &scene.shim.task;
    let call = |service: &str, method: &str| -> Result<ConnectRequest> {
        task.call(
            service,
            method,
            &ConnectRequest::new(),
            Duration::from_secs(5),
        )
    };
    assert_refused(call(task.service(), "Levitate"), Code::UNIMPLEMENTED, "");
    assert_refused(
        call("containerd.task.v9.Task", "State"),
        Code::UNIMPLEMENTED,
        "",
    );
    assert_refused(call("", ""), Code::UNIMPLEMENTED, "");
    assert_eq!(scene.container.status()?, Status::RUNNING);
    scene.end()
}

/// Five megabytes, one more than allowed.
fn oversize(scene: &Scene) -> Result<(integration::mock::Connection, u32)> {
    let mut raw = scene.shim.open_raw()?;
    let sent = raw.send_frame(&vec![0; 5 << 20]);
    // A server may hang up before it has read everything.
    let stream = sent.unwrap_or(0);
    Ok((raw, stream))
}

fn oversize_message_harms_nobody(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let (mut raw, stream) = oversize(&scene)?;
    let answer = raw.finish_bytes(stream, Duration::from_secs(5));
    let fine = matches!(answer, Err(CallError::Status { .. } | CallError::Closed(_)));
    assert!(fine, "{answer:?}");
    assert_eq!(scene.container.status()?, Status::RUNNING);
    scene.end()
}

fn oversize_message_is_answered(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let (mut raw, stream) = oversize(&scene)?;
    match raw.finish_bytes(stream, Duration::from_secs(5)) {
        Err(CallError::Status {
            code: Code::INVALID_ARGUMENT | Code::RESOURCE_EXHAUSTED,
            ..
        }) => {}
        answer => return Err(format!("{answer:?}").into()),
    }
    // The connection lives on.
    let stream = raw.begin(
        scene.shim.task.service(),
        "Connect",
        &ConnectRequest {
            id: ID.to_owned(),
            ..Default::default()
        },
        scene.world.namespace(),
        Duration::ZERO,
    )?;
    raw.finish_bytes(stream, Duration::from_secs(5))?;
    scene.end()
}

fn garbage_harms_nobody(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    for body in [&b""[..], b"\xff\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0fx"] {
        let mut raw = scene.shim.open_raw()?;
        let stream = raw.send_frame(body)?;
        let answer = raw.finish_bytes(stream, Duration::from_secs(5));
        let fine = matches!(answer, Err(CallError::Status { .. } | CallError::Closed(_)));
        assert!(fine, "{answer:?}");
    }
    // Half a header, then nothing.
    let mut half = std::os::unix::net::UnixStream::connect(scene.shim.socket())?;
    std::io::Write::write_all(&mut half, &[0, 0, 0])?;
    assert_eq!(scene.container.status()?, Status::RUNNING);
    drop(half);
    assert_eq!(scene.container.status()?, Status::RUNNING);
    scene.end()
}

fn wait_request() -> WaitRequest {
    WaitRequest {
        id: ID.to_owned(),
        ..Default::default()
    }
}

fn client_that_leaves_mid_call(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::idle(), StdioKind::Null)?;
    let service = scene.shim.task.service();
    let namespace = scene.world.namespace();
    for _ in 0..10 {
        let mut raw = scene.shim.open_raw()?;
        for _ in 0..5 {
            raw.begin(service, "Wait", &wait_request(), namespace, Duration::ZERO)?;
        }
        // Something answered shows that the rest was read.
        let request = StateRequest {
            id: ID.to_owned(),
            ..Default::default()
        };
        let stream = raw.begin(service, "State", &request, namespace, Duration::ZERO)?;
        raw.finish_bytes(stream, Duration::from_secs(5))?;
    }
    scene.container.start()?;
    scene.container.kill(9)?;
    assert_eq!(scene.container.wait()?, 137);
    assert_events(&scene.world, ID, &["create", "start", "exit 137"])?;
    scene.finish()
}

/// In the reference the call dies with its connection, and runc with the call.
fn client_that_leaves_during_start(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::idle(), StdioKind::Null)?;
    let (service, namespace) = (scene.shim.task.service(), scene.world.namespace());
    let mut raw = scene.shim.open_raw()?;
    let request = StartRequest {
        id: ID.to_owned(),
        ..Default::default()
    };
    raw.begin(service, "Start", &request, namespace, Duration::ZERO)?;
    drop(raw);
    let running = || matches!(scene.container.status(), Ok(Status::RUNNING));
    assert!(
        until(Duration::from_secs(10), running),
        "{:?}",
        scene.container.status()
    );
    scene.end()
}

/// Without one the reference answers only when the process ends (up to 2.1).
fn wait_with_a_deadline(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let mut raw = scene.shim.open_raw()?;
    let limit = Duration::from_millis(300);
    let begun = Instant::now();
    let (service, namespace) = (scene.shim.task.service(), scene.world.namespace());
    let stream = raw.begin(service, "Wait", &wait_request(), namespace, limit)?;
    match raw.finish_bytes(stream, Duration::from_secs(10)) {
        Err(CallError::Status {
            code: Code::DEADLINE_EXCEEDED,
            ..
        }) => {}
        answer => return Err(format!("{answer:?}").into()),
    }
    assert!(begun.elapsed() >= limit);
    let stream = raw.begin(service, "Wait", &wait_request(), namespace, Duration::ZERO)?;
    scene.container.kill(9)?;
    let answer: WaitResponse = raw.finish(stream, Duration::from_secs(10))?;
    assert_eq!(answer.exit_status, 137);
    scene.finish()
}

fn new_client_finds_everything(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::shell("sleep 0.2; exit 11"), StdioKind::Null)?;
    scene.container.start()?;
    let later: Task = scene.shim.reconnect()?;
    assert_eq!(later.connect(ID)?.task_pid, scene.container.pid);
    assert_eq!(later.wait(ID, "")?.exit_status, 11);
    // Nobody asked while it happened, somebody asks afterwards.
    let latest: Task = scene.shim.reconnect()?;
    assert_eq!(latest.wait(ID, "")?.exit_status, 11);
    assert_eq!(latest.state(ID, "")?.exit_status, 11);
    scene.finish()
}

/// The reference takes a lock for the whole of Create, up to 2.2.
fn answers_while_a_create_hangs(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let logger = logger_that_hangs(&scene.world)?;
    let bundle = scene.world.bundle("slow", &Spec::idle())?;
    let stdio = Stdio::addresses("", &logger, &logger);
    let request = scene.shim.create_request(&bundle, &stdio);
    let create = scene.shim.task.begin(move |task| task.create(&request));
    let trace = scene.world.folder().join("logger-runs");
    assert!(
        until(Duration::from_secs(5), || trace.exists()),
        "the logger did not start"
    );
    let task = &scene.shim.task;
    prompt("State", || task.state(ID, "").map(drop))?;
    prompt("Connect", || task.connect(ID).map(drop))?;
    prompt("Pids", || task.pids(ID).map(drop))?;
    prompt("State of the hanging one", || {
        match task.state("slow", "") {
            Err(error) if error.code() == Some(Code::NOT_FOUND) => Ok(()),
            other => other.map(drop),
        }
    })?;
    assert_eq!(
        scene.container.output_of("e", &["/bin/echo", "hi"])?,
        (0, "hi\n".to_owned())
    );
    let waiting = scene.container.begin_wait();
    scene.container.kill(9)?;
    assert_eq!(waiting.finish()?.exit_status, 137);
    prompt("Wait", || task.wait(ID, "").map(drop))?;
    assert!(!create.is_finished(), "the logger did not hang");
    std::fs::write(scene.world.folder().join("go-on"), "")?;
    create.finish()?;
    task.delete("slow", "")?;
    scene.finish()
}

/// Writes a logger that says "ready" only when a file appears.
fn logger_that_hangs(world: &World) -> std::result::Result<String, Box<dyn std::error::Error>> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = world.folder().display();
    let path = world.folder().join("logger");
    let script = format!(
        "#!{folder}/image/bin/busybox sh\n: >{folder}/logger-runs\n\
         while ! [ -e {folder}/go-on ]; do {folder}/image/bin/busybox sleep 0.02; done\n\
         echo >&5; exec 5>&-; exec {folder}/image/bin/busybox cat <&3 >/dev/null\n"
    );
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(format!("binary://{}", path.display()))
}

/// One of five tries must be prompt: this machine may be busy, a lock stays locked.
fn prompt(what: &str, mut call: impl FnMut() -> Result<()>) -> Outcome {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        call()?;
        best = best.min(begun.elapsed());
    }
    assert!(best < PROMPT, "{what} took {best:?}");
    Ok(())
}
