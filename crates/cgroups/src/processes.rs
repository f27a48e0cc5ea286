// SPDX-License-Identifier: Apache-2.0
//! Who is in a container's cgroup.

use std::os::fd::{AsFd, BorrowedFd};

use sys::Errno;

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::record::Place;
use crate::tree;

impl Cgroup {
    /// All processes in it and below it, sorted, in our PID namespace. Empty when it is gone.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.pids_of(self.witnesses())
    }

    /// Whether any process is in it or below it.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn populated(&self) -> Result<bool> {
        if self.event("populated")? == Some(true) {
            return Ok(true);
        }
        Ok(!self.pids_of(self.v1_witness().into_iter())?.is_empty())
    }

    /// As [`Self::pids`], but looking into every hierarchy.
    pub(crate) fn pids_everywhere(&self) -> Result<Vec<i32>> {
        self.pids_of(self.places().iter())
    }

    /// Where to look for processes: the v2 directory and one of v1. A process is in all or, while
    /// it is being placed, in some.
    fn witnesses(&self) -> impl Iterator<Item = &Place> {
        self.unified_place().into_iter().chain(self.v1_witness())
    }

    /// Preferably a hierarchy that no service manager sorts processes in.
    pub(crate) fn v1_witness(&self) -> Option<&Place> {
        ["devices", "freezer", "pids"]
            .iter()
            .find_map(|controller| self.v1_place(controller))
            .or_else(|| self.v1_places().next())
    }

    fn pids_of<'a>(&self, places: impl Iterator<Item = &'a Place>) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for place in places {
            let root = place.hierarchy(self.layout()).root();
            let read = tree::vanishing(tree::open(root, &place.path)).and_then(|top| match top {
                Some(top) => tree::visit(top, |dir| read_pids(dir, &mut pids)),
                None => Ok(()),
            });
            read.map_err(|error| self.failed("list processes of", place, error))?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// A line of the v2 `cgroup.events`: `None` without v2, or when the cgroup is gone.
    pub(crate) fn event(&self, name: &str) -> Result<Option<bool>> {
        let (Some(dir), Some(place)) = (self.clone_target(), self.unified_place()) else {
            return Ok(None);
        };
        let events = tree::vanishing(access::read(dir, "cgroup.events"))
            .map_err(|error| self.failed("inspect", place, error))?;
        Ok(events.and_then(|events| {
            events
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(|v| v == "1"))
        }))
    }
}

fn read_pids(dir: BorrowedFd<'_>, pids: &mut Vec<i32>) -> sys::Result<()> {
    match access::read(dir.as_fd(), "cgroup.procs") {
        Ok(list) => {
            // 0 stands for a process that our PID namespace does not show.
            let listed = list.lines().filter_map(|line| line.parse::<i32>().ok());
            pids.extend(listed.filter(|pid| *pid > 0));
            Ok(())
        }
        Err(error) if access::is_gone(&error) => Ok(()),
        // A threaded cgroup: its processes are listed by the domain above it.
        Err(error) if error.errno() == Errno::OPNOTSUPP => Ok(()),
        Err(error) => Err(error),
    }
}
