// SPDX-License-Identifier: Apache-2.0
//! The root of a container without a mount namespace: mounts on the host, and their undoing.
//!
//! Such a container is only changed into its root directory; what it has mounted there is mounted
//! on the host. All of it is on one private mount, the root directory bound on itself, which goes
//! when the container is deleted. That needs no word from init: the mount is whatever covers the
//! mount on which the directory was found before anything was made.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};
use sys::Call;

use crate::error::{Attempt, Result};

/// A mount of ours is one; more are somebody's who was there in between.
const MOST: usize = 8;

/// A container's root directory in the host's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoot {
    path: PathBuf,
    /// The mount that it was on before.
    mount: u64,
}

impl HostRoot {
    /// To be called before the container is made.
    ///
    /// # Errors
    /// `statx(2)`.
    pub(crate) fn look(path: &Path) -> Result<Self> {
        let mount = mount_of(path).attempt(|| "look at root file system")?;
        Ok(Self {
            path: path.to_owned(),
            mount,
        })
    }

    /// The root directory with what is mounted in it, for an exec.
    ///
    /// # Errors
    /// `open(2)`.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        let path = &self.path;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .call("open", || format!("{path:?}, O_DIRECTORY|O_NOFOLLOW"))
            .attempt(|| "open root file system")
    }

    /// Unmounts what the container has mounted. May be repeated.
    ///
    /// # Errors
    /// `umount2(2)`.
    pub(crate) fn undo(&self) -> Result<()> {
        for _ in 0..MOST {
            match mount_of(&self.path) {
                Ok(now) if now != self.mount => {}
                Err(e) if e.errno() != Errno::NOENT => {
                    return Err(e).attempt(|| "look at root file system");
                }
                // As before; or the bundle is gone, and with it the mounts in it.
                _ => return Ok(()),
            }
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            match unmount(&self.path, flags) {
                Ok(()) => {}
                // What it was on is gone, too: the directory is on some other mount now.
                Err(Errno::INVAL) => return Ok(()),
                Err(errno) => {
                    return Err(errno)
                        .call("umount2", || format!("{:?}, MNT_DETACH", self.path))
                        .attempt(|| "unmount root file system");
                }
            }
        }
        Ok(())
    }
}

fn mount_of(path: &Path) -> sys::Result<u64> {
    rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
        .call("statx", || format!("{path:?}"))
        .map(|stat| stat.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::tests::isolated;

    /// Needs root.
    #[test]
    fn what_was_mounted_since_is_undone_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("rootfs");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        isolated(|| {
            let mount = |at: &Path| sys::mount::mount(Some("x"), at, Some("tmpfs"), 0, None);
            mount(&root).unwrap();
            std::fs::create_dir(root.join("sub")).unwrap();
            std::fs::write(root.join("mine"), "").unwrap();
            let before = HostRoot::look(&root).unwrap();
            before.undo().unwrap();
            assert!(root.join("mine").exists());
            mount(&root).unwrap();
            std::fs::create_dir(root.join("sub")).unwrap();
            mount(&root.join("sub")).unwrap();
            assert!(!root.join("mine").exists());
            before.undo().unwrap();
            assert!(root.join("mine").exists());
            before.undo().unwrap();
            assert!(root.join("mine").exists());
        });
    }
}
