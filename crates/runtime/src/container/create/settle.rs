// SPDX-License-Identifier: Apache-2.0
//! Answering init until it is ready.

use std::os::fd::{AsFd, OwnedFd};

use cgroups::Cgroup;
use cgroups::systemd::Claim;
use rustix::process::Pid;
use sys::spawn::Child;

use super::make::Making;
use super::plan::Plan;
use super::settling::Settling;
use crate::container::confine::confine;
use crate::container::control::explain_kill;
use crate::container::spawn::{answer, hand_over_listener, receive_console};
use crate::error::{Error, Result};
use crate::hooks::{Kind as Hook, Lifecycle};
use crate::namespaces::Kind as Namespace;
use crate::net_devices::{self, Destination, Moved};
use crate::seccomp_agent::Subject;
use crate::sync::{Channel, Kind};

/// Whether the container's limits are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limited {
    Yes,
    NotYet,
}

impl Making<'_> {
    /// Answers init until it says that it is ready: its terminal, if it has one.
    pub(super) fn settle(
        &mut self,
        channel: &Channel,
        mut settling: Settling,
        mut limited: Limited,
    ) -> Result<(Option<OwnedFd>, Limited)> {
        let (cgroup, child) = Self::parts(&mut self.made)?;
        settling.follow(channel, child)?;
        move_devices(channel, child, &self.plan)?;
        settling.map_ids(channel, child)?;
        if self.hooks.has(&[Hook::Prestart, Hook::CreateRuntime]) {
            answer(channel, Kind::Hooks, child, "create")?;
            // Such a hook may want to see and change the container's limits.
            if limited == Limited::NotYet {
                set_limits(cgroup, self.id, child, &self.plan)?;
                limited = Limited::Yes;
            }
            telemetry::traced("run host hooks", || run_host_hooks(&self.hooks, child.pid))?;
            channel.signal(Kind::HooksDone, &[])?;
        }
        let console = receive_console(channel, &self.plan.process, child)?;
        let spec = &self.bundle.spec;
        let subject = Subject {
            id: self.id,
            status: "creating",
            init: child.pid,
            bundle: &self.bundle.path,
            annotations: &spec.annotations().clone().unwrap_or_default(),
        };
        hand_over_listener(
            self.plan.seccomp.as_ref(),
            channel,
            child,
            &subject,
            "create",
        )?;
        answer(channel, Kind::Ready, child, "create")
            .map_err(|error| explain_kill(cgroup, self.oom_kills_before, error))?;
        Ok((console, limited))
    }
}

pub(super) fn set_limits(cgroup: &Cgroup, id: &str, child: &Child, plan: &Plan) -> Result<()> {
    let claim = Claim {
        id,
        pid: child.pid.as_raw_nonzero().get(),
        devices: &plan.devices,
        limits: &plan.limits,
        extra: &plan.extra,
    };
    telemetry::traced("set limits", || confine(cgroup, &claim, plan.cgroup_owner))
}

fn move_devices(channel: &Channel, child: &Child, plan: &Plan) -> Result<()> {
    if plan.devices_to_move.is_empty() {
        return Ok(());
    }
    answer(channel, Kind::NetDevices, child, "create")?;
    let mut joined = plan.joined.iter();
    let destination = match joined.find(|(kind, _)| *kind == Namespace::Network) {
        Some((_, fd)) => Destination::Namespace(fd.as_fd()),
        None => Destination::Process(child.pid),
    };
    let devices = plan.devices_to_move.iter();
    let moved = devices
        .map(|device| net_devices::move_to(device, destination))
        .collect::<Result<Vec<Moved>>>()?;
    channel.send(Kind::NetDevicesMoved, &moved, &[])
}

/// Init waits meanwhile.
fn run_host_hooks(hooks: &Lifecycle, pid: Pid) -> Result<()> {
    let pid = pid.as_raw_nonzero().get();
    [Hook::Prestart, Hook::CreateRuntime]
        .into_iter()
        .try_for_each(|kind| hooks.run_on_host(kind, pid).map_err(Error::Hook))
}
