// SPDX-License-Identifier: Apache-2.0
//! The shim's part while init settles in its namespaces: mappings for a new user namespace, taking
//! over the process that takes init's place, sources of mounts, mounts to be id-mapped.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{Pid, WaitId, WaitIdOptions};
use sys::Call;
use sys::spawn::Child;

use crate::container::spawn::answer;
use crate::error::{Attempt, Error, Failure, Result};
use crate::idmap::Mappings;
use crate::init;
use crate::namespaces::{Kind as Namespace, Namespaces, Source};
use crate::rootfs;
use crate::sync::{Channel, Kind};

/// What is to be expected of init on the way to its place.
#[derive(Default)]
pub(super) struct Settling {
    /// For a new user namespace.
    mappings: Option<Mappings>,
    /// Held from before init could make another process until that is registered.
    gate: Option<reaper::Spawning>,
    /// If it has sources that we open, or mounts that we id-map.
    rootfs: Option<rootfs::Plan>,
}

impl Settling {
    /// To be called before init gets its plan.
    pub(super) fn begin(
        namespaces: &Namespaces,
        mappings: Option<Mappings>,
        container: &init::Container,
    ) -> Self {
        let new_user = *namespaces.get(Namespace::User) == Source::New;
        let another = container.inside & Namespace::Pid.clone_flag() != 0;
        let rootfs = &container.rootfs;
        Self {
            mappings: mappings.filter(|_| new_user),
            gate: another.then(reaper::Spawning::begin),
            rootfs: is_helped(rootfs).then(|| rootfs.clone()),
        }
    }

    /// Answers init until it is in its place. `child` is the process that is there then.
    pub(super) fn follow(&mut self, channel: &Channel, child: &mut Child) -> Result<()> {
        if let Some(mappings) = self.mappings.take() {
            answer(channel, Kind::Unmapped, child, "create")?;
            mappings.give_to(child.pid)?;
            channel.signal(Kind::Mapped, &[])?;
        }
        if let Some(gate) = self.gate.take() {
            take_over(channel, child, gate, "create")?;
        }
        if let Some(rootfs) = &self.rootfs {
            if !rootfs.sources().is_empty() {
                answer(channel, Kind::Placed, child, "create")?;
                send_sources(channel, child, rootfs)?;
            }
        }
        Ok(())
    }

    /// Id-maps the mounts of what is in the container's root, as init comes to them.
    pub(super) fn map_ids(self, channel: &Channel, child: &Child) -> Result<()> {
        let Some(rootfs) = self.rootfs else {
            return Ok(());
        };
        let mut id_maps = rootfs::sources::IdMaps::default();
        for mount in rootfs.mapped_in_turn() {
            let mut fds = answer(channel, Kind::IdMap, child, "create")?;
            let tree = fds
                .pop()
                .ok_or_else(|| Error::Protocol("IdMap without a mount".to_owned()))?;
            id_maps.map(mount, &tree).map_err(failed("id-map mounts"))?;
            channel.signal(Kind::IdMapped, &[])?;
        }
        Ok(())
    }
}

/// Whether there is anything that we open or id-map.
fn is_helped(rootfs: &rootfs::Plan) -> bool {
    !rootfs.sources().is_empty() || rootfs.mapped_in_turn().next().is_some()
}

/// Takes over the process that has taken init's place; `gate` was begun before it could be there.
pub(in crate::container) fn take_over(
    channel: &Channel,
    child: &mut Child,
    gate: reaper::Spawning,
    phase: &'static str,
) -> Result<()> {
    let mut fds = answer(channel, Kind::Born, child, phase)?;
    let pidfd = fds
        .pop()
        .ok_or_else(|| Error::Protocol("Born without pidfd".to_owned()))?;
    let born = adopt(pidfd)?;
    gate.born(born.pid);
    let first = std::mem::replace(child, born);
    reaper::wait_for(first.pid, &first.pidfd).attempt(|| "wait for the first process of init")?;
    channel.signal(Kind::Adopted, &[])
}

fn send_sources(channel: &Channel, child: &Child, rootfs: &rootfs::Plan) -> Result<()> {
    let opened = rootfs::sources::open(rootfs, child.pidfd.as_fd())
        .map_err(failed("open sources of mounts"))?;
    for some in opened.chunks(sys::packet::MAX_DESCRIPTORS - 1) {
        let fds: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        channel.signal(Kind::Sources, &fds)?;
    }
    Ok(())
}

/// What we could not do for init, as if init had said so.
fn failed(step: &'static str) -> impl Fn(rootfs::Error) -> Error {
    move |error| {
        let failure = Failure {
            step: step.into(),
            message: format!("error during container init: {error}"),
            errno: error.errno().map(sys::Errno::raw_os_error),
            operation: error.operation(),
        };
        failure.log();
        Error::Init(failure)
    }
}

/// The process behind a pidfd that init has sent: a child of ours.
fn adopt(pidfd: OwnedFd) -> Result<Child> {
    let attempt = || "take over the process in init's place";
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options)
        .call("waitid", || "P_PIDFD, WNOWAIT")
        .attempt(attempt)?;
    let path = format!("/proc/thread-self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(&path)
        .call("read", || format!("{path:?}"))
        .attempt(attempt)?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::Protocol("Born without a process of ours".to_owned()))?;
    Ok(Child { pid, pidfd })
}
