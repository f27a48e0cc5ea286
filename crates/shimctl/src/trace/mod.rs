// SPDX-License-Identifier: Apache-2.0
//! `trace`: one container's operations over time.
//!
//! `record` gathers, `tree` sorts spans into operations, `axis` folds idle time; `waterfall`,
//! `drawing`, `page` and `perfetto` are four ways to see the same.

mod axis;
pub(crate) mod clock;
mod drawing;
mod page;
mod perfetto;
mod record;
mod rows;
mod tree;
mod waterfall;

use serde_json::{Value, json};

use crate::args::{Global, Trace};
use crate::error::{Error, Exit};
use crate::print;
use crate::style::Style;

use record::Record;

pub(crate) fn run(global: &Global, args: &Trace, style: Style) -> Result<Exit, Error> {
    let record = record::gather(global, &args.one.id, args.watch)?;
    let text = if args.html {
        page::html(&record)
    } else if args.svg {
        drawing::svg(&record)
    } else if args.perfetto {
        format!("{}\n", perfetto::render(&record))
    } else if global.json {
        format!("{:#}\n", document(&record))
    } else {
        waterfall::render(&record, args.all, style)
    };
    print(&text)?;
    Ok(Exit::Success)
}

fn document(record: &Record) -> Value {
    let unix = |mono| record.clock.unix(mono);
    let spans: Vec<Value> = record
        .spans
        .iter()
        .map(|s| crate::json::span(s, unix))
        .collect();
    let messages: Vec<Value> = record
        .messages
        .iter()
        .map(|message| crate::json::sync_message(message, unix))
        .collect();
    let shim = crate::discover::Shim {
        namespace: record.name.split('/').next().unwrap_or_default().to_owned(),
        id: String::new(),
        pid: 0,
        socket: None,
        bundle: None,
    };
    let events: Vec<Value> = record
        .events
        .iter()
        .map(|event| {
            let mut event = crate::json::event(&shim, event);
            if let Some(event) = event.as_object_mut() {
                event.remove("shim");
            }
            event
        })
        .collect();
    json!({
        "container": record.name,
        "lost": record.lost,
        "spans": spans,
        "messages": messages,
        "events": events,
    })
}

#[cfg(test)]
pub(crate) use tree::tests as tree_tests;

#[cfg(test)]
pub(crate) mod tests {
    use super::clock::Clock;
    use super::record::{Record, Sample};
    use diagnostics::v1::Event;

    pub(crate) fn record() -> Record {
        let begin = 1_000_000_000;
        let clock = Clock::new(1_700_000_000_000_000_000, begin);
        let event = |kind: &str, after_us: u64, pid: i32, text: &str| Event {
            number: after_us,
            time_mono_ns: begin + after_us * 1000,
            time_unix_ns: clock.unix(begin + after_us * 1000),
            kind: kind.into(),
            container: "c1".into(),
            pid,
            text: text.into(),
            ..Event::new()
        };
        let mut spans = super::tree::tests::life();
        spans.sort_by_key(|span| (span.start_mono_ns, span.id));
        Record {
            name: "k8s.io/c1".into(),
            title: "shop/web".into(),
            shim: "shim 4700 of version 0.1.0".into(),
            clock,
            spans,
            messages: crate::show::sync::tests::messages(),
            events: vec![
                event("create", 4_100, 4711, ""),
                event("start", 6_010, 4711, ""),
                event("oom", 120_000_000, 0, "oom_kill 1"),
            ],
            samples: (0..20)
                .map(|n| Sample {
                    mono_ns: begin + 6_100_000 + n * 100_000_000,
                    cpu_ns: n * n * 1_000_000,
                    memory: 1 << (10 + n),
                    io: n * 4096,
                    network: n * 100,
                    pressure: n as f64,
                })
                .collect(),
            lost: 0,
        }
    }

    #[test]
    fn json_has_everything_in_wall_clock_time() {
        let document = super::document(&record());
        assert_eq!(document["spans"].as_array().unwrap().len(), 8);
        assert_eq!(
            document["spans"][0]["start"],
            "2023-11-14T22:13:20.000000000Z"
        );
        assert_eq!(document["messages"][1]["from"], "init");
        assert_eq!(document["events"][2]["kind"], "oom");
    }
}
