// SPDX-License-Identifier: Apache-2.0
//! `tmpcopyup`: a tmpfs that begins with a copy of what it hides.
//!
//! The copy is made before the tmpfs can be seen, from descriptor to descriptor, one name at a time
//! and without following symlinks.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps, Uid,
};
use sys::{Call, Result};

use crate::resolve::{BENEATH, beneath, retrying};

/// How deep directories may be nested: each level holds descriptors.
const MAX_DEPTH: usize = 64;

/// Copies everything in the directory `from` into the directory `to`.
pub(super) fn copy(from: &impl AsFd, to: &impl AsFd) -> Result<()> {
    let from = open_directory(from, c".")?;
    let to = open_directory(to, c".")?;
    copy_directory(&from, &to, MAX_DEPTH)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth == 0 {
        return Err(sys::Error::new(
            "openat2",
            "too many levels",
            rustix::io::Errno::NAMETOOLONG,
        ));
    }
    let entries = Dir::read_from(from).call("getdents64", String::new)?;
    for entry in entries {
        let entry = entry.call("getdents64", String::new)?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            copy_entry(from, to, entry.file_name(), depth)?;
        }
    }
    let stat = rustix::fs::fstat(from).call("fstat", String::new)?;
    copy_attributes(from, to, &stat)
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let describe = || format!("{name:?}");
    let stat =
        rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).call("fstatat", describe)?;
    // Private until it has its owner.
    let mode = Mode::from_raw_mode(0o700);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, mode).call("mkdirat", describe)?;
            copy_directory(
                &open_directory(from, name)?,
                &open_directory(to, name)?,
                depth - 1,
            )
        }
        FileType::RegularFile => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
            let source = beneath(from, path(name), OFlags::RDONLY | OFlags::NONBLOCK)?;
            let opened = rustix::fs::fstat(&source).call("fstat", describe)?;
            if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
                // Replaced meanwhile, on a volume that somebody else has: a device may be endless.
                return Err(sys::Error::new(
                    "openat2",
                    describe(),
                    rustix::io::Errno::LOOP,
                ));
            }
            let copy = retrying(to, path(name), flags, mode, BENEATH)?;
            let (mut source, mut copy) = (File::from(source), File::from(copy));
            std::io::copy(&mut source, &mut copy).call("copy_file_range", describe)?;
            copy_attributes(&source.into(), &copy.into(), &stat)
        }
        FileType::Symlink => {
            let target =
                rustix::fs::readlinkat(from, name, Vec::new()).call("readlinkat", describe)?;
            rustix::fs::symlinkat(target, to, name).call("symlinkat", describe)?;
            let (uid, gid) = owner(&stat);
            rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .call("fchownat", describe)
        }
        other => {
            let permissions = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(to, name, other, permissions, stat.st_rdev)
                .call("mknodat", describe)?;
            let (uid, gid) = owner(&stat);
            rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .call("fchownat", describe)
        }
    }
}

/// Owner, mode (after the owner: a change of it drops setuid), extended attributes, times.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(to, uid, gid).call("fchown", String::new)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .call("fchmod", String::new)?;
    copy_extended(from, to)?;
    let statx = rustix::fs::statx(from, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .call("statx", String::new)?;
    let time = |t: rustix::fs::StatxTimestamp| Timespec {
        tv_sec: t.tv_sec,
        tv_nsec: t.tv_nsec.into(),
    };
    let times = Timestamps {
        last_access: time(statx.stx_atime),
        last_modification: time(statx.stx_mtime),
    };
    rustix::fs::futimens(to, &times).call("futimens", String::new)
}

/// File capabilities and user attributes; a tmpfs that cannot keep one goes without.
fn copy_extended(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut names = vec![0u8; 16 * 1024];
    let size = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        other => other.call("flistxattr", String::new)?,
    };
    let mut value = vec![0u8; 64 * 1024];
    for name in names[..size]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if let Ok(size) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            // Trusted attributes of overlay and the like mean nothing on a tmpfs.
            let _ =
                rustix::fs::fsetxattr(to, name, &value[..size], rustix::fs::XattrFlags::empty());
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

fn path(name: &CStr) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

fn open_directory(directory: &impl AsFd, name: &CStr) -> Result<OwnedFd> {
    beneath(directory, path(name), OFlags::RDONLY | OFlags::DIRECTORY)
}
