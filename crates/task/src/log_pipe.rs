// SPDX-License-Identifier: Apache-2.0
//! The log lines of init processes, forwarded into the shim's log.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use sys::Call;

/// No line is longer: see `runtime::init_log`.
const LONGEST: usize = 4096;

/// The shim's end of the pipe that all init processes write to.
pub(crate) struct LogPipe {
    reader: OwnedFd,
    partial: Vec<u8>,
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
                forward_line(&self.partial[..end]);
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
            log::log!(level, "init of {}: {}", line.id, line.msg);
        }
        Err(e) => log::warn!("init wrote a log line that is none: {e}"),
    }
}
