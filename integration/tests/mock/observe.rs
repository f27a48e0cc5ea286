// SPDX-License-Identifier: Apache-2.0
//! What a shim sees by itself: divergence, traces that are exported, recorded conversations.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use integration::mock::api::CreateTaskResponse;
use integration::mock::diagnostics::v1;
use integration::mock::{Diagnostics, Spec, StdioKind, Subject, World, spawn};
use serde_json::Value;

use crate::scene::{ID, Scene};
use crate::{Outcome, Test, ours};

pub(crate) const TESTS: &[Test] = &[
    ours(
        "an_init_that_left_its_cgroup_is_a_divergence_told_once",
        init_that_left_its_cgroup,
    ),
    ours(
        "a_process_left_after_the_exit_is_a_divergence",
        process_left_after_the_exit,
    ),
    ours(
        "a_kill_for_memory_that_is_not_published_is_a_divergence",
        kill_that_is_not_published,
    ),
    ours("agreement_is_silent", agreement_is_silent),
    ours(
        "spans_are_exported_to_a_collector_in_the_callers_trace",
        spans_are_exported,
    ),
    ours(
        "a_collector_that_never_answers_holds_up_no_shutdown",
        silent_collector,
    ),
    ours(
        "a_recorded_conversation_replays_through_the_state_machine",
        record_replays,
    ),
    ours("nothing_is_recorded_if_nothing_shall_be", recording_off),
];

/// A running container in a world that was changed first.
fn scene(subject: &Subject, spec: &Spec, variables: &[(&str, &str)]) -> Result<Scene, Failure> {
    let mut world = World::new(subject)?;
    for (name, value) in variables {
        world.set_environment(name, value);
    }
    let bundle = world.bundle(ID, spec)?;
    let shim = world.start(&bundle)?;
    let container = shim.create(&bundle, StdioKind::Null)?;
    container.start()?;
    Ok(Scene {
        container,
        shim,
        bundle,
        world,
    })
}

type Failure = Box<dyn std::error::Error>;

/// The watchdog looks often.
const OFTEN: (&str, &str) = ("CONTAINERD_SHIM_RUST_WATCHDOG_MS", "20");

/// Divergences after number `since`; waits until there is one.
fn divergences(
    diagnostics: &Diagnostics,
    since: u64,
    wait_ms: u32,
) -> Result<v1::EventsResponse, Failure> {
    let mut request = v1::EventsRequest::new();
    let poll = request.poll.mut_or_insert_default();
    (poll.since, poll.wait_ms) = (since, wait_ms);
    request.kinds.push("divergence".to_owned());
    Ok(diagnostics.call(&request)?)
}

/// The cgroup folders of a container that have processes: all hierarchies that the shim uses.
fn folders(scene: &Scene) -> Vec<std::path::PathBuf> {
    scene.world.cgroup_folders(&scene.bundle)
}

fn init_that_left_its_cgroup(subject: &Subject) -> Outcome {
    let scene = scene(subject, &Spec::idle(), &[OFTEN])?;
    let diagnostics = scene.shim.diagnostics()?;
    for folder in folders(&scene) {
        let parent = folder.parent().ok_or("no parent")?;
        let pid = scene.container.pid.to_string();
        if fs::write(parent.join("cgroup.procs"), &pid).is_err() {
            // v2: what has controllers for those below takes no process itself.
            let beside = parent.join("beside");
            fs::create_dir_all(&beside)?;
            fs::write(beside.join("cgroup.procs"), &pid)?;
        }
    }
    let told = divergences(&diagnostics, 0, 20_000)?;
    let [event] = &told.events[..] else {
        return Err(format!("{told:?}").into());
    };
    assert_eq!(event.container, ID);
    assert!(
        event.text.contains("not in the container's cgroup"),
        "{event:?}"
    );
    // Many looks later it is still told once.
    let again = divergences(&diagnostics, told.polled.next, 200)?;
    assert!(again.events.is_empty(), "{again:?}");
    assert!(scene.bundle.log().contains("divergence: "));
    scene.end()
}

