// SPDX-License-Identifier: Apache-2.0
//! Paths inside a root directory that somebody hostile may be changing meanwhile.
//!
//! A path is resolved once, by the kernel, into a descriptor that never leaves the root
//! (`openat2(2)` with `RESOLVE_IN_ROOT`); what follows works on the descriptor. Missing
//! directories are made one by one beneath descriptors, never through a path that could be
//! swapped for a symlink in between (CVE-2021-30465, CVE-2024-45310). Magic links are never
//! followed.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat};
use rustix::io::Errno;
use sys::{Call, Result};

/// How often an `openat2` is repeated that the kernel could not prove safe because something was
/// renamed or mounted anywhere on the machine (`EAGAIN`).
const RETRIES: usize = 128;

/// Dangling symlinks on the way to something that is made, and races lost, before we give up.
const MAX_LINKS: usize = 40;

/// Whether symlinks (inside the root) may be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Followed; an absolute one begins at the root.
    Follow,
    /// Anywhere on the path: `ELOOP`.
    Refuse,
}

/// A directory that paths are resolved in.
#[derive(Debug, Clone, Copy)]
pub struct Root<'fd>(BorrowedFd<'fd>);

impl<'fd> Root<'fd> {
    /// Paths are resolved in this directory.
    pub fn new(fd: BorrowedFd<'fd>) -> Self {
        Self(fd)
    }

    /// Opens something as a place (`O_PATH`).
    ///
    /// # Errors
    /// `openat2(2)`.
    pub fn open(&self, path: &Path, links: Links) -> Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, links)
    }

    /// Opens a directory as a place.
    ///
    /// # Errors
    /// `openat2(2)`.
    pub fn open_directory(&self, path: &Path, links: Links) -> Result<OwnedFd> {
        self.open_with(path, OFlags::PATH | OFlags::DIRECTORY, links)
    }

    /// Opens something that exists with the given flags (close-on-exec is added).
    ///
    /// # Errors
    /// `openat2(2)`.
    pub fn open_with(&self, path: &Path, flags: OFlags, links: Links) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT
            | ResolveFlags::NO_MAGICLINKS
            | match links {
                Links::Follow => ResolveFlags::empty(),
                Links::Refuse => ResolveFlags::NO_SYMLINKS,
            };
        retrying(self.0, path, flags, Mode::empty(), resolve)
    }

    /// Opens a directory, made with all that is missing of it.
    ///
    /// # Errors
    /// The first call that failed; `ELOOP` or `ENOTDIR` if something else is in the way.
    pub fn mkdir_all(&self, path: &Path, mode: Mode, links: Links) -> Result<OwnedFd> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.open_directory(&path, links) {
                Err(e) if e.errno() == Errno::NOENT => {}
                other => return other,
            }
            match self.make_missing(&path, mode, links)? {
                Made::Directory(fd) => return Ok(fd),
                Made::Not(detour) => path = detour,
            }
        }
        Err(sys::Error::new("mkdirat", format!("{path:?}"), Errno::LOOP))
    }

    /// Opens a file as it is, made empty if missing, with its parent directories.
    ///
    /// The descriptor is a place: not necessarily readable or writable.
    ///
    /// # Errors
    /// The first call that failed.
    pub fn create_file(&self, path: &Path, mode: Mode, links: Links) -> Result<OwnedFd> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.open(&path, links) {
                Err(e) if e.errno() == Errno::NOENT => {}
                other => return other,
            }
            let (parent, name) = split(&path)?;
            let directory = self.mkdir_all(parent, Mode::from_raw_mode(0o755), links)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NOCTTY;
            let made = retrying(&directory, name, flags, mode, BENEATH);
            match made {
                Err(e) if e.errno() == Errno::EXIST => {}
                other => return other,
            }
            // A dangling symlink, or somebody was faster.
            if let Some(detour) = detour(&directory, name, parent, Path::new(""), links)? {
                path = detour;
            }
        }
        Err(sys::Error::new(
            "openat2",
            format!("{path:?}, O_CREAT"),
            Errno::LOOP,
        ))
    }

    /// Makes the directories of `path` that are missing, beneath the deepest that exists.
    fn make_missing(&self, path: &Path, mode: Mode, links: Links) -> Result<Made> {
        let names: Vec<&OsStr> = path
            .components()
            .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
            .map(Component::as_os_str)
            .collect();
        let (mut directory, existing) = self.deepest(&names, links)?;
        for (index, name) in names.iter().enumerate().skip(existing) {
            if *name == ".." {
                // Of a directory that does not exist: there is no telling where it would lead.
                return Err(sys::Error::new(
                    "mkdirat",
                    format!("{path:?}"),
                    Errno::NOENT,
                ));
            }
            match mkdirat(&directory, *name, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    let args = format!("{}, {name:?}", directory.as_raw_fd());
                    return Err(sys::Error::new("mkdirat", args, errno));
                }
            }
            match beneath(&directory, name, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(next) => directory = next,
                Err(e) if matches!(e.errno(), Errno::LOOP | Errno::NOTDIR) => {
                    let before: PathBuf = names[..index].iter().collect();
                    let after: PathBuf = names[index + 1..].iter().collect();
                    return match detour(&directory, name, &before, &after, links)? {
                        Some(path) => Ok(Made::Not(path)),
                        None => Err(e),
                    };
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Made::Directory(directory))
    }

    /// The deepest directory of the path that exists, and how many names lead to it.
    fn deepest(&self, names: &[&OsStr], links: Links) -> Result<(OwnedFd, usize)> {
        for count in (0..names.len()).rev() {
            let prefix: PathBuf = [OsStr::new("/")].iter().chain(&names[..count]).collect();
            match self.open_directory(&prefix, links) {
                Ok(fd) => return Ok((fd, count)),
                Err(e) if e.errno() == Errno::NOENT => {}
                Err(e) => return Err(e),
            }
        }
        Err(sys::Error::new("openat2", "\"/\"", Errno::NOENT))
    }
}

