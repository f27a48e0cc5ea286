// SPDX-License-Identifier: Apache-2.0
//! Creating a container, up to the gate where its init waits for start.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cgroups::systemd::Claim;
use cgroups::{Cgroup, Layout};
use oci_spec::runtime::{Process, Spec};
use rustix::process::Pid;
use sys::spawn::Child;

use super::confine::{confine, scope_properties};
use super::control::{explain_kill, refuse_killed};
use super::made::Made;
use super::settle::Settling;
use super::spawn::{
    Descriptors, PidNamespace, answer, check_terminal, hand_over_listener, receive_console,
    set_oom_score, spawn,
};
use super::update::Resources;
use super::{Bundle, Container, CreateRequest, Keyring, Runtime, Stdio};
use crate::error::{Error, Result};
use crate::gate::{Fifo, Gate};
use crate::hooks::{Kind as Hook, Lifecycle};
use crate::init::{self, Descriptor, Role};
use crate::intel_rdt;
use crate::namespaces::{Kind as Namespace, Source};
use crate::net_devices::{self, Destination, Moved};
use crate::own_namespaces;
use crate::process;
use crate::resources;
use crate::rootfs;
use crate::seccomp_agent::Subject;
use crate::seccomp_filter::Seccomp;
use crate::state::{self, Directory, State};
use crate::sync::{Channel, Kind};

