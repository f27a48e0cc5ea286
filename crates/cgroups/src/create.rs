// SPDX-License-Identifier: Apache-2.0
//! Making a container's directories: all of them or none.
//!
//! Ancestors are made where they are missing and stay afterwards, as with every other runtime: we
//! cannot know who else has come to use them. Only a failed creation takes them back.

use std::os::fd::OwnedFd;

use sys::Errno;

use crate::access;
use crate::cgroup::{Cgroup, failed};
use crate::controllers;
use crate::cpuset::{self, Content};
use crate::error::{Error, Result};
use crate::layout::{Hierarchy, Layout, Mode};
use crate::record::Place;

/// How often an ancestor may vanish between being found and being used.
const TRIES: u32 = 3;

/// What a creation has made so far; removed again unless kept.
pub(crate) struct Made {
    layout: Layout,
    directories: Vec<Place>,
    /// One of the container's own directories was there before.
    existed: Existed,
}

/// Whether somebody else may be using the container's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existed {
    No,
    Yes,
}

impl Made {
    pub(crate) fn nothing(layout: &Layout) -> Self {
        Self {
            layout: layout.clone(),
            directories: Vec::new(),
            existed: Existed::No,
        }
    }

    pub(crate) fn existed(&self) -> Existed {
        self.existed
    }

    /// The creation succeeded.
    pub(crate) fn keep(mut self) {
        self.directories.clear();
    }

    fn note(&mut self, hierarchy: usize, path: &str) {
        self.directories.push(Place {
            hierarchy,
            path: path.to_owned(),
        });
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for place in self.directories.iter().rev() {
            let (parent, name) = access::split(&place.path);
            let root = place.hierarchy(&self.layout).root();
            // The creation's own error is the one to report; an ancestor that another container
            // has come to use meanwhile is busy and stays.
            let _ = access::open_directory(root, parent)
                .and_then(|parent| access::remove_directory(&parent, name));
        }
    }
}

/// Makes all places.
pub(crate) fn make_all(layout: &Layout, places: &[Place]) -> Result<Made> {
    let mut made = Made::nothing(layout);
    for place in places {
        make(layout, place, &mut made).map_err(|error| failed(layout, "create", place, error))?;
    }
    Ok(made)
}

/// Makes one place, ready to take a process.
pub(crate) fn make(layout: &Layout, place: &Place, made: &mut Made) -> sys::Result<()> {
    let mut tries = 1;
    loop {
        match try_make(layout, place, made) {
            // Somebody removed the ancestor that we were about to use.
            Err(error) if error.errno() == Errno::NOENT && tries < TRIES => tries += 1,
            done => return done,
        }
    }
}

fn try_make(layout: &Layout, place: &Place, made: &mut Made) -> sys::Result<()> {
    let hierarchy = place.hierarchy(layout);
    let (parent, name) = access::split(&place.path);
    let parent = match access::open_directory(hierarchy.root(), parent) {
        Err(error) if error.errno() == Errno::NOENT => make_ancestors(layout, place, made)?,
        opened => opened?,
    };
    if layout.mode() == Mode::V2 {
        controllers::enable(hierarchy, &parent, &place.path)?;
    }
    let content = if access::make_directory(&parent, name)? {
        made.note(place.hierarchy, &place.path);
        Content::Nothing
    } else {
        made.existed = Existed::Yes;
        Content::Perhaps
    };
    if hierarchy.has("cpuset") {
        cpuset::fill(hierarchy, &parent, &place.path, content)?;
    }
    Ok(())
}

/// Makes what is missing above the place; the parent.
fn make_ancestors(layout: &Layout, place: &Place, made: &mut Made) -> sys::Result<OwnedFd> {
    let hierarchy: &Hierarchy = place.hierarchy(layout);
    let (parent, _) = access::split(&place.path);
    let mut directory = access::open_directory(hierarchy.root(), "")?;
    let mut path = String::new();
    for name in parent.split('/') {
        path = access::join(&path, name);
        directory = match access::open_directory(&directory, name) {
            Err(error) if error.errno() == Errno::NOENT => {
                if access::make_directory(&directory, name)? {
                    made.note(place.hierarchy, &path);
                }
                access::open_directory(&directory, name)?
            }
            opened => opened?,
        };
    }
    Ok(directory)
}

impl Cgroup {
    /// Refuses a cgroup in which the container would not be alone, or would not run.
    pub(crate) fn refuse_unusable(&self, existed: Existed) -> Result<()> {
        if existed == Existed::Yes {
            let count = self.pids_everywhere()?.len();
            if count > 0 {
                return Err(Error::NotEmpty { count });
            }
        }
        // Also when it is new: it is born frozen below a frozen ancestor.
        if self.is_frozen()? {
            return Err(Error::Frozen);
        }
        match (self.layout().mode(), self.unified_place()) {
            (Mode::V2, Some(place)) => self.refuse_threaded(place),
            _ => Ok(()),
        }
    }

    /// Below a cgroup with processes or threads of its own, a new one cannot hold a container.
    fn refuse_threaded(&self, place: &Place) -> Result<()> {
        let root = place.hierarchy(self.layout()).root();
        let kind = access::read(root, &place.file("cgroup.type"))
            .map_err(|error| self.failed("inspect", place, error))?;
        match kind.as_str() {
            "domain" | "domain threaded" => Ok(()),
            _ => Err(Error::Unsuitable {
                path: place.hierarchy(self.layout()).absolute(&place.path),
                kind,
            }),
        }
    }
}
