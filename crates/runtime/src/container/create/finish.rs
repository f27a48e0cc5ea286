// SPDX-License-Identifier: Apache-2.0
//! Init is ready: what is left to do until there is a container.

use std::collections::BTreeMap;

use rustix::process::Pid;

use super::Parts;
use super::make::Making;
use super::settle::{Limited, set_limits};
use crate::container::Container;
use crate::container::control::refuse_killed;
use crate::container::update::Resources;
use crate::error::Result;
use crate::gate::Gate;
use crate::namespaces::Kind as Namespace;
use crate::state;
use crate::sync::{Channel, Kind};

impl Making<'_> {
    /// Makes a container of it.
    pub(super) fn finish(mut self, channel: Channel, limited: Limited) -> Result<Container> {
        let (cgroup, child) = Self::parts(&mut self.made)?;
        if limited == Limited::NotYet {
            // As late as possible: our own setup is not the container's to pay for.
            set_limits(cgroup, self.id, child, &self.plan)?;
        }
        refuse_killed(cgroup, self.oom_kills_before)?;
        let pid = child.pid.as_raw_nonzero().get();
        self.state.init_process_pid = pid;
        self.state.init_process_start = state::start_time(pid).unwrap_or(0);
        self.state.namespace_paths = namespace_paths(child.pid);
        self.made.save(&self.state)?;
        let channel = match self.gate {
            Gate::Channel => Some(channel),
            Gate::Fifo => {
                // Known by what is on disk: it need not end with us any more.
                channel.signal(Kind::Run, &[])?;
                None
            }
        };
        let intel_rdt = self.made.intel_rdt.take();
        let host_root = self.made.host_root.take();
        let (directory, cgroup, child) = self.made.keep()?;
        let parts = Parts {
            child,
            cgroup,
            oom_kills_before: self.oom_kills_before,
            resources: Resources {
                devices: self.plan.devices,
                limits: self.plan.limits,
            },
            directory,
            keyring: self.keyring,
            process: self.plan.process,
            seccomp: self.plan.seccomp,
            gate: self.gate,
            channel,
            intel_rdt,
            host_root,
        };
        Ok(Container::assemble(self.bundle, parts))
    }
}

fn namespace_paths(pid: Pid) -> BTreeMap<String, String> {
    let pid = pid.as_raw_nonzero();
    Namespace::ALL
        .iter()
        .map(|kind| {
            (
                kind.state_name().to_owned(),
                format!("/proc/{pid}/ns/{}", kind.proc_name()),
            )
        })
        .collect()
}
