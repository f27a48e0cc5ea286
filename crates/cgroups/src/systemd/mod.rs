// SPDX-License-Identifier: Apache-2.0
//! Cgroups under systemd: each container is a scope, which systemd starts and stops for us.
//!
//! systemd is the one writer of its part of the tree. A directory made behind its back is removed
//! or stripped of its controllers when it next looks; a transient unit with `Delegate=` is ours.
//!
//! | module       | what                                                              |
//! |--------------|-------------------------------------------------------------------|
//! | `unit`       | `slice:prefix:name`: which unit, and where its cgroup is          |
//! | `properties` | limits and device rules, as systemd's properties                  |
//! | `annotations`| properties that the specification adds                            |
//! | `manager`    | asking systemd: start, stop, set; over D-Bus                      |
//!
//! # How a process gets into its scope
//!
//! A scope cannot be started without a process, and moving a process into a cgroup afterwards would
//! be slow (the kernel waits for all other processors), would leave what it has charged behind, and
//! would give it a cgroup namespace of the wrong place. So the process comes first, as with the
//! cgroupfs driver: where systemd will have the scope is known from its name, the directories are
//! made there, and init is born into them (`CLONE_INTO_CGROUP`). When it waits at the gate, with
//! nothing of the container's running yet, systemd is asked for a scope with this process. systemd
//! takes a directory that is there, and moves nobody who is in it already. Afterwards it is
//! verified that the process is where we think.
//!
//! So the spawn path is the same for both drivers, setting up the container is charged to the
//! cgroup but not stopped by limits that are too low for it, and what systemd costs is two calls:
//! one at the end of create, one in delete. A directory that systemd tidies away before init is in
//! it makes the creation fail like any other cgroup removed under our hands.
//!
//! systemd hears of every limit that it knows, because it writes them again when it is reloaded;
//! then they are written a second time by ourselves, with those that it does not know. On v2 its
//! device program and ours are both asked by the kernel, so its rules may be wider, never narrower.
//!
//! # How a scope ends
//!
//! systemd stops a scope whose last process has ended by itself, and is told to besides, before the
//! directories are removed: one that executes itself anew looks afterwards which scopes are empty, and
//! would keep one for ever that has no directory to look at. A systemd that does not hear within
//! the time that there is keeps the empty directories, by which it will know (`remove`).
//!
//! # When systemd does not answer
//!
//! Every wait has an end. Nothing waits under a lock, nor in the reactor: all this runs on workers.
//! A connection is opened for each operation, so that none has to be looked after while systemd
//! executes itself anew (`daemon-reexec`). If it does so during an operation, which shows as a
//! closed connection or as a lost reply, we connect again and look how far it got.

mod annotations;
mod manager;
mod properties;
mod unit;

pub use annotations::Extra;
pub(crate) use manager::Systemd;
pub(crate) use properties::Property;
pub use unit::Unit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::access;
use crate::cgroup::Cgroup;
use crate::devices::DeviceRules;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Who manages the cgroups of containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// We do, in the file system.
    #[default]
    Cgroupfs,
    /// systemd does.
    Systemd,
}

/// Whether systemd has had its say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It has written what it was told.
    Systemd,
    /// There was nothing to tell, or nobody.
    Nobody,
}

/// What systemd is told of a container.
#[derive(Debug)]
pub struct Claim<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its init, which is in its cgroup.
    pub pid: i32,
    /// Which devices it may use.
    pub devices: &'a DeviceRules,
    /// What it may use of everything else.
    pub limits: &'a Limits,
    /// Properties besides.
    pub extra: &'a Extra,
}

/// The unit of a cgroup, and whether it is there for us.
#[derive(Debug)]
pub(crate) struct Scope {
    unit: Unit,
    systemd: Systemd,
    /// Not before it was started: a unit of that name may be somebody else's until then.
    ours: AtomicBool,
}

impl Scope {
    /// A unit to be started.
    pub(crate) fn new(unit: &Unit) -> Self {
        Self {
            unit: unit.clone(),
            systemd: Systemd::of_host(),
            ours: AtomicBool::new(false),
        }
    }

    /// A unit that was started by whoever has recorded it.
    pub(crate) fn started(unit: &Unit) -> Self {
        let scope = Self::new(unit);
        scope.ours.store(true, Ordering::Relaxed);
        scope
    }

    /// One that a test's own systemd has started.
    #[cfg(test)]
    pub(crate) fn at(unit: &Unit, systemd: Systemd) -> Self {
        Self {
            systemd,
            ..Self::started(unit)
        }
    }

