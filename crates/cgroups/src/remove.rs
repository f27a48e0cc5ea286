// SPDX-License-Identifier: Apache-2.0
//! Removing a container's directories.

use std::thread;
use std::time::{Duration, Instant};

use sys::Errno;

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::record::Place;
use crate::systemd::Stop;
use crate::tree;

/// How long a cgroup may stay busy. Processes just killed leave it one by one.
const LIMIT: Duration = Duration::from_secs(3);
/// How long systemd may take to hear that a unit is to be stopped: it may be executing itself anew.
const HEAR_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to do it, with nothing running in the unit any more. It will, waited for or not.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A cgroup on its way out: what is left to do is mostly systemd's.
#[derive(Debug)]
#[must_use = "may have left directories"]
pub struct Removal<'a> {
    cgroup: &'a Cgroup,
    /// What systemd has been asked for, and what became of the directories. `None`: it did not hear.
    begun: Option<(Stop, Result<()>)>,
}

impl Removal<'_> {
    /// Waits for systemd, for the time that it may still take. That it has done its part is all that
    /// is waited for: a systemd that does not answer keeps no container.
    ///
    /// # Errors
    /// A directory cannot be removed; all others are, where possible.
    pub fn finish(self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let begun = match self.begun {
            None => self.cgroup.try_removal(deadline),
            begun => begun,
        };
        let Some((stop, removed)) = begun else {
            return Ok(());
        };
        let scope = self.cgroup.scope();
        if let Some(Err(error)) = scope.map(|scope| scope.wait_stopped(stop, deadline)) {
            log::warn!("{error}");
        }
        removed
    }
}

impl Cgroup {
    /// Removes the cgroup in all hierarchies, and whatever was made below it. What is gone is
    /// gone; ancestors stay. Waits some seconds for processes that are about to leave, and for
    /// systemd to stop the unit if it is one.
    ///
    /// # Errors
    /// A directory cannot be removed; all others are, where possible.
    pub fn remove(&self) -> Result<()> {
        self.begin_removal(HEAR_LIMIT).finish(STOP_LIMIT)
    }

    /// Does of [`Self::remove`] what need not wait for systemd, but for its word that it has heard:
    /// for that, no longer than `limit`.
    ///
    /// systemd hears first, before a directory goes. It stops a scope without processes by itself, but
    /// keeps one for ever whose directory is gone when it looks, having executed itself anew. So one that
    /// does not hear is left its empty directories, by which it will know.
    pub fn begin_removal(&self, limit: Duration) -> Removal<'_> {
        Removal {
            cgroup: self,
            begun: self.try_removal(Instant::now() + limit),
        }
    }

    fn try_removal(&self, deadline: Instant) -> Option<(Stop, Result<()>)> {
        let Some(scope) = self.scope() else {
            return Some((Stop::default(), self.remove_directories()));
        };
        let stop = match scope.ask_stop(deadline) {
            Ok(stop) => stop,
            Err(error) if error.is_unheard() => {
                log::warn!("{error}");
                return None;
            }
            // It will not, then: nothing is to be waited for.
            Err(error) => {
                log::warn!("{error}");
                Stop::default()
            }
        };
        Some((stop, self.remove_directories()))
    }

    fn remove_directories(&self) -> Result<()> {
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
