// SPDX-License-Identifier: Apache-2.0
//! Mounts as descriptors (`fsopen`, `open_tree`, `move_mount`, `mount_setattr`) and `mount(2)`.
//!
//! [`MountApi`] stands for what the running kernel can do. A call that the kernel does not know
//! fails with `ENOSYS` and is not tried again; a test can have any feature missing and so drive
//! the fallbacks of its callers.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount as rx;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::path::Arg;

use crate::error::{Call, Error, Result};

/// `MS_*` bits of `mount(2)`.
pub mod ms {
    #![allow(missing_docs, reason = "constants of mount(2), documented there")]
    pub const RDONLY: u64 = libc::MS_RDONLY;
    pub const NOSUID: u64 = libc::MS_NOSUID;
    pub const NODEV: u64 = libc::MS_NODEV;
    pub const NOEXEC: u64 = libc::MS_NOEXEC;
    pub const SYNCHRONOUS: u64 = libc::MS_SYNCHRONOUS;
    pub const REMOUNT: u64 = libc::MS_REMOUNT;
    pub const MANDLOCK: u64 = libc::MS_MANDLOCK;
    pub const DIRSYNC: u64 = libc::MS_DIRSYNC;
    pub const NOSYMFOLLOW: u64 = 0x100;
    pub const NOATIME: u64 = libc::MS_NOATIME;
    pub const NODIRATIME: u64 = libc::MS_NODIRATIME;
    pub const BIND: u64 = libc::MS_BIND;
    pub const MOVE: u64 = libc::MS_MOVE;
    pub const REC: u64 = libc::MS_REC;
    pub const SILENT: u64 = libc::MS_SILENT;
    pub const UNBINDABLE: u64 = libc::MS_UNBINDABLE;
    pub const PRIVATE: u64 = libc::MS_PRIVATE;
    pub const SLAVE: u64 = libc::MS_SLAVE;
    pub const SHARED: u64 = libc::MS_SHARED;
    pub const RELATIME: u64 = libc::MS_RELATIME;
    pub const I_VERSION: u64 = libc::MS_I_VERSION;
    pub const STRICTATIME: u64 = libc::MS_STRICTATIME;
    pub const LAZYTIME: u64 = libc::MS_LAZYTIME;
}

/// `MOUNT_ATTR_*` bits of `fsmount(2)` and `mount_setattr(2)`.
pub mod attr {
    #![allow(
        missing_docs,
        reason = "constants of mount_setattr(2), documented there"
    )]
    pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// The mask of the three classes; they are a number, not bits.
    pub const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
    pub const RELATIME: u64 = libc::MOUNT_ATTR_RELATIME;
    pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
    pub const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
    pub const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
    pub const IDMAP: u64 = libc::MOUNT_ATTR_IDMAP;
}

/// A feature that older kernels lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `fsopen`, `fsconfig`, `fsmount`, `open_tree`, `move_mount` (Linux 5.2).
    Detached = 1,
    /// `mount_setattr` (Linux 5.12).
    SetAttr = 2,
    /// overlay's `lowerdir+` (Linux 6.7).
    AppendLowerdir = 4,
    /// overlay's `lowerdir+` by descriptors of mounts that are attached nowhere (Linux 6.15).
    DetachedLowerdir = 8,
}

/// Changes of a mount's attributes and propagation, as `mount_setattr(2)` takes them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
    /// The user namespace of an id-mapped mount; looked at with `MOUNT_ATTR_IDMAP` only.
    userns_fd: u64,
}

impl Attributes {
    /// Attributes to set and to clear.
    pub fn new(set: u64, clear: u64) -> Self {
        Self {
            set,
            clear,
            ..Self::default()
        }
    }

    /// A change of propagation only.
    pub fn propagation(propagation: u64) -> Self {
        Self {
            propagation,
            ..Self::default()
        }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a call applies to: one mount, or it and everything mounted below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The one mount.
    Mount,
    /// The whole tree of mounts.
    Tree,
}

/// A parameter of a new file system.
#[derive(Debug, Clone, Copy)]
pub enum Param<'a> {
    /// `key`
    Flag(&'a str),
    /// `key=value`
    Value(&'a str, &'a str),
    /// `key` is what a descriptor refers to.
    Descriptor(&'a str, BorrowedFd<'a>),
}

/// The longest value that `fsconfig(2)` takes.
pub const MAX_PARAM_VALUE: usize = 255;

/// The mount calls of the running kernel.
#[derive(Debug, Default)]
pub struct MountApi {
    missing: Cell<u8>,
}

impl MountApi {
    /// Everything is tried once.
    pub fn new() -> Self {
        Self::default()
    }

    /// For tests of fallbacks: these features are taken to be missing.
    pub fn without(features: &[Feature]) -> Self {
        let api = Self::default();
        features.iter().for_each(|f| api.note_missing(*f));
        api
    }

