// SPDX-License-Identifier: Apache-2.0
//! What the kernel says of containers, compared with what was told of them.
//!
//! Silence is no alarm: only a difference is, and only one that is still there at the next look, because
//! between an end and its telling there is always a moment. Each is told once, as an event and a
//! warning. The timer runs only while there are containers, and a look is two small files and one
//! poll for each.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::container::{Container, Phase};
use crate::freeze::Freeze;
use crate::server::{Server, Timer};
use crate::timers::TimerId;

/// How often containers are looked at, unless [`VARIABLE`] says otherwise.
const INTERVAL: Duration = Duration::from_secs(10);
/// Milliseconds between two looks; for tests, which cannot wait so long.
const VARIABLE: &str = "CONTAINERD_SHIM_RUST_WATCHDOG_MS";

/// Something that the kernel says and nobody was told, or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Divergence {
    /// An init has ended; no TaskExit was published.
    InitEnded,
    /// An exec, the one with this pid, has ended; no TaskExit was published of it. One that is about to be
    /// told at one look and another at the next are no difference that stays.
    ExecEnded(i32),
    /// TaskExit of init was published; there are processes left.
    StillPopulated,
    /// Init runs; its cgroup is empty.
    LeftCgroup,
    /// Processes were killed for memory; no TaskOOM was published since.
    OomUntold,
}

impl Divergence {
    fn text(self) -> &'static str {
        match self {
            Divergence::InitEnded => "the init has ended, but its exit is not published",
            Divergence::ExecEnded(_) => "an exec has ended, but its exit is not published",
            Divergence::StillPopulated => {
                "the exit is published, but processes are left in the cgroup"
            }
            Divergence::LeftCgroup => "the init runs, but not in the container's cgroup",
            Divergence::OomUntold => "processes were killed for memory, but no OOM is published",
        }
    }
}

/// What the kernel says of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Kernel {
    init_ended: bool,
    /// Their pids.
    execs_ended: Vec<i32>,
    /// `None`: it does not say.
    populated: Option<bool>,
    oom_kills: u64,
}

/// What was told of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Told {
    init_runs: bool,
    init_stopped: bool,
    /// The kernel ends all its processes with its init.
    private_pid_namespace: bool,
    /// Kills that the last TaskOOM, or the creation, knew of.
    oom_kills: u64,
}

/// The differences.
fn compare(kernel: &Kernel, told: &Told) -> Vec<Divergence> {
    let mut found = Vec::new();
    let mut check = |differs: bool, divergence| {
        if differs {
            found.push(divergence);
        }
    };
    check(kernel.init_ended && told.init_runs, Divergence::InitEnded);
    for pid in &kernel.execs_ended {
        check(true, Divergence::ExecEnded(*pid));
    }
    check(
        told.init_stopped && told.private_pid_namespace && kernel.populated == Some(true),
        Divergence::StillPopulated,
    );
    check(
        told.init_runs && !kernel.init_ended && kernel.populated == Some(false),
        Divergence::LeftCgroup,
    );
    check(kernel.oom_kills > told.oom_kills, Divergence::OomUntold);
    found
}

/// What is known from the last look.
pub(crate) struct Watchdog {
    interval: Duration,
    timer: Option<TimerId>,
    /// By container: seen at the last look, and whether it was told.
    seen: HashMap<String, Vec<(Divergence, bool)>>,
}

impl Default for Watchdog {
    fn default() -> Self {
        let asked = std::env::var(VARIABLE).ok();
        let asked = asked.and_then(|text| text.parse().ok());
        Self {
            interval: asked.map_or(INTERVAL, |ms: u64| Duration::from_millis(ms.max(10))),
            timer: None,
            seen: HashMap::new(),
        }
    }
}

impl Watchdog {
    /// Something was published.
    pub(super) fn told(&mut self, kind: &str, container: &str) {
        if kind == "delete" {
            self.seen.remove(container);
        }
    }

    /// Takes what differs now; returns what has differed at the last look too and was not told.
    fn confirm(&mut self, container: &str, found: &[Divergence]) -> Vec<Divergence> {
        let before = self.seen.remove(container).unwrap_or_default();
        let mut confirmed = Vec::new();
        let now: Vec<_> = found
            .iter()
            .map(|divergence| {
                let last = before.iter().find(|(known, _)| known == divergence);
                if matches!(last, Some((_, false))) {
                    confirmed.push(*divergence);
                }
                (*divergence, last.is_some())
            })
            .collect();
        if !now.is_empty() {
            self.seen.insert(container.to_owned(), now);
        }
        confirmed
    }
}

impl Server {
    /// A container has come: it is watched over.
    pub(super) fn begin_watchdog(&mut self) {
        if self.observed.watchdog.timer.is_none() {
            let timer = self.timers.set(
                Instant::now() + self.observed.watchdog.interval,
                Timer::Watchdog,
            );
            self.observed.watchdog.timer = Some(timer);
        }
    }

