// SPDX-License-Identifier: Apache-2.0
//! Spans, sync messages and log lines, as messages; and the names of log levels.

use diagnostics::v1;
use log::LevelFilter;
use runtime::sync::order::Direction;
use runtime::sync::record::{self, Entry};
use telemetry::recorder::{self, Outcome, Record, Scope};
use telemetry::ring::Position;
use telemetry::tail::{self, LogLine};

use super::{limit, polled, unix_ns};
use crate::status::Status;

const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warning", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// The name of a level.
pub(super) fn level_name(level: LevelFilter) -> &'static str {
    let found = LEVELS.iter().find(|(_, known)| *known == level);
    found.map_or("info", |(name, _)| name)
}

/// The level of a name; "warn" is understood too.
pub(super) fn level(name: &str) -> Result<LevelFilter, Status> {
    let wanted = if name == "warn" { "warning" } else { name };
    LEVELS
        .iter()
        .find(|(known, _)| *known == wanted)
        .map(|(_, level)| *level)
        .ok_or_else(|| Status::invalid_argument(format_args!("unknown log level {name:?}")))
}

/// Whose something is, in the form of the messages.
fn names(scope: Option<&Scope>) -> (String, String) {
    scope.map_or_else(Default::default, |scope| {
        (scope.container.to_string(), scope.exec.to_string())
    })
}

fn is_of(scope: Option<&Scope>, container: &str) -> bool {
    container.is_empty() || scope.is_some_and(|scope| *scope.container == *container)
}

pub(super) fn spans(request: &v1::SpansRequest) -> (v1::SpansResponse, Position) {
    let poll = &request.poll;
    let wanted = |record: &Record| is_of(record.scope.as_deref(), &poll.container);
    let (ended, position) = recorder::ended(poll.since, limit(poll), wanted);
    let mut response = v1::SpansResponse::new();
    response.spans = ended
        .iter()
        .map(|(number, record)| span(*number, record))
        .collect();
    if request.active {
        let now = recorder::now();
        let active = recorder::active().into_iter().filter(wanted);
        response.active = active
            .map(|mut record| {
                record.duration = now.saturating_sub(record.start);
                span(0, &record)
            })
            .collect();
    }
    response.polled = polled(position);
    (response, position)
}

fn span(number: u64, record: &Record) -> v1::Span {
    let mut message = v1::Span::new();
    message.number = number;
    message.id = record.id;
    message.parent = record.parent;
    message.name = record.name.to_owned();
    message.start_mono_ns = record.start;
    message.duration_ns = record.duration;
    (message.container, message.exec) = names(record.scope.as_deref());
    if let Outcome::Failed(code) = record.outcome {
        message.failed = true;
        message.code = code;
    }
    if let Some(trace) = &record.trace {
        message.trace_id = trace.id.to_vec();
        if trace.parent != [0; 8] {
            message.remote_parent = trace.parent.to_vec();
        }
    }
    message
}

pub(super) fn sync_messages(
    request: &v1::SyncMessagesRequest,
) -> (v1::SyncMessagesResponse, Position) {
    let poll = &request.poll;
    let wanted = |entry: &Entry| is_of(entry.scope.as_deref(), &poll.container);
    let (entries, position) = record::entries(poll.since, limit(poll), wanted);
    let mut response = v1::SyncMessagesResponse::new();
    response.messages = entries
        .iter()
        .map(|(number, entry)| sync_message(*number, entry))
        .collect();
    response.polled = polled(position);
    (response, position)
}

fn sync_message(number: u64, entry: &Entry) -> v1::SyncMessage {
    let mut message = v1::SyncMessage::new();
    message.number = number;
    message.time_mono_ns = entry.time;
    (message.container, message.exec) = names(entry.scope.as_deref());
    message.pid = entry.pid;
    message.from_init = entry.direction == Direction::FromInit;
    message.kind = entry.kind_name().to_owned();
    message.size = entry.size;
    message.descriptors = entry.descriptors();
    message.errno = entry.errno;
    message.refused = entry.refused;
    message
}

pub(super) fn log_lines(request: &v1::LogRequest) -> (v1::LogResponse, Position) {
    let poll = &request.poll;
    // Checked when the call came.
    let worst = level(&request.level).unwrap_or(LevelFilter::Trace);
    let wanted = |line: &LogLine| {
        line.level <= worst && (poll.container.is_empty() || poll.container == *line.container)
    };
    let (lines, position) = tail::lines(poll.since, limit(poll), wanted);
    let mut response = v1::LogResponse::new();
    response.lines = lines
        .iter()
        .map(|(number, line)| log_line(*number, line))
        .collect();
    response.dropped = telemetry::lost();
    response.polled = polled(position);
    (response, position)
}

fn log_line(number: u64, line: &LogLine) -> v1::LogLine {
    let mut message = v1::LogLine::new();
    message.number = number;
    message.time_unix_ns = unix_ns(Some(line.time));
    message.level = level_name(line.level.to_level_filter()).to_owned();
    message.container = line.container.to_string();
    message.exec = line.exec.to_string();
    message.line = line.line.trim_end_matches('\n').to_owned();
    // A line that was cut may end before its message does.
    let text = line.line.get(line.message.clone()).unwrap_or_default();
    message.message = unquoted(text);
    message
}

/// A value of a log line as it was before it was written: without quotes, and without the backslashes
/// before quotes and backslashes. Other escapes stay, as they stand for what must not reach a terminal.
fn unquoted(text: &str) -> String {
    let Some(text) = text.strip_prefix('"') else {
        return text.to_owned();
    };
    let text = text.strip_suffix('"').unwrap_or(text);
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let next = rest.next_if(|next| c == '\\' && matches!(next, '"' | '\\'));
        plain.push(next.unwrap_or(c));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names() {
        for (name, filter) in LEVELS {
            assert_eq!((level(name).unwrap(), level_name(filter)), (filter, name));
        }
        assert_eq!(level("warn").unwrap(), LevelFilter::Warn);
        assert!(level("loud").is_err());
    }

    #[test]
    fn messages_are_told_as_they_were_meant() {
        for (written, meant) in [
            ("now", "now"),
            (r#""exited early""#, "exited early"),
            (
                r#""exec \"ls\": a\\b \x1b[0m""#,
                r#"exec "ls": a\b \x1b[0m"#,
            ),
            (r#""cut \"#, r"cut \"),
            ("", ""),
        ] {
            assert_eq!(unquoted(written), meant, "{written}");
        }
    }
}
