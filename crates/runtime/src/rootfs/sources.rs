// SPDX-License-Identifier: Apache-2.0
//! Sources of mounts that the shim opens, not init.
//!
//! Root of a user namespace may not reach what the host's root may: a directory of mode 0700 on the
//! way to a volume is enough. And only who has privileges over a file system may id-map a mount of
//! it. So a thread of the shim goes into init's mount namespace, where the kernel has locked the
//! flags of the host's mounts against root of the user namespace, and clones there what init then
//! attaches.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};
use sys::Call;
use sys::mount::{Extent, MountApi};

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
            let bind = match &mount.kind {
                // What is in the container's root, earlier mounts may have put there.
                Kind::Bind { inside: own, .. } => inside && own.is_none(),
                _ => false,
            };
            bind || mount.id_map.is_some()
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
}

/// Opens the sources of a plan in the mount namespace of the process behind `init`.
///
/// # Errors
/// One of them cannot be opened or id-mapped; in the words of the mount that it is for.
pub fn open(plan: &Plan, init: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Error> {
    let sources = plan.sources();
    let id_maps = IdMaps::make(&sources)?;
    let work = || -> Result<Vec<OwnedFd>, Error> {
        let enter = Error::step("error entering mount namespace of container");
        enter_mount_namespace(init).map_err(|e| enter(e.into()))?;
        let api = MountApi::new();
        sources
            .iter()
            .map(|source| match source {
                Source::Mount(index, mount) => {
                    clone_mount(&api, mount, id_maps.of(*index)).map_err(failed_mount(mount))
                }
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

/// User namespaces for the id-mapped mounts; mounts with the same mappings share one.
struct IdMaps(Vec<(Vec<usize>, Mappings, OwnedFd)>);

impl IdMaps {
    fn make(sources: &[Source<'_>]) -> Result<Self, Error> {
        let mut made: Vec<(Vec<usize>, Mappings, OwnedFd)> = Vec::new();
        for source in sources {
            let Source::Mount(index, mount) = source else {
                continue;
            };
            let Some(id_map) = &mount.id_map else {
                continue;
            };
            if let Some((users, ..)) = made.iter_mut().find(|(_, m, _)| *m == id_map.mappings) {
                users.push(*index);
                continue;
            }
            let namespace = id_map
                .mappings
                .namespace()
                .map_err(|e| failed_mount(mount)(Cause::IdMap(e.to_string())))?;
            made.push((vec![*index], id_map.mappings.clone(), namespace));
        }
        Ok(Self(made))
    }

    fn of(&self, index: usize) -> Option<BorrowedFd<'_>> {
        let mut all = self.0.iter();
        all.find(|(users, ..)| users.contains(&index))
            .map(|(.., namespace)| namespace.as_fd())
    }
}

fn enter_mount_namespace(init: BorrowedFd<'_>) -> sys::Result<()> {
    sys::namespace::unshare(UnshareFlags::FS)?;
    rustix::thread::move_into_thread_name_spaces(init, ThreadNameSpaceType::MOUNT)
        .call("setns", || "mount namespace")
}

fn clone_mount(
    api: &MountApi,
    mount: &Mount,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Cause> {
    let Kind::Bind {
        source, recursive, ..
    } = &mount.kind
    else {
        return Err(Cause::Unsafe("has no source"));
    };
    let tree = api.clone_path(source, extent(*recursive))?;
    if let (Some(IdMap { recursive, .. }), Some(namespace)) = (&mount.id_map, user_namespace) {
        api.set_id_map(&tree, namespace, extent(*recursive))?;
    }
    Ok(tree)
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

/// The opened sources on init's side.
#[derive(Debug, Default)]
pub(super) struct Opened {
    mounts: HashMap<usize, OwnedFd>,
    devices: HashMap<usize, OwnedFd>,
}

impl Opened {
    /// Takes what came over, in the order of [`Plan::sources`].
    pub(super) fn new(plan: &Plan, fds: Vec<OwnedFd>) -> Result<Self, Error> {
        let sources = plan.sources();
        if sources.len() != fds.len() {
            let cause = Cause::Unsafe("not as many as the plan wants");
            return Err(Error::step("error receiving sources of mounts")(cause));
        }
        let mut opened = Self::default();
        for (source, fd) in sources.into_iter().zip(fds) {
            match source {
                Source::Mount(index, _) => opened.mounts.insert(index, fd),
                Source::Device(index, _) => opened.devices.insert(index, fd),
            };
        }
        Ok(opened)
    }

    pub(super) fn mount(&mut self, index: usize) -> Option<OwnedFd> {
        self.mounts.remove(&index)
    }

    pub(super) fn device(&mut self, index: usize) -> Option<OwnedFd> {
        self.devices.remove(&index)
    }
}
