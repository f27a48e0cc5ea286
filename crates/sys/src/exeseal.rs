// SPDX-License-Identifier: Apache-2.0
//! A view of our own executable that nobody can write through.
//!
//! A process in a container can open `/proc/<pid>/exe` of whatever enters the container. If that
//! were the file on the host, a container's root could overwrite it as soon as nothing executes
//! it (CVE-2019-5736). So the server is executed from one of these, best first:
//!
//! | view      | why it cannot be written                          | needs                    |
//! |-----------|---------------------------------------------------|--------------------------|
//! | overlay   | a superblock without an upper layer               | Linux 5.2, overlayfs     |
//! | bind      | a read-only mount in no mount namespace           | Linux 5.12               |
//! | memfd     | seals; costs the file's size in memory            | Linux 3.17               |
//!
//! The first two share the page cache with the file itself.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, SealFlags, Stat, StatVfsMountFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::error::{Call, Errno, Error, Result};

/// Our own executable, as the kernel knows it.
const SELF: &str = "/proc/self/exe";

/// How a view is kept from being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// A detached overlay without an upper layer.
    Overlay,
    /// A detached read-only bind mount.
    Bind,
    /// A sealed copy in memory.
    Memfd,
}

/// The executable, ready for `execveat(2)` with `AT_EMPTY_PATH`.
#[derive(Debug)]
pub struct Sealed {
    /// The file inside the view.
    pub exe: OwnedFd,
    /// Which view it is.
    pub view: View,
}

/// Opens the best view of our own executable that this kernel offers.
///
/// An overlay without an upper layer needs two lower ones: `spare` is the second, any directory
/// that neither holds the executable nor lies beside it in the same tree.
///
/// # Errors
/// The last view's failure, when none can be had.
pub fn seal(spare: &Path) -> Result<Sealed> {
    let exe = rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .call("open", || format!("{SELF:?}, O_PATH"))?;
    if let Ok(view) = overlay(exe.as_fd(), spare) {
        return Ok(Sealed {
            exe: view,
            view: View::Overlay,
        });
    }
    if let Ok(view) = bind(exe.as_fd()) {
        return Ok(Sealed {
            exe: view,
            view: View::Bind,
        });
    }
    memfd().map(|view| Sealed {
        exe: view,
        view: View::Memfd,
    })
}

/// Our own executable, if nobody can write it as it is.
///
/// An executable on a file system that is mounted read-only counts too. Opening it for writing
/// would tell nothing: as long as it runs the answer is `ETXTBSY`.
///
/// # Errors
/// `/proc/self/exe` cannot be opened at all.
pub fn current() -> Result<Option<OwnedFd>> {
    let exe = rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .call("open", || format!("{SELF:?}, O_PATH"))?;
    let mount = rustix::fs::fstatvfs(&exe).call("fstatvfs", || SELF)?;
    if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(Some(exe));
    }
    let file = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call("open", || SELF)?;
    let sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS));
    Ok(sealed.then_some(file))
}

/// The executable through an overlay of its directory and `spare`.
///
/// # Errors
/// No overlayfs, or the executable's path leads to another file by now.
pub fn overlay(exe: BorrowedFd<'_>, spare: &Path) -> Result<OwnedFd> {
    let path = rustix::fs::readlink(SELF, Vec::new()).call("readlink", || SELF)?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes()));
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new("readlink", format!("{path:?}"), Errno::NOENT));
    };
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .call("fsopen", || "overlay")?;
    let lower = [escape(dir), escape(spare)].join(&b':');
    for (key, value) in [("lowerdir", lower.as_slice()), ("xino", b"off")] {
        rustix::mount::fsconfig_set_string(fs.as_fd(), key, OsStr::from_bytes(value))
            .call("fsconfig", || {
                format!("overlay, {key}={:?}", OsStr::from_bytes(value))
            })?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).call("fsconfig", || "overlay, create")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .call("fsmount", || "overlay")?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let view = rustix::fs::openat(mount.as_fd(), name, flags, Mode::empty())
        .call("openat", || format!("overlay, {name:?}"))?;
    // The path may lead to a newer version by now: an update must not mix two of them.
    let same = |a: Stat, b: Stat| {
        (a.st_ino, a.st_size, a.st_mtime, a.st_mtime_nsec)
            == (b.st_ino, b.st_size, b.st_mtime, b.st_mtime_nsec)
    };
    let stat = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).call("fstat", || "executable");
    if same(stat(exe)?, stat(view.as_fd())?) {
        Ok(view)
    } else {
        Err(Error::new(
            "openat",
            format!("overlay, {name:?}"),
            Errno::STALE,
        ))
    }
}

