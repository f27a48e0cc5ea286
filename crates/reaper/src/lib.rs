// SPDX-License-Identifier: Apache-2.0
//! Waiting for children: the one place of the process that waits for "any child".
//!
//! A shim is a subreaper. Its own children (init and exec processes, loggers) are waited for
//! through their pidfds, each by whoever made it. Processes that are orphaned below it (children
//! of an exec in a shared PID namespace) become its children too and are strangers: nobody asks
//! for their status, but they must not stay zombies.
//!
//! To tell them apart, whoever makes a child holds [`Spawning`] from before the clone until the
//! child's pid is registered; [`reap_strangers`] leaves the registered alone. So no status of a
//! child that ended at once can be taken for a stranger's and lost.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use sys::Call;

static GATE: RwLock<()> = RwLock::new(());
static KNOWN: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<HashSet<i32>>> {
    // Nothing below panics while it holds the lock.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl Exit {
    /// The status as containerd and shells count it: the code, or 128 + signal.
    pub fn status(self) -> u32 {
        match self {
            Exit::Code(code) => u32::from(code),
            Exit::Signal(signal) => 128 + u32::from(signal),
        }
    }

    fn of(status: &WaitIdStatus) -> Self {
        if let Some(signal) = status.terminating_signal() {
            Exit::Signal(signal as u8)
        } else {
            Exit::Code(status.exit_status().unwrap_or(0) as u8)
        }
    }
}

/// Held while a child is being made: strangers are not reaped meanwhile.
#[derive(Debug)]
pub struct Spawning(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>);

impl Spawning {
    /// To be called before the clone.
    pub fn begin() -> Self {
        Self(GATE.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that `pid` is a child whose maker waits for it.
    pub fn born(self, pid: Pid) {
        known()
            .get_or_insert_with(HashSet::new)
            .insert(pid.as_raw_nonzero().get());
    }
}

/// Takes the status of the child behind `pidfd`, if it has ended, and forgets it.
///
/// # Errors
/// `waitid(2)`: `ECHILD` when it is no child of ours, or was waited for already.
pub fn collect(pid: Pid, pidfd: impl AsFd) -> sys::Result<Option<Exit>> {
    wait(pid, pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Waits until the child behind `pidfd` has ended, and forgets it.
///
/// # Errors
/// As [`collect`].
pub fn wait_for(pid: Pid, pidfd: impl AsFd) -> sys::Result<Exit> {
    // Without NOHANG there is always a status.
    wait(pid, pidfd, WaitIdOptions::EXITED).map(|exit| exit.unwrap_or(Exit::Code(0)))
}

fn wait(pid: Pid, pidfd: impl AsFd, options: WaitIdOptions) -> sys::Result<Option<Exit>> {
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options))
        .call("waitid", || {
            format!("P_PIDFD of process {}", pid.as_raw_nonzero())
        })?;
    if status.is_some() {
        forget(pid);
    }
    Ok(status.as_ref().map(Exit::of))
}

/// Says that nobody waits for `pid` by pidfd any more (its maker has waited in another way).
pub fn forget(pid: Pid) {
    if let Some(set) = known().as_mut() {
        set.remove(&pid.as_raw_nonzero().get());
    }
}

/// What became of an attempt to reap strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// No dead stranger is left.
    Done,
    /// A child is being made, or one of ours has ended and hides what is behind it: try again
    /// when that has been dealt with.
    Later,
}

/// Reaps every dead child that is not registered. Never blocks.
pub fn reap_strangers() -> Sweep {
    let Ok(_gate) = GATE.try_write() else {
        return Sweep::Later;
    };
    loop {
        let Some(pid) = sys::wait::peek_dead_child() else {
            return Sweep::Done;
        };
        if known()
            .as_ref()
            .is_some_and(|set| set.contains(&pid.as_raw_nonzero().get()))
        {
            return Sweep::Later;
        }
        if waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )
        .is_err()
        {
            return Sweep::Done;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    #[allow(clippy::zombie_processes, reason = "waited for through waitid")]
    fn a_registered_child_is_left_for_its_maker_and_a_stranger_is_reaped() {
        let gate = Spawning::begin();
        assert_eq!(reap_strangers(), Sweep::Later, "a child is being made");
        let child = Command::new("/bin/sh")
            .args(["-c", "kill -9 $$"])
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        gate.born(pid);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        // WNOWAIT: wait until it is dead without taking the status.
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert_eq!(reap_strangers(), Sweep::Later);
        assert_eq!(collect(pid, &pidfd).unwrap(), Some(Exit::Signal(9)));
        assert_eq!(Exit::Signal(9).status(), 137);

        let stranger = Command::new("/bin/true").spawn().unwrap();
        let pid = Pid::from_raw(stranger.id() as i32).unwrap();
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert_eq!(reap_strangers(), Sweep::Done);
        let again = waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        assert_eq!(again.unwrap_err(), rustix::io::Errno::CHILD);
    }
}
