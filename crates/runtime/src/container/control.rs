// SPDX-License-Identifier: Apache-2.0
//! What can be asked of a running container: its statistics, to stop and to go on.

use std::os::fd::AsFd;

use cgroups::Cgroup;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::Container;
use crate::error::{Error, Result};
use crate::interfaces::{self, Interface};

impl Container {
    /// Counters of its cgroup. Blocks for nothing, and never fails: what cannot be read is empty.
    pub fn stats(&self) -> cgroups::Stats {
        self.cgroup.stats()
    }

    /// What went through its network interfaces, unless it uses the host's. Empty when its init
    /// has ended.
    pub fn network(&self) -> Vec<Interface> {
        if self.host_network {
            return Vec::new();
        }
        let interfaces = interfaces::of_process(self.pid.as_raw_nonzero().get());
        // If it is still there now, the pid has been its own all the time.
        match self.init_has_ended() {
            true => Vec::new(),
            false => interfaces,
        }
    }

    /// Stops all its processes; returns when they have stopped.
    ///
    /// # Errors
    /// They do not stop within ten seconds (and go on), or the cgroup is gone.
    pub fn pause(&self) -> Result<()> {
        self.cgroup.freeze().map_err(|source| Error::Cgroup {
            attempt: "unable to freeze",
            source,
        })
    }

    /// Lets all its processes go on.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn resume(&self) -> Result<()> {
        self.cgroup.thaw().map_err(|source| Error::Cgroup {
            attempt: "unable to thaw",
            source,
        })
    }

    /// Whether its processes are stopped, whoever did that.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn is_paused(&self) -> Result<bool> {
        self.cgroup.is_frozen().map_err(|source| Error::Cgroup {
            attempt: "read freezer",
            source,
        })
    }

    pub(super) fn init_has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // ECHILD: somebody has waited for it.
        !matches!(waitid(WaitId::PidFd(self.pidfd.as_fd()), options), Ok(None))
    }
}

/// What is behind a failure of init: most probably that the kernel killed it, if it killed anybody.
pub(super) fn explain_kill(cgroup: &Cgroup, kills_before: u64, error: Error) -> Error {
    match cgroup.oom_kills() > kills_before {
        true => {
            log::debug!("init was killed for memory: {error}");
            Error::OomKilled
        }
        false => error,
    }
}

/// Nobody but init is there yet: if somebody was killed for memory, it was init.
pub(super) fn refuse_killed(cgroup: &Cgroup, kills_before: u64) -> Result<()> {
    match cgroup.oom_kills() > kills_before {
        true => Err(Error::OomKilled),
        false => Ok(()),
    }
}
