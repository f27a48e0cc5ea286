// SPDX-License-Identifier: Apache-2.0
//! What is done inside the new root: read-only mounts, read-only paths, masks.
//!
//! Masks come last. Nothing here trusts a path of the container twice, nor what it finds at
//! `/dev/null` (CVE-2025-31133): a missing target is fine, a wrong source is not.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, makedev};
use rustix::io::Errno;
use sys::Call;
use sys::mount::{Attributes, attr, ms};

use super::attach::{BindSource, Builder, Target};
use super::error::{Cause, Error};
use super::options::Flags;
use super::plan::Filesystem;
use crate::resolve::Links;

/// Makes a mount read-only and leaves it as it is otherwise.
pub(super) fn read_only(builder: &Builder, mount: &OwnedFd) -> Result<(), Cause> {
    builder.set_attributes(mount, Attributes::new(attr::RDONLY, 0))
}

/// Makes a path read-only by mounting it on itself. What is mounted below stays as it is.
pub(super) fn read_only_path(builder: &Builder, path: &Path) -> Result<(), Error> {
    let failed = || Error::path("error making path read-only", path);
    let Some(target) = open_if_there(builder, path).map_err(failed())? else {
        return Ok(());
    };
    (|| {
        let source = builder.bind_source_fd(&target.fd, true)?;
        let change = Attributes::new(attr::RDONLY, 0);
        if let BindSource::Tree(tree) = &source {
            match builder
                .api
                .set_attributes(tree, change, sys::mount::Extent::Mount)
            {
                Ok(()) => {
                    builder.bind(source, Flags::default(), &target)?;
                    return Ok(());
                }
                Err(e) if e.errno() == Errno::NOSYS => {}
                Err(e) => return Err(e.into()),
            }
        }
        let mount = builder.bind(source, Flags::default(), &target)?;
        builder.set_attributes(&mount, change)
    })()
    .map_err(failed())
}

/// Hides paths: files behind `/dev/null`, directories behind one empty read-only directory that
/// they share (hundreds of masks would otherwise be hundreds of superblocks).
pub(super) fn mask(builder: &Builder, paths: &[PathBuf]) -> Result<(), Error> {
    let mut null = None;
    let mut empty = None;
    for path in paths {
        mask_one(builder, path, &mut null, &mut empty)
            .map_err(Error::path("error masking path", path))?;
    }
    Ok(())
}

fn mask_one(
    builder: &Builder,
    path: &Path,
    null: &mut Option<OwnedFd>,
    empty: &mut Option<OwnedFd>,
) -> Result<(), Cause> {
    let Some(target) = open_if_there(builder, path)? else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(&target.fd).call("fstat", String::new)?;
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        if let Some(empty) = empty {
            let source = builder.bind_source_fd(empty, false)?;
            builder.bind(source, Flags::default(), &target)?;
        } else {
            // The first one is the directory itself, the others are clones of it.
            *empty = Some(mount_empty(builder, &target)?);
        }
        return Ok(());
    }
    let null = match null {
        Some(null) => null,
        None => null.insert(open_null(builder)?),
    };
    builder.bind(
        builder.bind_source_fd(null, false)?,
        Flags::default(),
        &target,
    )?;
    Ok(())
}

fn open_if_there<'a>(builder: &Builder, path: &'a Path) -> Result<Option<Target<'a>>, Cause> {
    match builder.root().open(path, Links::Follow) {
        Ok(fd) => Ok(Some(Target::made(path, fd))),
        Err(e) if matches!(e.errno(), Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn mount_empty(builder: &Builder, target: &Target<'_>) -> Result<OwnedFd, Cause> {
    let one = |key: &str| (key.to_owned(), Some("1".to_owned()));
    let filesystem = Filesystem {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        params: vec![one("nr_blocks"), one("nr_inodes")],
        copy_up: false,
    };
    let flags = Flags {
        set: ms::RDONLY | ms::NOSUID | ms::NODEV | ms::NOEXEC,
        cleared: 0,
    };
    builder.filesystem(&filesystem, flags, target)
}

/// The container's `/dev/null`, and really that.
fn open_null(builder: &Builder) -> Result<OwnedFd, Cause> {
    let null = builder
        .root()
        .open_with(Path::new("/dev/null"), OFlags::PATH, Links::Refuse)?;
    let stat = rustix::fs::fstat(&null).call("fstat", || "\"/dev/null\"")?;
    let is_char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if is_char && stat.st_rdev == makedev(1, 3) {
        Ok(null)
    } else {
        Err(Cause::Unsafe("/dev/null is not the null device"))
    }
}
