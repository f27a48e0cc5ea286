// SPDX-License-Identifier: Apache-2.0
//! Learning that a container's memory gets short, before anybody is killed for it.
//!
//! There are the three levels that v1 has. How they are learned of:
//!
//! - v1: an eventfd for each level at `memory.pressure_level`, in the mode that is the kernel's
//!   default and runc's: the cgroup's own reclaim, and what is below it if nobody listens there. A
//!   level counts in all levels beneath it.
//! - v2, or where it is asked for: triggers of pressure stall information on `memory.pressure`, at
//!   most one event for each window. They work on every cgroup v2, whoever has the memory controller.
//!
//! A trigger is set in microseconds, but its end takes a grace period of RCU (10 to 20 ms), which is
//! more than a container's whole life takes us. So nobody pays for one who never came near a limit:
//! see [`Setting::Auto`]. Whoever drops a watch that [`Pressure::blocks_at_end`] does it where it may
//! block.

mod setting;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};
use sys::{Call, Errno};

pub use self::setting::{ANNOTATION, Invalid, Setting, Stall, Trigger};
use crate::access;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::oom::{Interest, register};
use crate::record::Place;

/// How short memory is; the words are those of v1 (`Documentation/admin-guide/cgroup-v1/memory.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Memory is being reclaimed.
    Low,
    /// Reclaiming gets hard: the kernel swaps, or gives up active caches.
    Medium,
    /// The next thing to happen may be a kill.
    Critical,
}

impl Level {
    /// From the least to the worst.
    pub const ALL: [Self; 3] = [Self::Low, Self::Medium, Self::Critical];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::Critical => "critical",
        }
    }

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What the kernel is asked to tell.
#[derive(Debug)]
pub struct Pressure {
    kind: Kind,
    levels: [Option<OwnedFd>; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    V1,
    Stall,
}

impl Pressure {
    /// Sets the watch up. `None`: it is not wanted, or this kernel cannot.
    ///
    /// # Errors
    /// The kernel could, but does not.
    pub fn watch(cgroup: &Cgroup, setting: Setting) -> Result<Option<Self>> {
        if setting == Setting::Off {
            return Ok(None);
        }
        let triggered = matches!(setting, Setting::Triggers(_));
        if let Some(place) = cgroup.v1_place("memory").filter(|_| !triggered) {
            let watch = Self::v1(cgroup, place);
            let watch = watch.map_err(|e| cgroup.failed("watch memory pressure of", place, e))?;
            if watch.is_some() {
                return Ok(watch);
            }
        }
        let Some(place) = cgroup.unified_place() else {
            return Ok(None);
        };
        Self::stalls(cgroup, place, setting)
            .map_err(|e| cgroup.failed("watch memory pressure of", place, e))
    }

    /// Whether a watch from the beginning would be at the cost of containers that need none.
    pub fn is_costly(cgroup: &Cgroup) -> bool {
        cgroup.v1_place("memory").is_none()
    }

    fn v1(cgroup: &Cgroup, place: &Place) -> sys::Result<Option<Self>> {
        let mut levels = [const { None }; 3];
        for level in Level::ALL {
            let eventfd = register(cgroup, place, "memory.pressure_level", level.name());
            match supported(eventfd)? {
                Some(eventfd) => levels[level.index()] = Some(eventfd),
                None => return Ok(None),
            }
        }
        Ok(Some(Self {
            kind: Kind::V1,
            levels,
        }))
    }

    fn stalls(cgroup: &Cgroup, place: &Place, setting: Setting) -> sys::Result<Option<Self>> {
        let mut levels = [const { None }; 3];
        for level in Level::ALL {
            let Some(trigger) = setting.trigger(level) else {
                continue;
            };
            match supported(set(cgroup, place, trigger))? {
                Some(file) => levels[level.index()] = Some(file),
                None => return Ok(None),
            }
        }
        Ok(Some(Self {
            kind: Kind::Stall,
            levels,
        }))
    }

    /// The descriptors to poll, and for what. Each event of [`Interest::Priority`] is one signal;
    /// how many one of [`Interest::Readable`] stands for, [`Self::take_signals`] tells.
    pub fn polls(&self) -> impl Iterator<Item = (Level, BorrowedFd<'_>, Interest)> {
        let interest = match self.kind {
            Kind::V1 => Interest::Readable,
            Kind::Stall => Interest::Priority,
        };
        let levels = Level::ALL.into_iter().zip(&self.levels);
        levels.filter_map(move |(level, fd)| Some((level, fd.as_ref()?.as_fd(), interest)))
    }

    /// v1: how often the kernel has signalled each level, and none above it, since the last call.
    pub fn take_signals(&self) -> [u64; 3] {
        let mut counts = [0; 3];
        if self.kind != Kind::V1 {
            return counts;
        }
        let mut above = 0;
        // The worst first: what comes meanwhile is counted with the lower level, not twice.
        for level in Level::ALL.into_iter().rev() {
            let Some(eventfd) = &self.levels[level.index()] else {
                continue;
            };
            let mut count = [0u8; 8];
            // EAGAIN: nothing was signalled since.
            let signals = match rustix::io::read(eventfd, &mut count) {
                Ok(_) => u64::from_ne_bytes(count),
                Err(_) => 0,
            };
            counts[level.index()] = signals.saturating_sub(above);
            above = signals.max(above);
        }
        counts
    }

    /// What tells of it, for people.
    pub fn source(&self) -> &'static str {
        match self.kind {
            Kind::V1 => "memory.pressure_level",
            Kind::Stall => "psi",
        }
    }

    /// Whether dropping it waits for the kernel.
    pub fn blocks_at_end(&self) -> bool {
        self.kind == Kind::Stall
    }
}

/// `None` if the kernel was built or booted without this part, or the cgroup is gone.
fn supported(opened: sys::Result<OwnedFd>) -> sys::Result<Option<OwnedFd>> {
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if access::is_gone(&error) || error.errno() == Errno::OPNOTSUPP => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets a trigger; it lives as long as the file is open.
fn set(cgroup: &Cgroup, place: &Place, trigger: Trigger) -> sys::Result<OwnedFd> {
    let root = place.hierarchy(cgroup.layout()).root();
    let path = place.file("memory.pressure");
    let open = || access::open(root, &path, OFlags::RDWR);
    let file = match trigger.is_cheap() {
        false => open()?,
        true => match unprivileged(open) {
            // Before 6.4 only the privileged may.
            Err(error) if error.errno() == Errno::PERM => open()?,
            opened => opened?,
        },
    };
    let text = trigger.to_string();
    rustix::io::write(&file, text.as_bytes()).call("write", || format!("{path:?}, {text:?}"))?;
    Ok(file)
}

/// Opens something without `CAP_SYS_RESOURCE`. With it, a trigger gets a real-time thread of the
/// kernel for its cgroup; without it the kernel looks when it computes the averages.
fn unprivileged(open: impl Fn() -> sys::Result<OwnedFd>) -> sys::Result<OwnedFd> {
    let own = rustix::thread::capabilities(None).call("capget", || "own thread")?;
    if !own.effective.contains(CapabilitySet::SYS_RESOURCE) {
        return open();
    }
    let less = CapabilitySets {
        effective: own.effective - CapabilitySet::SYS_RESOURCE,
        ..own
    };
    rustix::thread::set_capabilities(None, less).call("capset", || "without SYS_RESOURCE")?;
    let opened = open();
    // What is permitted can be had back.
    rustix::thread::set_capabilities(None, own).call("capset", || "with SYS_RESOURCE again")?;
    opened
}