    /// Whether a feature has not been found missing so far.
    pub fn has(&self, feature: Feature) -> bool {
        self.missing.get() & feature as u8 == 0
    }

    /// Remembers that a feature is missing.
    pub fn note_missing(&self, feature: Feature) {
        self.missing.set(self.missing.get() | feature as u8);
    }

    fn attempt<T>(
        &self,
        feature: Feature,
        call: impl FnOnce() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        if !self.has(feature) {
            return Err(Errno::NOSYS);
        }
        let result = call();
        if matches!(result, Err(Errno::NOSYS)) {
            self.note_missing(feature);
        }
        result
    }

    /// A new file system as a detached mount with the given `MOUNT_ATTR_*`.
    ///
    /// # Errors
    /// `fsopen`, `fsconfig` or `fsmount`; with what the file system says about it.
    pub fn filesystem(
        &self,
        fstype: &str,
        params: &[Param<'_>],
        attributes: u64,
    ) -> Result<OwnedFd> {
        let context = self
            .attempt(Feature::Detached, || {
                rx::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
            })
            .call("fsopen", || format!("{fstype:?}"))?;
        for param in params {
            configure(&context, *param).call("fsconfig", || {
                explain(&context, &format!("{fstype}, {param}"))
            })?;
        }
        rx::fsconfig_create(&context).call("fsconfig", || explain(&context, fstype))?;
        let flags = MountAttrFlags::from_bits_retain(attributes as u32);
        rx::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
            .call("fsmount", || explain(&context, fstype))
    }

    /// A clone of the mount at a path, attached nowhere.
    ///
    /// # Errors
    /// `open_tree(2)`.
    pub fn clone_path(&self, path: impl Arg + Copy, extent: Extent) -> Result<OwnedFd> {
        let flags = tree_flags(extent);
        self.attempt(Feature::Detached, || rx::open_tree(CWD, path, flags))
            .call("open_tree", || {
                format!("{:?}, OPEN_TREE_CLONE", path.to_string_lossy())
            })
    }

    /// A clone of the mount that a descriptor is on, with the descriptor's file as its root,
    /// attached nowhere.
    ///
    /// # Errors
    /// `open_tree(2)`.
    pub fn clone_fd(&self, fd: BorrowedFd<'_>, extent: Extent) -> Result<OwnedFd> {
        let flags = tree_flags(extent) | OpenTreeFlags::AT_EMPTY_PATH;
        self.attempt(Feature::Detached, || rx::open_tree(fd, "", flags))
            .call("open_tree", || {
                format!("{}, OPEN_TREE_CLONE", fd.as_raw_fd())
            })
    }

    /// Attaches (or moves) the mount `from` to exactly the file or directory `onto`.
    ///
    /// # Errors
    /// `move_mount(2)`.
    pub fn attach(&self, from: impl AsFd, onto: impl AsFd) -> Result<()> {
        let (from, onto) = (from.as_fd(), onto.as_fd());
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        self.attempt(Feature::Detached, || {
            rx::move_mount(from, "", onto, "", flags)
        })
        .call("move_mount", || {
            format!("{}, {}", from.as_raw_fd(), onto.as_raw_fd())
        })
    }

    /// Makes a mount that is attached nowhere an id-mapped one: its files belong to whom the user
    /// namespace says.
    ///
    /// # Errors
    /// `mount_setattr(2)`: `EINVAL` if the file system cannot be id-mapped, `EPERM` if the mount
    /// is already.
    pub fn set_id_map(
        &self,
        fd: impl AsFd,
        user_namespace: BorrowedFd<'_>,
        extent: Extent,
    ) -> Result<()> {
        let changes = Attributes {
            set: attr::IDMAP,
            userns_fd: user_namespace.as_raw_fd() as u64,
            ..Attributes::default()
        };
        self.set_attributes(fd, changes, extent)
    }

    /// Changes attributes of the mount whose root `fd` is.
    ///
    /// # Errors
    /// `mount_setattr(2)`.
    pub fn set_attributes(
        &self,
        fd: impl AsFd,
        attributes: Attributes,
        extent: Extent,
    ) -> Result<()> {
        let fd = fd.as_fd().as_raw_fd();
        let recursive = match extent {
            Extent::Mount => 0,
            Extent::Tree => libc::AT_RECURSIVE,
        };
        self.attempt(Feature::SetAttr, || {
            // SAFETY: an empty path and a structure of the length that is passed; both live.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_mount_setattr,
                    fd,
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH | recursive,
                    &raw const attributes,
                    size_of::<Attributes>(),
                )
            };
            match result {
                0 => Ok(()),
                _ => Err(last_errno()),
            }
        })
        .call("mount_setattr", || format!("{fd}, {attributes}"))
    }
}

