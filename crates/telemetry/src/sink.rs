// SPDX-License-Identifier: Apache-2.0
//! Where log lines go: the FIFO `log` that containerd reads.
//!
//! The FIFO is opened for reading and writing, so that it opens without a reader and survives a
//! restart of containerd: what was written meanwhile waits in the pipe. It is never waited for:
//! a line that finds the pipe full is dropped and counted, and the count is told when there is
//! room again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use log::Level;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::Call;

use crate::logfmt::{Format, Line};

/// A descriptor that takes log lines without ever blocking.
#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    format: Format,
    dropped: AtomicU64,
    /// All lines ever lost.
    lost: AtomicU64,
}

impl Sink {
    /// Opens containerd's FIFO.
    ///
    /// # Errors
    /// `open` failed: then there is nobody to tell, and the caller goes on without a log.
    pub fn open(path: &Path) -> sys::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::APPEND | OFlags::CLOEXEC;
        let fd = rustix::fs::open(
            path,
            flags | OFlags::NOCTTY | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .call("open", || format!("{path:?}, O_RDWR|O_NONBLOCK"))?;
        Ok(Self::new(fd))
    }

    /// A sink over a descriptor that does not block (else neither does the sink keep its word).
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            format: Format::Text,
            dropped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// The same, with lines of another form.
    #[must_use]
    pub fn with_format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// The form of its lines.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Lines lost since the beginning.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Lines lost since the last report.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes one line, at once or not at all.
    pub(crate) fn write(&self, line: &str) {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.report(lost) {
            self.dropped.fetch_add(lost + 1, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if !self.put(line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn report(&self, lost: u64) -> bool {
        let mut line = Line::new(
            self.format,
            SystemTime::now(),
            Level::Warn,
            "log lines dropped: log full",
        );
        line.field("dropped", &lost.to_string());
        self.put(&line.finish())
    }

    fn put(&self, line: &str) -> bool {
        loop {
            match rustix::io::write(self.fd.as_fd(), line.as_bytes()) {
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};

    fn fifo(dir: &Path) -> Sink {
        let path = dir.join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        Sink::open(&path).unwrap()
    }

    fn drain(sink: &Sink) -> String {
        let mut all = Vec::new();
        let mut buf = [0; 65_536];
        while let Ok(n @ 1..) = rustix::io::read(sink.fd.as_fd(), &mut buf) {
            all.extend_from_slice(&buf[..n]);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn opens_without_a_reader_and_keeps_lines_for_a_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let sink = fifo(dir.path());
        sink.write("one\n");
        sink.write("two\n");
        assert_eq!(drain(&sink), "one\ntwo\n");
    }

    #[test]
    fn a_full_pipe_drops_whole_lines_and_tells_how_many_later() {
        let dir = tempfile::tempdir().unwrap();
        let sink = fifo(dir.path());
        let line = format!("{}\n", "x".repeat(4000));
        for _ in 0..100 {
            sink.write(&line);
        }
        let lost = sink.dropped();
        assert!(lost >= 84, "{lost}");
        assert!(drain(&sink).lines().all(|l| l.len() == 4000));

        sink.write("after\n");
        let text = drain(&sink);
        assert!(text.contains(&format!(
            "level=warning msg=\"log lines dropped: log full\" dropped={lost}\n"
        )));
        assert!(text.ends_with("\nafter\n"), "{text}");
        assert_eq!(sink.dropped(), 0);
    }
}
