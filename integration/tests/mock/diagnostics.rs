// SPDX-License-Identifier: Apache-2.0
//! What a shim tells about itself.

use std::time::{Duration, Instant};

use integration::mock::diagnostics::v1;
use integration::mock::{Code, Diagnostics, Result, Spec, StdioKind, Subject, World};

use crate::scene::{ID, Scene, assert_refused};
use crate::{Outcome, Test, ours};

pub(crate) const TESTS: &[Test] = &[
    ours("diagnostics_name_the_shim", name_the_shim),
    ours("diagnostics_show_every_process", show_every_process),
    ours("diagnostics_trace_a_container", trace_a_container),
    ours("diagnostics_number_events", number_events),
    ours("diagnostics_wait_for_what_comes", wait_for_what_comes),
    ours("diagnostics_record_the_sync_socket", record_the_sync_socket),
    ours("diagnostics_explain_a_failure", explain_a_failure),
    ours(
        "diagnostics_show_what_the_shim_holds",
        show_what_the_shim_holds,
    ),
    ours("diagnostics_change_the_log_level", change_the_log_level),
    ours(
        "diagnostics_answer_while_containerd_is_gone",
        answer_while_containerd_is_gone,
    ),
];

fn name_the_shim(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let info = diagnostics.call(&v1::InfoRequest::new())?;
    assert_eq!(info.pid as u32, scene.shim.pid());
    assert_eq!(info.id, ID);
    assert!(info.uptime_ns > 0 && info.now_unix_ns > info.started_unix_ns);
    assert_refused(containers(&diagnostics, "nobody"), Code::NOT_FOUND, "");
    scene.end()
}

fn containers(diagnostics: &Diagnostics, id: &str) -> Result<v1::ContainersResponse> {
    let mut request = v1::ContainersRequest::new();
    request.container = id.to_owned();
    diagnostics.call(&request)
}

fn show_every_process(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let exec = scene
        .container
        .exec("e1", &["sh", "-c", "exit 3"], StdioKind::Null)?;
    let created = containers(&diagnostics, ID)?;
    assert_eq!(created.containers[0].execs[0].state, "created");
    exec.start()?;
    exec.wait()?;
    let answer = containers(&diagnostics, "")?;
    let [container] = &answer.containers[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(container.id, ID);
    assert_eq!(container.init.state, "running");
    assert_eq!(container.init.pid as u32, scene.container.pid);
    assert!(container.init.started_unix_ns >= container.created_unix_ns);
    assert!(!container.cgroups.is_empty());
    let exec_seen = &container.execs[0];
    assert_eq!(
        (exec_seen.exec.as_str(), exec_seen.state.as_str()),
        ("e1", "stopped")
    );
    assert_eq!(exec_seen.exit_status, 3);
    assert!(exec_seen.exited_unix_ns >= exec_seen.started_unix_ns);
    exec.delete()?;
    scene.end()
}

fn spans(diagnostics: &Diagnostics, poll: v1::Poll) -> Result<v1::SpansResponse> {
    let mut request = v1::SpansRequest::new();
    request.poll = Some(poll).into();
    request.active = true;
    diagnostics.call(&request)
}

fn poll_of(container: &str) -> v1::Poll {
    let mut poll = v1::Poll::new();
    poll.container = container.to_owned();
    poll
}

fn trace_a_container(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let spans = spans(&diagnostics, poll_of(ID))?.spans;
    let by_name = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no span {name:?} in {spans:?}"))
    };
    let create = by_name("Create");
    assert!(!create.failed && create.parent == 0 && create.container == ID);
    let end = |span: &v1::Span| span.start_mono_ns + span.duration_ns;
    for part in [
        "check spec",
        "plan",
        "make cgroup",
        "clone init",
        "wait for init",
    ] {
        let span = by_name(part);
        assert_eq!(span.parent, create.id, "{part}");
        assert!(span.start_mono_ns >= create.start_mono_ns, "{part}");
        assert!(end(span) <= end(create), "{part}");
    }
    let (waiting, init) = (by_name("wait for init"), by_name("init"));
    assert_eq!(init.parent, waiting.id);
    let steps: Vec<_> = spans.iter().filter(|span| span.parent == init.id).collect();
    assert!(steps.len() > 20, "{} steps", steps.len());
    assert!(steps.iter().any(|step| step.name == "pivot root"));
    let sum: u64 = steps.iter().map(|step| step.duration_ns).sum();
    assert_eq!(sum, init.duration_ns, "the steps are all of init");
    assert_eq!(by_name("Start").parent, 0);
    scene.end()
}

