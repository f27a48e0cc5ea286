// SPDX-License-Identifier: Apache-2.0
//! Files below the root of a hierarchy.
//!
//! Invariant: everything is opened from a descriptor that is known to be on a cgroup file system
//! (see [`crate::layout`]), and resolution neither leaves that mount nor follows a link. Paths are
//! relative and clean: no empty, `.` or `..` component.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use sys::{Call, Errno, Result};

/// Stays on the mount, below the descriptor, away from links of any kind.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Mode of the directories that we make.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// Opens `path` below `dir`, close-on-exec.
pub(crate) fn open(dir: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
        .call("openat2", || format!("{path:?}"))
}

/// Opens the directory `path` below `dir` to go on from; the empty path is `dir` itself.
pub(crate) fn open_directory(dir: impl AsFd, path: &str) -> Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    open(dir, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Makes the directory `name` in `dir`. `false`: it was there.
pub(crate) fn make_directory(dir: impl AsFd, name: &str) -> Result<bool> {
    match rustix::fs::mkdirat(dir, name, DIRECTORY_MODE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno).call("mkdirat", || format!("{name:?}")),
    }
}

/// Removes the directory `name` in `dir`.
pub(crate) fn remove_directory(dir: impl AsFd, name: &str) -> Result<()> {
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).call("rmdir", || format!("{name:?}"))
}

/// The content of a file without surrounding white space.
pub(crate) fn read(dir: impl AsFd, path: &str) -> Result<String> {
    let file = open(dir, path, OFlags::RDONLY)?;
    let mut content = Vec::new();
    loop {
        content.reserve(4096);
        let got = rustix::io::read(&file, rustix::buffer::spare_capacity(&mut content))
            .call("read", || format!("{path:?}"))?;
        if got == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&content).trim().to_owned())
}

/// Writes `value` to a file with one `write(2)`, which is how the kernel takes a setting.
pub(crate) fn write(dir: impl AsFd, path: &str, value: &str) -> Result<()> {
    write_each(dir, path, [value])
}

/// Writes the values to one file, each with a `write(2)` of its own.
pub(crate) fn write_each<'a>(
    dir: impl AsFd,
    path: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    let file = open(dir, path, OFlags::WRONLY)?;
    for value in values {
        rustix::io::write(&file, value.as_bytes())
            .call("write", || format!("{path:?}, {value:?}"))?;
    }
    Ok(())
}

/// Whether the failure means that the cgroup does not exist any more.
pub(crate) fn is_gone(error: &sys::Error) -> bool {
    // ENODEV: a file of it was still open, or its path was just resolved, when it was removed.
    matches!(error.errno(), Errno::NOENT | Errno::NODEV)
}

/// Parent and last component of a clean relative path.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// `dir/name`, where `dir` may be empty.
pub(crate) fn join(dir: &str, name: &str) -> String {
    match (dir.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => dir.to_owned(),
        _ => format!("{dir}/{name}"),
    }
}
