// SPDX-License-Identifier: Apache-2.0
//! Which cgroup hierarchies the machine has, and where.
//!
//! Found once in a process. Each hierarchy keeps one descriptor: its root, verified to be on a
//! cgroup file system of the right kind. All later access starts there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode as FileMode, OFlags};
use sys::{Call, Errno};

use crate::access;
use crate::error::{Error, Result};
use crate::mountinfo::{self, CONVENTION, Found, Mount};

const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// How the machine uses cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// One v2 hierarchy has all controllers.
    V2,
    /// Controllers are on v1 hierarchies, and a v2 hierarchy is mounted besides.
    Hybrid,
}

/// What a hierarchy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// v1, with these controllers (several: they are co-mounted).
    Controllers(Vec<String>),
    /// v1 without a controller: `name=systemd`.
    Named(String),
    /// v2.
    Unified,
}

/// A mounted hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    kind: Kind,
    mount_point: String,
    /// Our own cgroup, relative to the mount point; `None`: not to be seen from there.
    own: Option<String>,
    /// v2: what `cgroup.controllers` of its root offers.
    available: Vec<String>,
    root: OwnedFd,
}

impl Hierarchy {
    /// What it is for.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &str {
        &self.mount_point
    }

    /// Our own cgroup in it, relative to the mount point.
    pub(crate) fn own(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// v2: the controllers at its root.
    pub(crate) fn available(&self) -> &[String] {
        &self.available
    }

    /// Whether the controller is on this hierarchy, which is the v2 one.
    pub(crate) fn offers(&self, controller: &str) -> bool {
        self.is_unified() && self.available.iter().any(|a| a == controller)
    }

    /// Its root directory.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The names it has in a record: its controllers, its name, or nothing for v2.
    pub(crate) fn keys(&self) -> &[String] {
        static UNIFIED: [String; 1] = [String::new()];
        match &self.kind {
            Kind::Controllers(controllers) => controllers,
            Kind::Named(name) => std::slice::from_ref(name),
            Kind::Unified => &UNIFIED,
        }
    }

    /// Whether the controller is on this (v1) hierarchy.
    pub(crate) fn has(&self, controller: &str) -> bool {
        matches!(&self.kind, Kind::Controllers(all) if all.iter().any(|c| c == controller))
    }

    /// Whether it is the v2 one.
    pub fn is_unified(&self) -> bool {
        self.kind == Kind::Unified
    }

    /// The absolute path of a cgroup of it.
    pub(crate) fn absolute(&self, path: &str) -> String {
        format!("{}/{path}", self.mount_point)
    }
}

/// The hierarchies of the machine. Clones share the descriptors.
#[derive(Debug, Clone)]
pub struct Layout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mode: Mode,
    hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Looks at the machine, as this process sees it.
    ///
    /// # Errors
    /// No cgroup file system is mounted, or what the kernel says of them cannot be read.
    pub fn detect() -> Result<Self> {
        let (mode, hierarchies) = match Self::pure_v2()? {
            Some(unified) => (Mode::V2, vec![unified]),
            None => Self::from_mountinfo()?,
        };
        if hierarchies.is_empty() {
            return Err(Error::NoHierarchy);
        }
        Ok(Self(Arc::new(Inner { mode, hierarchies })))
    }

    /// v1, v2 or both.
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// All of them.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.0.hierarchies
    }

    /// The usual case without mountinfo, whose length grows with the containers of the host.
    fn pure_v2() -> Result<Option<Hierarchy>> {
        let root = match open_root(CONVENTION) {
            Ok(root) => root,
            Err(error) if access::is_gone(&error) => return Ok(None),
            Err(error) => return Err(Error::Detect(error)),
        };
        if magic(&root).map_err(Error::Detect)? != CGROUP2_SUPER_MAGIC {
            return Ok(None);
        }
        Ok(Some(Hierarchy {
            kind: Kind::Unified,
            mount_point: CONVENTION.to_owned(),
            own: None,
            available: available(&root)?,
            root,
        }))
    }

    fn from_mountinfo() -> Result<(Mode, Vec<Hierarchy>)> {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .call("read", || path)
                .map_err(Error::Detect)
        };
        let (mode, found) =
            mountinfo::arrange(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        let mut hierarchies = Vec::with_capacity(found.len());
        for found in found {
            hierarchies.extend(Hierarchy::open(found)?);
        }
        Ok((mode, hierarchies))
    }
}

