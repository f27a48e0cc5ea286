// SPDX-License-Identifier: Apache-2.0
//! Making a container: its state on disk, its groups, its init. What fails from here on is undone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use cgroups::Cgroup;
use oci_spec::runtime::Spec;
use sys::spawn::Child;

use super::plan::Plan;
use super::settle::{Limited, set_limits};
use super::settling::Settling;
use crate::container::made::Made;
use crate::container::spawn::{Descriptors, PidNamespace, set_oom_score, spawn};
use crate::container::{Bundle, CreateRequest, Inherited, Keyring, Maker, Runtime, Stdio};
use crate::error::{Error, Result};
use crate::gate::{Fifo, Gate};
use crate::hooks::Lifecycle;
use crate::init::{self, Descriptor, Role};
use crate::namespaces::Kind as Namespace;
use crate::state::{self, State};
use crate::sync::Channel;

/// A container that is being made; undone on drop unless it is finished.
pub(super) struct Making<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) bundle: &'a Bundle,
    pub(super) id: &'a str,
    pub(super) gate: Gate,
    pub(super) keyring: Keyring,
    pub(super) plan: Plan,
    pub(super) hooks: Lifecycle,
    pub(super) made: Made,
    pub(super) state: State,
    pub(super) oom_kills_before: u64,
    fifo: Option<OwnedFd>,
}

/// An init that has its plan and is about to follow it.
pub(super) struct Begun {
    pub(super) channel: Channel,
    pub(super) settling: Settling,
    pub(super) limited: Limited,
}

impl<'a> Making<'a> {
    /// Leaves word on disk of what will have to be cleaned up, before there is anything.
    pub(super) fn begin(
        runtime: &'a Runtime,
        request: &CreateRequest<'a>,
        plan: Plan,
        hooks: &Lifecycle,
    ) -> Result<Self> {
        let span = telemetry::span("save state");
        request.directory.create()?;
        let mut made = Made {
            directory: Some(request.directory.clone()),
            cgroup: None,
            child: None,
            intel_rdt: None,
            host_root: plan.host_root.clone(),
            hooks: Some(hooks.clone()),
        };
        let mut state = initial_state(&request.bundle.spec, request, &plan.record);
        state.host_root = plan.host_root.clone();
        state.rootless = request.maker == Maker::User;
        state.config.cgroups = (&plan.limits).into();
        made.save(&state)?;
        if let Some(name) = request.socket_directory {
            request.directory.create_open(name)?;
        }
        let fifo = match request.gate {
            Gate::Channel => None,
            Gate::Fifo => {
                request.directory.save_config(&request.bundle.json)?;
                Some(Fifo::in_directory(request.directory.path()).make()?)
            }
        };
        if let Some(plan) = &plan.intel_rdt {
            let group = made.intel_rdt.insert(plan.create()?);
            state.intel_rdt_path = group.path.to_string_lossy().into_owned();
            state.intel_rdt = Some(group.clone());
            made.save(&state)?;
        }
        span.done();
        Ok(Self {
            runtime,
            bundle: request.bundle,
            id: request.id,
            gate: request.gate,
            keyring: request.keyring,
            plan,
            hooks: hooks.clone(),
            made,
            state,
            oom_kills_before: 0,
            fifo,
        })
    }

    pub(super) fn make_cgroup(&mut self) -> Result<()> {
        let failed = |attempt| move |source| Error::Cgroup { attempt, source };
        let span = telemetry::span("make cgroup");
        let none = self.plan.record.paths().is_empty();
        let cgroup = match none {
            true => Cgroup::open(&self.runtime.cgroups, &self.plan.record),
            false => Cgroup::create(&self.runtime.cgroups, &self.plan.record),
        }
        .map_err(failed("unable to apply cgroup configuration"))?;
        let cgroup = self.made.cgroup.insert(cgroup);
        if none {
            span.done();
            return Ok(());
        }
        self.oom_kills_before = cgroup.oom_kills();
        // Before anybody is in it: CAP_MKNOD is among the default capabilities.
        cgroup
            .set_devices(&self.plan.devices)
            .map_err(failed("unable to apply device rules"))?;
        span.done();
        Ok(())
    }

