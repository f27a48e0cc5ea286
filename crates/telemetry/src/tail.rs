// SPDX-License-Identifier: Apache-2.0
//! The last lines of this process's log, for those who ask later.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use log::Level;

use crate::ring::{Position, Ring};

/// Lines kept at most.
pub const LINES: usize = 64;
/// Bytes of all of them, about.
const BYTES: usize = 12 << 10;

/// A line that was logged.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// When.
    pub time: SystemTime,
    /// How bad.
    pub level: Level,
    /// The container that it is about, or nothing.
    pub container: Box<str>,
    /// The exec process.
    pub exec: Box<str>,
    /// The line as it was written, with its newline.
    pub line: String,
    /// Where in `line` the message is, as it was written (escaped).
    pub message: std::ops::Range<usize>,
}

impl LogLine {
    fn size(&self) -> usize {
        self.line.capacity() + self.container.len() + self.exec.len()
    }
}

struct Tail {
    lines: Ring<LogLine>,
    bytes: usize,
}

static TAIL: Mutex<Tail> = Mutex::new(Tail {
    lines: Ring::new(LINES),
    bytes: 0,
});

fn lock() -> MutexGuard<'static, Tail> {
    // No code that can panic runs under the lock.
    TAIL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a line.
pub(crate) fn keep(mut line: LogLine) {
    line.line.shrink_to_fit();
    let mut tail = lock();
    tail.bytes += line.size();
    if let (_, Some(oldest)) = tail.lines.push(line) {
        tail.bytes -= oldest.size();
    }
    while tail.bytes > BYTES && tail.lines.len() > 1 {
        let size = tail.lines.pop().map_or(0, |oldest| oldest.size());
        tail.bytes -= size;
    }
}

/// Kept lines after number `since`, at most `limit`; each with its number.
pub fn lines(
    since: u64,
    limit: usize,
    wanted: impl Fn(&LogLine) -> bool,
) -> (Vec<(u64, LogLine)>, Position) {
    lock().lines.read(since, limit, |number, line| {
        wanted(line).then(|| (number, line.clone()))
    })
}

/// How many lines there ever were, and how many are kept.
pub fn logged() -> (u64, usize) {
    let tail = lock();
    (tail.lines.total(), tail.lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_in_few_bytes() {
        for number in 0..300 {
            keep(LogLine {
                time: SystemTime::now(),
                level: Level::Info,
                container: "tail".into(),
                exec: "".into(),
                line: format!("{number} {}", "x".repeat(200)),
                message: 0..3,
            });
        }
        let (lines, position) = lines(0, 1000, |line| &*line.container == "tail");
        assert!((40..=60).contains(&lines.len()), "{}", lines.len());
        assert!(lines.last().unwrap().1.line.starts_with("299 "));
        assert!(position.lost > 0);
        assert!(lock().bytes <= BYTES);
    }
}
