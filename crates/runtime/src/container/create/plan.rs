// SPDX-License-Identifier: Apache-2.0
//! What a container is to be, complete: nothing is made here, and what is impossible is refused.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cgroups::systemd::Extra;
use cgroups::{Cgroup, DeviceRules, Layout, Limits};
use oci_spec::runtime::{Process, Spec};

use super::rootless;
use crate::container::confine::{cgroup_owner, scope_properties};
use crate::container::spawn::check_terminal;
use crate::container::{Bundle, CreateRequest, Maker, Runtime, Stdio};
use crate::error::{Error, Result};
use crate::hooks::Lifecycle;
use crate::host_root::HostRoot;
use crate::idmap::Mappings;
use crate::init;
use crate::intel_rdt;
use crate::namespaces::{Kind as Namespace, Source};
use crate::net_devices;
use crate::own_namespaces;
use crate::process;
use crate::resources;
use crate::rootfs::{self, Pivot};
use crate::seccomp_filter::Seccomp;

/// What the shim needs to know of a container to make it.
pub(super) struct Plan {
    pub(super) process: process::Plan,
    pub(super) oom_score: Option<i32>,
    pub(super) devices_to_move: Vec<net_devices::Device>,
    pub(super) record: cgroups::Record,
    pub(super) joined: Vec<(Namespace, OwnedFd)>,
    pub(super) mappings: Option<Mappings>,
    /// Of a container without a mount namespace.
    pub(super) host_root: Option<HostRoot>,
    pub(super) devices: DeviceRules,
    pub(super) limits: Limits,
    pub(super) extra: Extra,
    /// Whom the cgroup is given to.
    pub(super) cgroup_owner: Option<u32>,
    pub(super) intel_rdt: Option<intel_rdt::Plan>,
    pub(super) seccomp: Option<Seccomp>,
}

/// Plans a container: the shim's part, and what init gets.
pub(super) fn plan(
    runtime: &Runtime,
    request: &CreateRequest<'_>,
) -> Result<(Plan, init::Container)> {
    let Bundle {
        spec, namespaces, ..
    } = request.bundle;
    let Some(process) = spec.process() else {
        return Err(Error::spec("process", "property must not be empty"));
    };
    let terminal = matches!(request.stdio, Stdio::Terminal);
    check_terminal(terminal, process)?;
    let mut plan_of_process = plan_of(spec, process, terminal)?;
    let environment = request.inherited.environment.iter().cloned();
    plan_of_process.env.extend(environment);
    if request.maker == Maker::User {
        rootless::check(spec, namespaces)?;
    }
    let devices_to_move = net_devices::plan(spec, namespaces)?;
    let record = plan_cgroup(runtime, request)?;
    let joined = namespaces.open_joined()?;
    let mappings = own_namespaces::mappings(spec, namespaces, &joined)?;
    own_namespaces::check_user(mappings.as_ref(), plan_of_process.uid, plan_of_process.gid)?;
    let private_cgroups = namespaces.is_private(Namespace::Cgroup);
    let host = rootfs::Host {
        bundle: &request.bundle.path,
        pivot: pivot(request)?,
        user: mappings.as_ref(),
        maker: request.maker,
        cgroups: cgroup_view(&runtime.cgroups, &record, private_cgroups),
    };
    let rootfs = rootfs::Plan::from_spec(spec, &host)?;
    let host_root = match rootfs.pivot {
        Pivot::Chroot => Some(HostRoot::look(&rootfs.root)?),
        Pivot::PivotRoot | Pivot::MoveMount => None,
    };
    let linux = spec.linux().as_ref();
    let (devices, limits) = resources::plan(linux.and_then(|linux| linux.resources().as_ref()))?;
    if request.maker == Maker::User {
        rootless::check_limits(&limits)?;
    }
    let rdt = linux.and_then(|linux| linux.intel_rdt().as_ref());
    let plan = Plan {
        oom_score: process.oom_score_adj(),
        devices,
        limits,
        intel_rdt: rdt
            .map(|rdt| intel_rdt::Plan::new(rdt, request.id))
            .transpose()?,
        seccomp: Seccomp::of(spec, &runtime.filters)?,
        extra: scope_properties(request.cgroup_driver, spec)?,
        cgroup_owner: cgroup_owner(&rootfs, mappings.as_ref(), plan_of_process.uid),
        process: plan_of_process,
        devices_to_move,
        record,
        joined,
        mappings,
        host_root,
    };
    let init = plan_of_init(request, &plan, rootfs)?;
    Ok((plan, init))
}

/// The container's own process, with what the container gives to all of its processes.
pub(in crate::container) fn plan_of(
    spec: &Spec,
    process: &Process,
    terminal: bool,
) -> Result<process::Plan> {
    let mut plan = process::Plan::new("process", process, terminal, None)?;
    plan.attributes = plan.attributes.of_container(spec.linux().as_ref())?;
    Ok(plan)
}

/// How the root becomes the root.
fn pivot(request: &CreateRequest<'_>) -> Result<Pivot> {
    match (
        request.bundle.namespaces.is_private(Namespace::Mount),
        request.pivot,
    ) {
        (true, pivot) => Ok(pivot),
        (false, Pivot::MoveMount) => {
            // It would be the host's root that is moved over.
            let reason = "no_pivot_root is not possible without a mount namespace";
            Err(Error::spec("linux.namespaces", reason))
        }
        (false, Pivot::PivotRoot | Pivot::Chroot) => Ok(Pivot::Chroot),
    }
}

fn plan_cgroup(runtime: &Runtime, request: &CreateRequest<'_>) -> Result<cgroups::Record> {
    if request.maker == Maker::User {
        return Ok(cgroups::Record::default());
    }
    let linux = request.bundle.spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_ref());
    Cgroup::plan(
        &runtime.cgroups,
        request.cgroup_driver,
        path.map(|path| path.to_string_lossy()).as_deref(),
        request.id,
    )
    .map_err(|source| Error::Cgroup {
        attempt: "plan cgroup",
        source,
    })
}

fn plan_of_init(
    request: &CreateRequest<'_>,
    plan: &Plan,
    rootfs: rootfs::Plan,
) -> Result<init::Container> {
    let Bundle {
        spec,
        namespaces,
        path,
        hooks,
        ..
    } = request.bundle;
    let new = |kind| *namespaces.get(kind) == Source::New;
    Ok(init::Container {
        user_namespace: plan.mappings.is_some(),
        inside: namespaces.flags_in_user_namespace(),
        new_time_namespace: new(Namespace::Time),
        time_offsets: own_namespaces::time_offsets(spec, namespaces)?,
        new_cgroup_namespace: new(Namespace::Cgroup),
        new_network_namespace: new(Namespace::Network),
        rootfs,
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
        sysctls: sysctls(spec),
        hooks: Lifecycle::new(hooks.clone(), spec, request.id, path),
        net_devices: !plan.devices_to_move.is_empty(),
    })
}

/// What a mount of type `cgroup` shows: the container's place in each hierarchy of the host.
fn cgroup_view(
    layout: &Layout,
    record: &cgroups::Record,
    private_namespace: bool,
) -> Option<rootfs::CgroupView> {
    if record.paths().is_empty() {
        // Nothing of the host's may be seen in its place.
        return Some(rootfs::CgroupView::Split(Vec::new()));
    }
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