impl Container {
    /// Creates a container: its init is ready and waits to be started.
    ///
    /// On failure nothing is left: no process, cgroup or state.
    ///
    /// # Errors
    /// Whatever the specification asks for that is impossible or fails; see [`Error`].
    pub fn create(
        runtime: &Runtime,
        request: CreateRequest<'_>,
    ) -> Result<(Self, Option<OwnedFd>)> {
        let Bundle {
            spec,
            namespaces,
            path: bundle,
            hooks,
            ..
        } = request.bundle;
        let Some(process) = spec.process() else {
            return Err(Error::spec("process", "property must not be empty"));
        };
        let terminal = matches!(request.stdio, Stdio::Terminal);
        check_terminal(terminal, process)?;
        let span = telemetry::span("plan");
        let mut plan = plan_of(spec, process, terminal)?;
        plan.env.extend(request.inherited.environment.clone());
        let devices_to_move = net_devices::plan(spec, namespaces)?;
        let cgroups_path = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().as_ref());
        let record = Cgroup::plan(
            &runtime.cgroups,
            request.cgroup_driver,
            cgroups_path.map(|path| path.to_string_lossy()).as_deref(),
            request.id,
        )
        .map_err(|source| Error::Cgroup {
            attempt: "plan cgroup",
            source,
        })?;
        let joined = namespaces.open_joined()?;
        let mappings = own_namespaces::mappings(spec, namespaces, &joined)?;
        own_namespaces::check_user(mappings.as_ref(), plan.uid, plan.gid)?;
        let rootfs = rootfs::Plan::from_spec(
            spec,
            &rootfs::Host {
                bundle,
                pivot: request.pivot,
                user: mappings.as_ref(),
                cgroups: cgroup_view(
                    &runtime.cgroups,
                    &record,
                    namespaces.is_private(Namespace::Cgroup),
                ),
            },
        )?;
        let resources = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref());
        let (devices, limits) = resources::plan(resources)?;
        let linux = spec.linux().as_ref();
        let rdt = linux.and_then(|linux| linux.intel_rdt().as_ref());
        let rdt = rdt
            .map(|rdt| intel_rdt::Plan::new(rdt, request.id))
            .transpose()?;
        let seccomp = Seccomp::of(spec, &runtime.filters)?;
        let extra = scope_properties(request.cgroup_driver, spec)?;

        span.done();
        let span = telemetry::span("save state");
        request.directory.create()?;
        let hooks = Lifecycle::new(hooks.clone(), spec, request.id, bundle);
        let mut made = Made {
            directory: Some(request.directory.clone()),
            cgroup: None,
            child: None,
            intel_rdt: None,
            hooks: Some(hooks.clone()),
        };
        let mut state = initial_state(spec, &request, &record);
        state.config.cgroups = (&limits).into();
        made.save(&state)?;
        let fifo = match request.gate {
            Gate::Channel => None,
            Gate::Fifo => {
                request.directory.save_config(&request.bundle.json)?;
                Some(Fifo::in_directory(request.directory.path()).make()?)
            }
        };
        if let Some(plan) = &rdt {
            let group = made.intel_rdt.insert(plan.create()?);
            state.intel_rdt_path = group.path.to_string_lossy().into_owned();
            state.intel_rdt = Some(group.clone());
            made.save(&state)?;
        }
        span.done();
        let span = telemetry::span("make cgroup");
        let cgroup = Cgroup::create(&runtime.cgroups, &record).map_err(|source| Error::Cgroup {
            attempt: "unable to apply cgroup configuration",
            source,
        })?;
        let cgroup = made.cgroup.insert(cgroup);
        let oom_kills_before = cgroup.oom_kills();
        // Before anybody is in it: CAP_MKNOD is among the default capabilities.
        cgroup
            .set_devices(&devices)
            .map_err(|source| Error::Cgroup {
                attempt: "unable to apply device rules",
                source,
            })?;
        span.done();

        let pid_namespace = joined.iter().find(|(kind, _)| *kind == Namespace::Pid);
        let (child, channel) = spawn(
            runtime,
            namespaces.clone_flags(),
            cgroup,
            pid_namespace.map(|(_, fd)| PidNamespace::Path(fd.as_fd())),
        )?;
        let child = made.child.insert(child);
        set_oom_score(child.pid, process)?;
        if let Some(group) = &made.intel_rdt {
            group.join(child.pid)?;
        }

        let container = init::Container {
            user_namespace: mappings.is_some(),
            inside: namespaces.flags_in_user_namespace(),
            new_time_namespace: *namespaces.get(Namespace::Time) == Source::New,
            time_offsets: own_namespaces::time_offsets(spec, namespaces)?,
            new_cgroup_namespace: *namespaces.get(Namespace::Cgroup) == Source::New,
            new_network_namespace: *namespaces.get(Namespace::Network) == Source::New,
            rootfs,
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            sysctls: sysctls(spec),
            hooks: hooks.clone(),
            net_devices: !devices_to_move.is_empty(),
        };
        let mut descriptors = Descriptors::new(runtime, cgroup)?;
        for (kind, fd) in &joined {
            if *kind != Namespace::Pid {
                descriptors.push(Descriptor::Namespace(*kind), fd.as_fd());
            }
        }
        if let Some(fifo) = &fifo {
            descriptors.push(Descriptor::Gate, fifo.as_fd());
        }
        for fd in &request.inherited.fds {
            descriptors.push(Descriptor::Inherited, fd.as_fd());
        }
        let keyring = request.keyring;
        let settling = Settling::begin(namespaces, mappings, &container);
        let role = Role::Init(Box::new(container));
        descriptors.send(
            &channel,
            runtime,
            request.id,
            keyring,
            &plan,
            seccomp.as_ref(),
            role,
            &request.stdio,
        )?;
        drop((request.stdio, request.inherited));

        settling.follow(&channel, child)?;
        if !devices_to_move.is_empty() {
            answer(&channel, Kind::NetDevices, child, "create")?;
            let network = joined.iter().find(|(kind, _)| *kind == Namespace::Network);
            let destination = match network {
                Some((_, fd)) => Destination::Namespace(fd.as_fd()),
                None => Destination::Process(child.pid),
            };
            let moved = devices_to_move
                .iter()
                .map(|device| net_devices::move_to(device, destination))
                .collect::<Result<Vec<Moved>>>()?;
            channel.send(Kind::NetDevicesMoved, &moved, &[])?;
        }
        let claim = Claim {
            id: request.id,
            pid: child.pid.as_raw_nonzero().get(),
            devices: &devices,
            limits: &limits,
            extra: &extra,
        };
        let set_limits = || telemetry::traced("set limits", || confine(cgroup, &claim));
        let hooked = hooks.has(&[Hook::Prestart, Hook::CreateRuntime]);
        if hooked {
            answer(&channel, Kind::Hooks, child, "create")?;
            // Such a hook may want to see and change the container's limits.
            set_limits()?;
            telemetry::traced("run host hooks", || run_host_hooks(&hooks, child.pid))?;
            channel.signal(Kind::HooksDone, &[])?;
        }
        let console = receive_console(&channel, &plan, child)?;
        let subject = Subject {
            id: request.id,
            status: "creating",
            init: child.pid,
            bundle,
            annotations: &spec.annotations().clone().unwrap_or_default(),
        };
        hand_over_listener(seccomp.as_ref(), &channel, child, &subject, "create")?;
        answer(&channel, Kind::Ready, child, "create")
            .map_err(|error| explain_kill(cgroup, oom_kills_before, error))?;
        if !hooked {
            // As late as possible: our own setup is not the container's to pay for.
            set_limits()?;
        }
        refuse_killed(cgroup, oom_kills_before)?;
        let state = State {
            init_process_pid: child.pid.as_raw_nonzero().get(),
            init_process_start: state::start_time(child.pid.as_raw_nonzero().get()).unwrap_or(0),
            namespace_paths: namespace_paths(child.pid),
            ..state
        };
        made.save(&state)?;
        let channel = match request.gate {
            Gate::Channel => Some(channel),
            Gate::Fifo => {
                // Known by what is on disk: it need not end with us any more.
                channel.signal(Kind::Run, &[])?;
                None
            }
        };
        let intel_rdt = made.intel_rdt.take();
        let (directory, cgroup, child) = made.keep()?;
        let parts = Parts {
            child,
            cgroup,
            oom_kills_before,
            resources: Resources { devices, limits },
            directory,
            keyring,
            seccomp,
            gate: request.gate,
            channel,
            intel_rdt,
        };
        Ok((Self::assemble(request.bundle, parts)?, console))
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
    pub(super) seccomp: Option<Seccomp>,
    pub(super) gate: Gate,
    pub(super) channel: Option<Channel>,
    pub(super) intel_rdt: Option<intel_rdt::Group>,
}

