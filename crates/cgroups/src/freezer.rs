// SPDX-License-Identifier: Apache-2.0
//! Stopping all processes of a container, and letting them go on.
//!
//! On v1 a cgroup freezes process by process, and one that forks, or sits in the kernel, can keep it
//! from ever being done: now and then everything is thawed for a moment and frozen again. On v2
//! the kernel tells when all are frozen.

use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::Call;

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::record::Place;
use crate::tree;

/// How long all processes may take to stop.
const LIMIT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// v1: after how long of no success everything is thawed and frozen anew.
const AGAIN: Duration = Duration::from_millis(200);
/// v1: for how long it is thawed then.
const BREATH: Duration = Duration::from_millis(10);

/// The freezer's version, its file, and what is written there.
struct Freezer<'a> {
    place: &'a Place,
    file: &'static str,
    frozen: &'static str,
    thawed: &'static str,
}

impl Cgroup {
    /// Stops all processes in it and below it; returns when all have stopped.
    ///
    /// # Errors
    /// There is no freezer, the cgroup is gone, or not all stop within ten seconds. Then they go
    /// on.
    pub fn freeze(&self) -> Result<()> {
        let freezer = self.freezer_or_error()?;
        let frozen = match freezer.is_v2() {
            true => self.freeze_v2(&freezer),
            false => self.freeze_v1(&freezer),
        };
        if !matches!(frozen, Ok(true)) {
            // What failed is what is told of; a cgroup that is gone needs no thawing.
            let _ = self.switch(&freezer, freezer.thawed);
        }
        match frozen {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotFrozen {
                path: freezer
                    .place
                    .hierarchy(self.layout())
                    .absolute(&freezer.place.path),
                limit: LIMIT,
            }),
            Err(error) => Err(self.failed("freeze", freezer.place, error)),
        }
    }

    /// Lets all processes go on that [`Self::freeze`] has stopped. What the container froze below
    /// stays frozen.
    ///
    /// # Errors
    /// There is no freezer, or the cgroup is gone.
    pub fn thaw(&self) -> Result<()> {
        let freezer = self.freezer_or_error()?;
        self.switch(&freezer, freezer.thawed)
            .map_err(|error| self.failed("thaw", freezer.place, error))
    }

    /// Whether it is frozen, or about to be: by itself, or from above.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_frozen(&self) -> Result<bool> {
        if let Some(place) = self.v1_place("freezer") {
            let root = place.hierarchy(self.layout()).root();
            let state = tree::vanishing(access::read(root, &place.file("freezer.state")))
                .map_err(|error| self.failed("inspect", place, error))?;
            if state.is_some_and(|state| state != "THAWED") {
                return Ok(true);
            }
        }
        if let Some(place) = self.unified_place() {
            // Processes stop one by one after this is set; an ancestor's only shows below.
            let root = place.hierarchy(self.layout()).root();
            let set = tree::vanishing(access::read(root, &place.file("cgroup.freeze")))
                .map_err(|error| self.failed("inspect", place, error))?;
            if set.is_some_and(|set| set == "1") {
                return Ok(true);
            }
        }
        Ok(self.event("frozen")? == Some(true))
    }

    fn freezer(&self) -> Option<Freezer<'_>> {
        if let Some(place) = self.v1_place("freezer") {
            return Some(Freezer {
                place,
                file: "freezer.state",
                frozen: "FROZEN",
                thawed: "THAWED",
            });
        }
        self.unified_place().map(|place| Freezer {
            place,
            file: "cgroup.freeze",
            frozen: "1",
            thawed: "0",
        })
    }

    fn freezer_or_error(&self) -> Result<Freezer<'_>> {
        self.freezer().ok_or_else(|| Error::NoController {
            controller: "freezer".to_owned(),
        })
    }

    fn switch(&self, freezer: &Freezer<'_>, value: &str) -> sys::Result<()> {
        let root = freezer.place.hierarchy(self.layout()).root();
        access::write(root, &freezer.place.file(freezer.file), value)
    }

    /// Whether all have stopped in time.
    fn freeze_v1(&self, freezer: &Freezer<'_>) -> sys::Result<bool> {
        let root = freezer.place.hierarchy(self.layout()).root();
        let file = freezer.place.file(freezer.file);
        let deadline = Instant::now() + LIMIT;
        loop {
            self.switch(freezer, freezer.frozen)?;
            let again = Instant::now() + AGAIN;
            let mut pause = FIRST_PAUSE;
            while Instant::now() < again {
                // Reading makes the kernel look whether all have stopped.
                if access::read(root, &file)? == freezer.frozen {
                    return Ok(true);
                }
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
                // A process that has forked meanwhile.
                self.switch(freezer, freezer.frozen)?;
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.switch(freezer, freezer.thawed)?;
            thread::sleep(BREATH);
        }
    }

    fn freeze_v2(&self, freezer: &Freezer<'_>) -> sys::Result<bool> {
        let root = freezer.place.hierarchy(self.layout()).root();
        let events = access::open(root, &freezer.place.file("cgroup.events"), OFlags::RDONLY)?;
        self.switch(freezer, freezer.frozen)?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut buffer = [0u8; 256];
            let length =
                rustix::io::pread(&events, &mut buffer, 0).call("pread", || "cgroup.events")?;
            if buffer[..length]
                .split(|b| *b == b'\n')
                .any(|line| line == b"frozen 1")
            {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut polled = [PollFd::new(&events, PollFlags::PRI)];
            match poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call("poll", || "cgroup.events"),
            }
        }
    }
}

impl Freezer<'_> {
    fn is_v2(&self) -> bool {
        self.file == "cgroup.freeze"
    }
}
