// SPDX-License-Identifier: Apache-2.0
//! Handing a v2 cgroup to whoever runs in it, who may then make cgroups below it and move processes
//! among them. The files of the limits stay ours.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags, Uid, chownat};
use sys::Call;

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::tree;

/// Where the kernel says which files go with a directory.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// What it said first (Linux 4.15).
const FIRST: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

impl Cgroup {
    /// Gives the v2 directory, and the files that go with it, to a user of the host. Without a v2
    /// directory there is nothing to give.
    ///
    /// # Errors
    /// The directory is gone, or an owner cannot be changed.
    pub fn delegate(&self, uid: u32) -> Result<()> {
        let Some(place) = self.unified_place() else {
            return Ok(());
        };
        self.give(&place.path, place.hierarchy(self.layout()).root(), uid)
            .map_err(|error| self.failed("delegate", place, error))
    }

    fn give(&self, path: &str, root: impl std::os::fd::AsFd, uid: u32) -> sys::Result<()> {
        let directory = access::open_directory(root, path)?;
        chown(&directory, path, uid)?;
        for name in files() {
            let file = access::open(&directory, &name, OFlags::PATH);
            // A file of a controller that this cgroup does not have.
            if let Some(file) = tree::vanishing(file)? {
                chown(&file, &name, uid)?;
            }
        }
        Ok(())
    }
}

fn chown(fd: &OwnedFd, name: &str, uid: u32) -> sys::Result<()> {
    chownat(fd, "", Some(Uid::from_raw(uid)), None, AtFlags::EMPTY_PATH)
        .call("fchownat", || format!("{name:?}, {uid}"))
}

fn files() -> Vec<String> {
    let listed = std::fs::read_to_string(LIST).unwrap_or_default();
    let names: Vec<String> = listed
        .lines()
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .map(str::to_owned)
        .collect();
    match names.is_empty() {
        true => FIRST.map(str::to_owned).to_vec(),
        false => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Top;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    #[test]
    fn a_delegated_directory_and_its_files_change_hands_and_limits_do_not() {
        let top = Top::new();
        let cgroup = top.create("x");
        cgroup.delegate(4242).unwrap();
        let Some(path) = cgroup.record().paths().get("").map(Path::new) else {
            eprintln!("SKIPPED: no cgroup v2");
            return;
        };
        let owner = |path: &Path| std::fs::metadata(path).map(|meta| (meta.uid(), meta.gid()));
        assert_eq!(owner(path).unwrap(), (4242, 0));
        for name in FIRST {
            assert_eq!(owner(&path.join(name)).unwrap(), (4242, 0), "{name}");
        }
        for name in ["cgroup.max.depth", "cgroup.controllers", "cgroup.freeze"] {
            assert_eq!(owner(&path.join(name)).unwrap(), (0, 0), "{name}");
        }
        cgroup.remove().unwrap();
        assert!(cgroup.delegate(4242).is_err());
    }
}
