// SPDX-License-Identifier: Apache-2.0
//! One log record as one line: `time="…" level=info msg="…" key=value`, or the same as JSON.
//!
//! containerd copies these lines unread into its own log, so they look like its own: RFC 3339
//! with nanoseconds, level names and quoting of logrus' text format. A line never exceeds
//! [`LINE_MAX`], because only then is its write to a pipe atomic.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::Level;
use log::kv::{Error, Key, Source, Value, VisitSource};

/// The longest line, newline included: `PIPE_BUF`.
pub(crate) const LINE_MAX: usize = 4096;

/// What a line that had to be cut ends with.
const CUT: &str = "...\"\n";

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// logrus' text, as containerd's own log has it.
    #[default]
    Text,
    /// logrus' JSON.
    Json,
}

/// Bytes of a message in JSON; room for fields is left in the line.
const JSON_MESSAGE_MAX: usize = 3000;

/// Builds the line of one record.
#[derive(Debug)]
pub(crate) struct Line {
    text: String,
    format: Format,
    message: Range<usize>,
}

impl Line {
    /// Begins a line.
    pub(crate) fn new(format: Format, now: SystemTime, level: Level, message: &str) -> Self {
        let mut text = String::with_capacity(160);
        let (time, middle, begin) = match format {
            Format::Text => ("time=\"", "\" level=", " msg="),
            Format::Json => ("{\"time\":\"", "\",\"level\":\"", "\",\"msg\":\""),
        };
        text.push_str(time);
        push_time(&mut text, now);
        text.push_str(middle);
        text.push_str(level_name(level));
        text.push_str(begin);
        let start = text.len();
        match format {
            Format::Text => push_value(&mut text, message),
            Format::Json => push_json(&mut text, message, JSON_MESSAGE_MAX),
        }
        let message = start..text.len();
        if format == Format::Json {
            text.push('"');
        }
        Self {
            text,
            format,
            message,
        }
    }

    /// Adds `key=value`.
    pub(crate) fn field(&mut self, key: &str, value: &str) {
        let text = &mut self.text;
        let plain = key.chars().map(|c| if is_bare(c) { c } else { '_' });
        match self.format {
            Format::Text => {
                text.push(' ');
                text.extend(plain);
                text.push('=');
                push_value(text, value);
            }
            Format::Json => {
                // `,"key":""}` and the newline; a field that does not fit at all is left out.
                let room = LINE_MAX.saturating_sub(text.len() + key.len() + 8);
                if room >= 16 {
                    text.push_str(",\"");
                    text.extend(plain);
                    text.push_str("\":\"");
                    push_json(text, value, room - 8);
                    text.push('"');
                }
            }
        }
    }

    /// Where the message is, as it is written.
    pub(crate) fn message(&self) -> Range<usize> {
        self.message.clone()
    }

    /// Adds every field of a record.
    pub(crate) fn fields(&mut self, source: &dyn Source) {
        // Only our own visitor could fail, and it does not.
        let _ = source.visit(&mut Fields(self));
    }

    /// Ends the line, cut to [`LINE_MAX`].
    pub(crate) fn finish(self) -> String {
        let mut line = self.text;
        if self.format == Format::Json {
            // Never too long: each part was cut.
            line.push_str("}\n");
        } else if line.len() >= LINE_MAX {
            let mut end = LINE_MAX - CUT.len();
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
            line.push_str(CUT);
        } else {
            line.push('\n');
        }
        line
    }
}

struct Fields<'a>(&'a mut Line);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        match value.to_borrowed_str() {
            Some(text) => self.0.field(key.as_str(), text),
            None => self.0.field(key.as_str(), &value.to_string()),
        }
        Ok(())
    }
}

/// logrus' names: it has no "warn".
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Characters that need no quotes.
fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._/@^+".contains(c)
}

fn push_value(line: &mut String, value: &str) {
    if !value.is_empty() && value.chars().all(is_bare) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // Terminal escapes of a container must not reach an operator's terminal.
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(line, "\\u{:04x}", c as u32);
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

/// The inside of a JSON string, at most about `most` bytes of it.
pub(crate) fn push_json(line: &mut String, value: &str, most: usize) {
    let start = line.len();
    for c in value.chars() {
        if line.len() - start >= most.saturating_sub(8) {
            line.push_str("...");
            return;
        }
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(line, "\\u{:04x}", c as u32);
            }
            c => line.push(c),
        }
    }
}

/// A time as RFC 3339 with nanoseconds has it, in UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = String::with_capacity(32);
    push_time(&mut text, time);
    text
}

fn push_time(line: &mut String, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z",
        since.subsec_nanos()
    );
}

/// Year, month and day of a day number since 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = if months_from_march < 10 {
        months_from_march + 3
    } else {
        months_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn a_line_looks_like_containerds_own() {
        let mut line = Line::new(
            Format::Text,
            at(951_782_400, 7),
            Level::Warn,
            "shim \"a\"\nstarted",
        );
        line.field("container", "abc-1");
        line.field("exit status", "");
        assert_eq!(
            line.finish(),
            "time=\"2000-02-29T00:00:00.000000007Z\" level=warning \
             msg=\"shim \\\"a\\\"\\nstarted\" container=abc-1 exit_status=\"\"\n"
        );
    }

    #[test]
    fn dates_are_right_at_the_ends_of_years_and_centuries() {
        let date = |seconds| {
            let mut text = String::new();
            push_time(&mut text, at(seconds, 0));
            text
        };
        assert_eq!(date(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(date(4_102_444_799), "2099-12-31T23:59:59.000000000Z");
        assert_eq!(date(4_107_542_400), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(date(1_709_251_199), "2024-02-29T23:59:59.000000000Z");
    }

    #[test]
    fn a_long_line_is_cut_to_what_a_pipe_takes_at_once() {
        let line = Line::new(Format::Text, at(0, 0), Level::Info, &"ä".repeat(5000)).finish();
        assert!(
            line.len() <= LINE_MAX && line.len() > LINE_MAX - 8,
            "{}",
            line.len()
        );
        assert!(line.ends_with("ä...\"\n"));
    }

    #[test]
    fn escape_sequences_do_not_pass() {
        let line = Line::new(Format::Text, at(0, 0), Level::Info, "\u{1b}[31mred").finish();
        assert!(line.contains("msg=\"\\u001b[31mred\""), "{line}");
    }

    #[test]
    fn a_line_of_json_is_valid_however_long_it_gets() {
        let mut line = Line::new(Format::Json, at(0, 0), Level::Warn, "a \"b\"\n\u{1b}");
        line.field("container", "c 1");
        assert_eq!(
            line.finish(),
            "{\"time\":\"1970-01-01T00:00:00.000000000Z\",\"level\":\"warning\",\
             \"msg\":\"a \\\"b\\\"\\n\\u001b\",\"container\":\"c 1\"}\n"
        );
        for size in [2_900, 2_995, 4_000, 40_000] {
            let mut line = Line::new(Format::Json, at(0, 0), Level::Info, &"\u{1}".repeat(size));
            for key in ["one", "two", "three"] {
                line.field(key, &"ä".repeat(600));
            }
            let line = line.finish();
            assert!(line.len() <= LINE_MAX, "{}", line.len());
            assert!(line.ends_with("\"}\n"), "{line}");
            assert_eq!(line.matches('"').count() % 4, 0, "{line}");
        }
    }
}
