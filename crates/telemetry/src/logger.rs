// SPDX-License-Identifier: Apache-2.0
//! The logger behind the `log` crate's macros.
//!
//! Installed once for each process. Fields are given with the macros' own syntax:
//! `log::warn!(container = id, exec = exec_id; "stdin closed")`. A panic is logged before it
//! ends the process, because standard error is `/dev/null`.

use std::sync::OnceLock;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use crate::logfmt::Line;
use crate::sink::Sink;
use crate::span::Context;
use crate::tail::{self, LogLine};

/// What is logged unless containerd asks for more or less.
pub const DEFAULT_LEVEL: LevelFilter = LevelFilter::Info;

static LOGGER: OnceLock<Logger> = OnceLock::new();

#[derive(Debug)]
struct Logger {
    sink: Sink,
    runtime: &'static str,
}

/// Makes `sink` the log of this process; `runtime` is a field of every line.
///
/// A second call changes nothing but the level: the first sink stays.
pub fn install(sink: Sink, runtime: &'static str, level: LevelFilter) {
    let logger = LOGGER.get_or_init(|| Logger { sink, runtime });
    // Fails only if a logger is set already, and then it is this one.
    let _ = log::set_logger(logger);
    log::set_max_level(level);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let payload = panic.payload();
        let why = payload.downcast_ref::<&str>().copied();
        let why = why.or(payload.downcast_ref::<String>().map(String::as_str));
        let why = why.unwrap_or("no message");
        log::error!(place = place.as_str(); "panic: {why}");
    }));
}

/// Changes what is logged, at any time.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Lines lost since the last report, because nobody reads the log.
pub fn dropped() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.sink.dropped())
}

/// Lines lost since the beginning.
pub fn lost() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.sink.lost())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (now, message) = (SystemTime::now(), record.args());
        let format = self.sink.format();
        let mut line = match message.as_str() {
            Some(text) => Line::new(format, now, record.level(), text),
            None => Line::new(format, now, record.level(), &message.to_string()),
        };
        line.field("runtime", self.runtime);
        let (container, exec) = about(record, &mut line);
        line.fields(record.key_values());
        let message = line.message();
        let line = line.finish();
        self.sink.write(&line);
        tail::keep(LogLine {
            time: now,
            level: record.level(),
            container,
            exec,
            line,
            message,
        });
    }

    fn flush(&self) {}
}

/// Whom a record is about. What it does not say itself, the thread's context does: then it becomes
/// a field of the line.
fn about(record: &Record<'_>, line: &mut Line) -> (Box<str>, Box<str>) {
    let field = |key: &str| {
        let value = record.key_values().get(key.into())?;
        Some(value.to_string().into_boxed_str())
    };
    if let Some(container) = field(crate::CONTAINER) {
        return (container, field(crate::EXEC).unwrap_or_default());
    }
    let context = Context::current();
    let Some(scope) = context.scope() else {
        return Default::default();
    };
    line.field(crate::CONTAINER, &scope.container);
    if !scope.exec.is_empty() {
        line.field(crate::EXEC, &scope.exec);
    }
    (scope.container.clone(), scope.exec.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    #[test]
    fn records_carry_level_message_and_fields_and_the_level_can_change() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        install(Sink::new(write), "io.containerd.rust.v2", LevelFilter::Info);
        let id = "c1";
        log::info!(container = id, exec = "e 1", status = 7; "exited {}", "early");
        log::debug!("not yet");
        set_level(LevelFilter::Debug);
        log::debug!("now");

        let mut buf = [0; 4096];
        let n = rustix::io::read(&read, &mut buf).unwrap();
        let text = String::from_utf8(buf[..n].to_vec()).unwrap();
        let lines: Vec<_> = text
            .lines()
            .map(|l| l.split_once(" level=").unwrap().1)
            .collect();
        assert_eq!(
            lines,
            [
                "info msg=\"exited early\" runtime=io.containerd.rust.v2 container=c1 exec=\"e 1\" status=7",
                "debug msg=now runtime=io.containerd.rust.v2",
            ]
        );
        assert_eq!(dropped(), 0);
        let (kept, _) = tail::lines(0, 10, |line| &*line.container == "c1");
        let [(_, kept)] = &kept[..] else {
            panic!("{kept:?}");
        };
        assert_eq!((kept.level, &*kept.exec), (log::Level::Info, "e 1"));
        assert_eq!(&kept.line[kept.message.clone()], "\"exited early\"");
    }
}
