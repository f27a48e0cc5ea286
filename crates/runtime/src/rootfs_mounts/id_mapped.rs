// SPDX-License-Identifier: Apache-2.0
//! Root file systems whose files belong to the ids of a user namespace (`uidmap=`, `gidmap=`):
//! what containerd's snapshotters ask for instead of changing the owners of all files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sys::Call;
use sys::mount::{Extent, MountApi, Param, ms};

use super::{Place, Request};
use crate::idmap::{Mappings, Range};

/// Reads `container:host:size`, several of them with commas between.
pub(super) fn parse(list: &str) -> Option<Vec<Range>> {
    let range = |text: &str| {
        let mut numbers = text.split(':').map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok);
        let range = Range {
            container: next()?,
            host: next()?,
            size: next()?,
        };
        (numbers.next().is_none() && range.is_possible()).then_some(range)
    };
    list.split(',').map(range).collect()
}

impl Request<'_> {
    /// Makes the mount, maps its ids and attaches it: nobody sees it without the mapping.
    pub(super) fn id_mapped(
        &self,
        mappings: &Mappings,
        source: &str,
        rootfs: &Path,
        place: &Place<'_>,
        api: &MountApi,
    ) -> Result<(), super::Error> {
        let target = place.path();
        let namespace = mappings.namespace().map_err(|e| super::Error::IdMap {
            target: target.to_owned(),
            reason: e.to_string(),
        })?;
        let failed = || {
            let what = format!("mount {source} ({}), id-mapped,", self.mount.fstype);
            super::Error::system(what, target)
        };
        (|| {
            let mount = self.detached(source, namespace, rootfs, api)?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let path = place.before();
            let onto = rustix::fs::open(&*path, flags, Mode::empty())
                .call("open", || format!("{path:?}"))?;
            api.attach(&mount, &onto)
        })()
        .map_err(failed())
    }

    fn detached(
        &self,
        source: &str,
        namespace: OwnedFd,
        rootfs: &Path,
        api: &MountApi,
    ) -> sys::Result<OwnedFd> {
        if self.mount.fstype == "overlay" {
            return self.id_mapped_overlay(namespace.as_fd(), rootfs, api);
        }
        if !self.flags.has(ms::BIND) {
            let mut params = vec![Param::Value("source", source)];
            params.extend(self.params_of(&self.params));
            let mount = api.filesystem(&self.mount.fstype, &params, self.flags.for_new_mount())?;
            api.set_id_map(&mount, namespace.as_fd(), Extent::Mount)?;
            return Ok(mount);
        }
        let extent = match self.flags.has(ms::REC) {
            true => Extent::Tree,
            false => Extent::Mount,
        };
        let tree = api.clone_path(source, extent)?;
        api.set_id_map(&tree, namespace.as_fd(), extent)?;
        let changes = self.flags.explicit();
        if !changes.is_empty() {
            api.set_attributes(&tree, changes, Extent::Mount)?;
        }
        Ok(tree)
    }

    /// Parameters for `fsconfig`, with the flags of the superblock.
    pub(super) fn params_of<'b>(&self, params: &[&'b str]) -> Vec<Param<'b>> {
        let mut all: Vec<Param<'b>> = params
            .iter()
            .map(|param| match param.split_once('=') {
                Some((key, value)) => Param::Value(key, value),
                None => Param::Flag(param),
            })
            .collect();
        for (bit, word) in [
            (ms::RDONLY, "ro"),
            (ms::SYNCHRONOUS, "sync"),
            (ms::DIRSYNC, "dirsync"),
            (ms::LAZYTIME, "lazytime"),
        ] {
            if self.flags.has(bit) {
                all.push(Param::Flag(word));
            }
        }
        all
    }
}
