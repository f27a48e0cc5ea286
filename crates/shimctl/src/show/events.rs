// SPDX-License-Identifier: Apache-2.0
//! `events`: what happened to containers.

use diagnostics::v1::{Event, EventsRequest};

use super::follow::{self, Item};
use crate::args::{Events, Global};
use crate::discover::Shim;
use crate::error::{Error, Exit};
use crate::style::{Ink, Style, clean, columns};
use crate::{json, print, units};

impl Item for Event {
    fn time(&self) -> i64 {
        self.time_unix_ns
    }

    fn container(&self) -> &str {
        &self.container
    }
}

pub(crate) fn run(global: &Global, args: &Events, style: Style) -> Result<Exit, Error> {
    follow::run(
        global,
        &args.stream,
        "no events are kept",
        |client, poll, hold| {
            let mut request = EventsRequest::new();
            request.poll = Some(poll).into();
            request.kinds.clone_from(&args.kinds);
            let response = client.patient(&request, hold)?;
            Ok((response.polled.unwrap_or_default(), response.events))
        },
        |shim, event| {
            print(&match global.json {
                true => format!("{}\n", json::event(shim, event)),
                false => line(shim, event, style),
            })
        },
    )
}

pub(crate) fn ink(kind: &str) -> Option<Ink> {
    match kind {
        "oom" | "divergence" => Some(Ink::Bad),
        "pressure" | "paused" => Some(Ink::Warn),
        "start" | "exec-started" => Some(Ink::Good),
        _ => None,
    }
}

fn line(shim: &Shim, event: &Event, style: Style) -> String {
    let time = units::time(event.time_unix_ns, 3);
    let kind = clean(&event.kind);
    let padding = " ".repeat(12usize.saturating_sub(columns(&kind)));
    let kind = match ink(&event.kind) {
        Some(ink) => style.paint(ink, &kind),
        None => kind,
    };
    let mut who = clean(&event.container);
    if !event.exec.is_empty() && event.exec != event.container {
        who = format!("{who}/{}", clean(&event.exec));
    }
    let who = style.paint(Ink::Name, &who);
    let mut text = format!(
        "{} {kind}{padding} {}/{who}",
        style.paint(Ink::Dim, &time),
        shim.namespace
    );
    text.push_str(&details(event));
    text.push('\n');
    text
}

/// What an event says beyond its kind and whom it is about.
pub(crate) fn details(event: &Event) -> String {
    let mut text = String::new();
    if event.pid != 0 {
        text.push_str(&format!(" pid={}", event.pid));
    }
    if event.kind == "exit" {
        text.push_str(&format!(" status={}", event.exit_status));
    }
    if !event.text.is_empty() {
        text.push_str(&format!(" {}", clean(&event.text)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::ps::tests::{NOW, shim};

    #[test]
    fn an_event_is_a_line() {
        let event = Event {
            time_unix_ns: NOW,
            kind: "exit".into(),
            container: "c1".into(),
            exec: "e\n1".into(),
            pid: 7,
            exit_status: 137,
            ..Event::new()
        };
        assert_eq!(
            line(&shim("s", 1), &event, Style::plain(80)),
            "2023-11-14T22:13:20.000Z exit         k8s.io/c1/e\u{fffd}1 pid=7 status=137\n"
        );
        let value = json::event(&shim("s", 1), &event);
        assert_eq!(value["exit_status"], 137);
        assert_eq!(value["time"], "2023-11-14T22:13:20.000000000Z");
    }
}
