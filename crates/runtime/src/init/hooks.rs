// SPDX-License-Identifier: Apache-2.0
//! Hooks, seen from init: those of the host are waited for, those of the container are run.

use super::{Init, Plan, Role, StepError, StepResult};
use crate::hooks::{self, Kind as Hook};
use crate::sync::Kind;

impl From<hooks::Error> for StepError {
    fn from(error: hooks::Error) -> Self {
        Self {
            message: error.to_string(),
            errno: error.cause.errno(),
            operation: None,
        }
    }
}

impl Init {
    /// `prestart` and `createRuntime` are the shim's to run. They find everything mounted, and the
    /// host's root still in its place.
    pub(super) fn wait_for_host_hooks(&mut self) -> StepResult {
        let host = [Hook::Prestart, Hook::CreateRuntime];
        if !self.container().is_some_and(|c| c.hooks.has(&host)) {
            return Ok(());
        }
        self.say(Kind::Hooks)?;
        self.hear(Kind::HooksDone, 0).map(drop)
    }

    /// In the container's namespaces and in its root directory, which is not the root yet: the
    /// program is found, and `ldconfig` and its like work, on the host's file system.
    pub(super) fn create_container_hooks(&mut self) -> StepResult {
        let (Role::Init(container), Some(rootfs)) = (&self.plan.role, &self.rootfs) else {
            return Ok(());
        };
        let directory = rootfs.root();
        let pid = std::process::id() as i32;
        Ok(container
            .hooks
            .run(Hook::CreateContainer, pid, Some(directory), &[])?)
    }
}

/// As the user, where the user's program will begin. Hooks without an environment get the
/// program's: not in the specification, but what runc has always done.
pub(super) fn start_container(plan: &Plan, environment: &[String]) -> Result<(), hooks::Error> {
    let Role::Init(container) = &plan.role else {
        return Ok(());
    };
    let pid = std::process::id() as i32;
    container
        .hooks
        .run(Hook::StartContainer, pid, None, environment)
}
