// SPDX-License-Identifier: Apache-2.0
//! Running one hook.
//!
//! It gets the state on its standard input, and the end of it; no descriptor of ours, no signal
//! blocked or ignored, a process group of its own. What it writes is kept for the error. It has
//! ended when its process has: what it left in the background with its output open is not waited
//! for. At its time limit the whole process group is killed.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use reaper::Exit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, waitid};
use sys::launch::{Launch, Placement};
use sys::{Call, Errno};

use super::Hook;

/// So much of the end of each stream is kept for the error.
const KEPT: usize = 4096;
/// For a killed process to be gone. One that hangs in the kernel is left to the reaper.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How often a hook's end is looked for if a seccomp profile forbids `pidfd_open(2)`.
const LOOK: Duration = Duration::from_millis(5);

/// Why a hook failed.
#[derive(Debug)]
pub enum Cause {
    /// Its program could not be executed.
    Start {
        /// The program.
        path: String,
        /// Why.
        source: sys::Error,
    },
    /// It ended otherwise than with 0.
    Ended {
        /// How.
        exit: Exit,
        /// The end of what it wrote to its standard output.
        stdout: String,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// It took longer than it may.
    Timeout {
        /// The limit.
        limit: Duration,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// A system call of ours failed.
    System(sys::Error),
}

impl Cause {
    /// The error number of the failed call, if a call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Cause::Start { source, .. } | Cause::System(source) => Some(source.errno()),
            Cause::Ended { .. } | Cause::Timeout { .. } => None,
        }
    }
}

impl From<sys::Error> for Cause {
    fn from(error: sys::Error) -> Self {
        Cause::System(error)
    }
}

/// In the words of runc, which are those of Go's `os/exec`.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Start { path, source } => {
                let reason = sys::error::describe(source.errno());
                write!(f, "fork/exec {path}: {reason}")
            }
            Cause::Ended {
                exit,
                stdout,
                stderr,
            } => {
                match exit {
                    Exit::Code(code) => write!(f, "exit status {code}")?,
                    Exit::Signal(number) => write!(f, "signal: {}", signal_name(*number))?,
                }
                write!(f, ", stdout: {stdout}, stderr: {stderr}")
            }
            Cause::Timeout { limit, stderr } => {
                let seconds = limit.as_secs_f64();
                write!(f, "hook ran past specified timeout of {seconds:.1}s")?;
                if stderr.is_empty() {
                    return Ok(());
                }
                write!(f, ", stderr: {stderr}")
            }
            Cause::System(source) => source.fmt(f),
        }
    }
}

/// What Go calls the signals that a program usually dies of.
fn signal_name(number: u8) -> String {
    match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        6 => "aborted",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        15 => "terminated",
        31 => "bad system call",
        other => return format!("signal {other}"),
    }
    .to_owned()
}

/// Runs a hook to its end.
///
/// # Errors
/// It could not be started, took too long, or did not exit with 0.
pub(super) fn run(
    hook: &Hook,
    state: &[u8],
    directory: Option<BorrowedFd<'_>>,
    env: &[String],
) -> Result<(), Cause> {
    let begin = Instant::now();
    let mut running = Running::start(hook, state, directory, env)?;
    let deadline = hook.time_limit().map(|limit| (begin + limit, limit));
    loop {
        let wait = deadline.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        running.wait(state, wait)?;
        if let Some(exit) = running.ended()? {
            running.stdout.read();
            running.stderr.read();
            return match exit {
                Exit::Code(0) => Ok(()),
                exit => Err(Cause::Ended {
                    exit,
                    stdout: running.stdout.text(),
                    stderr: running.stderr.text(),
                }),
            };
        }
        if let Some((_, limit)) = deadline.filter(|(at, _)| *at <= Instant::now()) {
            running.kill();
            running.stderr.read();
            return Err(Cause::Timeout {
                limit,
                stderr: running.stderr.text(),
            });
        }
    }
}

/// A hook at work.
struct Running {
    pid: Pid,
    /// None where the kernel or a seccomp profile has none for us.
    pidfd: Option<OwnedFd>,
    /// The write end of its standard input, until all is written, and how much has been.
    input: Option<(OwnedFd, usize)>,
    /// Held so that a write to a hook that does not read is never a SIGPIPE.
    _reader: OwnedFd,
    stdout: Output,
    stderr: Output,
    reaped: bool,
}

