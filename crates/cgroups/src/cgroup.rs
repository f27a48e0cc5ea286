// SPDX-License-Identifier: Apache-2.0
//! One container's cgroup in all hierarchies: opening it, placing processes in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use sys::Errno;

use crate::access;
use crate::create;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::record::{Place, Record};
use crate::systemd::{Driver, Scope};

/// A process just forked cannot be moved for an instant (`EINVAL`).
const MOVE_TRIES: u32 = 5;
const MOVE_PAUSE: Duration = Duration::from_millis(10);

/// The cgroup of one container.
///
/// Dropping it leaves the directories as they are.
#[derive(Debug)]
pub struct Cgroup {
    layout: Layout,
    record: Record,
    places: Vec<Place>,
    /// The v2 directory, where there is one.
    unified: Option<OwnedFd>,
    /// Its unit, if systemd manages it.
    scope: Option<Scope>,
}

impl Cgroup {
    /// Which directories the container's cgroup would be; touches nothing.
    ///
    /// `path` is `linux.cgroupsPath` of the specification. For the cgroupfs driver absolute means
    /// from the root of each hierarchy; relative means below our own cgroup, on pure v2 below
    /// the root. Without one it is `/<id>`. For the systemd driver it is `slice:prefix:name`;
    /// without one it is `system.slice:runc:<id>`.
    ///
    /// # Errors
    /// The path cannot be a container's: it is a root, holds a NUL byte, or makes no unit.
    pub fn plan(layout: &Layout, driver: Driver, path: Option<&str>, id: &str) -> Result<Record> {
        Record::plan(layout, driver, path, id)
    }

    /// Makes the directories, with missing ancestors.
    ///
    /// # Errors
    /// One cannot be made, or exists and has processes in it, or is frozen. Then everything made
    /// is removed again.
    pub fn create(layout: &Layout, record: &Record) -> Result<Self> {
        let places = record.places(layout)?;
        if places.is_empty() {
            return Err(Error::NoHierarchy);
        }
        let made = create::make_all(layout, &places)?;
        let mut cgroup = Self::with_places(layout, record, places)?;
        cgroup.scope = record.unit().map(Scope::new);
        if let (Some(place), None) = (cgroup.unified_place(), &cgroup.unified) {
            // Removed under our hands: without it the container would stay in our own cgroup.
            let gone = sys::Error::new("openat2", format!("{:?}", place.path), Errno::NOENT);
            return Err(cgroup.failed("open", place, gone));
        }
        cgroup.refuse_unusable(made.existed())?;
        made.keep();
        Ok(cgroup)
    }

    /// Takes up the cgroup of a saved record: what is gone is taken as empty.
    ///
    /// # Errors
    /// The record names directories outside the hierarchies, or the v2 one cannot be opened.
    pub fn open(layout: &Layout, record: &Record) -> Result<Self> {
        Self::with_places(layout, record, record.places(layout)?)
    }

    fn with_places(layout: &Layout, record: &Record, places: Vec<Place>) -> Result<Self> {
        let mut cgroup = Self {
            layout: layout.clone(),
            record: record.clone(),
            places,
            unified: None,
            scope: record.unit().map(Scope::started),
        };
        if let Some(place) = cgroup.unified_place() {
            let root = place.hierarchy(layout).root();
            cgroup.unified = match access::open_directory(root, &place.path) {
                Ok(directory) => Some(directory),
                Err(error) if access::is_gone(&error) => None,
                Err(error) => return Err(cgroup.failed("open", place, error)),
            };
        }
        Ok(cgroup)
    }

    /// Managed by a test's own systemd.
    #[cfg(test)]
    pub(crate) fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// The directories, to be saved.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The v2 directory for `CLONE_INTO_CGROUP`. `None` on pure v1, or if the cgroup was opened
    /// when it was gone already; never after [`Self::create`] where v2 is mounted.
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The `tasks` file of each v1 hierarchy, for a single-threaded child to write "0" to.
    ///
    /// Moving oneself as a single thread is the one move for which the kernel does not take the
    /// lock of all forks and exits (`cgroup_procs_write_start`): no RCU grace period to wait for.
    ///
    /// # Errors
    /// One of the files cannot be opened.
    pub fn join_files(&self) -> Result<Vec<OwnedFd>> {
        self.v1_places()
            .map(|place| {
                let root = place.hierarchy(&self.layout).root();
                access::open(root, &place.file("tasks"), OFlags::WRONLY)
                    .map_err(|error| self.failed("open", place, error))
            })
            .collect()
    }

    /// Moves a process with all its threads into the cgroup.
    ///
    /// # Errors
    /// A hierarchy refuses it; it may be in the cgroup of others by then.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        for place in &self.places {
            move_process(place.hierarchy(&self.layout).root(), &place.path, pid)
                .map_err(|error| self.failed("join", place, error))?;
        }
        Ok(())
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(crate) fn unified_place(&self) -> Option<&Place> {
        self.places
            .iter()
            .find(|place| place.hierarchy(&self.layout).is_unified())
    }

    pub(crate) fn v1_places(&self) -> impl Iterator<Item = &Place> {
        self.places
            .iter()
            .filter(|place| !place.hierarchy(&self.layout).is_unified())
    }

    /// The directory of a v1 controller.
    pub(crate) fn v1_place(&self, controller: &str) -> Option<&Place> {
        self.places
            .iter()
            .find(|place| place.hierarchy(&self.layout).has(controller))
    }

    pub(crate) fn failed(&self, attempt: &'static str, place: &Place, source: sys::Error) -> Error {
        failed(&self.layout, attempt, place, source)
    }
}

/// Writes the pid to the `cgroup.procs` of a directory; the empty path is the root.
pub(crate) fn move_process(root: BorrowedFd<'_>, path: &str, pid: i32) -> sys::Result<()> {
    let file = access::join(path, "cgroup.procs");
    let mut tries = 1;
    loop {
        match access::write(root, &file, &pid.to_string()) {
            Err(error) if error.errno() == Errno::INVAL && tries < MOVE_TRIES => {
                tries += 1;
                std::thread::sleep(MOVE_PAUSE);
            }
            done => return done,
        }
    }
}

/// A file operation that failed at a place.
pub(crate) fn failed(
    layout: &Layout,
    attempt: &'static str,
    place: &Place,
    source: sys::Error,
) -> Error {
    Error::Access {
        attempt,
        path: place.hierarchy(layout).absolute(&place.path),
        source,
    }
}
