// SPDX-License-Identifier: Apache-2.0
//! Root file systems that a program serves: types like `fuse3.fuse-overlayfs`, which
//! `mount.fuse3(8)` of the host mounts, as it does for containerd.
//!
//! The program goes into the background once the file system is there, as a child of the shim, and
//! ends when it is unmounted.

use super::{Error, Place, RootfsMount};
use crate::helper;

/// Who mounts a type, and what is left of the type's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fuse<'a> {
    program: &'static str,
    subtype: &'a str,
}

impl<'a> Fuse<'a> {
    /// `None` for a type that the kernel mounts.
    pub(super) fn of(fstype: &'a str) -> Option<Self> {
        ["mount.fuse", "mount.fuse3"].iter().find_map(|program| {
            let prefix = program.strip_prefix("mount.")?;
            let subtype = fstype.strip_prefix(prefix)?.strip_prefix('.')?;
            Some(Self { program, subtype })
        })
    }

    /// Has it mounted.
    pub(super) fn mount(self, mount: &RootfsMount, place: &Place<'_>) -> Result<(), Error> {
        self.mount_by(self.program, mount, place)
    }

    pub(super) fn mount_by(
        self,
        program: &str,
        mount: &RootfsMount,
        place: &Place<'_>,
    ) -> Result<(), Error> {
        let target = place.for_others();
        let options = mount.options.iter().flat_map(|option| ["-o", option]);
        let args = [mount.source.as_str(), &target];
        let args = args.into_iter().chain(options);
        helper::run(program, args.chain(["-t", self.subtype])).map_err(|reason| Error::Helper {
            program: program.to_owned(),
            target: place.path().to_owned(),
            reason,
        })
    }
}