impl Hierarchy {
    /// Opens the first of its mounts that is really there: another one may lie over it.
    fn open(found: Found) -> Result<Option<Self>> {
        let expected = match found.kind {
            Kind::Unified => CGROUP2_SUPER_MAGIC,
            _ => CGROUP_SUPER_MAGIC,
        };
        for mount in found.mounts {
            let Ok(root) = open_root(&mount.mount_point) else {
                continue;
            };
            if !is_mount(&root, &mount, expected).map_err(Error::Detect)? {
                continue;
            }
            let available = match found.kind {
                Kind::Unified => available(&root)?,
                _ => Vec::new(),
            };
            return Ok(Some(Self {
                own: below(&mount.root, &found.own),
                kind: found.kind,
                mount_point: mount.mount_point,
                available,
                root,
            }));
        }
        Ok(None)
    }
}

/// `own`, a path in the hierarchy, as seen from a mount of its directory `root`.
pub(crate) fn below(root: &str, own: &str) -> Option<String> {
    let rest = own.strip_prefix(root.trim_end_matches('/'))?;
    if !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    // A cgroup outside our cgroup namespace begins with "/..".
    let hidden = rest.split('/').any(|component| component == "..");
    (!hidden).then(|| rest.trim_matches('/').to_owned())
}

fn open_root(path: &str) -> sys::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, FileMode::empty()).call("open", || format!("{path:?}"))
}

fn magic(root: &OwnedFd) -> sys::Result<u64> {
    let filesystem = rustix::fs::fstatfs(root).call("fstatfs", || "cgroup root")?;
    // The type of this field differs between machines; the magic numbers fit in each.
    Ok(filesystem.f_type as u64)
}

fn is_mount(root: &OwnedFd, mount: &Mount, expected: u64) -> sys::Result<bool> {
    let stat = rustix::fs::fstat(root).call("fstat", || format!("{:?}", mount.mount_point))?;
    let device = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    Ok(device == mount.device && magic(root)? == expected)
}

fn available(root: &OwnedFd) -> Result<Vec<String>> {
    match access::read(root, "cgroup.controllers") {
        Ok(names) => Ok(names.split_whitespace().map(str::to_owned).collect()),
        Err(error) if error.errno() == Errno::NOENT => Ok(Vec::new()),
        Err(error) => Err(Error::Detect(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cgroup_is_seen_from_the_mounts_root() {
        assert_eq!(below("/", "/"), Some(String::new()));
        assert_eq!(below("/", "/a/b"), Some("a/b".to_owned()));
        assert_eq!(below("/docker/1", "/docker/1"), Some(String::new()));
        assert_eq!(below("/docker/1", "/docker/1/x"), Some("x".to_owned()));
        assert_eq!(below("/docker/1", "/docker/12"), None);
        assert_eq!(below("/docker/1", "/other"), None);
        assert_eq!(below("/", "/../other"), None);
    }

    #[test]
    fn this_machine_has_a_layout_that_fits_its_mode() {
        let layout = Layout::detect().unwrap();
        let unified = layout.hierarchies().iter().filter(|h| h.is_unified());
        match layout.mode() {
            Mode::V1 => assert_eq!(unified.count(), 0),
            Mode::V2 => assert_eq!((unified.count(), layout.hierarchies().len()), (1, 1)),
            Mode::Hybrid => assert_eq!(unified.count(), 1),
        }
    }
}