/// The container's own process, with what the container gives to all of its processes.
fn plan_of(spec: &Spec, process: &Process, terminal: bool) -> Result<process::Plan> {
    let mut plan = process::Plan::new("process", process, terminal, None)?;
    plan.attributes = plan.attributes.of_container(spec.linux().as_ref())?;
    Ok(plan)
}

impl Container {
    /// Puts a container together: one just made, or one found on disk. What later operations need
    /// to know of the configuration is taken from it here.
    pub(super) fn assemble(bundle: &Bundle, parts: Parts) -> Result<Self> {
        let Some(process) = bundle.spec.process() else {
            return Err(Error::spec("process", "property must not be empty"));
        };
        let terminal = process.terminal().unwrap_or(false);
        let id = parts.directory.id();
        Ok(Self {
            pid: parts.child.pid,
            pidfd: parts.child.pidfd,
            cgroup: parts.cgroup,
            private_pid_namespace: bundle.has_private_pid_namespace(),
            oom_kills_before: parts.oom_kills_before,
            resources: Mutex::new(parts.resources),
            host_network: *bundle.namespaces.get(Namespace::Network) == Source::Host,
            directory: parts.directory,
            keyring: parts.keyring,
            process: plan_of(&bundle.spec, process, terminal)?,
            seccomp: parts.seccomp,
            bundle: bundle.path.clone(),
            annotations: bundle.spec.annotations().clone().unwrap_or_default(),
            gate: parts.gate,
            intel_rdt: parts.intel_rdt,
            hooks: Lifecycle::new(bundle.hooks.clone(), &bundle.spec, &id, &bundle.path),
            id,
            channel: Mutex::new(parts.channel),
        })
    }
}

/// Init waits meanwhile.
fn run_host_hooks(hooks: &Lifecycle, pid: Pid) -> Result<()> {
    let pid = pid.as_raw_nonzero().get();
    [Hook::Prestart, Hook::CreateRuntime]
        .into_iter()
        .try_for_each(|kind| hooks.run_on_host(kind, pid).map_err(Error::Hook))
}

/// What a mount of type `cgroup` shows: the container's place in each hierarchy of the host.
fn cgroup_view(
    layout: &Layout,
    record: &cgroups::Record,
    private_namespace: bool,
) -> Option<rootfs::CgroupView> {
    let mut places = layout.hierarchies().iter().filter_map(|hierarchy| {
        let key = match hierarchy.kind() {
            cgroups::Kind::Controllers(controllers) => controllers.first()?.as_str(),
            cgroups::Kind::Named(name) => name.as_str(),
            cgroups::Kind::Unified => "",
        };
        Some((hierarchy, PathBuf::from(record.paths().get(key)?)))
    });
    if layout.mode() == cgroups::Mode::V2 {
        let (hierarchy, own) = places.next_back()?;
        return Some(rootfs::CgroupView::Unified {
            mount_point: hierarchy.mount_point().into(),
            own,
            private_namespace,
        });
    }
    let name = |mount_point: &str| {
        Path::new(mount_point)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    Some(rootfs::CgroupView::Split(
        places
            .filter_map(|(hierarchy, own)| {
                Some(rootfs::Hierarchy {
                    name: name(hierarchy.mount_point())?,
                    own,
                })
            })
            .collect(),
    ))
}

fn sysctls(spec: &Spec) -> Vec<(String, String)> {
    let list = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref());
    let mut sysctls: Vec<_> = list
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    sysctls.sort();
    sysctls
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
    }
}
