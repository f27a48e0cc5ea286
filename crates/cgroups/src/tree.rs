// SPDX-License-Identifier: Apache-2.0
//! Walking a cgroup and everything below it.
//!
//! The container may own this subtree: nest it deeper than any path is long, and change it while
//! we walk. So the walk holds one descriptor, whatever the depth, and takes what has vanished as
//! done. `..` is safe here: it is followed only as often as a child was entered before, and on a
//! cgroup file system no directory can move to another parent.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};
use sys::{Call, Errno, Result};

use crate::access;

/// Opens a directory from which a walk can start.
pub(crate) fn open(dir: impl AsFd, path: &str) -> Result<OwnedFd> {
    access::open(dir, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Shows the directory, then each one below it, parents first.
pub(crate) fn visit(
    top: OwnedFd,
    mut visit: impl FnMut(BorrowedFd<'_>) -> Result<()>,
) -> Result<()> {
    walk(top, |dir| visit(dir).map(ControlFlow::Continue))
}

/// As [`visit`], until told to stop.
pub(crate) fn walk(
    top: OwnedFd,
    mut visit: impl FnMut(BorrowedFd<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    if visit(top.as_fd())?.is_break() {
        return Ok(());
    }
    let mut pending = vec![children(&top)?];
    let mut here = top;
    while let Some(names) = pending.last_mut() {
        let Some(name) = names.pop() else {
            pending.pop();
            if !pending.is_empty() {
                here = enter(&here, c"..")?;
            }
            continue;
        };
        if let Some(child) = vanishing(enter(&here, &name))? {
            here = child;
            if visit(here.as_fd())?.is_break() {
                return Ok(());
            }
            pending.push(children(&here)?);
        }
    }
    Ok(())
}

/// Removes everything below the directory that can be removed, children first.
pub(crate) fn clear(top: OwnedFd) -> Result<()> {
    let mut pending = vec![(children(&top)?, CString::default())];
    let mut here = top;
    while let Some((names, _)) = pending.last_mut() {
        if let Some(name) = names.pop() {
            if let Some(child) = vanishing(enter(&here, &name))? {
                here = child;
                pending.push((children(&here)?, name));
            }
            continue;
        }
        let Some((_, name)) = pending.pop() else {
            break;
        };
        if !pending.is_empty() {
            here = enter(&here, c"..")?;
            match rustix::fs::unlinkat(&here, &name, AtFlags::REMOVEDIR) {
                // Still in use: the caller finds out at the top, and comes again.
                Ok(()) | Err(Errno::NOENT | Errno::BUSY) => {}
                Err(errno) => return Err(errno).call("rmdir", || format!("{name:?}")),
            }
        }
    }
    Ok(())
}

/// What a directory holds when it may have been removed meanwhile.
pub(crate) fn vanishing<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if access::is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a child of the directory, or its parent.
fn enter(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
        .call("openat2", || format!("{name:?}"))
}

/// Names of the child cgroups.
fn children(dir: &OwnedFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    // Its own two links and one of each child: saves reading a long list of files.
    let stat = rustix::fs::fstat(dir).call("fstat", || "cgroup")?;
    if stat.st_nlink <= 2 {
        return Ok(names);
    }
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if entry.file_type() != FileType::Directory => {}
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            Ok(entry) => names.push(entry.file_name().to_owned()),
            Err(Errno::NOENT) => break,
            Err(errno) => return Err(errno).call("getdents64", || "cgroup"),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Top;

    #[test]
    fn a_walk_goes_on_when_directories_vanish_under_it() {
        let top = Top::new();
        let (layout, place) = top.any_place();
        let root = place.hierarchy(&layout).root();
        let parent = access::open_directory(root, &place.path).unwrap();
        let make = |path: &str| assert!(access::make_directory(&parent, path).unwrap());
        for path in ["a", "a/b", "a/b/c", "d", "e"] {
            make(path);
        }
        let mut seen = 0;
        visit(open(root, &place.path).unwrap(), |_| {
            seen += 1;
            // The first two shown are the top and one child: remove all there is meanwhile.
            if seen == 2 {
                for path in ["a/b/c", "a/b", "a", "d", "e"] {
                    access::remove_directory(&parent, path).unwrap();
                }
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 2);
    }
}
