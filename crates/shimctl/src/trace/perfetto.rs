// SPDX-License-Identifier: Apache-2.0
//! A trace for <https://ui.perfetto.dev> and chrome://tracing, in the JSON that both read.

use serde_json::{Value, json};

use super::record::Record;
use super::rows::{self, Row};
use crate::show::sync;

/// One "process" for each kind of row.
const SHIM: u32 = 1;
const SYNC: u32 = 2;
const USE: u32 = 3;

/// Microseconds, as the format wants them. As halves, quarters and so on, so that readers, who
/// count in binary, get the same sum of begin and duration for what ends where the next begins.
fn at(ns: u64) -> f64 {
    const PARTS: u64 = 1024;
    (u128::from(ns) * u128::from(PARTS) / 1000) as f64 / PARTS as f64
}

pub(crate) fn render(record: &Record) -> Value {
    let title = format!("{} ({})", record.name, record.shim);
    let mut all = vec![
        name("process_name", SHIM, 0, &title),
        name("process_name", SYNC, 0, "sync socket"),
        name("process_name", USE, 0, "use"),
        name("thread_name", SYNC, 1, "shim to init"),
        name("thread_name", SYNC, 2, "init to shim"),
    ];
    let (rows, placed) = rows::place(&record.spans);
    all.extend(
        rows.iter()
            .enumerate()
            .map(|(tid, row)| name("thread_name", SHIM, tid as u32, &title_of(row))),
    );
    for one in placed {
        let (span, start) = (one.span, at(one.span.start_mono_ns));
        all.push(json!({
            "name": span.name, "cat": "span", "ph": "X", "pid": SHIM, "tid": one.row,
            "ts": start, "dur": at(one.end_ns) - start,
            "args": {"id": span.id, "parent": span.parent, "failed": span.failed,
                     "code": span.code, "duration_ns": span.duration_ns},
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

fn title_of(row: &Row<'_>) -> String {
    let whose = match row.exec {
        "" => "container".to_owned(),
        exec => format!("exec {exec}"),
    };
    match row.nth {
        0 => whose,
        // What goes on after the call has been answered: an event that is published.
        _ => format!("{whose}, meanwhile"),
    }
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

    #[test]
    fn neighbours_touch_in_the_numbers_of_the_format() {
        for (start, end) in [(3_982_552_264_633, 3_982_552_264_640), (1, 2), (0, 999)] {
            let duration = at(end) - at(start);
            assert_eq!(at(start) + duration, at(end));
            assert!((duration - (end - start) as f64 / 1000.0).abs() < 0.002);
        }
    }
}
