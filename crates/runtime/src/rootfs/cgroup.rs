// SPDX-License-Identifier: Apache-2.0
//! Mounts of type `cgroup`: what the container sees of the cgroup hierarchies.
//!
//! With one hierarchy: cgroup2, whose root is the container's cgroup if it has a cgroup namespace.
//! With several: a small tmpfs with a directory for each, on which the container's own cgroup is
//! mounted, and a link for each controller that shares a hierarchy (`cpu` to `cpu,cpuacct`).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, mkdirat, symlinkat};
use rustix::io::Errno;
use sys::Call;
use sys::mount::{Attributes, attr, ms};

use super::attach::{Builder, Shape, Target};
use super::error::Cause;
use super::options::Flags;
use super::plan::{CgroupView, Filesystem, Hierarchy, Kind, Mount, Plan};
use crate::resolve::{Links, beneath};

impl Plan {
    /// Whether the container sees its own cgroup v2 at the usual place, and may write to it.
    pub fn shows_writable_cgroup(&self) -> bool {
        self.mounts.iter().any(|mount| {
            let own = matches!(
                mount.kind,
                Kind::Cgroup {
                    view: CgroupView::Unified {
                        private_namespace: true,
                        ..
                    },
                    ..
                }
            );
            let usual = mount.destination == Path::new("/sys/fs/cgroup");
            own && usual && !mount.flags.has(ms::RDONLY)
        })
    }
}

/// Mounts what the view shows.
pub(super) fn mount(
    builder: &Builder,
    mount: &Mount,
    view: &CgroupView,
    filesystem: &Filesystem,
) -> Result<OwnedFd, Cause> {
    let target = builder.target(&mount.destination, Shape::directory, Links::Follow)?;
    match view {
        CgroupView::Unified {
            mount_point,
            own,
            private_namespace,
        } => {
            if !private_namespace {
                return bind(builder, mount_point, mount.flags, &target);
            }
            unified(builder, mount.flags, filesystem, own, &target)
        }
        CgroupView::Split(hierarchies) => split(builder, mount.flags, hierarchies, &target),
    }
}

fn unified(
    builder: &Builder,
    flags: Flags,
    filesystem: &Filesystem,
    own: &Path,
    target: &Target<'_>,
) -> Result<OwnedFd, Cause> {
    let filesystem = Filesystem {
        fstype: "cgroup2".into(),
        ..filesystem.clone()
    };
    match builder.filesystem(&filesystem, flags, target) {
        // Not allowed to mount it anew: the same directory by another way.
        Err(e) if matches!(e.errno(), Some(Errno::PERM | Errno::BUSY)) => {
            bind(builder, own, flags, target)
        }
        other => other,
    }
}

fn bind(
    builder: &Builder,
    source: &Path,
    mut flags: Flags,
    target: &Target<'_>,
) -> Result<OwnedFd, Cause> {
    flags.set |= ms::BIND;
    builder.bind(builder.bind_source(source, false)?, flags, target)
}

fn split(
    builder: &Builder,
    flags: Flags,
    hierarchies: &[Hierarchy],
    target: &Target<'_>,
) -> Result<OwnedFd, Cause> {
    let tmpfs = Filesystem {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        params: vec![("mode".into(), Some("755".into()))],
        copy_up: false,
    };
    let safe = ms::NOEXEC | ms::NOSUID | ms::NODEV;
    let top = builder.filesystem(
        &tmpfs,
        Flags {
            set: safe,
            cleared: 0,
        },
        target,
    )?;
    let each = Flags {
        set: safe | flags.set & (ms::RDONLY | ms::RELATIME),
        cleared: 0,
    };
    for hierarchy in hierarchies {
        mount_hierarchy(builder, hierarchy, each, &top, target.path)?;
    }
    if flags.has(ms::RDONLY) {
        builder.set_attributes(&top, Attributes::new(attr::RDONLY, 0))?;
    }
    Ok(top)
}

/// Everything in the fresh tmpfs goes by its descriptor: no path of the image is involved.
fn mount_hierarchy(
    builder: &Builder,
    hierarchy: &Hierarchy,
    flags: Flags,
    top: &OwnedFd,
    destination: &Path,
) -> Result<(), Cause> {
    let name = hierarchy.name.as_str();
    mkdirat(top, name, 0o755.into()).call("mkdirat", || format!("{name:?}"))?;
    let path: PathBuf = destination.join(name);
    let fd = beneath(top, name, OFlags::PATH | OFlags::DIRECTORY)?;
    bind(builder, &hierarchy.own, flags, &Target::made(&path, fd))?;
    for controller in name.split(',').filter(|controller| *controller != name) {
        match symlinkat(name, top, controller) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                let args = format!("{name:?}, {controller:?}");
                return Err(sys::Error::new("symlinkat", args, errno).into());
            }
        }
    }
    Ok(())
}
