// SPDX-License-Identifier: Apache-2.0
//! What `/proc` knows of a process, and ending it.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::{During as _, Error, Result};

/// A process, held so that its number cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    handle: OwnedFd,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident set, kB.
    pub rss: u64,
    /// Proportional share of the resident set, kB.
    pub pss: u64,
    /// Pages that no other process has, kB.
    pub private: u64,
    /// Anonymous pages, kB.
    pub anonymous: u64,
    /// Threads.
    pub threads: usize,
    /// Descriptors.
    pub descriptors: usize,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.rss += other.rss;
        self.pss += other.pss;
        self.private += other.private;
        self.anonymous += other.anonymous;
        self.threads += other.threads;
        self.descriptors += other.descriptors;
    }
}

impl Process {
    /// The process with this number now.
    pub fn open(pid: u32) -> Result<Self> {
        let handle = number(pid)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .during(|| format!("pidfd_open({pid})"))?;
        Ok(Self { pid, handle })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Has it not ended yet?
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.ended_within(Duration::ZERO)
    }

    /// Sends SIGKILL, unless it has ended.
    pub fn kill(&self) {
        // An error says that it has ended, which is what was wanted.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Waits until it has ended.
    pub fn wait_end(&self, limit: Duration) -> Result<()> {
        if !self.ended_within(limit) {
            return Err(Error::Late {
                what: format!("end of process {}", self.pid),
                limit,
            });
        }
        Ok(())
    }

    fn ended_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(_) if Instant::now() >= deadline => return false,
                Err(_) => {}
            }
        }
    }

    /// What it uses now.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.pid)
    }

    /// Processor time that its live threads have used.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid)
    }
}

fn number(pid: u32) -> std::result::Result<Pid, rustix::io::Errno> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(rustix::io::Errno::INVAL)
}

fn usage(pid: u32) -> Result<Usage> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).during(|| path)?;
    let field = |name: &str| -> u64 {
        text.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .filter_map(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .sum()
    };
    let count = |what: &str| {
        let path = format!("/proc/{pid}/{what}");
        fs::read_dir(&path).map(Iterator::count).during(|| path)
    };
    Ok(Usage {
        rss: field("Rss"),
        pss: field("Pss"),
        private: field("Private_Clean") + field("Private_Dirty"),
        anonymous: field("Anonymous"),
        threads: count("task")?,
        descriptors: count("fd")?,
    })
}

/// The run times of all live threads are exact, but miss the threads that have ended; the ticks of
/// `stat` miss nothing but short times. Both are too small, so the larger one is better.
fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).during(|| path)?;
    let exact: u64 = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).during(|| path)?;
    let fields = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ');
    // User and system time are the fields 14 and 15; the first one here is 3.
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let second = rustix::param::clock_ticks_per_second().max(1);
    let coarse = Duration::from_millis(ticks * 1000 / second);
    Ok(coarse.max(Duration::from_nanos(exact)))
}

/// Processes that have `argument` among the arguments they were executed with.
pub(crate) fn with_argument(argument: &OsStr) -> Vec<Process> {
    matching(|folder| {
        fs::read(folder.join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|part| part == argument.as_bytes())
        })
    })
}

/// Processes whose executable lies below `folder`.
pub(crate) fn executing_below(folder: &Path) -> Vec<Process> {
    matching(|process| fs::read_link(process.join("exe")).is_ok_and(|exe| exe.starts_with(folder)))
}

/// All other processes of which this is true. It is asked with the process's folder in `/proc`.
fn matching(wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.path(),
                entry.file_name().to_str()?.parse::<u32>().ok()?,
            ))
        })
        .filter(|(folder, pid)| *pid != std::process::id() && wanted(folder))
        .filter_map(|(_, pid)| Process::open(pid).ok())
        .collect()
}

/// Kills all of them and waits for their end.
pub(crate) fn kill_all(processes: &[Process]) {
    for process in processes {
        process.kill();
    }
    for process in processes {
        // A process in uninterruptible sleep stays; nothing more can be done about it here.
        let _ = process.wait_end(Duration::from_secs(5));
    }
}
