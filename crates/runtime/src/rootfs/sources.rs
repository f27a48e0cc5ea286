// SPDX-License-Identifier: Apache-2.0
//! Sources of mounts that the shim opens, not init; mounts that the shim id-maps.
//!
//! Root of a user namespace may not reach what the host's root may: a directory of mode 0700 on the
//! way to a volume is enough. And only who has privileges over a file system may id-map a mount of
//! it. So a thread of the shim goes into init's mount namespace, where the kernel has locked the
//! flags of the host's mounts against root of the user namespace, and clones there what init then
//! attaches.
//!
//! What is in the container's root is another matter: earlier mounts of the container may have put it
//! there, and its paths are the container's. Init finds it, with the rights of the container's root,
//! and sends the clone when its turn has come; the shim id-maps that and looks at no path.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};
use sys::mount::{Extent, MountApi};
use sys::{Call, Errno};

use super::devices;
use super::error::{Cause, Error};
use super::plan::{Device, DeviceKind, IdMap, Kind, Mount, Plan};
use crate::idmap::Mappings;

/// Something that the shim opens.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The source of the mount with this index in the plan.
    Mount(usize, &'a Mount),
    /// The host's node for the device with this index in the plan.
    Device(usize, &'a Device),
}

impl Plan {
    /// What the shim is to open, in the order in which it is handed over.
    pub fn sources(&self) -> Vec<Source<'_>> {
        let inside = self.user_namespace && self.opened_by_shim;
        let mounts = self.mounts.iter().enumerate().filter(|(_, mount)| {
            // What is in the container's root, init finds.
            let hosts = matches!(mount.kind, Kind::Bind { inside: None, .. });
            hosts && (inside || mount.id_map.is_some())
        });
        // Nobody but the host's root makes nodes that work.
        let devices = self
            .devices
            .iter()
            .enumerate()
            .filter(|(_, device)| inside && self.own_dev && device.kind != DeviceKind::Fifo);
        let mounts = mounts.map(|(index, mount)| Source::Mount(index, mount));
        mounts
            .chain(devices.map(|(index, device)| Source::Device(index, device)))
            .collect()
    }

    /// The mounts that the shim id-maps when their turn has come: those of something in the container's root.
    pub fn mapped_in_turn(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(|mount| {
            let inside = matches!(
                mount.kind,
                Kind::Bind {
                    inside: Some(_),
                    ..
                }
            );
            inside && mount.id_map.is_some()
        })
    }
}

/// Opens the sources of a plan in the mount namespace of the process behind `init`.
///
/// # Errors
/// One of them cannot be opened or id-mapped; in the words of the mount that it is for.
pub fn open(plan: &Plan, init: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Error> {
    let sources = plan.sources();
    let mut id_maps = IdMaps::default();
    for source in &sources {
        if let Source::Mount(_, mount) = source {
            id_maps.make(mount)?;
        }
    }
    let work = || -> Result<Vec<OwnedFd>, Error> {
        let enter = Error::step("error entering mount namespace of container");
        enter_mount_namespace(init).map_err(|e| enter(e.into()))?;
        let api = MountApi::new();
        sources
            .iter()
            .map(|source| match source {
                Source::Mount(_, mount) => clone_mount(&api, mount)
                    .and_then(|tree| id_maps.apply(&api, mount, &tree).map(|()| tree))
                    .map_err(failed_mount(mount)),
                Source::Device(_, device) => {
                    clone_device(&api, device).map_err(Error::device(&device.path))
                }
            })
            .collect()
    };
    // No way leads back from there for a thread that others share directories with.
    std::thread::scope(|scope| {
        let spawned = std::thread::Builder::new()
            .name("sources".into())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)
            .call("clone", || "thread")
            .map_err(|e| Error::step("error opening sources of mounts")(e.into()));
        let died = || Error::step("error opening sources of mounts")(Cause::Unsafe("thread died"));
        spawned?.join().unwrap_or_else(|_| Err(died()))
    })
}

/// User namespaces for id-mapped mounts; mounts with the same mappings share one.
#[derive(Debug, Default)]
pub struct IdMaps(Vec<(Mappings, OwnedFd)>);

impl IdMaps {
    /// Id-maps what init has cloned for a mount of its root.
    ///
    /// # Errors
    /// Its file system cannot be id-mapped, or it is already; in the words of the mount.
    pub fn map(&mut self, mount: &Mount, tree: &OwnedFd) -> Result<(), Error> {
        self.make(mount)?;
        self.apply(&MountApi::new(), mount, tree)
            .map_err(failed_mount(mount))
    }

