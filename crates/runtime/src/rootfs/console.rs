// SPDX-License-Identifier: Apache-2.0
//! The container's terminal.
//!
//! A pseudo-terminal of the container's own devpts. Its slave is never looked up by the name that
//! it should have (`/dev/pts/0` may be a symlink by now, CVE-2025-52565): the master gives it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::pty::OpenptFlags;
use sys::Call;

use super::attach::{Builder, Shape};
use super::error::{Cause, Error};
use super::options::Flags;
use crate::resolve::{Links, Root};

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS: rustix::fs::FsWord = 0x1cd1;

/// Makes a pseudo-terminal in the current root, which must be a container's: its master and slave.
///
/// # Errors
/// There is no devpts at `/dev/pts`, or what is there is something else.
pub fn open_console() -> Result<(OwnedFd, OwnedFd), Error> {
    open().map_err(Error::step("error opening terminal"))
}

fn open() -> Result<(OwnedFd, OwnedFd), Cause> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).call("open", || "\"/\"")?;
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let path = Path::new("/dev/pts/ptmx");
    let master = Root::new(root.as_fd()).open_with(path, flags, Links::Refuse)?;
    let stat = rustix::fs::fstat(&master).call("fstat", || "\"/dev/pts/ptmx\"")?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(5, 2);
    if !is_ptmx || !is_devpts(&master)? {
        return Err(Cause::Unsafe(
            "/dev/pts/ptmx is not the multiplexer of a devpts",
        ));
    }
    rustix::pty::unlockpt(&master).call("ioctl", || "TIOCSPTLCK")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).call("ioctl", || "TIOCGPTPEER")?;
    if !is_devpts(&slave)? {
        return Err(Cause::Unsafe("the terminal is not on a devpts"));
    }
    Ok((master, slave))
}

fn is_devpts(fd: &OwnedFd) -> Result<bool, Cause> {
    let fs = rustix::fs::fstatfs(fd).call("fstatfs", || "terminal")?;
    Ok(fs.f_type == DEVPTS)
}

/// Mounts a terminal on `/dev/console`.
pub(super) fn mount(builder: &Builder, slave: BorrowedFd<'_>) -> Result<(), Error> {
    let path = Path::new("/dev/console");
    (|| {
        let target = builder.target(path, Shape::file, Links::Refuse)?;
        builder.bind(
            builder.bind_source_fd(&slave, false)?,
            Flags::default(),
            &target,
        )?;
        Ok(())
    })()
    .map_err(Error::path("error mounting terminal on", path))
}