    fn is_ours(&self) -> bool {
        self.ours.load(Ordering::Relaxed)
    }

    /// Asks systemd to stop the unit, until `deadline`. None is fine.
    pub(crate) fn ask_stop(&self, deadline: Instant) -> Result<Stop> {
        if !self.is_ours() {
            return Ok(Stop(None));
        }
        let asked = self.systemd.ask_stop(self.unit.name(), deadline)?;
        if asked.is_none() {
            self.ours.store(false, Ordering::Relaxed);
        }
        Ok(Stop(asked))
    }

    /// Waits for what was asked for, until `deadline`, and lets systemd forget the unit.
    pub(crate) fn wait_stopped(&self, stop: Stop, deadline: Instant) -> Result<()> {
        let Some(stopping) = stop.0 else {
            return Ok(());
        };
        self.systemd
            .wait_stopped(self.unit.name(), stopping, deadline)?;
        self.ours.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// What systemd has been asked for: to stop a unit, or nothing.
#[derive(Debug, Default)]
pub(crate) struct Stop(Option<manager::Stopping>);

impl Cgroup {
    /// Which driver manages it.
    pub fn driver(&self) -> Driver {
        match self.scope() {
            Some(_) => Driver::Systemd,
            None => Driver::Cgroupfs,
        }
    }

    /// Makes the cgroup a scope of systemd; with the cgroupfs driver there is nothing to do.
    ///
    /// Device rules have to be set again afterwards: systemd has set its own, which may be wider.
    /// Limits still have to be set as well. Waits for systemd for half a minute at most.
    ///
    /// # Errors
    /// systemd is not there, does not answer, or refuses; or a limit is impossible.
    pub fn claim(&self, claim: &Claim<'_>) -> Result<()> {
        let Some(scope) = self.scope() else {
            return Ok(());
        };
        let mut wanted = properties::scope(&scope.unit, claim, self.is_on_v2());
        wanted.extend(properties::devices(claim.devices, self.is_on_v2()));
        wanted.extend(properties::limits(claim.limits, self.is_on_v2(), None)?);
        wanted.extend(properties::only_at_start(claim.limits)?);
        wanted.extend(claim.extra.0.iter().cloned());
        let started = scope.systemd.start(scope.unit.name(), &wanted);
        // Half started, or started later, is ours to stop as well.
        let ours = matches!(
            started,
            Ok(()) | Err(Error::SystemdJob { .. } | Error::SystemdSlow { .. })
        );
        scope.ours.store(ours, Ordering::Relaxed);
        started?;
        self.verify_placed(claim.pid)
    }

    /// Tells systemd of changed limits and device rules. It writes what it knows of them, as it
    /// sees fit: they have to be set afterwards.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn tell_systemd(&self, limits: &Limits, devices: Option<&DeviceRules>) -> Result<Told> {
        let Some(scope) = self.scope().filter(|scope| scope.is_ours()) else {
            return Ok(Told::Nobody);
        };
        let mut wanted = Vec::new();
        if let Some(devices) = devices {
            wanted.extend(properties::devices(devices, self.is_on_v2()));
        }
        let quota = self.present_quota();
        wanted.extend(properties::limits(limits, self.is_on_v2(), quota)?);
        if wanted.is_empty() {
            return Ok(Told::Nobody);
        }
        scope.systemd.set(scope.unit.name(), &wanted)?;
        Ok(Told::Systemd)
    }

    /// Whether limits are on v2.
    fn is_on_v2(&self) -> bool {
        self.layout().mode() == crate::layout::Mode::V2
    }

    /// v2: the quota as it is; `None` without a limit, or where it cannot be read.
    fn present_quota(&self) -> Option<i64> {
        let place = self.unified_place()?;
        let root = place.hierarchy(self.layout()).root();
        let text = access::read(root, &place.file("cpu.max")).ok()?;
        text.split(' ').next()?.parse().ok()
    }

    /// systemd may keep its units elsewhere than we think: in a container of its own, say.
    fn verify_placed(&self, pid: i32) -> Result<()> {
        for place in self.places() {
            let root = place.hierarchy(self.layout()).root();
            let pids = access::read(root, &place.file("cgroup.procs"))
                .map_err(|error| self.failed("inspect", place, error))?;
            if !pids.lines().any(|line| line.parse() == Ok(pid)) {
                return Err(Error::Misplaced {
                    path: place.hierarchy(self.layout()).absolute(&place.path),
                });
            }
        }
        Ok(())
    }
}