/// `mount(2)`; an absent source, type or data is passed as NULL.
///
/// # Errors
/// `mount(2)`.
pub fn mount(
    source: Option<&str>,
    target: impl Arg,
    fstype: Option<&str>,
    flags: u64,
    data: Option<&str>,
) -> Result<()> {
    let target = target.to_string_lossy().into_owned();
    let describe = || format!("{source:?}, {target:?}, {fstype:?}, {flags:#x}, {data:?}");
    let text = |text: Option<&str>| text.map(CString::new).transpose();
    let (Ok(source_c), Ok(fstype_c), Ok(data_c), Ok(target_c)) = (
        text(source),
        text(fstype),
        text(data),
        CString::new(target.as_str()),
    ) else {
        return Err(Error::new("mount", describe(), Errno::INVAL));
    };
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
    // SAFETY: NULL or null-terminated strings that live until the call returns; the kernel copies
    // at most a page of `data`.
    let result = unsafe {
        libc::mount(
            pointer(&source_c),
            target_c.as_ptr(),
            pointer(&fstype_c),
            flags,
            pointer(&data_c).cast(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Error::new("mount", describe(), last_errno())),
    }
}

/// `MS_*` that `statfs(2)` tells about a mount: what a remount must repeat to keep it.
///
/// # Errors
/// `fstatfs(2)`.
pub fn current_flags(fd: impl AsFd) -> Result<u64> {
    const SAME: u64 = ms::RDONLY | ms::NOSUID | ms::NODEV | ms::NOEXEC | ms::NOATIME;
    const ST_RELATIME: u64 = 0x1000;
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    let flags = rustix::fs::fstatfs(fd)
        .call("fstatfs", String::new)?
        .f_flags as u64;
    let mut out = flags & (SAME | ms::NODIRATIME);
    if flags & ST_NOSYMFOLLOW != 0 {
        out |= ms::NOSYMFOLLOW;
    }
    if flags & ST_RELATIME != 0 {
        out |= ms::RELATIME;
    } else if flags & ms::NOATIME == 0 {
        out |= ms::STRICTATIME;
    }
    Ok(out)
}

fn configure(context: &OwnedFd, param: Param<'_>) -> rustix::io::Result<()> {
    match param {
        Param::Flag(key) => rx::fsconfig_set_flag(context, key),
        Param::Value(key, value) => rx::fsconfig_set_string(context, key, value),
        Param::Descriptor(key, fd) => rx::fsconfig_set_fd(context, key, fd),
    }
}

/// What was attempted and, if it tells, why the file system refused: its messages wait in the
/// context as lines like `e tmpfs: Bad value for 'mode'`.
fn explain(context: &OwnedFd, attempt: &str) -> String {
    let mut text = attempt.to_owned();
    let mut line = [0u8; 256];
    while let Ok(size) = rustix::io::read(context, &mut line) {
        let message = String::from_utf8_lossy(&line[..size]);
        text.push_str(": ");
        text.push_str(
            message
                .trim_end()
                .trim_start_matches(['e', 'w', 'i'])
                .trim_start(),
        );
        if size == 0 || text.len() > 1024 {
            break;
        }
    }
    text
}

fn tree_flags(extent: Extent) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match extent {
        Extent::Mount => flags,
        Extent::Tree => flags | OpenTreeFlags::AT_RECURSIVE,
    }
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

impl std::fmt::Display for Param<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(key) => f.write_str(key),
            Self::Value(key, value) => write!(f, "{key}={value}"),
            Self::Descriptor(key, fd) => write!(f, "{key}=<{}>", fd.as_raw_fd()),
        }
    }
}

impl std::fmt::Display for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "set={:#x} clear={:#x} propagation={:#x}",
            self.set, self.clear, self.propagation
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_parameter_is_told_in_the_words_of_the_file_system() {
        let params = [Param::Value("mode", "rwx")];
        let error = MountApi::new().filesystem("tmpfs", &params, 0).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL);
        assert!(error.to_string().contains("mode=rwx"), "{error}");
        assert!(error.to_string().contains("tmpfs: "), "{error}");
    }

    #[test]
    fn a_feature_can_be_made_missing() {
        let api = MountApi::without(&[Feature::SetAttr]);
        assert!(api.has(Feature::Detached) && !api.has(Feature::SetAttr));
        let mount = api.filesystem("tmpfs", &[], attr::RDONLY).unwrap();
        let error = api.set_attributes(&mount, Attributes::new(0, attr::RDONLY), Extent::Mount);
        assert_eq!(error.unwrap_err().errno(), Errno::NOSYS);
        assert_ne!(current_flags(&mount).unwrap() & ms::RDONLY, 0);
        MountApi::new()
            .set_attributes(
                &mount,
                Attributes::new(attr::NODEV, attr::RDONLY),
                Extent::Mount,
            )
            .unwrap();
        assert_eq!(current_flags(&mount).unwrap(), ms::NODEV | ms::RELATIME);
    }
}
