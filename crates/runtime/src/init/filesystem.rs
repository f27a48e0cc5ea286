// SPDX-License-Identifier: Apache-2.0
//! The root file system, and what is set through it.

use std::path::Path;

use super::{Init, Role, StepResult};
use crate::rootfs;

impl Init {
    pub(super) fn prepare_rootfs(&mut self) -> StepResult {
        let sources = std::mem::take(&mut self.sources);
        if let Role::Init(container) = &self.plan.role {
            self.rootfs = Some(rootfs::prepare(&container.rootfs, sources)?);
        }
        Ok(())
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
