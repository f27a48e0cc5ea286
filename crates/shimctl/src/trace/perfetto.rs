// SPDX-License-Identifier: Apache-2.0
//! A trace for <https://ui.perfetto.dev> and chrome://tracing, in the JSON that both read.

use serde_json::{Value, json};

use super::record::Record;
use crate::show::sync;

/// One "process" for each kind of row.
const SHIM: u32 = 1;
const SYNC: u32 = 2;
const USE: u32 = 3;

pub(crate) fn render(record: &Record) -> Value {
    // Microseconds, as the format wants them.
    let at = |mono_ns: u64| mono_ns as f64 / 1000.0;
    let mut all = vec![
        name(
            "process_name",
            SHIM,
            0,
            &format!("{} ({})", record.name, record.shim),
        ),
        name("process_name", SYNC, 0, "sync socket"),
        name("process_name", USE, 0, "use"),
        name("thread_name", SHIM, 0, "container"),
        name("thread_name", SYNC, 1, "shim to init"),
        name("thread_name", SYNC, 2, "init to shim"),
    ];
    let mut rows: Vec<&str> = vec![""];
    for span in &record.spans {
        // Execs overlap with each other: each has a row of its own.
        let row = rows.iter().position(|exec| *exec == span.exec);
        let row = row.unwrap_or_else(|| {
            rows.push(&span.exec);
            all.push(name(
                "thread_name",
                SHIM,
                rows.len() as u32 - 1,
                &format!("exec {}", span.exec),
            ));
            rows.len() - 1
        });
        all.push(json!({
            "name": span.name, "cat": "span", "ph": "X", "pid": SHIM, "tid": row,
            "ts": at(span.start_mono_ns), "dur": at(span.duration_ns),
            "args": {"id": span.id, "parent": span.parent, "failed": span.failed,
                     "code": span.code},
        }));
    }
    for message in &record.messages {
        let row = if message.from_init { 2 } else { 1 };
        all.push(json!({
            "name": message.kind, "cat": "sync", "ph": "i", "s": "t", "pid": SYNC, "tid": row,
            "ts": at(message.time_mono_ns), "args": {"what": sync::describe(message)},
        }));
    }
    for event in &record.events {
        all.push(json!({
            "name": event.kind, "cat": "event", "ph": "i", "s": "p", "pid": SHIM, "tid": 0,
            "ts": at(event.time_mono_ns),
            "args": {"exec": event.exec, "pid": event.pid, "status": event.exit_status,
                     "text": event.text},
        }));
    }
    for sample in &record.samples {
        for (counter, value) in [
            ("cpu seconds", sample.cpu_ns as f64 / 1e9),
            ("memory bytes", sample.memory as f64),
            ("io bytes", sample.io as f64),
            ("network bytes", sample.network as f64),
            ("pressure percent", sample.pressure),
        ] {
            all.push(json!({
                "name": counter, "ph": "C", "pid": USE, "ts": at(sample.mono_ns),
                "args": {"value": value},
            }));
        }
    }
    json!({"traceEvents": all, "displayTimeUnit": "ns"})
}

fn name(what: &str, pid: u32, tid: u32, name: &str) -> Value {
    json!({"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_the_trace() {
        let record = crate::trace::tests::record();
        let trace = render(&record);
        let events = trace["traceEvents"].as_array().unwrap();
        let count = |phase: &str| events.iter().filter(|e| e["ph"] == phase).count();
        assert_eq!(count("X"), record.spans.len());
        assert_eq!(count("i"), record.messages.len() + record.events.len());
        assert_eq!(count("C"), 5 * record.samples.len());
        let create = events
            .iter()
            .find(|e| e["name"] == "create" && e["ph"] == "X");
        assert_eq!(create.unwrap()["dur"], 4000.0);
        assert_eq!(create.unwrap()["ts"], 1_000_000.0);
    }
}
