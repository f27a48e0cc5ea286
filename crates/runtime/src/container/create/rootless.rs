// SPDX-License-Identifier: Apache-2.0
//! What somebody who is not root may ask for: what his user namespace lets him do, and no cgroups.
//! All else is refused by name before anything is made.

use cgroups::Limits;
use oci_spec::runtime::Spec;

use crate::error::{Error, Result};
use crate::namespaces::{Kind, Namespaces, Source};

/// Checks what a specification asks for; runc's rules and words where it has them.
pub(super) fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let refuse = |field: &str, reason: &str| Err(Error::spec(field, reason));
    if *namespaces.get(Kind::User) != Source::New {
        return refuse(
            "linux.namespaces",
            "rootless container requires user namespaces",
        );
    }
    if *namespaces.get(Kind::Pid) != Source::New {
        // Without cgroups nothing else holds its processes together.
        return refuse(
            "linux.namespaces",
            "a rootless container needs a PID namespace of its own: it has no cgroup",
        );
    }
    let linux = spec.linux().as_ref();
    if linux.is_some_and(|linux| linux.cgroups_path().is_some()) {
        return refuse("linux.cgroupsPath", "a rootless container has no cgroup");
    }
    if linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
        return refuse("linux.intelRdt", "is root's to give");
    }
    let devices = linux.and_then(|linux| linux.net_devices().as_ref());
    if devices.is_some_and(|devices| !devices.is_empty()) {
        return refuse(
            "linux.netDevices",
            "network devices are not supported for rootless containers",
        );
    }
    let mounts = spec.mounts().iter().flatten().enumerate();
    for (index, mount) in mounts {
        let own = [mount.uid_mappings(), mount.gid_mappings()];
        let words = mount.options().iter().flatten();
        let mapped = own.iter().any(|list| list.is_some())
            || words
                .into_iter()
                .any(|word| word == "idmap" || word == "ridmap");
        if mapped {
            return refuse(
                &format!("mounts[{index}]"),
                "id-mapped mounts are not supported for rootless containers",
            );
        }
    }
    Ok(())
}

/// Device rules are no limits: what is not his to use he cannot use anyway.
pub(super) fn check_limits(limits: &Limits) -> Result<()> {
    match *limits == Limits::default() {
        true => Ok(()),
        false => Err(Error::spec(
            "linux.resources",
            "cannot set limits: a rootless container has no cgroup",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn checked(changes: Value) -> Result<()> {
        let mut linux = json!({"namespaces": [{"type": "user"}, {"type": "pid"}]});
        let mut document = json!({"ociVersion": "1.1.0"});
        for (key, value) in changes.as_object().unwrap() {
            match key.as_str() {
                "mounts" => document["mounts"] = value.clone(),
                _ => linux[key] = value.clone(),
            }
        }
        document["linux"] = linux;
        let spec: Spec = serde_json::from_value(document).unwrap();
        check(&spec, &Namespaces::from_spec(&spec).unwrap())
    }

    #[test]
    fn what_only_root_can_do_is_refused_by_name() {
        checked(json!({})).unwrap();
        checked(json!({"mounts": [{"destination": "/x", "options": ["bind"]}]})).unwrap();
        for (changes, part) in [
            (
                json!({"namespaces": [{"type": "pid"}]}),
                "requires user namespaces",
            ),
            (
                json!({"namespaces": [{"type": "user"}]}),
                "needs a PID namespace",
            ),
            (json!({"cgroupsPath": "/x"}), "linux.cgroupsPath"),
            (json!({"intelRdt": {}}), "linux.intelRdt"),
            (json!({"netDevices": {"eth0": {}}}), "linux.netDevices"),
            (
                json!({"mounts": [{"destination": "/x", "options": ["bind", "idmap"]}]}),
                "mounts[0]: id-mapped",
            ),
        ] {
            let text = checked(changes).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
        check_limits(&Limits::default()).unwrap();
    }
}
