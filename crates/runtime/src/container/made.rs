// SPDX-License-Identifier: Apache-2.0
//! What a creation has made so far, and its undoing.

use cgroups::Cgroup;
use rustix::process::Signal;
use sys::spawn::Child;

use crate::error::{Error, Result};
use crate::hooks::Lifecycle;
use crate::host_root::HostRoot;
use crate::intel_rdt;
use crate::state::{Directory, State};

/// What has been made so far of a container; undone on drop unless kept.
#[derive(Default)]
pub(super) struct Made {
    pub(super) directory: Option<Directory>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) child: Option<Child>,
    pub(super) intel_rdt: Option<intel_rdt::Group>,
    /// If what it mounts is mounted on the host.
    pub(super) host_root: Option<HostRoot>,
    /// Of a container: from here on it exists, and its end is an end like any other.
    pub(super) hooks: Option<Lifecycle>,
}

impl Made {
    pub(super) fn save(&self, state: &State) -> Result<()> {
        self.directory
            .as_ref()
            .map_or(Ok(()), |directory| directory.save(state))
    }

    pub(super) fn keep(mut self) -> Result<(Directory, Cgroup, Child)> {
        match (self.directory.take(), self.cgroup.take(), self.child.take()) {
            (Some(directory), Some(cgroup), Some(child)) => Ok((directory, cgroup, child)),
            _ => Err(Error::Protocol("incomplete container".to_owned())),
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // ESRCH: it has ended by itself.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
            if let Err(e) = reaper::wait_for(child.pid, &child.pidfd) {
                log::warn!("undo create: {e}");
            }
        }
        if let Some(cgroup) = self.cgroup.take() {
            if let Err(e) = cgroup.kill().and_then(|()| cgroup.remove()) {
                log::warn!("undo create: {e}");
            }
        }
        if let Some(Err(e)) = self.host_root.take().map(|root| root.undo()) {
            log::warn!("undo create: {e}");
        }
        if let Some(group) = self.intel_rdt.take() {
            if let Err(e) = group.remove() {
                log::warn!("undo create: {e}");
            }
        }
        if let Some(directory) = self.directory.take() {
            if let Err(e) = directory.remove() {
                log::warn!("undo create: {e}");
            }
            if let Some(hooks) = self.hooks.take() {
                hooks.run_poststop();
            }
        }
    }
}