enum Made {
    Directory(OwnedFd),
    /// A symlink is in the way: this path leads where it points to.
    Not(PathBuf),
}

/// No symlinks, no way up or out.
pub(crate) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Opens `name` in or below a directory, without following any symlink.
///
/// # Errors
/// `openat2(2)`; `ELOOP` for a symlink.
pub fn beneath(
    directory: impl std::os::fd::AsFd,
    name: impl AsRef<Path>,
    flags: OFlags,
) -> Result<OwnedFd> {
    let name = name.as_ref();
    retrying(
        directory,
        name,
        flags | OFlags::NOFOLLOW,
        Mode::empty(),
        BENEATH,
    )
}

/// `openat2`, close-on-exec, repeated a bounded number of times if the kernel says so.
pub(crate) fn retrying(
    directory: impl std::os::fd::AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let (directory, path) = (directory.as_fd(), path.as_ref());
    let mut result = Err(Errno::AGAIN);
    for _ in 0..RETRIES {
        result = openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result.call("openat2", || format!("{}, {path:?}", directory.as_raw_fd()))
}

/// Where `before`/`name`/`after` leads if `name` is a symlink in `directory`.
fn detour(
    directory: &OwnedFd,
    name: &OsStr,
    before: &Path,
    after: &Path,
    links: Links,
) -> Result<Option<PathBuf>> {
    let target = match readlinkat(directory, name, Vec::new()) {
        Ok(target) => target,
        // Not a symlink, or not any more.
        Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(errno) => {
            let args = format!("{}, {name:?}", directory.as_raw_fd());
            return Err(sys::Error::new("readlinkat", args, errno));
        }
    };
    if links == Links::Refuse {
        return Err(sys::Error::new("openat2", format!("{name:?}"), Errno::LOOP));
    }
    // An absolute target replaces what came before; the kernel will clamp it to the root.
    Ok(Some(
        before
            .join(OsStr::from_bytes(target.as_bytes()))
            .join(after),
    ))
}

fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(sys::Error::new(
            "openat2",
            format!("{path:?}, O_CREAT"),
            Errno::ISDIR,
        )),
    }
}
