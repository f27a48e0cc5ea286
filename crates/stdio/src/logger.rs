// SPDX-License-Identifier: Apache-2.0
//! A logging program and its protocol.
//!
//! It is executed with the URI's query as arguments, `CONTAINER_ID` and `CONTAINER_NAMESPACE` as
//! its whole environment, stdout and stderr to read at descriptors 3 and 4, and a pipe at 5 by
//! which it says that it is ready. It ends by itself when both streams end; what has not ended
//! when the container is deleted is asked to (`SIGTERM`), then made to.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sys::{Call, Errno};

use crate::error::Error;
use crate::pipe::Pipe;
use crate::uri::{Program, Readiness};

/// For the logger to get ready. The call that waits is one a person or a kubelet waits for.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(10);
/// For a logger that has seen the end of its streams to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// Between `SIGTERM` and `SIGKILL`. Loggers count on at least ten seconds to clean up.
const TERM_LIMIT: Duration = Duration::from_secs(12);
/// After `SIGKILL`.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// A running logger: a child of ours.
#[derive(Debug)]
pub(crate) struct Logger {
    pid: Pid,
    pidfd: OwnedFd,
}

/// Whom it logs for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) container_id: &'a str,
    pub(crate) namespace: &'a str,
}

impl Logger {
    /// Starts the program and waits until it is ready.
    pub(crate) fn start(
        program: &Program,
        subject: Subject<'_>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<Self, Error> {
        let ready = Pipe::new()?;
        let logger = spawn(program, subject, &[stdout, stderr, ready.writer.as_fd()])
            .map_err(Error::LoggerStart)?;
        drop(ready.writer);
        match wait_until_ready(&ready.reader, program.readiness, READY_LIMIT) {
            Ok(()) => Ok(logger),
            Err(error) => {
                logger.kill();
                Err(error)
            }
        }
    }

    /// Becomes readable when the logger has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended; then it is reaped.
    pub(crate) fn has_ended(&self) -> bool {
        // An error means that it is no longer a child of ours to wait for.
        !matches!(reaper::collect(self.pid, &self.pidfd), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // Fails only when it has ended, which is what is wanted.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    fn kill(self) {
        self.signal(Signal::KILL);
        // One that hangs in the kernel is left to the reaper.
        self.ends_within(KILL_LIMIT);
    }

    /// Waits for its end.
    fn ends_within(&self, limit: Duration) -> bool {
        wait_readable(self.pidfd.as_fd(), limit) && self.has_ended()
    }
}

impl Drop for Logger {
    /// Nobody will wait for it: the reaper is to, as for any stranger.
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(Signal::TERM);
            reaper::forget(self.pid);
        }
    }
}

/// A logger that is to end.
#[derive(Debug)]
#[must_use = "the logger runs on until `finish`"]
pub struct LoggerEnd {
    logger: Logger,
}

impl LoggerEnd {
    pub(crate) fn new(logger: Logger) -> Self {
        Self { logger }
    }

    /// Waits for the logger to end, with emphasis if it does not: at most 14 s. Not for the
    /// reactor. Dropped instead, the logger is sent `SIGTERM` and left alone.
    pub fn finish(self) {
        if self.logger.ends_within(GRACE) {
            return;
        }
        self.logger.signal(Signal::TERM);
        if self.logger.ends_within(TERM_LIMIT) {
            return;
        }
        log::warn!("logging binary did not end within {TERM_LIMIT:?} of SIGTERM: killed");
        self.logger.kill();
    }
}

fn spawn(program: &Program, subject: Subject<'_>, fds: &[BorrowedFd<'_>]) -> sys::Result<Logger> {
    let variable = |name: &str, value: &str| {
        CString::new(format!("{name}={value}"))
            .map_err(|_| sys::Error::new("posix_spawn", format!("{name}={value:?}"), Errno::INVAL))
    };
    let env = [
        variable("CONTAINER_ID", subject.container_id)?,
        variable("CONTAINER_NAMESPACE", subject.namespace)?,
    ];
    let args: Vec<&CStr> = std::iter::once(&program.path)
        .chain(&program.args)
        .map(CString::as_c_str)
        .collect();
    // Between birth and registration the reaper must not take it for a stranger: pid and pidfd
    // are surely of the same process.
    let gate = reaper::Spawning::begin();
    let pid = sys::launch::Launch {
        program: &program.path,
        args: &args,
        env: &[&env[0], &env[1]],
        fds,
    }
    .run()?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())
        .call("pidfd_open", || pid.as_raw_nonzero().to_string())?;
    gate.born(pid);
    Ok(Logger { pid, pidfd })
}

fn wait_until_ready(ready: &OwnedFd, readiness: Readiness, limit: Duration) -> Result<(), Error> {
    if !wait_readable(ready.as_fd(), limit) {
        return Err(Error::LoggerTimeout(limit));
    }
    let count = rustix::io::retry_on_intr(|| rustix::io::read(ready, &mut [0]))
        .call("read", || "ready pipe")?;
    match readiness {
        Readiness::Byte if count == 0 => Err(Error::LoggerNotReady),
        Readiness::Byte | Readiness::ByteOrClose => Ok(()),
    }
}

/// Waits until `fd` is readable or closed; false after `limit`.
fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos() as _,
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logger_that_hangs_before_it_is_ready_is_an_error_after_the_limit() {
        let pipe = Pipe::new().unwrap();
        let limit = Duration::from_millis(20);
        for readiness in [Readiness::Byte, Readiness::ByteOrClose] {
            let error = wait_until_ready(&pipe.reader, readiness, limit).unwrap_err();
            assert_eq!(
                error.to_string(),
                "logging binary did not call ready within 20ms"
            );
        }
    }

    #[test]
    fn a_byte_is_ready_for_both_protocols_and_a_close_for_the_old_one() {
        for readiness in [Readiness::Byte, Readiness::ByteOrClose] {
            let pipe = Pipe::new().unwrap();
            rustix::io::write(&pipe.writer, b"x").unwrap();
            wait_until_ready(&pipe.reader, readiness, READY_LIMIT).unwrap();
            drop(pipe.writer);
            let closed = wait_until_ready(&pipe.reader, readiness, READY_LIMIT);
            assert_eq!(closed.is_ok(), readiness == Readiness::ByteOrClose);
        }
    }
}
