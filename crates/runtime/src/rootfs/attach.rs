// SPDX-License-Identifier: Apache-2.0
//! Putting mounts in their places: by descriptor, whatever the kernel offers.
//!
//! | feature                                   | since | else                                     |
//! |-------------------------------------------|-------|------------------------------------------|
//! | `fsopen`, `open_tree`, `move_mount`       | 5.2   | `mount(2)` on `self/fd/N` of the private procfs, then the place is opened again and must be another mount |
//! | `mount_setattr`, one mount                | 5.12  | `mount(2)` with `MS_REMOUNT \| MS_BIND`, which repeats the flags that must stay |
//! | `mount_setattr`, propagation              | 5.12  | `mount(2)`                               |
//! | `mount_setattr`, attributes of a tree     | 5.12  | none: refused                            |
//!
//! With the new calls a mount has its flags before anybody can see it. With `mount(2)` a bind mount
//! is there for a moment with the flags of its source; the container does not run yet.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, PROC_SUPER_MAGIC, StatxFlags};
use rustix::io::Errno;
use sys::Call;
use sys::mount::{Attributes, Extent, Feature, MAX_PARAM_VALUE, MountApi, Param, ms};

use super::copyup;
use super::error::Cause;
use super::label;
use super::options::{Flags, Propagation};
use super::plan::Filesystem;
use crate::procfs::Procfs;
use crate::resolve::{Links, Root};

/// What everything here needs: the kernel's mount calls, the container's root, a procfs for kernels
/// that cannot mount on descriptors.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) api: MountApi,
    pub(super) procfs: Procfs,
    /// The root of the container's root mount.
    pub(super) root: OwnedFd,
    /// SELinux label of new file systems.
    pub(super) label: Option<String>,
}

/// What a mount point has to be if it must be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Directory,
    File,
}

impl Shape {
    pub(super) fn directory() -> Result<Self, Cause> {
        Ok(Self::Directory)
    }

    pub(super) fn file() -> Result<Self, Cause> {
        Ok(Self::File)
    }

    /// What is needed to mount this on it.
    pub(super) fn of(source: &impl AsFd) -> Result<Self, Cause> {
        let stat = rustix::fs::fstat(source).call("fstat", String::new)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Self::Directory,
            _ => Self::File,
        })
    }
}

/// An opened mount point.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) path: &'a Path,
    pub(super) fd: OwnedFd,
    /// Whether it was there before.
    pub(super) existed: bool,
    links: Links,
}

impl<'a> Target<'a> {
    /// A mount point that was opened otherwise.
    pub(super) fn made(path: &'a Path, fd: OwnedFd) -> Self {
        Self {
            path,
            fd,
            existed: true,
            links: Links::Follow,
        }
    }
}

