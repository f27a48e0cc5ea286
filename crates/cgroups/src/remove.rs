// SPDX-License-Identifier: Apache-2.0
//! Removing a container's directories.

use std::thread;
use std::time::{Duration, Instant};

use sys::Errno;

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::record::Place;
use crate::tree;

/// How long a cgroup may stay busy. Processes just killed leave it one by one.
const LIMIT: Duration = Duration::from_secs(3);
/// How long systemd may take to stop a unit in which nothing runs any more, as with runc. One that was
/// executing itself anew meanwhile may have made the cgroup again, and would keep the unit for ever.
const UNIT_LIMIT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Cgroup {
    /// Removes the cgroup in all hierarchies, and whatever was made below it. What is gone is
    /// gone; ancestors stay. Waits some seconds for processes that are about to leave, and for
    /// systemd to stop the unit if it is one.
    ///
    /// # Errors
    /// A directory cannot be removed; all others are, where possible.
    pub fn remove(&self) -> Result<()> {
        let removed = self.remove_directories();
        self.stop_unit(UNIT_LIMIT);
        removed
    }

    /// Has systemd stop the unit, if the cgroup is one, and waits for that, but not longer than
    /// `limit`. systemd stops a scope without processes by itself. That it has done so already is
    /// all that is waited for: a systemd that does not answer keeps no container.
    pub fn stop_unit(&self, limit: Duration) {
        if let Some(Err(error)) = self.scope().map(|scope| scope.stop(limit)) {
            log::warn!("{error}");
        }
    }

    /// What [`Self::remove`] does, without asking systemd.
    ///
    /// # Errors
    /// As for that.
    pub fn remove_directories(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut pause = FIRST_PAUSE;
        let mut hopeless = None;
        let mut busy: Vec<&Place> = self.places().iter().collect();
        loop {
            let mut last = None;
            busy.retain(|&place| match self.remove_place(place) {
                Ok(()) => false,
                Err(error) if error.errno() == Errno::BUSY => {
                    last = Some((place, error));
                    true
                }
                Err(error) => {
                    hopeless = Some((place, error));
                    false
                }
            });
            if last.is_none() || Instant::now() >= deadline {
                return match hopeless.or(last) {
                    Some((place, error)) => Err(self.failed("remove", place, error)),
                    None => Ok(()),
                };
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn remove_place(&self, place: &Place) -> sys::Result<()> {
        let root = place.hierarchy(self.layout()).root();
        let (parent, name) = access::split(&place.path);
        let Some(parent) = tree::vanishing(access::open_directory(root, parent))? else {
            return Ok(());
        };
        match access::remove_directory(&parent, name) {
            Err(error) if error.errno() == Errno::BUSY => {}
            done => return tree::vanishing(done).map(|_| ()),
        }
        if let Some(top) = tree::vanishing(tree::open(&parent, name))? {
            tree::vanishing(tree::clear(top))?;
        }
        tree::vanishing(access::remove_directory(&parent, name)).map(|_| ())
    }
}
