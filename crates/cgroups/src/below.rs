// SPDX-License-Identifier: Apache-2.0
//! Cgroups that a container has made below its own: a process may be placed there.

use std::collections::BTreeMap;

use sys::Errno;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::layout::Hierarchy;
use crate::record::clean;

impl Cgroup {
    /// The cgroup below this one to which `paths` leads: relative paths by controller, as runc's
    /// `exec --cgroup` has them. The empty name stands for all hierarchies.
    ///
    /// # Errors
    /// A path that leaves the container's cgroup, an unknown controller, no such cgroup.
    pub fn below(&self, paths: &BTreeMap<String, String>) -> Result<Self> {
        let mut record = self.record().clone();
        for (controller, path) in paths {
            let below = inside(path)?;
            for keys in self.keys_for(controller)? {
                record.descend(keys, &below);
            }
        }
        let found = Self::open(self.layout(), &record)?;
        match (found.unified_place(), found.clone_target()) {
            // Nobody may be placed into a cgroup that is gone, least of all into our own instead.
            (Some(place), None) => {
                let gone = sys::Error::new("openat2", format!("{:?}", place.path), Errno::NOENT);
                Err(found.failed("open", place, gone))
            }
            _ => Ok(found),
        }
    }

    /// The keys of each hierarchy that is meant: controllers that share one go together.
    fn keys_for(&self, controller: &str) -> Result<Vec<&[String]>> {
        let has = |hierarchy: &&Hierarchy| {
            controller.is_empty() || hierarchy.keys().iter().any(|key| key == controller)
        };
        let hierarchies = self.layout().hierarchies().iter();
        let found: Vec<_> = hierarchies.filter(has).map(Hierarchy::keys).collect();
        match found.is_empty() {
            false => Ok(found),
            true => Err(Error::UnknownController {
                controller: controller.to_owned(),
            }),
        }
    }
}

/// The path in plain form, if it stays inside: `..` may lead back, but never out.
fn inside(path: &str) -> Result<String> {
    let refuse = |reason| Error::InvalidPath {
        path: path.to_owned(),
        reason,
    };
    if path.contains('\0') {
        return Err(refuse("contains a NUL byte"));
    }
    let mut depth = 0_usize;
    for component in path.split('/') {
        depth = match component {
            "" | "." => depth,
            ".." => depth
                .checked_sub(1)
                .ok_or_else(|| refuse("is a bad sub cgroup path"))?,
            _ => depth + 1,
        };
    }
    Ok(clean(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_inside() {
        for (path, plain) in [
            ("a", "a"),
            ("/a//b/", "a/b"),
            ("a/../b", "b"),
            ("", ""),
            (".", ""),
        ] {
            assert_eq!(inside(path).unwrap(), plain);
        }
        for path in ["..", "a/../..", "/..", "../x", "a/../../x", "a\0"] {
            assert!(inside(path).is_err(), "{path}");
        }
    }
}
