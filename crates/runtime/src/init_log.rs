// SPDX-License-Identifier: Apache-2.0
//! Log lines of an init process: one JSON object each, over a pipe that the shim reads.
//!
//! The pipe is non-blocking and a line is one write of at most `PIPE_BUF` bytes: lines of several
//! processes do not mix, and a shim that does not read stops nobody (the line is lost instead).

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};

/// `PIPE_BUF`: writes up to this size are atomic.
const ATOMIC: usize = 4096;

/// One line of the log pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// "error", "warning", "info" or "debug".
    pub level: String,
    /// The message.
    pub msg: String,
    /// The container's id.
    pub id: String,
    /// The exec's id; empty for the container's init.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exec: String,
    /// The process, as the shim sees it.
    pub pid: i32,
    /// What it was doing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
}

struct PipeLog {
    pipe: OwnedFd,
    id: String,
}

static LOG: OnceLock<PipeLog> = OnceLock::new();
static ABOUT: OnceLock<(String, i32)> = OnceLock::new();

/// Says whose lines follow: the exec, and the process as the shim sees it.
pub(crate) fn about(exec: &str, pid: i32) {
    // Said once.
    let _ = ABOUT.set((exec.to_owned(), pid));
}

/// Sends everything logged from now on to `pipe`.
pub(crate) fn install(pipe: OwnedFd, id: &str, debug: bool) {
    let log = LOG.get_or_init(|| PipeLog {
        pipe,
        id: id.to_owned(),
    });
    if log::set_logger(log).is_ok() {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
    }
}

impl Log for PipeLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Warn => "warning".to_owned(),
            other => other.to_string().to_lowercase(),
        };
        let mut msg = record.args().to_string();
        let mut end = msg.len().min(ATOMIC / 2);
        while !msg.is_char_boundary(end) {
            end -= 1;
        }
        msg.truncate(end);
        let (exec, pid) = ABOUT.get().cloned().unwrap_or_default();
        let line = Line {
            level,
            msg,
            id: self.id.clone(),
            exec,
            pid,
            step: crate::init::timings::current_step().to_owned(),
        };
        if let Ok(mut bytes) = serde_json::to_vec(&line) {
            bytes.push(b'\n');
            if bytes.len() <= ATOMIC {
                // A full pipe loses the line: see above.
                let _ = rustix::io::write(&self.pipe, &bytes);
            }
        }
    }

    fn flush(&self) {}
}