    /// Executes init and tells it what it is to do.
    pub(super) fn make_init(
        &mut self,
        init: init::Container,
        stdio: Stdio,
        inherited: Inherited,
    ) -> Result<Begun> {
        let mappings = self.plan.mappings.take();
        let limited_first = self.is_limited_first();
        let Some(cgroup) = &self.made.cgroup else {
            return Err(incomplete());
        };
        let Plan { joined, .. } = &self.plan;
        let pid_namespace = joined.iter().find(|(kind, _)| *kind == Namespace::Pid);
        let (child, channel) = spawn(
            self.runtime,
            self.bundle.namespaces.clone_flags(),
            cgroup.clone_target(),
            pid_namespace.map(|(_, fd)| PidNamespace::Path(fd.as_fd())),
        )?;
        let child = self.made.child.insert(child);
        match set_oom_score(child.pid, self.plan.oom_score) {
            // Not for everybody to lower; as runc.
            Err(_) if self.state.rootless => {
                log::warn!("oomScoreAdj is not for us to set: left out")
            }
            other => other?,
        }
        if let Some(group) = &self.made.intel_rdt {
            group.join(child.pid)?;
        }
        let mut descriptors = Descriptors::new(self.runtime, cgroup)?;
        for (kind, fd) in joined.iter().filter(|(kind, _)| *kind != Namespace::Pid) {
            descriptors.push(Descriptor::Namespace(*kind), fd.as_fd());
        }
        if let Some(fifo) = &self.fifo {
            descriptors.push(Descriptor::Gate, fifo.as_fd());
        }
        for fd in &inherited.fds {
            descriptors.push(Descriptor::Inherited, fd.as_fd());
        }
        let limited = match limited_first {
            true => {
                set_limits(cgroup, self.id, child, &self.plan)?;
                Limited::Yes
            }
            false => Limited::NotYet,
        };
        let settling = Settling::begin(&self.bundle.namespaces, mappings, &init);
        descriptors.send(
            &channel,
            self.runtime,
            self.id,
            self.keyring,
            &self.plan.process,
            self.plan.seccomp.as_ref(),
            Role::Init(Box::new(init)),
            &stdio,
        )?;
        Ok(Begun {
            channel,
            settling,
            limited,
        })
    }

    /// Whether init has to be limited before it does anything: the kernel grants a deadline to whoever may
    /// use all processors, and would not notice that they become fewer.
    fn is_limited_first(&self) -> bool {
        let processors = &self.plan.limits.cpu.cpus;
        let fewer = processors.as_ref().is_some_and(|list| !list.is_empty());
        fewer && self.plan.process.attributes.has_deadline()
    }

    /// Its cgroup and its init.
    pub(super) fn parts(made: &mut Made) -> Result<(&Cgroup, &mut Child)> {
        match (&made.cgroup, &mut made.child) {
            (Some(cgroup), Some(child)) => Ok((cgroup, child)),
            _ => Err(incomplete()),
        }
    }
}

pub(super) fn incomplete() -> Error {
    Error::Protocol("incomplete container".to_owned())
}

fn initial_state(spec: &Spec, request: &CreateRequest<'_>, record: &cgroups::Record) -> State {
    let mut labels = vec![format!("bundle={}", request.bundle.path.display())];
    for (key, value) in spec.annotations().iter().flatten() {
        labels.push(format!("{key}={value}"));
    }
    let root = spec
        .root()
        .as_ref()
        .map(|root| root.path().clone())
        .unwrap_or_default();
    let rootfs: PathBuf = if root.is_absolute() {
        root
    } else {
        request.bundle.path.join(root)
    };
    State {
        id: request.id.to_owned(),
        init_process_pid: 0,
        init_process_start: 0,
        created: crate::time::rfc3339_now(),
        config: state::Config {
            rootfs,
            labels,
            version: spec.version().clone(),
            cgroups: state::CgroupConfig::default(),
            no_new_keyring: request.keyring == Keyring::Inherited,
            hooks: request.bundle.hooks.clone(),
        },
        rootless: false,
        cgroup_paths: record.clone(),
        namespace_paths: BTreeMap::new(),
        external_descriptors: Vec::new(),
        intel_rdt_path: String::new(),
        intel_rdt: None,
        host_root: None,
    }
}
