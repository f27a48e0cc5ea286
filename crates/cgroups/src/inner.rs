// SPDX-License-Identifier: Apache-2.0
//! Cgroups that a container has made below its own.
//!
//! A v2 cgroup that lets those below it have controllers takes no processes itself (the "no internal
//! processes" rule of Documentation/admin-guide/cgroup-v2.rst). A container that does so has moved
//! its processes below first; who wants to join it follows its init.

use std::os::fd::OwnedFd;

use sys::Call;

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::layout;
use crate::mountinfo;
use crate::record::clean;

impl Cgroup {
    /// The v2 cgroup that a process is in, opened. `file` is the content of its `/proc/<pid>/cgroup`.
    /// `None`: it is in the container's own.
    ///
    /// # Errors
    /// The process is not in the container's cgroup or below it, or has moved on by now (`ENOENT`).
    pub fn open_inner(&self, file: &str) -> Result<Option<OwnedFd>> {
        let (Some(place), Some(own)) = (self.unified_place(), self.clone_target()) else {
            return Ok(None);
        };
        let mount_point = place.hierarchy(self.layout()).mount_point();
        let root = mount_root(mount_point)?;
        let rest = below(file, &root, &place.path)?;
        if rest.is_empty() {
            return Ok(None);
        }
        // Whatever has become of the path meanwhile: it cannot leave the container's directory.
        access::open_directory(own, &rest)
            .map(Some)
            .map_err(|error| self.failed("open cgroup below", place, error))
    }
}

/// Which directory of the hierarchy is mounted there.
fn mount_root(mount_point: &str) -> Result<String> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(PATH)
        .call("read", || PATH)
        .map_err(Error::Detect)?;
    let root = mountinfo::unified_root(&text, mount_point);
    Ok(root.unwrap_or_else(|| "/".to_owned()))
}

/// Where a process is, relative to the container's cgroup `own`; that is relative to a mount of the
/// directory `root`.
fn below(file: &str, root: &str, own: &str) -> Result<String> {
    let elsewhere = |path: &str| Error::Elsewhere {
        path: path.to_owned(),
        own: own.to_owned(),
    };
    let line = file.lines().find_map(|line| line.strip_prefix("0::"));
    let path = line.ok_or_else(|| elsewhere(""))?;
    // Removed with its last process, which has ended.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let seen = layout::below(root, path).filter(|seen| clean(seen) == *seen);
    let rest = seen.as_deref().and_then(|seen| seen.strip_prefix(own));
    match rest {
        Some("") => Ok(String::new()),
        Some(rest) if rest.starts_with('/') => Ok(rest[1..].to_owned()),
        _ => Err(elsewhere(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Process, Top};

    #[test]
    fn only_what_is_below_the_containers_cgroup_is_its_own() {
        let of = |file: &str| below(file, "/", "default/x").ok();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("1:cpu:/y\n0::/default/x\n"), some(""));
        assert_eq!(of("0::/default/x/init.scope\n"), some("init.scope"));
        assert_eq!(of("0::/default/x/a/b (deleted)\n"), some("a/b"));
        for elsewhere in [
            "/default/xy",
            "/default",
            "/",
            "/default/x/../y",
            "/default/x//y",
            "/../default/x/y",
        ] {
            assert_eq!(of(&format!("0::{elsewhere}\n")), None, "{elsewhere}");
        }
        assert_eq!(of("1:cpu:/default/x\n"), None);
        let inside = below("0::/pod/default/x/y", "/pod", "default/x");
        assert_eq!(inside.unwrap(), "y");
    }

    #[test]
    fn the_cgroup_of_a_process_that_has_moved_is_found() {
        let top = Top::new();
        let cgroup = top.create("x");
        let Some(path) = cgroup.record().paths().get("").cloned() else {
            eprintln!("SKIPPED: no cgroup v2");
            return;
        };
        let process = Process::joining(&cgroup, "sleep 1000");
        let file = || std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid())).unwrap();
        crate::tests::eventually("it to have joined", || cgroup.open_inner(&file()).is_ok());
        assert!(cgroup.open_inner(&file()).unwrap().is_none());
        let inner = format!("{path}/inner/most");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(format!("{inner}/cgroup.procs"), process.pid().to_string()).unwrap();
        let opened = cgroup.open_inner(&file()).unwrap().unwrap();
        assert_eq!(
            access::read(&opened, "cgroup.procs").unwrap(),
            process.pid().to_string()
        );
        // Another container's, or the host's.
        let other = top.create("y");
        let error = other.open_inner(&file()).unwrap_err();
        assert!(matches!(error, Error::Elsewhere { .. }), "{error}");
        assert!(cgroup.open_inner("0::/\n").is_err());
    }
}
