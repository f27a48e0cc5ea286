// SPDX-License-Identifier: Apache-2.0
//! `trace`: where the time went.

use std::time::Duration;

use integration::mock::api::CreateTaskResponse;
use integration::mock::{Spec, StdioKind, World};
use serde_json::Value;

use super::scene::{Scene, subject};

fn spans(document: &Value) -> &Vec<Value> {
    document["spans"].as_array().unwrap()
}

fn named<'a>(document: &'a Value, name: &str) -> &'a Value {
    let found = spans(document).iter().find(|span| span["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {document:#}"))
}

fn ns(span: &Value) -> u64 {
    span["duration_ns"].as_u64().unwrap()
}

#[test]
fn a_trace_tells_where_create_and_start_spent_their_time() {
    let scene = Scene::idle("traced");
    scene.container.output_of("probe", &["true"]).unwrap();
    let document = scene.shimctl(&["trace", "traced", "--json"]).json();
    assert!(document["container"].as_str().unwrap().ends_with("/traced"));
    let create = named(&document, "Create");
    let parts: Vec<&Value> = spans(&document)
        .iter()
        .filter(|span| span["parent"] == create["id"])
        // It goes on after the answer.
        .filter(|span| span["name"] != "publish /tasks/create")
        .collect();
    assert!(parts.len() >= 5, "{parts:?}");
    let sum: u64 = parts.iter().map(|part| ns(part)).sum();
    assert!(sum <= ns(create), "parts do not overlap");
    assert!(
        sum * 2 > ns(create),
        "and are most of it: {sum} of {create}"
    );
    assert!(!spans(&document).iter().any(|span| span["name"] == "Wait"));

    let text = scene.shimctl(&["trace", "traced"]).ok();
    for word in ["Create", "Start probe", "event start", "short steps"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let all = scene.shimctl(&["trace", "traced", "--all"]).ok();
    assert!(!all.contains("short steps") && all.lines().count() > text.lines().count());
}

#[test]
fn drawings_are_documents_that_need_nothing_else() {
    let scene = Scene::idle("drawn");
    let svg = scene.shimctl(&["trace", "drawn", "--svg"]).ok();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    let page = scene.shimctl(&["trace", "drawn", "--html"]).ok();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains(">Create<"));
    for outside in ["<script", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let trace = scene.shimctl(&["trace", "drawn", "--perfetto"]).json();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(
        events
            .iter()
            .any(|e| e["ph"] == "X" && e["name"] == "Create")
    );
    for event in events {
        assert!(event["ph"].is_string() && event["pid"].is_u64(), "{event}");
        assert!(event["ph"] == "M" || event["ts"].is_number(), "{event}");
    }
    assert_rows_nest(events);
}

/// What a viewer demands of a row: one span is within another or beside it. In whole nanoseconds: a sum of
/// fractions of microseconds may be off by less.
fn assert_rows_nest(events: &[Value]) {
    let whole = |microseconds: f64| (microseconds * 1000.0).round();
    let mut spans: Vec<(u64, f64, f64)> = events
        .iter()
        .filter(|event| event["ph"] == "X")
        .map(|event| {
            let start = event["ts"].as_f64().unwrap();
            let end = start + event["dur"].as_f64().unwrap();
            (event["tid"].as_u64().unwrap(), whole(start), whole(end))
        })
        .collect();
    spans.sort_by(|a, b| {
        let key = |one: &(u64, f64, f64)| (one.0, one.1, -one.2);
        key(a).partial_cmp(&key(b)).unwrap()
    });
    let mut open: Vec<(u64, f64)> = Vec::new();
    for (row, start, end) in spans {
        open.retain(|(other, until)| *other == row && *until > start);
        let around = open.last().copied();
        assert!(
            around.is_none_or(|(_, until)| end <= until),
            "{around:?} {start} {end}"
        );
        open.push((row, end));
    }
}

#[test]
fn a_container_that_is_still_to_come_can_be_watched() {
    let scene = Scene::idle("before");
    let namespace = scene.world.namespace().to_owned();
    let watching = std::thread::spawn(move || {
        let arguments = ["trace", "later", "--for", "20s", "--json"];
        super::scene::said(&namespace, &arguments).json()
    });
    let bundle = scene.world.bundle("later", &Spec::idle()).unwrap();
    let container = scene.shim.create(&bundle, StdioKind::Null).unwrap();
    container.start().unwrap();
    // It is looked for every few milliseconds.
    std::thread::sleep(Duration::from_millis(500));
    container.end().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    // The end of the shim ends the watching.
    scene.container.end().unwrap();
    scene.shim.shutdown("before").unwrap();
    let document = watching.join().unwrap();
    for name in ["Create", "Start", "Delete"] {
        named(&document, name);
    }
}

#[test]
fn the_callers_trace_goes_on_in_ours() {
    let world = World::new(subject()).unwrap();
    let bundle = world.bundle("called", &Spec::idle()).unwrap();
    let shim = world.start(&bundle).unwrap();
    let mut connection = shim.open_raw().unwrap();
    let request = shim.create_request(&bundle, &bundle.stdio(StdioKind::Null).unwrap());
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    connection.add_metadata("traceparent", parent);
    let limit = Duration::from_secs(20);
    let service = "containerd.task.v3.Task";
    let stream = connection.begin(service, "Create", &request, world.namespace(), limit);
    let created: CreateTaskResponse = connection.finish(stream.unwrap(), limit).unwrap();
    assert_ne!(created.pid, 0);
    let arguments = ["trace", "called", "--json"];
    let document = super::scene::said(world.namespace(), &arguments).json();
    let create = named(&document, "Create");
    assert_eq!(create["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(create["remote_parent"], "b7ad6b7169203331");
    let part = named(&document, "clone init");
    assert_eq!(
        part["trace_id"], create["trace_id"],
        "its parts are in it, too"
    );
}
