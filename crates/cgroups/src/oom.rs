// SPDX-License-Identifier: Apache-2.0
//! Learning of processes that the kernel kills for memory.
//!
//! What counts is the growth of the kernel's counter of kills since the cgroup was empty: neither the
//! removal of a cgroup nor trouble somewhere above it that kills nobody here is an OOM. The watch
//! only says when to look; a last look when a process has ended misses nothing, for the kernel
//! counts before it kills.
//!
//! - v2: the file `memory.events` itself is polled. It adds up what happens in cgroups below, and
//!   takes no inotify instance, of which a user has 128.
//! - v1: an eventfd. It fires *before* the kill: whoever is woken looks again a little later. The
//!   counter is one for each cgroup, so those below are added here, and they do not wake anybody.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use sys::Call;

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::memory_events::MemoryEvents;
use crate::record::Place;
use crate::tree;

/// How many cgroups below a container's are looked at: it may make any number.
const MOST: usize = 256;

/// Where the count of a container's kills stands.
#[derive(Debug)]
pub struct Oom {
    seen: u64,
    last: MemoryEvents,
    watch: Option<Watch>,
}

/// What becomes readable, or has priority data, when it is time to look.
#[derive(Debug)]
enum Watch {
    V1(OwnedFd),
    V2(OwnedFd),
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Processes have been killed since the last look.
    Killed,
    /// None.
    Quiet,
    /// The cgroup does not exist any more, or has no memory controller.
    Gone,
}

/// For what a watch's descriptor is to be polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Being readable (`EPOLLIN`). It fires before the kill: look again later.
    Readable,
    /// Priority data (`EPOLLPRI`). It fires after the kill.
    Priority,
}

impl Oom {
    /// Counts from a number that was read when no process was in the cgroup.
    pub fn since(kills: u64) -> Self {
        Self {
            seen: kills,
            last: MemoryEvents::default(),
            watch: None,
        }
    }

    /// Sets the watch up. What has happened since the beginning is found by the next look.
    ///
    /// # Errors
    /// The kernel cannot watch here (v1 without this part, or the cgroup is gone): looking still
    /// works.
    pub fn watch(&mut self, cgroup: &Cgroup) -> Result<()> {
        let Some((place, v1)) = cgroup.memory_place() else {
            return Ok(());
        };
        let watch = match v1 {
            true => eventfd(cgroup, place).map(Watch::V1),
            false => open(cgroup, place, "memory.events").map(Watch::V2),
        };
        self.watch = Some(watch.map_err(|error| cgroup.failed("watch memory of", place, error))?);
        Ok(())
    }

    /// The descriptor to poll, and for what.
    pub fn poll(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        self.watch.as_ref().map(|watch| match watch {
            Watch::V1(eventfd) => (eventfd.as_fd(), Interest::Readable),
            Watch::V2(file) => (file.as_fd(), Interest::Priority),
        })
    }

    /// Looks whether the counter has grown, and disarms the watch until the next event.
    pub fn look(&mut self, cgroup: &Cgroup) -> Look {
        let events = match &self.watch {
            Some(Watch::V2(file)) => reread(file),
            Some(Watch::V1(eventfd)) => {
                // EAGAIN: nothing was signalled since.
                let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
                cgroup.memory_events_below()
            }
            None => cgroup.memory_events_below(),
        };
        let Some(events) = events else {
            return Look::Gone;
        };
        // On v1 it shrinks when a cgroup below is removed.
        let grown = events.oom_kill > self.seen;
        self.seen = events.oom_kill;
        self.last = events;
        match grown {
            true => Look::Killed,
            false => Look::Quiet,
        }
    }

    /// The counters as the last look found them.
    pub fn last(&self) -> &MemoryEvents {
        &self.last
    }
}

impl Cgroup {
    /// How many processes have been killed for memory in it and below it, so far.
    pub fn oom_kills(&self) -> u64 {
        self.memory_events_below()
            .map_or(0, |events| events.oom_kill)
    }

    /// The counters, with the kills in cgroups below; those are in v2's anyhow.
    fn memory_events_below(&self) -> Option<MemoryEvents> {
        let (place, v1) = self.memory_place()?;
        if !v1 {
            return self.memory_events();
        }
        let root = place.hierarchy(self.layout()).root();
        let top = tree::open(root, &place.path).ok()?;
        let mut sum: Option<MemoryEvents> = None;
        let mut left = MOST;
        let walked = tree::walk(top, |directory| {
            if let Ok(text) = access::read(directory, "memory.oom_control") {
                let events = MemoryEvents::parse(&text);
                match &mut sum {
                    Some(sum) => sum.oom_kill = sum.oom_kill.saturating_add(events.oom_kill),
                    None => sum = Some(events),
                }
            }
            left -= 1;
            Ok(match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        });
        walked.ok().and(sum)
    }
}

/// An eventfd that the kernel signals when the cgroup, or one above it, runs out of memory.
fn eventfd(cgroup: &Cgroup, place: &Place) -> sys::Result<OwnedFd> {
    register(cgroup, place, "memory.oom_control", "")
}

/// Asks v1 to signal an eventfd for events of a file.
pub(crate) fn register(
    cgroup: &Cgroup,
    place: &Place,
    file: &str,
    argument: &str,
) -> sys::Result<OwnedFd> {
    let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .call("eventfd", || file)?;
    let watched = open(cgroup, place, file)?;
    let request = format!("{} {} {argument}", eventfd.as_raw_fd(), watched.as_raw_fd());
    let root = place.hierarchy(cgroup.layout()).root();
    access::write(
        root,
        &place.file("cgroup.event_control"),
        request.trim_end(),
    )?;
    Ok(eventfd)
}

fn open(cgroup: &Cgroup, place: &Place, file: &str) -> sys::Result<OwnedFd> {
    let root = place.hierarchy(cgroup.layout()).root();
    access::open(root, &place.file(file), OFlags::RDONLY)
}

/// Reads a file from its beginning, which tells the kernel that its present state is known.
fn reread(file: &OwnedFd) -> Option<MemoryEvents> {
    let mut buffer = [0u8; 1024];
    // ENODEV: the cgroup is gone.
    let length = rustix::io::pread(file, &mut buffer, 0).ok()?;
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    Some(MemoryEvents::parse(text))
}