    /// The user namespace for a mount, if it needs one.
    fn make(&mut self, mount: &Mount) -> Result<(), Error> {
        let Some(IdMap { mappings, .. }) = &mount.id_map else {
            return Ok(());
        };
        if self.0.iter().any(|(made, _)| made == mappings) {
            return Ok(());
        }
        let namespace = mappings
            .namespace()
            .map_err(|e| failed_mount(mount)(Cause::IdMap(e.to_string())))?;
        self.0.push((mappings.clone(), namespace));
        Ok(())
    }

    fn apply(&self, api: &MountApi, mount: &Mount, tree: &OwnedFd) -> Result<(), Cause> {
        let Some(id_map) = &mount.id_map else {
            return Ok(());
        };
        let mut all = self.0.iter();
        let (_, namespace) = all
            .find(|(mappings, _)| *mappings == id_map.mappings)
            .ok_or(Cause::Unsafe("has no user namespace to be mapped by"))?;
        api.set_id_map(tree, namespace.as_fd(), extent(id_map.recursive))
            .map_err(|e| match e.errno() {
                Errno::INVAL => Cause::NotMapped(e),
                _ => Cause::System(e),
            })
    }
}

fn enter_mount_namespace(init: BorrowedFd<'_>) -> sys::Result<()> {
    sys::namespace::unshare(UnshareFlags::FS)?;
    rustix::thread::move_into_thread_name_spaces(init, ThreadNameSpaceType::MOUNT)
        .call("setns", || "mount namespace")
}

fn clone_mount(api: &MountApi, mount: &Mount) -> Result<OwnedFd, Cause> {
    let Kind::Bind {
        source, recursive, ..
    } = &mount.kind
    else {
        return Err(Cause::Unsafe("has no source"));
    };
    Ok(api.clone_path(source, extent(*recursive))?)
}

fn extent(recursive: bool) -> Extent {
    if recursive {
        Extent::Tree
    } else {
        Extent::Mount
    }
}

fn clone_device(api: &MountApi, device: &Device) -> Result<OwnedFd, Cause> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::open(&device.path, flags, Mode::empty())
        .call("open", || format!("{:?}, O_PATH", device.path))?;
    devices::must_be(&node, device.kind)?;
    Ok(api.clone_fd(node.as_fd(), Extent::Mount)?)
}

fn failed_mount(mount: &Mount) -> impl FnOnce(Cause) -> Error {
    let from = match &mount.kind {
        Kind::Bind { source, .. } => source.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    Error::mount(from, &mount.destination)
}

/// Has the shim make a tree of mounts, which is attached nowhere, an id-mapped one; for the mounts of
/// [`Plan::mapped_in_turn`], one after the other. An error is the reason why not.
pub type MapIds<'a> = &'a dyn Fn(BorrowedFd<'_>) -> Result<(), String>;

/// What the shim does for the file system and init cannot.
pub struct Help<'a> {
    /// What [`open`] has opened.
    pub sources: Vec<OwnedFd>,
    /// Id-mapping.
    pub map_ids: MapIds<'a>,
}

impl fmt::Debug for Help<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Help")
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

/// What there is of it for one mount.
pub(super) struct Given<'a> {
    pub(super) opened: Option<OwnedFd>,
    pub(super) map_ids: MapIds<'a>,
}

/// The opened sources on init's side.
pub(super) struct Opened<'a> {
    mounts: HashMap<usize, OwnedFd>,
    devices: HashMap<usize, OwnedFd>,
    map_ids: MapIds<'a>,
}

impl<'a> Opened<'a> {
    /// Takes what came over, in the order of [`Plan::sources`].
    pub(super) fn new(plan: &Plan, help: Help<'a>) -> Result<Self, Error> {
        let sources = plan.sources();
        if sources.len() != help.sources.len() {
            let cause = Cause::Unsafe("not as many as the plan wants");
            return Err(Error::step("error receiving sources of mounts")(cause));
        }
        let mut opened = Self {
            mounts: HashMap::new(),
            devices: HashMap::new(),
            map_ids: help.map_ids,
        };
        for (source, fd) in sources.into_iter().zip(help.sources) {
            match source {
                Source::Mount(index, _) => opened.mounts.insert(index, fd),
                Source::Device(index, _) => opened.devices.insert(index, fd),
            };
        }
        Ok(opened)
    }

    pub(super) fn for_mount(&mut self, index: usize) -> Given<'a> {
        Given {
            opened: self.mounts.remove(&index),
            map_ids: self.map_ids,
        }
    }

    pub(super) fn device(&mut self, index: usize) -> Option<OwnedFd> {
        self.devices.remove(&index)
    }
}
