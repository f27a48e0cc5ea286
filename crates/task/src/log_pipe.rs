// SPDX-License-Identifier: Apache-2.0
//! The log lines of init processes, forwarded into the shim's log.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::pipe::{PipeFlags, pipe_with};
use sys::Call;

/// No line is longer: see `runtime::init_log`.
const LONGEST: usize = 4096;

/// The shim's end of the pipe that all init processes write to.
pub(crate) struct LogPipe {
    reader: OwnedFd,
    partial: Vec<u8>,
    limit: Limit,
}

/// Lines that may come at once, and how many more each second: init has some forty steps.
const BURST: u32 = 1000;
const EACH_SECOND: u32 = 500;

/// How many lines may pass: whoever floods the pipe loses his own lines, not the log.
struct Limit {
    left: u32,
    filled: Instant,
    suppressed: u64,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            filled: now,
            suppressed: 0,
        }
    }

    /// Whether a line may pass, and how many did not before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let since = now.saturating_duration_since(self.filled).as_millis();
        let more = u32::try_from(since).unwrap_or(u32::MAX / EACH_SECOND) as u64;
        let more = more.saturating_mul(u64::from(EACH_SECOND)) / 1000;
        if more > 0 {
            let left = u64::from(self.left).saturating_add(more);
            self.left = left.min(u64::from(BURST)) as u32;
            self.filled = now;
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl LogPipe {
    /// The pipe and its write end. Neither end ever blocks.
    pub(crate) fn new() -> sys::Result<(Self, OwnedFd)> {
        let (reader, writer) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).call("pipe2", || "log pipe")?;
        Ok((
            Self {
                reader,
                partial: Vec::new(),
                limit: Limit::new(Instant::now()),
            },
            writer,
        ))
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Forwards the lines that wait, a bounded number of them.
    pub(crate) fn forward(&mut self) {
        let mut chunk = [0u8; LONGEST];
        for _ in 0..16 {
            let Ok(read @ 1..) = rustix::io::read(&self.reader, &mut chunk[..]) else {
                break;
            };
            self.partial.extend_from_slice(&chunk[..read]);
            while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                match self.limit.take(Instant::now()) {
                    Some(0) => forward_line(&self.partial[..end]),
                    Some(lost) => {
                        log::warn!("{lost} log lines of inits were too many, and are lost");
                        forward_line(&self.partial[..end]);
                    }
                    None => {}
                }
                self.partial.drain(..=end);
            }
            if self.partial.len() > LONGEST {
                self.partial.clear();
            }
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }
}

fn forward_line(line: &[u8]) {
    match serde_json::from_slice::<runtime::init_log::Line>(line) {
        Ok(line) => {
            let level = match line.level.as_str() {
                "error" => log::Level::Error,
                "warning" => log::Level::Warn,
                "debug" => log::Level::Debug,
                _ => log::Level::Info,
            };
            let id = line.id.as_str();
            match (line.exec.as_str(), line.step.as_str()) {
                ("", step) => {
                    log::log!(level, container = id, pid = line.pid, step = step; "{}", line.msg);
                }
                (exec, step) => {
                    log::log!(level, container = id, exec = exec, pid = line.pid, step = step;
                        "{}", line.msg);
                }
            }
        }
        Err(e) => log::warn!("init wrote a log line that is none: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_of_lines_is_cut_and_the_loss_is_told() {
        let begin = Instant::now();
        let mut limit = Limit::new(begin);
        let passed = (0..BURST + 7)
            .filter(|_| limit.take(begin).is_some())
            .count();
        assert_eq!(passed as u32, BURST);
        let later = begin + Duration::from_millis(100);
        assert_eq!(limit.take(later), Some(7));
        let passed = (0..BURST).filter(|_| limit.take(later).is_some()).count();
        assert_eq!(passed as u32, EACH_SECOND / 10 - 1);
        let much_later = begin + Duration::from_secs(3600);
        limit.take(much_later);
        assert_eq!(limit.left, BURST - 1);
    }
}
