// SPDX-License-Identifier: Apache-2.0
//! `sync`: what shim and init said to each other, as a sequence chart of two columns.

use std::collections::BTreeMap;

use diagnostics::v1::{Poll, SyncMessage, SyncMessagesRequest};
use serde_json::Value;

use crate::args::{Global, One};
use crate::client::{Client, Silence};
use crate::error::{Error, Exit};
use crate::fleet;
use crate::style::{Ink, Style, clean, columns};
use crate::trace::clock::Clock;
use crate::{json, print, units};

/// The messages that are kept of a container, or of all.
pub(crate) fn fetch(client: &mut Client, container: &str) -> Result<Vec<SyncMessage>, Silence> {
    let mut messages = Vec::new();
    let mut since = 0;
    loop {
        let mut request = SyncMessagesRequest::new();
        let poll = Poll {
            since,
            container: container.to_owned(),
            ..Poll::new()
        };
        request.poll = Some(poll).into();
        let response = client.again().call(&request)?;
        let next = response.polled.as_ref().map_or(0, |polled| polled.next);
        let done = response.messages.is_empty() || next <= since;
        messages.extend(response.messages);
        if done {
            return Ok(messages);
        }
        since = next;
    }
}

pub(crate) fn run(global: &Global, args: &One, style: Style) -> Result<Exit, Error> {
    let target = fleet::find(global, &args.id)?;
    let mut client = target.connect(global.timeout)?;
    let silent = |e| target.silent(e);
    let clock = Clock::ask(&mut client).map_err(silent)?;
    let messages = fetch(&mut client, target.container_id()).map_err(silent)?;
    if global.json {
        let all: Vec<Value> = messages
            .iter()
            .map(|message| json::sync_message(message, |mono| clock.unix(mono)))
            .collect();
        print(&format!("{:#}\n", serde_json::json!({"messages": all})))?;
    } else {
        if messages.is_empty() {
            crate::complain("no messages are kept: they are overwritten after a while");
        }
        print(&chart(&messages, &clock, style))?;
    }
    Ok(Exit::Success)
}

/// What belongs together: the words with one init, container by container in the order of time.
pub(crate) fn conversations(messages: &[SyncMessage]) -> Vec<Vec<&SyncMessage>> {
    let mut by_process: BTreeMap<(&str, &str), Vec<&SyncMessage>> = BTreeMap::new();
    for message in messages {
        let key = (message.container.as_str(), message.exec.as_str());
        by_process.entry(key).or_default().push(message);
    }
    let mut all: Vec<_> = by_process.into_values().collect();
    for conversation in &mut all {
        conversation.sort_by_key(|message| (message.time_mono_ns, message.number));
    }
    all.sort_by_key(|conversation| conversation.first().map(|m| (m.time_mono_ns, m.number)));
    all
}

/// What went over in a message, in words.
pub(crate) fn describe(message: &SyncMessage) -> String {
    let mut parts = Vec::new();
    if message.size > 0 {
        parts.push(format!("{} B", message.size));
    }
    if !message.descriptors.is_empty() {
        let count = message.descriptors.len();
        let plural = if count == 1 { "" } else { "s" };
        let mut kinds: Vec<String> = Vec::new();
        for kind in &message.descriptors {
            let kind = clean(kind);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        parts.push(format!("{count} fd{plural}: {}", kinds.join(" ")));
    }
    if message.errno != 0 {
        let errno = rustix::io::Errno::from_raw_os_error(message.errno);
        parts.push(sys::error::describe(errno));
    }
    if message.refused {
        parts.push("REFUSED: out of order".to_owned());
    }
    parts.join(", ")
}

fn chart(messages: &[SyncMessage], clock: &Clock, style: Style) -> String {
    let mut text = String::new();
    for conversation in conversations(messages) {
        let Some(first) = conversation.first() else {
            continue;
        };
        if !text.is_empty() {
            text.push('\n');
        }
        let mut who = clean(&first.container);
        if !first.exec.is_empty() {
            who.push_str(&format!(", exec {}", clean(&first.exec)));
        }
        let pid = conversation.iter().map(|m| m.pid).find(|pid| *pid != 0);
        let init = pid.map_or("init".to_owned(), |pid| format!("init {pid}"));
        let begun = units::time(clock.unix(first.time_mono_ns), 6);
        text.push_str(&format!("{} from {begun}\n", style.paint(Ink::Bold, &who)));
        text.push_str(&format!(
            "{:>10}  shim {}{init}\n",
            "",
            " ".repeat(ARROW - 6)
        ));
        for message in &conversation {
            text.push_str(&line(message, first.time_mono_ns, style));
        }
    }
    text
}

/// Between the two columns.
const ARROW: usize = 30;

fn line(message: &SyncMessage, begun: u64, style: Style) -> String {
    let after = message.time_mono_ns.saturating_sub(begun) as f64 / 1e6;
    let kind = clean(&message.kind);
    let shaft = ARROW.saturating_sub(columns(&kind) + 6).max(1);
    let arrow = match message.from_init {
        false => format!("│── {kind} {}▶│", "─".repeat(shaft)),
        true => format!("│◀{} {kind} ──│", "─".repeat(shaft)),
    };
    let bad = message.errno != 0 || message.refused || message.kind == "Failed";
    let arrow = if bad {
        style.paint(Ink::Bad, &arrow)
    } else {
        arrow
    };
    let line = format!("{after:>7.3} ms  {arrow}  {}", describe(message));
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn messages() -> Vec<SyncMessage> {
        let message =
            |number: u64, at_us: u64, from_init: bool, kind: &str, size: u32| SyncMessage {
                number,
                time_mono_ns: 1_000_000_000 + at_us * 1000,
                container: "c1".into(),
                pid: 4711,
                from_init,
                kind: kind.into(),
                size,
                ..SyncMessage::new()
            };
        let mut plan = message(1, 0, false, "Plan", 1834);
        plan.descriptors = ["stdin", "stdout", "stderr", "namespace", "namespace"]
            .map(str::to_owned)
            .to_vec();
        let mut failed = message(5, 5120, true, "Failed", 60);
        failed.errno = 2;
        vec![
            plan,
            message(2, 2345, true, "Ready", 0),
            message(3, 5000, false, "Run", 0),
            message(4, 5100, true, "Executing", 0),
            failed,
        ]
    }

    #[test]
    fn the_chart_shows_who_said_what_to_whom() {
        let clock = Clock::new(1_700_000_000_000_000_000, 1_000_000_000);
        let text = chart(&messages(), &clock, Style::plain(80));
        let expected = "\
c1 from 2023-11-14T22:13:20.000000Z
            shim                         init 4711
  0.000 ms  │── Plan ────────────────────▶│  1834 B, 5 fds: stdin stdout stderr namespace
  2.345 ms  │◀─────────────────── Ready ──│
  5.000 ms  │── Run ─────────────────────▶│
  5.100 ms  │◀─────────────── Executing ──│
  5.120 ms  │◀────────────────── Failed ──│  60 B, no such file or directory
";
        assert_eq!(text, expected, "\n{text}");
    }
}
