// SPDX-License-Identifier: Apache-2.0
//! The mounts of the specification, one by one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use sys::Call;
use sys::mount::{Extent, ms};

use super::attach::{self, BindSource, Builder, Shape, Target};
use super::cgroup;
use super::error::{Cause, Error};
use super::plan::{Filesystem, Kind, Mount};
use super::sources::Given;
use crate::resolve::Links;

/// What became of a mount.
#[derive(Debug)]
pub(super) enum Done {
    /// Nothing is left to do.
    Complete,
    /// It was asked to be read-only, but must be writable until everything is in it.
    ReadOnlyLater(OwnedFd),
    /// The container's `/proc`: a procfs that nobody has been able to touch.
    Procfs(OwnedFd),
}

/// Mounts one of the specification's mounts.
pub(super) fn mount(builder: &Builder, mount: &Mount, given: Given<'_>) -> Result<Done, Error> {
    steps(builder, mount, given).map_err(|cause| {
        let from = match &mount.kind {
            Kind::Filesystem(f) | Kind::Cgroup { filesystem: f, .. } => f.source.clone(),
            Kind::Bind { source, .. } => source.to_string_lossy().into_owned(),
            Kind::Remount(_) => String::new(),
        };
        Error::mount(from, &mount.destination)(cause)
    })
}

fn steps(builder: &Builder, mount: &Mount, given: Given<'_>) -> Result<Done, Cause> {
    let later = read_only_later(mount);
    let made = match &mount.kind {
        Kind::Filesystem(filesystem) => new_filesystem(builder, mount, filesystem)?,
        Kind::Bind {
            source,
            inside,
            recursive,
        } => {
            let source = match (given.opened, inside) {
                (Some(tree), _) => BindSource::Tree(tree),
                (None, None) => builder.bind_source(source, *recursive)?,
                // Earlier mounts may have put it there. A link in there leads nowhere else.
                (None, Some(path)) => {
                    let place = builder.root().open(path, Links::Follow)?;
                    let source = builder.bind_source_fd(&place, *recursive)?;
                    if mount.id_map.is_some() {
                        (given.map_ids)(source.as_fd()).map_err(Cause::IdMap)?;
                    }
                    source
                }
            };
            bind(builder, mount, source)?
        }
        Kind::Cgroup { view, filesystem } => cgroup::mount(builder, mount, view, filesystem)?,
        Kind::Remount(filesystem) => remount(builder, mount, filesystem)?,
    };
    for propagation in &mount.propagation {
        builder.set_propagation(&made, *propagation)?;
    }
    if let Some(changes) = mount.tree.changes() {
        builder.api.set_attributes(&made, changes, Extent::Tree)?;
    }
    Ok(if later {
        Done::ReadOnlyLater(made)
    } else if is_plain_procfs(mount) {
        Done::Procfs(made)
    } else {
        Done::Complete
    })
}

/// Mount points of later mounts may have to be made in a tmpfs; nodes and the console in `/dev`.
fn read_only_later(mount: &Mount) -> bool {
    let is_tmpfs = matches!(&mount.kind, Kind::Filesystem(f) if f.fstype == "tmpfs");
    mount.flags.has(ms::RDONLY) && (is_tmpfs || mount.destination == Path::new("/dev"))
}

/// A whole, writable procfs at `/proc`: it can serve our own writes, too.
fn is_plain_procfs(mount: &Mount) -> bool {
    let is_whole =
        matches!(&mount.kind, Kind::Filesystem(f) if f.fstype == "proc" && f.params.is_empty());
    let is_writable = !mount.flags.has(ms::RDONLY) && mount.tree.set == 0;
    is_whole && is_writable && mount.destination == Path::new("/proc")
}

fn new_filesystem(
    builder: &Builder,
    mount: &Mount,
    filesystem: &Filesystem,
) -> Result<OwnedFd, Cause> {
    let target = filesystem_target(builder, &mount.destination, &filesystem.fstype)?;
    let flags = if read_only_later(mount) {
        mount.flags.writable()
    } else {
        mount.flags
    };
    if filesystem.fstype == "tmpfs" && target.existed && !has_param(filesystem, "mode") {
        // The directory that it hides lends its permissions.
        let stat = rustix::fs::fstat(&target.fd).call("fstat", String::new)?;
        let mut filesystem = filesystem.clone();
        filesystem.params.push((
            "mode".into(),
            Some(format!("{:04o}", stat.st_mode & 0o7777)),
        ));
        return builder.filesystem(&filesystem, flags, &target);
    }
    builder.filesystem(filesystem, flags, &target)
}

/// `proc` and `sysfs` must be where they seem to be: with a symlink in the way, what we write and
/// mask by path later would be something else (CVE-2019-19921, CVE-2023-27561).
fn filesystem_target<'a>(
    builder: &Builder,
    destination: &'a Path,
    fstype: &str,
) -> Result<Target<'a>, Cause> {
    if !matches!(fstype, "proc" | "sysfs") {
        return builder.target(destination, Shape::directory, Links::Follow);
    }
    let ordinary = |cause: Cause| match cause.errno() {
        Some(Errno::LOOP | Errno::NOTDIR) => Cause::NotOrdinary(fstype.to_owned()),
        _ => cause,
    };
    let target = builder
        .target(destination, Shape::directory, Links::Refuse)
        .map_err(ordinary)?;
    if target.existed && Shape::of(&target.fd)? != Shape::Directory {
        return Err(Cause::NotOrdinary(fstype.to_owned()));
    }
    Ok(target)
}

fn bind(builder: &Builder, mount: &Mount, opened: BindSource) -> Result<OwnedFd, Cause> {
    if mount.destination == Path::new("/proc") && !attach::is_procfs(&opened)? {
        return Err(Cause::Unsafe(
            "cannot be mounted because it is not of type proc",
        ));
    }
    let target = builder.target(&mount.destination, || Shape::of(&opened), Links::Follow)?;
    let flags = if read_only_later(mount) {
        mount.flags.writable()
    } else {
        mount.flags
    };
    builder.bind(opened, flags, &target)
}

fn remount(builder: &Builder, mount: &Mount, filesystem: &Filesystem) -> Result<OwnedFd, Cause> {
    let place = builder.root().open(&mount.destination, Links::Follow)?;
    if mount.flags.has(ms::BIND) {
        builder.set_attributes(&place, mount.flags.for_bind())?;
    } else {
        let data = attach::data(filesystem);
        let data = (!data.is_empty()).then_some(data.as_str());
        builder.old_mount(None, &place, None, mount.flags.set, data)?;
    }
    Ok(place)
}

fn has_param(filesystem: &Filesystem, name: &str) -> bool {
    filesystem.params.iter().any(|(key, _)| key == name)
}