    /// Looks at all containers.
    pub(crate) fn watch_over(&mut self) {
        self.observed.watchdog.timer = None;
        if self.containers.is_empty() {
            self.observed.watchdog.seen = HashMap::new();
            return;
        }
        let found: Vec<(String, Vec<Divergence>)> = self
            .containers
            .iter()
            .filter_map(|(id, container)| {
                let (kernel, told) = look(container)?;
                Some((id.clone(), compare(&kernel, &told)))
            })
            .collect();
        for (id, found) in found {
            for divergence in self.observed.watchdog.confirm(&id, &found) {
                let text = divergence.text();
                log::warn!(container = id.as_str(); "divergence: {text}");
                self.note("divergence", &id, text);
            }
        }
        self.begin_watchdog();
    }
}

/// Both sides; `None` while there is nothing to compare.
fn look(container: &Container) -> Option<(Kernel, Told)> {
    let runtime = container.runtime.as_ref()?;
    // Frozen processes do not end, and how long a thaw takes is the kernel's affair.
    if container.freeze != Freeze::No {
        return None;
    }
    let phase = container.init.phase;
    let execs = container.execs.values().map(|exec| &exec.process);
    let running = execs.filter(|process| process.phase == Phase::Running);
    let kernel = Kernel {
        init_ended: container.init.pidfd.as_deref().is_some_and(has_ended),
        execs_ended: running
            .filter(|process| process.pidfd.as_deref().is_some_and(has_ended))
            .map(|process| process.pid)
            .collect(),
        populated: runtime.cgroup.populated().ok(),
        oom_kills: runtime.cgroup.oom_kills(),
    };
    let told = Told {
        init_runs: phase == Phase::Running,
        init_stopped: matches!(phase, Phase::Stopped(_)),
        private_pid_namespace: runtime.private_pid_namespace,
        oom_kills: container.oom.as_ref().map_or(u64::MAX, |oom| oom.told()),
    };
    Some((kernel, told))
}

/// Whether the process behind a pidfd has ended.
fn has_ended(pidfd: &std::os::fd::OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: Told = Told {
        init_runs: true,
        init_stopped: false,
        private_pid_namespace: true,
        oom_kills: 2,
    };
    const ALIVE: Kernel = Kernel {
        init_ended: false,
        execs_ended: Vec::new(),
        populated: Some(true),
        oom_kills: 2,
    };

    #[test]
    fn what_agrees_is_silent_and_what_differs_is_named() {
        assert_eq!(compare(&ALIVE, &RUNS), []);
        let stopped = Told {
            init_runs: false,
            init_stopped: true,
            ..RUNS
        };
        let dead = Kernel {
            init_ended: true,
            populated: Some(false),
            ..ALIVE
        };
        assert_eq!(compare(&dead, &stopped), []);
        assert_eq!(compare(&dead, &RUNS), [Divergence::InitEnded]);
        assert_eq!(compare(&ALIVE, &stopped), [Divergence::StillPopulated]);
        let shared = Told {
            private_pid_namespace: false,
            ..stopped
        };
        assert_eq!(compare(&ALIVE, &shared), []);
        let elsewhere = Kernel {
            populated: Some(false),
            ..ALIVE
        };
        assert_eq!(compare(&elsewhere, &RUNS), [Divergence::LeftCgroup]);
        let silent = Kernel {
            populated: None,
            ..ALIVE
        };
        assert_eq!(compare(&silent, &RUNS), []);
        let more = Kernel {
            oom_kills: 3,
            execs_ended: vec![7, 8],
            ..ALIVE
        };
        let all = [
            Divergence::ExecEnded(7),
            Divergence::ExecEnded(8),
            Divergence::OomUntold,
        ];
        assert_eq!(compare(&more, &RUNS), all);
    }

    #[test]
    fn a_difference_is_told_once_and_only_if_it_stays() {
        let mut watchdog = Watchdog::default();
        let found = [Divergence::OomUntold];
        assert_eq!(watchdog.confirm("c", &found), []);
        assert_eq!(watchdog.confirm("c", &[]), [], "it was a moment");
        assert_eq!(watchdog.confirm("c", &found), []);
        assert_eq!(watchdog.confirm("c", &found), found);
        assert_eq!(watchdog.confirm("c", &found), [], "told once");
        let execs = [Divergence::ExecEnded(1), Divergence::ExecEnded(2)];
        assert_eq!(watchdog.confirm("c", &execs[..1]), []);
        assert_eq!(watchdog.confirm("c", &execs[1..]), [], "another one");
        assert_eq!(watchdog.confirm("c", &execs), execs[1..]);
        watchdog.told("delete", "c");
        assert!(watchdog.seen.is_empty());
    }
}