impl Builder {
    pub(super) fn root(&self) -> Root<'_> {
        Root::new(self.root.as_fd())
    }

    /// Opens a mount point, made if it is missing: then its shape is asked for.
    pub(super) fn target<'a>(
        &self,
        path: &'a Path,
        shape: impl FnOnce() -> Result<Shape, Cause>,
        links: Links,
    ) -> Result<Target<'a>, Cause> {
        let there = |fd| {
            Ok(Target {
                path,
                fd,
                existed: true,
                links,
            })
        };
        // Usually there is no symlink on the way, and then the path is what it looks like.
        match self.root().open(path, Links::Refuse) {
            Ok(fd) => return there(fd),
            Err(e) if e.errno() == Errno::NOENT => {}
            Err(e) if e.errno() == Errno::LOOP && links == Links::Follow => {
                match self.root().open(path, Links::Follow) {
                    Ok(fd) => {
                        refuse_procfs(&fd)?;
                        return there(fd);
                    }
                    Err(e) if e.errno() == Errno::NOENT => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) => return Err(e.into()),
        }
        let fd = match shape()? {
            Shape::Directory => self.root().mkdir_all(path, 0o755.into(), links)?,
            Shape::File => self.root().create_file(path, 0o644.into(), links)?,
        };
        Ok(Target {
            path,
            fd,
            existed: false,
            links,
        })
    }

    /// Mounts a new file system; returns the root of the mount.
    pub(super) fn filesystem(
        &self,
        filesystem: &Filesystem,
        flags: Flags,
        target: &Target<'_>,
    ) -> Result<OwnedFd, Cause> {
        let label = self.label.as_deref();
        let mount = self.new_filesystem(&label::labelled(filesystem, label), flags, target)?;
        if let Some(label) = label.filter(|_| filesystem.fstype == "mqueue") {
            label::label_mqueue(&self.procfs, &mount, label)?;
        }
        Ok(mount)
    }

    fn new_filesystem(
        &self,
        filesystem: &Filesystem,
        flags: Flags,
        target: &Target<'_>,
    ) -> Result<OwnedFd, Cause> {
        if self.api.has(Feature::Detached) && is_expressible(filesystem, flags) {
            match self.api.filesystem(
                &filesystem.fstype,
                &params(filesystem, flags),
                flags.for_new_mount(),
            ) {
                Ok(mount) => {
                    if filesystem.copy_up && target.existed {
                        copyup::copy(&target.fd, &mount)?;
                    }
                    self.attach(&mount, target)?;
                    return Ok(mount);
                }
                Err(e) if e.errno() == Errno::NOSYS => {}
                Err(e) => return Err(e.into()),
            }
        }
        let data = data(filesystem);
        let data = (!data.is_empty()).then_some(data.as_str());
        let source = Some(filesystem.source.as_str());
        self.old_mount(
            source,
            &target.fd,
            Some(&filesystem.fstype),
            flags.set,
            data,
        )?;
        let mount = self.open_mounted(target)?;
        if filesystem.copy_up && target.existed {
            copyup::copy(&target.fd, &mount)?;
        }
        Ok(mount)
    }

    /// Mounts a file or directory; returns the root of the mount.
    pub(super) fn bind(
        &self,
        source: BindSource,
        flags: Flags,
        target: &Target<'_>,
    ) -> Result<OwnedFd, Cause> {
        let tree = match source {
            BindSource::Tree(tree) => tree,
            BindSource::Place { fd, recursive } => {
                return self.old_bind(&fd, recursive, flags, target);
            }
        };
        let mut pending = flags.any_attribute();
        if pending {
            match self.change_bind(&tree, flags) {
                Ok(()) => pending = false,
                Err(e) if e.errno() == Errno::NOSYS => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.attach(&tree, target)?;
        if pending {
            self.remount_bind(&tree, flags)?;
        }
        Ok(tree)
    }

    /// Opens the source of a bind mount.
    pub(super) fn bind_source(&self, path: &Path, recursive: bool) -> Result<BindSource, Cause> {
        let extent = if recursive {
            Extent::Tree
        } else {
            Extent::Mount
        };
        match self.api.clone_path(path, extent) {
            Ok(tree) => Ok(BindSource::Tree(tree)),
            Err(e) if e.errno() == Errno::NOSYS => {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
                    .call("open", || format!("{path:?}, O_PATH"))?;
                Ok(BindSource::Place { fd, recursive })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// As [`Self::bind_source`], for something that is open already.
    pub(super) fn bind_source_fd(
        &self,
        fd: &impl AsFd,
        recursive: bool,
    ) -> Result<BindSource, Cause> {
        let extent = if recursive {
            Extent::Tree
        } else {
            Extent::Mount
        };
        match self.api.clone_fd(fd.as_fd(), extent) {
            Ok(tree) => Ok(BindSource::Tree(tree)),
            Err(e) if e.errno() == Errno::NOSYS => {
                let fd = fd.as_fd().try_clone_to_owned().call("dup", String::new)?;
                Ok(BindSource::Place { fd, recursive })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Changes the attributes of a mount that is attached.
    pub(super) fn set_attributes(&self, mount: &OwnedFd, changes: Attributes) -> Result<(), Cause> {
        match self.api.set_attributes(mount, changes, Extent::Mount) {
            Err(e) if e.errno() == Errno::NOSYS => {
                let flags = Flags::remount(sys::mount::current_flags(mount)?, changes);
                self.old_remount(mount, flags)
            }
            other => Ok(other?),
        }
    }

    /// Changes the propagation of a mount that is attached.
    pub(super) fn set_propagation(
        &self,
        mount: &OwnedFd,
        propagation: Propagation,
    ) -> Result<(), Cause> {
        let extent = if propagation.recursive {
            Extent::Tree
        } else {
            Extent::Mount
        };
        let changes = Attributes::propagation(propagation.kind);
        match self.api.set_attributes(mount, changes, extent) {
            Err(e) if e.errno() == Errno::NOSYS => {
                self.old_mount(None, mount, None, propagation.flags(), None)
            }
            other => Ok(other?),
        }
    }

    /// `mount(2)` on what a descriptor refers to.
    pub(super) fn old_mount(
        &self,
        source: Option<&str>,
        target: &impl AsFd,
        fstype: Option<&str>,
        flags: u64,
        data: Option<&str>,
    ) -> Result<(), Cause> {
        let place = place(target);
        // Relative to a procfs that nobody else can reach, the path means what it says.
        rustix::process::fchdir(self.procfs.directory()?).call("fchdir", || "procfs")?;
        let result = sys::mount::mount(source, &*place, fstype, flags, data);
        rustix::process::chdir("/").call("chdir", || "\"/\"")?;
        Ok(result?)
    }

    fn attach(&self, mount: &OwnedFd, target: &Target<'_>) -> Result<(), Cause> {
        self.api
            .attach(mount, &target.fd)
            .map_err(|e| shape(e, mount, &target.fd))
    }

    fn change_bind(&self, tree: &OwnedFd, flags: Flags) -> sys::Result<()> {
        match self
            .api
            .set_attributes(tree, flags.for_bind(), Extent::Mount)
        {
            // Flags of a mount from a more privileged namespace are locked: they stay, unless the
            // options ask explicitly for something else, which is an error then.
            Err(e) if e.errno() == Errno::PERM => {
                self.api
                    .set_attributes(tree, flags.explicit(), Extent::Mount)
            }
            other => other,
        }
    }

    fn old_bind(
        &self,
        source: &OwnedFd,
        recursive: bool,
        flags: Flags,
        target: &Target<'_>,
    ) -> Result<OwnedFd, Cause> {
        let bits = ms::BIND | if recursive { ms::REC } else { 0 };
        self.old_mount(Some(&place(source)), &target.fd, None, bits, None)
            .map_err(|cause| match cause {
                Cause::System(e) => shape(e, source, &target.fd),
                other => other,
            })?;
        let mount = self.open_mounted(target)?;
        if flags.any_attribute() {
            self.remount_bind(&mount, flags)?;
        }
        Ok(mount)
    }

    fn remount_bind(&self, mount: &OwnedFd, flags: Flags) -> Result<(), Cause> {
        let current = sys::mount::current_flags(mount)?;
        match self.old_remount(mount, Flags::remount(current, flags.for_bind())) {
            Err(e) if e.errno() == Some(Errno::PERM) => {
                self.old_remount(mount, Flags::remount(current, flags.explicit()))
            }
            other => other,
        }
    }

    fn old_remount(&self, mount: &OwnedFd, flags: u64) -> Result<(), Cause> {
        self.old_mount(None, mount, None, ms::BIND | ms::REMOUNT | flags, None)
    }

    /// The root of what was just mounted on a target with `mount(2)`.
    fn open_mounted(&self, target: &Target<'_>) -> Result<OwnedFd, Cause> {
        let mount = self.root().open(target.path, target.links)?;
        if mount_id(&mount)? == mount_id(&target.fd)? {
            return Err(Cause::Unsafe("the mount point was moved away meanwhile"));
        }
        Ok(mount)
    }
}

/// The source of a bind mount.
#[derive(Debug)]
pub(super) enum BindSource {
    /// A clone of it, attached nowhere.
    Tree(OwnedFd),
    /// Itself.
    Place { fd: OwnedFd, recursive: bool },
}

impl AsFd for BindSource {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tree(fd) | Self::Place { fd, .. } => fd.as_fd(),
        }
    }
}

/// Whether a file is on a procfs.
pub(super) fn is_procfs(fd: &impl AsFd) -> Result<bool, Cause> {
    Ok(rustix::fs::fstatfs(fd).call("fstatfs", String::new)?.f_type == PROC_SUPER_MAGIC)
}

fn refuse_procfs(fd: &OwnedFd) -> Result<(), Cause> {
    match is_procfs(fd)? {
        true => Err(Cause::Unsafe(
            "cannot be mounted because it leads into /proc",
        )),
        false => Ok(()),
    }
}

fn place(fd: &impl AsFd) -> String {
    format!("self/fd/{}", fd.as_fd().as_raw_fd())
}

fn mount_id(fd: &OwnedFd) -> sys::Result<u64> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .call("statx", String::new)
        .map(|stat| stat.stx_mnt_id)
}

/// `mount(2)` says `ENOTDIR` and `move_mount(2)` `EINVAL` if one is a directory and the other not.
fn shape(error: sys::Error, source: &OwnedFd, target: &OwnedFd) -> Cause {
    let is_directory = |fd: &OwnedFd| {
        rustix::fs::fstat(fd)
            .ok()
            .map(|s| FileType::from_raw_mode(s.st_mode).is_dir())
    };
    let suspicious = matches!(error.errno(), Errno::INVAL | Errno::NOTDIR);
    if suspicious && is_directory(source) != is_directory(target) {
        return Cause::Shape(sys::Error::new(error.call(), "mount point", Errno::NOTDIR));
    }
    Cause::System(error)
}

/// Whether `fsconfig` can say everything; it has no word for `iversion` and takes short values only.
fn is_expressible(filesystem: &Filesystem, flags: Flags) -> bool {
    let short = |text: &String| text.len() <= MAX_PARAM_VALUE;
    flags.set & ms::I_VERSION == 0
        && short(&filesystem.source)
        && filesystem
            .params
            .iter()
            .all(|(_, value)| value.as_ref().is_none_or(short))
}

/// The parameters for `fsconfig`: the source, flags of the superblock, and the file system's own.
fn params(filesystem: &Filesystem, flags: Flags) -> Vec<Param<'_>> {
    const SUPERBLOCK: [(u64, &str); 4] = [
        (ms::SYNCHRONOUS, "sync"),
        (ms::DIRSYNC, "dirsync"),
        (ms::MANDLOCK, "mand"),
        (ms::LAZYTIME, "lazytime"),
    ];
    let mut params = Vec::with_capacity(1 + filesystem.params.len());
    params.push(Param::Value("source", &filesystem.source));
    params.extend(
        SUPERBLOCK
            .iter()
            .filter(|(bit, _)| flags.has(*bit))
            .map(|(_, word)| Param::Flag(word)),
    );
    params.extend(filesystem.params.iter().map(|(key, value)| match value {
        Some(value) => Param::Value(key, value),
        None => Param::Flag(key),
    }));
    params
}

/// The parameters for `mount(2)`.
pub(super) fn data(filesystem: &Filesystem) -> String {
    let words: Vec<String> = filesystem
        .params
        .iter()
        .map(|(key, value)| match value {
            // A label may have commas.
            Some(value) if key == label::CONTEXT => format!("{key}=\"{value}\""),
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        })
        .collect();
    words.join(",")
}
