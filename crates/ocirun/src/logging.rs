// SPDX-License-Identifier: Apache-2.0
//! `--log` and `--log-format`: lines as logrus writes them, because containerd, conmon and Docker
//! read the last error from there.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::{Attempt as _, Error};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

struct Logger {
    /// `None` for standard error.
    file: Option<File>,
    format: Format,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Whether errors go to a file, so that a person at the terminal would not see them.
pub(crate) fn is_elsewhere() -> bool {
    LOGGER.get().is_none_or(|logger| logger.file.is_some())
}

/// Logs from now on to `file`, or to standard error.
pub(crate) fn install(file: Option<&str>, format: &str, debug: bool) -> Result<(), Error> {
    let format = match format {
        "text" => Format::Text,
        "json" => Format::Json,
        other => return Err(Error::Usage(format!("invalid log-format: {other}"))),
    };
    let open = |path: &str| {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(path)
            .attempt(|| format!("open log {path}"))
    };
    let file = file.filter(|path| !path.is_empty()).map(open).transpose()?;
    let logger = LOGGER.get_or_init(|| Logger { file, format });
    // It fails only when there is a logger already.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(match debug {
            true => LevelFilter::Debug,
            false => LevelFilter::Info,
        });
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = runtime::rfc3339_now();
        let text = line(
            self.format,
            record.level(),
            &record.args().to_string(),
            &now,
        );
        // One write for each line: several processes append to one file. There is nobody to tell
        // of a full disk.
        let _ = match self.file.as_ref() {
            Some(mut file) => file.write_all(text.as_bytes()),
            None => std::io::stderr().write_all(text.as_bytes()),
        };
    }

    fn flush(&self) {}
}

fn line(format: Format, level: Level, message: &str, time: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    match format {
        Format::Json => {
            let object = serde_json::json!({"level": level, "msg": message, "time": time});
            format!("{object}\n")
        }
        Format::Text => format!("time={time:?} level={level} msg={message:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_readers_of_logrus_expect() {
        let json = line(
            Format::Json,
            Level::Error,
            "no \"x\"\nhere",
            "2026-01-01T00:00:00Z",
        );
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "no \"x\"\nhere");
        assert!(json.ends_with("}\n") && json.lines().count() == 1);
        let text = line(
            Format::Text,
            Level::Warn,
            "no \"x\"",
            "2026-01-01T00:00:00Z",
        );
        assert_eq!(
            text,
            "time=\"2026-01-01T00:00:00Z\" level=warning msg=\"no \\\"x\\\"\"\n"
        );
    }
}
