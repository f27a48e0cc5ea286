// SPDX-License-Identifier: Apache-2.0
//! The container's root becomes the root, and the host's goes out of reach.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root as pivot_root_call};
use sys::Call;
use sys::mount::ms;

use super::attach::Builder;
use super::error::Cause;
use crate::mountinfo::MountInfo;

/// Whether some mount of this namespace may still be in a peer group with the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostPeers {
    /// Everything was made a slave or private at first, and only what is inside the container's
    /// root may have been shared again.
    None,
    /// `linux.rootfsPropagation` left, or made, some of them shared.
    Possible,
}

/// `pivot_root(2)`, and the old root is detached.
pub(super) fn pivot_root(builder: &Builder, peers: HostPeers) -> Result<(), Cause> {
    let old_root = match peers {
        HostPeers::None => None,
        HostPeers::Possible => Some(open_root()?),
    };
    fchdir(&builder.root).call("fchdir", || "rootfs")?;
    // The new root becomes `/` and the old one is mounted on it: no directory in the image is
    // needed, and what is detached next is the topmost mount of `.` (pivot_root(2), NOTES).
    pivot_root_call(".", ".").call("pivot_root", || "\".\", \".\"")?;
    if let Some(old_root) = old_root {
        fchdir(&old_root).call("fchdir", || "old root")?;
        // The host must not see its own mounts go. Not private: until a mount is gone, the host
        // must be able to unmount it here, too.
        sys::mount::mount(None, ".", None, ms::SLAVE | ms::REC, None)?;
    }
    unmount(".", UnmountFlags::DETACH).call("umount2", || "\".\", MNT_DETACH")?;
    enter_root()
}

/// Moves the root mount onto `/` and enters it.
///
/// The host's mounts stay in the namespace, below. The kernel lets nobody mount a procfs or sysfs
/// anew who cannot see a whole one already; the host's whole ones would count, so they go first.
pub(super) fn move_root(builder: &Builder) -> Result<(), Cause> {
    let number = std::os::fd::AsRawFd::as_raw_fd(&builder.root);
    let root_path = builder.procfs.readlink_self(&format!("fd/{number}"))?;
    hide_bare_mounts(builder, &root_path)?;
    let host_root = open_root()?;
    if let Err(e) = builder.api.attach(&builder.root, &host_root) {
        if e.errno() != Errno::NOSYS {
            return Err(e.into());
        }
        sys::mount::mount(Some(&root_path), "/", None, ms::MOVE, None)?;
    }
    change_root(&builder.root)
}

/// Changes the root directory only: the container shares its mount namespace with the host.
pub(super) fn change_root(root: &OwnedFd) -> Result<(), Cause> {
    fchdir(root).call("fchdir", || "rootfs")?;
    chroot(".").call("chroot", || "\".\"")?;
    enter_root()
}

/// Hides every whole procfs and sysfs that is not in the container's root. One may have been
/// covered by a mount that goes first: hence several passes.
fn hide_bare_mounts(builder: &Builder, root_path: &str) -> Result<(), Cause> {
    const PASSES: usize = 16;
    let mut covered: Vec<String> = Vec::new();
    for _ in 0..PASSES {
        let info = builder.procfs.read_self("mountinfo")?;
        let mut found = false;
        for mount in info.lines().filter_map(MountInfo::parse) {
            let is_bare = mount.root == "/" && matches!(mount.fstype, "proc" | "sysfs");
            if is_bare && !mount.is_below(root_path) && !covered.iter().any(|id| id == mount.id) {
                found = true;
                if hide(&mount.mount_point)? == Hidden::Covered {
                    covered.push(mount.id.to_owned());
                }
            }
        }
        if !found {
            return Ok(());
        }
    }
    Err(Cause::Unsafe(
        "a procfs or sysfs of the host cannot be hidden",
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    /// Whatever was on top at that path is gone from this namespace.
    Detached,
    /// It is out of reach, by a mount over it or over a directory on the way.
    Covered,
}

/// Detaches a mount from this namespace only; if that is not allowed, covers it.
fn hide(mount_point: &str) -> Result<Hidden, Cause> {
    match sys::mount::mount(None, mount_point, None, ms::SLAVE | ms::REC, None) {
        // Gone with a mount that it was below, or below one that is still in front of it.
        Err(e) if matches!(e.errno(), Errno::NOENT | Errno::INVAL) => return Ok(Hidden::Covered),
        other => other?,
    }
    match unmount(mount_point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::PERM) => {
            sys::mount::mount(Some("tmpfs"), mount_point, Some("tmpfs"), 0, None)?;
            Ok(Hidden::Covered)
        }
        other => {
            other.call("umount2", || format!("{mount_point:?}, MNT_DETACH"))?;
            Ok(Hidden::Detached)
        }
    }
}

fn open_root() -> Result<OwnedFd, Cause> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/", flags, Mode::empty()).call("open", || "\"/\"")?)
}

fn enter_root() -> Result<(), Cause> {
    Ok(chdir("/").call("chdir", || "\"/\"")?)
}
