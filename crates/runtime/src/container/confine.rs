// SPDX-License-Identifier: Apache-2.0
//! What a container may use, set when its init waits at the gate.

use cgroups::systemd::{Claim, Driver, Extra};
use cgroups::{Cgroup, Error as CgroupError};
use oci_spec::runtime::Spec;

use crate::error::{Error, Result};
use crate::idmap::Mappings;
use crate::rootfs;

/// What the specification adds to the container's systemd unit.
pub(super) fn scope_properties(driver: Driver, spec: &Spec) -> Result<Extra> {
    match driver {
        Driver::Cgroupfs => Ok(Extra::default()),
        Driver::Systemd => Extra::from_annotations(spec.annotations().iter().flatten())
            .map_err(|error| Error::spec("annotations", error.to_string())),
    }
}

/// Whom the cgroup is given to: the user of the container's process, if it sees its own cgroup v2 and
/// may write to it. Root needs nothing given.
pub(super) fn cgroup_owner(
    rootfs: &rootfs::Plan,
    mappings: Option<&Mappings>,
    uid: u32,
) -> Option<u32> {
    let uid = match mappings {
        Some(mappings) => mappings.host_uid(uid)?,
        None => uid,
    };
    (uid != 0 && rootfs.shows_writable_cgroup()).then_some(uid)
}

/// Hands the cgroup to systemd, if that is to manage it, and to its owner, and sets all limits.
pub(super) fn confine(cgroup: &Cgroup, claim: &Claim<'_>, owner: Option<u32>) -> Result<()> {
    let failed = |attempt| move |source: CgroupError| Error::Cgroup { attempt, source };
    if cgroup.driver() == Driver::Systemd {
        cgroup
            .claim(claim)
            .map_err(failed("unable to apply cgroup configuration"))?;
        // Without what systemd has put beside it.
        cgroup
            .set_devices(claim.devices)
            .map_err(failed("unable to apply device rules"))?;
    }
    if let Some(owner) = owner {
        cgroup
            .delegate(owner)
            .map_err(failed("unable to give away the cgroup"))?;
    }
    cgroup
        .set_limits(claim.limits)
        .map_err(failed("unable to apply cgroup limits"))
}