impl Running {
    fn start(
        hook: &Hook,
        state: &[u8],
        directory: Option<BorrowedFd<'_>>,
        env: &[String],
    ) -> Result<Self, Cause> {
        let pipe = |flags: PipeFlags| {
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | flags).call("pipe2", || "")
        };
        let (reader, writer) = pipe(PipeFlags::empty())?;
        rustix::io::ioctl_fionbio(&writer, true).call("ioctl", || "FIONBIO")?;
        let (stdout, stdout_end) = pipe(PipeFlags::empty())?;
        let (stderr, stderr_end) = pipe(PipeFlags::empty())?;
        for end in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(end, true).call("ioctl", || "FIONBIO")?;
        }
        // A state that fits is written before anybody could miss it.
        let mut input = Some((writer, 0));
        feed(&mut input, state);
        // Between birth and registration the reaper must not take it for a stranger.
        let gate = reaper::Spawning::begin();
        let placement = Placement {
            streams: [reader.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()],
            directory,
        };
        let pid = launch(hook, env, &placement).map_err(|source| Cause::Start {
            path: hook.path.clone(),
            source,
        })?;
        gate.born(pid);
        Ok(Self {
            pid,
            pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok(),
            input,
            _reader: reader,
            stdout: Output::new(stdout),
            stderr: Output::new(stderr),
            reaped: false,
        })
    }

    /// Waits until the hook does something, at most for `limit`.
    fn wait(&mut self, state: &[u8], limit: Option<Duration>) -> Result<(), Cause> {
        let limit = match (&self.pidfd, limit) {
            (Some(_), limit) => limit,
            (None, limit) => Some(limit.map_or(LOOK, |limit| limit.min(LOOK))),
        };
        let timeout = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(4);
        if let Some((input, _)) = &self.input {
            fds.push(PollFd::new(input, PollFlags::OUT));
        }
        for output in [&self.stdout, &self.stderr] {
            if let Some(fd) = &output.fd {
                fds.push(PollFd::new(fd, PollFlags::IN));
            }
        }
        if let Some(pidfd) = &self.pidfd {
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll", "hook", errno).into()),
        }
        feed(&mut self.input, state);
        self.stdout.read();
        self.stderr.read();
        Ok(())
    }

    /// Takes its status if it has ended.
    fn ended(&mut self) -> Result<Option<Exit>, Cause> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // By pid: it is our child, and nobody else waits for it.
        let status = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(self.pid), options))
            .call("waitid", || format!("hook {}", self.pid.as_raw_nonzero()))?;
        let Some(status) = status else {
            return Ok(None);
        };
        self.reaped = true;
        reaper::forget(self.pid);
        Ok(Some(match status.terminating_signal() {
            Some(signal) => Exit::Signal(u8::try_from(signal).unwrap_or(u8::MAX)),
            None => Exit::Code(status.exit_status().unwrap_or(0) as u8),
        }))
    }

    /// Kills its process group. The group's number cannot be another's: its leader is our child
    /// and not waited for.
    fn kill(&mut self) {
        if self.reaped {
            return;
        }
        // ESRCH: all have ended.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let deadline = Instant::now() + KILL_LIMIT;
        self.input = None;
        while Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait(&[], Some(left)).and_then(|()| self.ended()) {
                Ok(None) => {}
                Ok(Some(_)) => return,
                Err(e) => {
                    log::warn!("wait for a killed hook: {e}");
                    break;
                }
            }
        }
        reaper::forget(self.pid);
    }
}

impl Drop for Running {
    /// After a failed call of ours it must not run on unattended.
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(hook: &Hook, env: &[String], placement: &Placement<'_>) -> sys::Result<Pid> {
    let strings = |list: &[String]| -> sys::Result<Vec<CString>> {
        let convert = |text: &String| {
            CString::new(text.as_str())
                .map_err(|_| sys::Error::new("posix_spawn", format!("{text:?}"), Errno::INVAL))
        };
        list.iter().map(convert).collect()
    };
    let path = std::slice::from_ref(&hook.path);
    let program = strings(path)?;
    let args = strings(if hook.args.is_empty() {
        path
    } else {
        &hook.args
    })?;
    let env = strings(if hook.env.is_empty() { env } else { &hook.env })?;
    let program = program.first().map_or(c"", CString::as_c_str);
    let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
    let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
    Launch {
        program,
        args: &args,
        env: &env,
        fds: &[],
    }
    .run_at(placement)
}

/// Writes what fits; closes the pipe when that was all.
fn feed(input: &mut Option<(OwnedFd, usize)>, state: &[u8]) {
    while let Some((pipe, done)) = input {
        let rest = state.get(*done..).unwrap_or_default();
        if rest.is_empty() {
            *input = None;
            return;
        }
        match rustix::io::write(&*pipe, rest) {
            Ok(written) => *done += written,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// What a hook writes to one stream.
struct Output {
    /// Until its end.
    fd: Option<OwnedFd>,
    end: Vec<u8>,
    cut: bool,
}

impl Output {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Some(fd),
            end: Vec::new(),
            cut: false,
        }
    }

    /// Takes what is there. A hook that writes without end must not keep us here.
    fn read(&mut self) {
        let mut chunk = [0u8; KEPT];
        for _ in 0..16 {
            let Some(fd) = &self.fd else { return };
            match rustix::io::read(fd, &mut chunk[..]) {
                Ok(0) => self.fd = None,
                Ok(count) => self.keep(chunk.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.fd = None,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.end.extend_from_slice(bytes);
        let more = self.end.len().saturating_sub(KEPT);
        self.cut |= more > 0;
        self.end.drain(..more);
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.end);
        let dots = if self.cut { "..." } else { "" };
        format!("{dots}{}", text.trim_end())
    }
}
