// SPDX-License-Identifier: Apache-2.0
//! The root file system, and what is set through it.

use std::os::fd::BorrowedFd;
use std::path::Path;

use super::{Init, Role, StepResult};
use crate::rootfs;
use crate::rootfs::sources::Help;
use crate::sync::Kind;

impl Init {
    pub(super) fn prepare_rootfs(&mut self) -> StepResult {
        let sources = std::mem::take(&mut self.sources);
        if let Role::Init(container) = &self.plan.role {
            let map_ids = |tree: BorrowedFd<'_>| self.map_ids(tree);
            let help = Help {
                sources,
                map_ids: &map_ids,
            };
            self.rootfs = Some(rootfs::prepare(&container.rootfs, help)?);
        }
        Ok(())
    }

    /// Has the shim id-map a mount that is attached nowhere yet.
    fn map_ids(&self, tree: BorrowedFd<'_>) -> Result<(), String> {
        let asked = self.channel.signal(Kind::IdMap, &[tree]);
        asked.map_err(|e| e.to_string())?;
        let answer = self.hear(Kind::IdMapped, 0);
        answer.map(drop).map_err(|e| e.message)
    }

    pub(super) fn pivot_root(&mut self) -> StepResult {
        self.rootfs
            .as_mut()
            .map_or(Ok(()), |rootfs| Ok(rootfs.pivot()?))
    }

    pub(super) fn make_cwd(&mut self) -> StepResult {
        let Some(rootfs) = &self.rootfs else {
            return Ok(());
        };
        Ok(rootfs.make_cwd(Path::new(&self.plan.process.cwd))?)
    }

    pub(super) fn finalize_rootfs(&mut self) -> StepResult {
        self.rootfs
            .as_mut()
            .map_or(Ok(()), |rootfs| Ok(rootfs.finalize()?))
    }

    pub(super) fn set_sysctls(&mut self) -> StepResult {
        let (Role::Init(container), Some(rootfs)) = (&self.plan.role, &self.rootfs) else {
            return Ok(());
        };
        for (name, value) in &container.sysctls {
            rootfs.procfs().write_sysctl(name, value)?;
        }
        Ok(())
    }

    pub(super) fn read_only_paths(&mut self) -> StepResult {
        self.rootfs
            .as_mut()
            .map_or(Ok(()), |rootfs| Ok(rootfs.read_only_paths()?))
    }

    pub(super) fn mask_paths(&mut self) -> StepResult {
        self.rootfs
            .as_mut()
            .map_or(Ok(()), |rootfs| Ok(rootfs.masked_paths()?))
    }
}