fn events_after(
    diagnostics: &Diagnostics,
    poll: v1::Poll,
    kinds: &[&str],
) -> Result<v1::EventsResponse> {
    let mut request = v1::EventsRequest::new();
    request.poll = Some(poll).into();
    request.kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    diagnostics.call(&request)
}

fn number_events(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let (status, _) = scene.container.output_of("e1", &["sh", "-c", "exit 3"])?;
    assert_eq!(status, 3);
    let all = events_after(&diagnostics, poll_of(ID), &[])?;
    let kinds: Vec<_> = all.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        ["create", "start", "exec-added", "exec-started", "exit"]
    );
    assert_eq!(
        (all.events[4].exec.as_str(), all.events[4].exit_status),
        ("e1", 3)
    );
    assert_eq!((all.polled.next, all.polled.lost), (5, 0));
    let mut since = poll_of("");
    since.since = 2;
    let some = events_after(&diagnostics, since, &["exit"])?;
    assert_eq!((some.events.len(), some.events[0].number), (1, 5));
    scene.end()
}

fn wait_for_what_comes(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let mut nothing = poll_of("");
    (nothing.from_now, nothing.wait_ms) = (true, 150);
    let begun = Instant::now();
    assert!(
        events_after(&diagnostics, nothing.clone(), &[])?
            .events
            .is_empty()
    );
    assert!(begun.elapsed() >= Duration::from_millis(150));

    let mut exits = poll_of(ID);
    (exits.since, exits.wait_ms) = (2, 30_000);
    let waiting = std::thread::spawn(move || {
        let answer = events_after(&diagnostics, exits, &["exit"])?;
        Ok::<_, integration::mock::Error>(answer)
    });
    // Events of another kind do not end the wait.
    let (_, _) = scene.container.output_of("e1", &["true"])?;
    let answer = waiting
        .join()
        .map_err(|_| "the waiting thread panicked")??;
    assert_eq!(answer.events[0].exec, "e1");
    assert!(begun.elapsed() < Duration::from_secs(20));
    scene.end()
}

fn record_the_sync_socket(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let mut request = v1::SyncMessagesRequest::new();
    request.poll = Some(poll_of(ID)).into();
    let messages = diagnostics.call(&request)?.messages;
    let said: Vec<_> = messages
        .iter()
        .map(|message| (message.from_init, message.kind.as_str()))
        .collect();
    assert_eq!(said.first(), Some(&(false, "Plan")));
    let ready = said.iter().position(|said| *said == (true, "Ready"));
    assert!(ready.is_some(), "{said:?}");
    assert_eq!(
        said[said.len() - 3..],
        [(false, "Run"), (true, "Executing"), (true, "End")]
    );
    assert!(messages[0].descriptors.iter().any(|kind| kind == "log"));
    assert!(
        messages
            .iter()
            .all(|message| !message.refused && message.errno == 0)
    );
    assert_eq!(messages[0].pid as u32, scene.container.pid);
    scene.end()
}