fn process_left_after_the_exit(subject: &Subject) -> Outcome {
    let scene = scene(subject, &Spec::idle(), &[OFTEN])?;
    let diagnostics = scene.shim.diagnostics()?;
    let stranger = spawn(Command::new("sleep").arg("1000"))?;
    for folder in folders(&scene) {
        fs::write(folder.join("cgroup.procs"), stranger.id().to_string())?;
    }
    scene.container.kill(9)?;
    scene.container.wait()?;
    let told = divergences(&diagnostics, 0, 20_000)?;
    assert!(
        told.events[0].text.contains("processes are left"),
        "{told:?}"
    );
    drop(stranger);
    scene.finish()
}

/// A kill is told after TaskStart only: until then it is known, and not published.
fn kill_that_is_not_published(subject: &Subject) -> Outcome {
    let mut world = World::new(subject)?;
    world.set_environment(OFTEN.0, OFTEN.1);
    let limit = serde_json::json!({"limit": 32 << 20, "swap": 32 << 20});
    let spec = Spec::idle().with("/linux/resources/memory", limit);
    let bundle = world.bundle(ID, &spec)?;
    let shim = world.start(&bundle)?;
    let container = shim.create(&bundle, StdioKind::Null)?;
    let diagnostics = shim.diagnostics()?;
    // Not the init: another process in its cgroup, which asks for more than there is.
    let folders = world.cgroup_folders(&bundle);
    let script = format!(
        "for folder in {}; do echo $$ > $folder/cgroup.procs; done; exec tail /dev/zero",
        folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    );
    spawn(Command::new("sh").args(["-c", &script]))?.wait()?;
    let told = divergences(&diagnostics, 0, 20_000)?;
    assert!(
        told.events[0].text.contains("no OOM is published"),
        "{told:?}"
    );
    container.start()?;
    let scene = Scene {
        container,
        shim,
        bundle,
        world,
    };
    scene
        .world
        .events
        .wait(ID, Duration::from_secs(20), |events| {
            events.iter().any(|event| event.to_string().contains("oom"))
        })?;
    scene.end()
}

fn agreement_is_silent(subject: &Subject) -> Outcome {
    let scene = scene(subject, &Spec::idle(), &[OFTEN])?;
    let diagnostics = scene.shim.diagnostics()?;
    for number in 0..4 {
        scene
            .container
            .output_of(&format!("e{number}"), &["true"])?;
    }
    scene.container.kill(9)?;
    scene.container.wait()?;
    let told = divergences(&diagnostics, 0, 150)?;
    assert!(told.events.is_empty(), "{told:?}");
    scene.finish()
}

/// Takes requests until it is dropped; each is told with its head and its body.
fn collector(answer: bool) -> Result<(String, Receiver<(String, Value)>), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            if !answer {
                held.push(stream);
                continue;
            }
            let Ok(request) = take(stream) else { continue };
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    Ok((address, receiver))
}

fn take(mut stream: TcpStream) -> Result<(String, Value), Failure> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let (head, length) = loop {
        let read = stream.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8(std::mem::replace(&mut bytes, rest))?;
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .ok_or("no length")?
                .parse::<usize>()?;
            break (head, length);
        }
        if read == 0 {
            return Err("closed early".into());
        }
    };
    let mut rest = vec![0; length - bytes.len()];
    stream.read_exact(&mut rest)?;
    bytes.extend(rest);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")?;
    Ok((head, serde_json::from_slice(&bytes)?))
}

