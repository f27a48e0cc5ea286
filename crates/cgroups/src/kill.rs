// SPDX-License-Identifier: Apache-2.0
//! SIGKILL to everything in a container's cgroup.
//!
//! `cgroup.kill` (Linux 5.14, v2) does it in the kernel, forks included. Without it, processes
//! are frozen if possible, so that none forks, and signalled one by one until none is left. On
//! v1 a frozen process does not die: everything is thawed at the end, whatever happened, also
//! what the container froze itself.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use sys::{Call, Errno};

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::record::Place;
use crate::tree;

/// How long all may take to die, where only that proves that all were hit.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait until all are frozen. A process stuck in the kernel does not freeze.
const FREEZE_LIMIT: Duration = Duration::from_millis(200);
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How many pidfds are held at once.
const BATCH: usize = 64;

impl Cgroup {
    /// Sends SIGKILL to every process in it and below it, and thaws it.
    ///
    /// On return all have been signalled; with `cgroup.kill` they may still be on their way out.
    /// Takes at most some seconds.
    ///
    /// # Errors
    /// Processes cannot be signalled, or (without `cgroup.kill`) do not die.
    pub fn kill(&self) -> Result<()> {
        if !self.kill_by_kernel()? {
            return self.kill_one_by_one();
        }
        if self.v1_places().next().is_none() {
            return Ok(());
        }
        // A process that is in the v1 hierarchies only: half placed when the shim died.
        let struck = self.strike();
        match self.v1_place("freezer") {
            Some(_) => self.thaw_all().and(struck),
            None => struck,
        }
    }

    /// `false`: the kernel cannot, or there is no v2 cgroup (any more).
    fn kill_by_kernel(&self) -> Result<bool> {
        let (Some(dir), Some(place)) = (self.clone_target(), self.unified_place()) else {
            return Ok(false);
        };
        match access::write(dir, "cgroup.kill", "1") {
            Ok(()) => Ok(true),
            Err(error) if access::is_gone(&error) || error.errno() == Errno::OPNOTSUPP => Ok(false),
            Err(error) => Err(self.failed("kill", place, error)),
        }
    }

    /// Freezes, signals, thaws, and looks again until nobody is left.
    pub(crate) fn kill_one_by_one(&self) -> Result<()> {
        self.hold_still()?;
        let struck = self.strike();
        self.thaw_all().and(struck)?;
        let deadline = Instant::now() + KILL_LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            let count = self.pids()?.len();
            if count == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let path = self.name();
                return Err(Error::Survivors { path, count });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            // Without a freezer some may have forked between being listed and being hit.
            self.strike()?;
        }
    }

    /// One SIGKILL to each process there is.
    fn strike(&self) -> Result<()> {
        let pids = self.pids()?;
        for batch in pids.chunks(BATCH) {
            let mut held = Vec::with_capacity(batch.len());
            for &pid in batch {
                let process = hold(pid).map_err(|error| self.kill_failed(error))?;
                held.extend(process.map(|process| (pid, process)));
            }
            // A pid may have passed on before it was held. Listed once more, it is the one meant.
            let still = self.pids()?;
            for (pid, process) in held {
                if still.binary_search(&pid).is_ok() {
                    signal(pid, &process).map_err(|error| self.kill_failed(error))?;
                }
            }
        }
        Ok(())
    }

    fn kill_failed(&self, source: sys::Error) -> Error {
        Error::Access {
            attempt: "kill",
            path: self.name(),
            source,
        }
    }

    /// Stops everybody, if there is a freezer, so that the next list is complete.
    fn hold_still(&self) -> Result<()> {
        let (place, file, value) = match (self.v1_place("freezer"), self.unified_place()) {
            (Some(place), _) => (place, "freezer.state", "FROZEN"),
            (None, Some(place)) => (place, "cgroup.freeze", "1"),
            (None, None) => return Ok(()),
        };
        let root = place.hierarchy(self.layout()).root();
        match tree::vanishing(access::write(root, &place.file(file), value)) {
            Ok(Some(())) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.failed("freeze", place, error)),
        }
        let deadline = Instant::now() + FREEZE_LIMIT;
        let mut pause = FIRST_PAUSE;
        while !self.is_all_frozen(place)? && Instant::now() < deadline {
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    fn is_all_frozen(&self, place: &Place) -> Result<bool> {
        let hierarchy = place.hierarchy(self.layout());
        if hierarchy.is_unified() {
            return Ok(self.event("frozen")? != Some(false));
        }
        let state = tree::vanishing(access::read(hierarchy.root(), &place.file("freezer.state")))
            .map_err(|error| self.failed("inspect", place, error))?;
        Ok(state.is_none_or(|state| state == "FROZEN"))
    }

    /// Undoes [`Self::hold_still`], and on v1 what was frozen before, on every level.
    fn thaw_all(&self) -> Result<()> {
        let (place, file, value) = match (self.v1_place("freezer"), self.unified_place()) {
            (Some(place), _) => (place, "freezer.state", "THAWED"),
            (None, Some(place)) => (place, "cgroup.freeze", "0"),
            (None, None) => return Ok(()),
        };
        let root = place.hierarchy(self.layout()).root();
        let thawed = tree::vanishing(tree::open(root, &place.path)).and_then(|top| match top {
            Some(top) => tree::visit(top, |dir| {
                tree::vanishing(access::write(dir, file, value)).map(drop)
            }),
            None => Ok(()),
        });
        thawed.map_err(|error| self.failed("thaw", place, error))
    }

    /// The cgroup as a person would call it: where it is in the first hierarchy.
    fn name(&self) -> String {
        let first = self.places().first();
        let name = first.map(|p| p.hierarchy(self.layout()).absolute(&p.path));
        name.unwrap_or_default()
    }
}

/// A pidfd of the process, if it is still there.
fn hold(pid: i32) -> sys::Result<Option<OwnedFd>> {
    let Some(process) = Pid::from_raw(pid) else {
        return Ok(None);
    };
    match rustix::process::pidfd_open(process, PidfdFlags::empty()) {
        Ok(process) => Ok(Some(process)),
        // EINVAL: the number has passed on to a thread.
        Err(Errno::SRCH | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno).call("pidfd_open", || pid.to_string()),
    }
}

fn signal(pid: i32, process: &OwnedFd) -> sys::Result<()> {
    match rustix::process::pidfd_send_signal(process, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno).call("pidfd_send_signal", || format!("pid {pid}, SIGKILL")),
    }
}