fn explain_a_failure(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let spec = Spec::new(&["/does/not/exist"]);
    let bundle = world.bundle(ID, &spec)?;
    let shim = world.start(&bundle)?;
    let failed = shim.create(&bundle, StdioKind::Null);
    assert!(failed.is_err());
    let diagnostics = shim.diagnostics()?;
    let spans = spans(&diagnostics, poll_of(ID))?.spans;
    let failing: Vec<_> = spans
        .iter()
        .filter(|span| span.failed)
        .map(|s| s.name.as_str())
        .collect();
    assert!(failing.contains(&"find program"), "{failing:?}");
    assert!(failing.contains(&"Create"), "{failing:?}");
    let text = std::fs::read_to_string(bundle.path().join("log.json"))?;
    assert!(
        text.contains("\"level\":\"error\"") && text.contains("/does/not/exist"),
        "{text}"
    );
    let mut log = v1::LogRequest::new();
    log.poll = Some(poll_of(ID)).into();
    log.level = "error".to_owned();
    let lines = diagnostics.call(&log)?.lines;
    assert!(
        lines
            .iter()
            .any(|l| l.line.contains("find program") && l.line.contains("FAILED"))
    );
    shim.shutdown(ID)?;
    Ok(())
}

fn show_what_the_shim_holds(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let descriptors = diagnostics
        .call(&v1::DescriptorsRequest::new())?
        .descriptors;
    let purposes = |what: &str| descriptors.iter().filter(|d| d.purpose == what).count();
    assert_eq!((purposes("listener"), purposes("reactor")), (1, 1));
    assert!(purposes("connection") >= 2);
    let own = std::process::id() as i32;
    assert!(
        descriptors
            .iter()
            .any(|d| d.purpose == "connection" && d.peer_pid == own)
    );
    assert!(
        descriptors
            .iter()
            .any(|d| d.kind == "pidfd" && d.container == ID)
    );
    let threads = diagnostics.call(&v1::ThreadsRequest::new())?.threads;
    assert_eq!(threads[0].id as u32, scene.shim.pid());
    let queues = diagnostics.call(&v1::QueuesRequest::new())?;
    assert_eq!(queues.rings.len(), 4);
    assert!(queues.publisher.published >= 2);
    let stats = diagnostics.call(&v1::StatsRequest::new())?.stats;
    assert_eq!((stats.len(), stats[0].container.as_str()), (1, ID));
    assert!(
        stats[0].cpu.usage_ns > 0 || stats[0].pids.current > 0,
        "{stats:?}"
    );
    scene.end()
}

fn change_the_log_level(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let mut request = v1::SetLogLevelRequest::new();
    request.level = "debug".to_owned();
    let before = diagnostics.call(&request)?.previous;
    assert_eq!(
        diagnostics.call(&v1::LogLevelRequest::new())?.level,
        "debug"
    );
    let (_, _) = scene.container.output_of("e1", &["true"])?;
    let mut log = v1::LogRequest::new();
    log.poll = Some(poll_of(ID)).into();
    let lines = diagnostics.call(&log)?.lines;
    // A line of the exec's own init, through the pipe.
    let of_init = |line: &&v1::LogLine| line.exec == "e1" && line.line.contains("step=");
    assert!(lines.iter().find(of_init).is_some(), "{lines:?}");
    request.level = "loud".to_owned();
    assert_refused(diagnostics.call(&request), Code::INVALID_ARGUMENT, "loud");
    request.level = before;
    diagnostics.call(&request)?;
    scene.end()
}

fn answer_while_containerd_is_gone(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    scene.world.events.stop();
    let diagnostics = scene.shim.diagnostics()?;
    let (_, _) = scene.container.output_of("e1", &["true"])?;
    let begun = Instant::now();
    let queues = diagnostics.call(&v1::QueuesRequest::new())?;
    diagnostics.call(&v1::DescriptorsRequest::new())?;
    diagnostics.call(&v1::ThreadsRequest::new())?;
    containers(&diagnostics, "")?;
    spans(&diagnostics, poll_of(""))?;
    // The promise is 100 ms for each; a loaded machine may take longer.
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    assert!(queues.publisher.pending > 0, "{queues:?}");
    scene.world.events.restart()?;
    scene.end()
}