fn spans_are_exported(subject: &Subject) -> Outcome {
    let (address, requests) = collector(true)?;
    let mut world = World::new(subject)?;
    world.set_environment("OTEL_EXPORTER_OTLP_ENDPOINT", &address);
    world.set_environment("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
    world.set_environment("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc");
    let bundle = world.bundle(ID, &Spec::idle())?;
    let shim = world.start(&bundle)?;
    let mut connection = shim.open_raw()?;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    connection.add_metadata("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"));
    let request = shim.create_request(&bundle, &bundle.stdio(StdioKind::Null)?);
    let limit = Duration::from_secs(20);
    let service = shim.task.service();
    let stream = connection.begin(service, "Create", &request, world.namespace(), limit)?;
    let _: CreateTaskResponse = connection.finish(stream, limit)?;

    let (head, body) = requests.recv_timeout(limit)?;
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nx-token: abc\r\n"), "{head}");
    let resource = &body["resourceSpans"][0];
    let service = &resource["resource"]["attributes"][0];
    assert_eq!(service["key"], "service.name");
    // As the Go shim calls itself.
    let name = format!("containerd-shim-{ID}");
    assert_eq!(service["value"]["stringValue"], name.as_str());
    let spans = resource["scopeSpans"][0]["spans"].as_array();
    let spans = spans.ok_or("no spans")?;
    let create = spans.iter().find(|span| span["name"] == "Create");
    let create = create.ok_or("no Create")?;
    assert_eq!(create["traceId"], trace);
    assert_eq!(create["parentSpanId"], "b7ad6b7169203331");
    let parts = spans
        .iter()
        .filter(|span| span["parentSpanId"] == create["spanId"]);
    assert!(parts.count() >= 5, "the parts of Create");

    // What happened last is sent before the end.
    shim.task.start(ID, "")?;
    let kill = integration::mock::api::KillRequest {
        id: ID.to_owned(),
        signal: 9,
        ..Default::default()
    };
    shim.task.kill(&kill)?;
    shim.task.wait(ID, "")?;
    shim.task.delete(ID, "")?;
    shim.shutdown(ID)?;
    let begun = Instant::now();
    let mut names = Vec::new();
    while !names.iter().any(|name| name == "Delete") && begun.elapsed() < limit {
        let (_, body) = requests.recv_timeout(limit)?;
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].clone();
        let spans = spans.as_array().cloned().unwrap_or_default();
        names.extend(spans.iter().map(|span| span["name"].clone()));
    }
    assert!(names.iter().any(|name| name == "Delete"), "{names:?}");
    Ok(())
}

fn silent_collector(subject: &Subject) -> Outcome {
    let (address, _requests) = collector(false)?;
    let scene = scene(
        subject,
        &Spec::idle(),
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &address)],
    )?;
    scene.container.end()?;
    let begun = Instant::now();
    scene.shim.shutdown(ID)?;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    Ok(())
}

fn record_replays(subject: &Subject) -> Outcome {
    let spec = Spec::idle().annotation("io.containerd.rust.sync-record", "true");
    let scene = scene(subject, &spec, &[])?;
    scene.container.output_of("e1", &["true"])?;
    for name in ["sync-record.jsonl", "sync-record-e1.jsonl"] {
        let text = fs::read_to_string(scene.bundle.path().join(name))?;
        assert_eq!(
            runtime::sync::record::replay(&text)?,
            (1, 1),
            "{name}: {text}"
        );
        assert!(!text.contains("PATH="), "the environment is in {name}");
        // With two messages exchanged it is refused, and the line is named.
        let mut lines: Vec<&str> = text.lines().collect();
        lines.swap(0, 1);
        let swapped = runtime::sync::record::replay(&lines.join("\n"));
        assert!(
            swapped.is_err_and(|e| e.to_string().starts_with("line 1: ")),
            "{name}"
        );
    }
    scene.end()
}

fn recording_off(subject: &Subject) -> Outcome {
    let off = ("CONTAINERD_SHIM_RUST_RECORDING", "off");
    let scene = scene(subject, &Spec::idle(), &[off])?;
    let diagnostics = scene.shim.diagnostics()?;
    assert!(!diagnostics.call(&v1::InfoRequest::new())?.recording);
    let queues = diagnostics.call(&v1::QueuesRequest::new())?;
    for ring in queues.rings.iter().filter(|ring| ring.name != "log") {
        assert_eq!(ring.total, 0, "{ring:?}");
    }
    // Who is who is still told.
    let containers = diagnostics.call(&v1::ContainersRequest::new())?.containers;
    assert_eq!(containers[0].init.state, "running");
    scene.end()
}
