// SPDX-License-Identifier: Apache-2.0
//! Creating a container, up to the gate where its init waits for start.
//!
//! | step       | what                                                                       |
//! |------------|----------------------------------------------------------------------------|
//! | `plan`     | all that is known beforehand: what is impossible is refused here           |
//! | `make`     | state on disk, groups, init; from here on a failure has things to undo     |
//! | `rootless` | what somebody who is not root may ask for                                  |
//! | `settle`   | init sets itself up and asks for what only we can do; `settling` for parts |
//! | `finish`   | init is ready: limits, the state as it is now, the container               |

mod finish;
mod make;
mod plan;
mod rootless;
mod settle;
pub(super) mod settling;

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use cgroups::Cgroup;
use sys::spawn::Child;

use self::make::Making;
pub(super) use self::plan::plan_of;
use super::update::Resources;
use super::{Bundle, Container, CreateRequest, Keyring, Runtime};
use crate::error::Result;
use crate::gate::Gate;
use crate::hooks::Lifecycle;
use crate::host_root::HostRoot;
use crate::intel_rdt;
use crate::namespaces::{Kind as Namespace, Source};
use crate::process;
use crate::seccomp_filter::Seccomp;
use crate::state::Directory;
use crate::sync::Channel;

impl Container {
    /// Creates a container: its init is ready and waits to be started.
    ///
    /// On failure nothing is left: no process, cgroup or state.
    ///
    /// # Errors
    /// Whatever the specification asks for that is impossible or fails; see [`crate::Error`].
    pub fn create(
        runtime: &Runtime,
        request: CreateRequest<'_>,
    ) -> Result<(Self, Option<OwnedFd>)> {
        let (plan, init) = telemetry::traced("plan", || plan::plan(runtime, &request))?;
        let mut making = Making::begin(runtime, &request, plan, &init.hooks)?;
        making.make_cgroup()?;
        let waiting = making.make_init(init, request.stdio, request.inherited)?;
        let (console, limited) =
            making.settle(&waiting.channel, waiting.settling, waiting.limited)?;
        let container = making.finish(waiting.channel, limited)?;
        Ok((container, console))
    }
}

/// What a container consists of besides its configuration.
pub(super) struct Parts {
    pub(super) child: Child,
    pub(super) cgroup: Cgroup,
    pub(super) oom_kills_before: u64,
    pub(super) resources: Resources,
    pub(super) directory: Directory,
    pub(super) keyring: Keyring,
    /// Of which execs inherit what they leave out.
    pub(super) process: process::Plan,
    pub(super) seccomp: Option<Seccomp>,
    pub(super) gate: Gate,
    pub(super) channel: Option<Channel>,
    pub(super) intel_rdt: Option<intel_rdt::Group>,
    pub(super) host_root: Option<HostRoot>,
}

impl Container {
    /// Puts a container together: one just made, or one found on disk. What later operations need
    /// to know of the configuration is taken from it here.
    pub(super) fn assemble(bundle: &Bundle, parts: Parts) -> Self {
        let id = parts.directory.id();
        Self {
            pid: parts.child.pid,
            pidfd: parts.child.pidfd,
            cgroup: parts.cgroup,
            private_pid_namespace: bundle.has_private_pid_namespace(),
            oom_kills_before: parts.oom_kills_before,
            resources: Mutex::new(Some(parts.resources)),
            host_network: *bundle.namespaces.get(Namespace::Network) == Source::Host,
            directory: parts.directory,
            keyring: parts.keyring,
            process: parts.process,
            seccomp: parts.seccomp,
            bundle: bundle.path.clone(),
            annotations: bundle.spec.annotations().clone().unwrap_or_default(),
            gate: parts.gate,
            intel_rdt: parts.intel_rdt,
            host_root: parts.host_root,
            hooks: Lifecycle::new(bundle.hooks.clone(), &bundle.spec, &id, &bundle.path),
            id,
            channel: Mutex::new(parts.channel),
        }
    }
}