/// A path as overlayfs wants it in a list.
fn escape(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// The executable as a read-only mount of its own that is attached nowhere.
///
/// # Errors
/// Linux before 5.12.
pub fn bind(exe: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(exe, "", flags)
        .call("open_tree", || "executable, OPEN_TREE_CLONE|AT_EMPTY_PATH")?;
    set_read_only(tree.as_fd())?;
    Ok(tree)
}

fn set_read_only(mount: BorrowedFd<'_>) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let attr = MountAttr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is borrowed, the path is a NUL-terminated literal, and `attr` lives
    // through the call with the size that is given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            AtFlags::EMPTY_PATH.bits(),
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 {
        return Ok(());
    }
    let error: std::io::Result<()> = Err(std::io::Error::last_os_error());
    error.call(
        "mount_setattr",
        || "executable, AT_EMPTY_PATH, MOUNT_ATTR_RDONLY",
    )
}

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A sealed copy of the executable in memory.
///
/// # Errors
/// No memory, or no memfd.
pub fn memfd() -> Result<OwnedFd> {
    let name = "containerd-shim";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is unknown before Linux 6.3, and may be required since.
    let copy = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .call("memfd_create", || name)?;
    let exe = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call("open", || SELF)?;
    loop {
        let n = rustix::fs::sendfile(&copy, &exe, None, 1 << 30)
            .call("sendfile", || "memfd, executable")?;
        if n == 0 {
            break;
        }
    }
    rustix::fs::fcntl_add_seals(&copy, SEALS).call("fcntl", || "memfd, F_ADD_SEALS")?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    fn exe() -> OwnedFd {
        rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn path(view: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", view.as_raw_fd())
    }

    fn mounted_read_only(view: &OwnedFd) -> bool {
        rustix::fs::fstatvfs(view)
            .unwrap()
            .f_flag
            .contains(StatVfsMountFlags::RDONLY)
    }

    /// The test program itself runs from the view.
    fn runs(view: &OwnedFd) {
        let status = Command::new(path(view))
            .arg("--list")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn an_overlay_runs_and_cannot_be_written() {
        let spare = tempfile::tempdir().unwrap();
        let view = overlay(exe().as_fd(), spare.path()).unwrap();
        runs(&view);
        let write = std::fs::OpenOptions::new().write(true).open(path(&view));
        assert_eq!(write.unwrap_err().raw_os_error(), Some(libc::EROFS));
        assert!(mounted_read_only(&view));
    }

    #[test]
    fn a_bind_runs_and_cannot_be_written() {
        let view = bind(exe().as_fd()).unwrap();
        runs(&view);
        // Opening it for writing gives ETXTBSY here: this very file is running.
        assert!(mounted_read_only(&view));
    }

    #[test]
    fn a_memfd_runs_and_keeps_its_bytes() {
        use std::io::Write;
        let view = memfd().unwrap();
        runs(&view);
        let file = std::fs::OpenOptions::new().write(true).open(path(&view));
        let written = file.and_then(|mut file| file.write_all(b"x"));
        assert!(written.is_err());
    }

    #[test]
    fn the_best_view_here_is_an_overlay_and_a_plain_program_is_not_sealed() {
        let spare = tempfile::tempdir().unwrap();
        assert_eq!(seal(spare.path()).unwrap().view, View::Overlay);
        assert!(current().unwrap().is_none());
    }

    #[test]
    fn a_spare_directory_that_overlaps_falls_back_to_a_bind() {
        assert_eq!(seal(Path::new("/")).unwrap().view, View::Bind);
    }

    #[test]
    fn separators_in_paths_are_escaped() {
        assert_eq!(escape(Path::new("/a:b\\c,d")), b"/a\\:b\\\\c,d");
    }
}
