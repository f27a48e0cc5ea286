// SPDX-License-Identifier: Apache-2.0
//! What a specification says of user and time namespaces: mappings of ids, offsets of clocks.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{Linux, Spec};

use crate::error::{Error, Result};
use crate::idmap::Mappings;
use crate::namespaces::{Kind, Namespaces, Source};

/// The clocks that a time namespace can set off, as `/proc/<pid>/timens_offsets` names them.
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// Checks what can be checked without looking at the system; runc's rules.
///
/// # Errors
/// Mappings without a user namespace or the other way round, offsets without a time namespace or
/// for one that exists already, an unknown clock.
pub fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let given = from_spec(spec)?;
    match namespaces.get(Kind::User) {
        Source::Host if !given.is_empty() => {
            return Err(Error::spec(
                "linux.uidMappings",
                "user namespace mappings specified, but user namespace isn't enabled in the config",
            ));
        }
        Source::New => {
            for (field, ranges) in [("uidMappings", &given.uids), ("gidMappings", &given.gids)] {
                if ranges.is_empty() {
                    return Err(Error::spec(
                        format!("linux.{field}"),
                        "user namespaces enabled, but no namespace path to join nor mappings to \
                         apply specified",
                    ));
                }
            }
            check_root(&given)?;
        }
        _ => {}
    }
    time_offsets(spec, namespaces).map(drop)
}

/// The mappings of the container's user namespace, if it has one. Those of a namespace that is
/// joined are read from it; if the specification has some as well they must be the same, as
/// containerd and CRI-O give both.
///
/// # Errors
/// As said; or the namespace does not tell its mappings.
pub fn mappings(
    spec: &Spec,
    namespaces: &Namespaces,
    joined: &[(Kind, OwnedFd)],
) -> Result<Option<Mappings>> {
    let given = from_spec(spec)?;
    let Some((_, namespace)) = joined.iter().find(|(kind, _)| *kind == Kind::User) else {
        return Ok(namespaces.is_private(Kind::User).then_some(given));
    };
    let actual = Mappings::of(namespace.as_fd())?;
    if !given.is_empty() && !given.same(&actual) {
        return Err(Error::spec(
            "linux.uidMappings",
            "user namespaces enabled, but both namespace path and non-matching mapping specified \
             -- you may only provide one",
        ));
    }
    check_root(&actual)?;
    Ok(Some(actual))
}

/// Whether the process's ids exist in the container.
///
/// # Errors
/// They do not.
pub fn check_user(mappings: Option<&Mappings>, uid: u32, gid: u32) -> Result<()> {
    let Some(mappings) = mappings else {
        return Ok(());
    };
    if mappings.host_uid(uid).is_none() {
        let reason = format!("cannot setuid to unmapped uid {uid} in user namespace");
        return Err(Error::spec("process.user.uid", reason));
    }
    if mappings.host_gid(gid).is_none() {
        let reason = format!("cannot setgid to unmapped gid {gid} in user namespace");
        return Err(Error::spec("process.user.gid", reason));
    }
    Ok(())
}

/// The offsets of the container's time namespace, as `/proc/<pid>/timens_offsets` takes them.
///
/// # Errors
/// An unknown clock; offsets without a new time namespace.
pub fn time_offsets(spec: &Spec, namespaces: &Namespaces) -> Result<String> {
    let Some(offsets) = linux(spec)
        .and_then(|linux| linux.time_offsets().as_ref())
        .filter(|offsets| !offsets.is_empty())
    else {
        return Ok(String::new());
    };
    let refuse = |reason: &str| Err(Error::spec("linux.timeOffsets", reason));
    match namespaces.get(Kind::Time) {
        Source::New => {}
        Source::Host => {
            return refuse("time namespace offsets specified, but time namespace isn't enabled");
        }
        Source::Joined(_) => {
            return refuse("both a path of a time namespace and offsets are specified");
        }
    }
    let mut lines: Vec<String> = Vec::with_capacity(offsets.len());
    for (clock, offset) in offsets {
        if !CLOCKS.contains(&clock.as_str()) {
            return refuse(&format!("unknown clock {clock:?}"));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            return refuse(&format!("{clock}: {nanoseconds} ns are more than a second"));
        }
        let seconds = offset.secs().unwrap_or(0);
        lines.push(format!("{clock} {seconds} {nanoseconds}\n"));
    }
    lines.sort_unstable();
    Ok(lines.concat())
}

fn linux(spec: &Spec) -> Option<&Linux> {
    spec.linux().as_ref()
}

fn from_spec(spec: &Spec) -> Result<Mappings> {
    let lists = linux(spec).map(|linux| (linux.uid_mappings(), linux.gid_mappings()));
    let (uids, gids) = lists.map_or((None, None), |(u, g)| (u.as_ref(), g.as_ref()));
    Mappings::from_spec(uids, gids)
        .map_err(|(field, reason)| Error::spec(format!("linux.{field}"), reason))
}

/// Init becomes root of the container to set it up.
fn check_root(mappings: &Mappings) -> Result<()> {
    if mappings.host_uid(0).is_some() && mappings.host_gid(0).is_some() {
        return Ok(());
    }
    Err(Error::spec(
        "linux.uidMappings",
        "user namespaces enabled, but no user mapping found for root",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(linux: Value) -> (Spec, Namespaces) {
        let document = json!({"ociVersion": "1.1.0", "linux": linux});
        let spec: Spec = serde_json::from_value(document).unwrap();
        let namespaces = Namespaces::from_spec(&spec).unwrap();
        (spec, namespaces)
    }

    fn checked(linux: Value) -> Result<()> {
        let (spec, namespaces) = spec(linux);
        check(&spec, &namespaces)
    }

    fn map(container: u32) -> Value {
        json!([{"containerID": container, "hostID": 100_000, "size": 10}])
    }

    #[test]
    fn mappings_and_user_namespaces_go_together() {
        checked(
            json!({"namespaces": [{"type": "user"}], "uidMappings": map(0),
                       "gidMappings": map(0)}),
        )
        .unwrap();
        checked(json!({"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}]})).unwrap();
        for (linux, part) in [
            (json!({"uidMappings": map(0)}), "isn't enabled"),
            (
                json!({"namespaces": [{"type": "user"}]}),
                "linux.uidMappings",
            ),
            (
                json!({"namespaces": [{"type": "user"}], "uidMappings": map(0)}),
                "linux.gidMappings: user namespaces enabled, but no",
            ),
            (
                json!({"namespaces": [{"type": "user"}], "uidMappings": map(1),
                       "gidMappings": map(0)}),
                "no user mapping found for root",
            ),
        ] {
            let text = checked(linux).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn ids_of_the_process_must_be_mapped() {
        let (spec, namespaces) = spec(json!({"namespaces": [{"type": "user"}],
            "uidMappings": map(0), "gidMappings": map(0)}));
        let mappings = mappings(&spec, &namespaces, &[]).unwrap().unwrap();
        check_user(Some(&mappings), 9, 9).unwrap();
        check_user(None, 9999, 9999).unwrap();
        for (uid, gid, part) in [(10, 0, "unmapped uid 10"), (0, 10, "unmapped gid 10")] {
            let text = check_user(Some(&mappings), uid, gid)
                .unwrap_err()
                .to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_joined_namespace_must_have_the_mappings_that_are_given() {
        let uids: Vec<_> = serde_json::from_value(map(0)).unwrap();
        let namespace = Mappings::from_spec(Some(&uids), Some(&uids))
            .unwrap()
            .namespace()
            .unwrap();
        let joined = [(Kind::User, namespace)];
        let path = json!([{"type": "user", "path": "/proc/1/ns/user"}]);
        for (linux, fits) in [
            (json!({"namespaces": path}), true),
            (
                json!({"namespaces": path, "uidMappings": map(0), "gidMappings": map(0)}),
                true,
            ),
            (json!({"namespaces": path, "uidMappings": map(0)}), false),
            (
                json!({"namespaces": path, "uidMappings": map(1), "gidMappings": map(0)}),
                false,
            ),
        ] {
            let (spec, namespaces) = spec(linux.clone());
            let read = mappings(&spec, &namespaces, &joined);
            assert_eq!(read.is_ok(), fits, "{linux} {read:?}");
            if let Ok(read) = read {
                assert_eq!(read.unwrap().host_uid(3), Some(100_003));
            }
        }
    }

    #[test]
    fn offsets_need_a_new_time_namespace_and_a_known_clock() {
        let offsets =
            json!({"monotonic": {"secs": -5, "nanosecs": 7}, "boottime": {"secs": 86_400}});
        let (spec_, namespaces) =
            spec(json!({"namespaces": [{"type": "time"}], "timeOffsets": offsets}));
        assert_eq!(
            time_offsets(&spec_, &namespaces).unwrap(),
            "boottime 86400 0\nmonotonic -5 7\n"
        );
        for (linux, part) in [
            (json!({"timeOffsets": offsets}), "isn't enabled"),
            (
                json!({"namespaces": [{"type": "time", "path": "/proc/1/ns/time"}],
                       "timeOffsets": offsets}),
                "both a path",
            ),
            (
                json!({"namespaces": [{"type": "time"}], "timeOffsets": {"realtime": {"secs": 1}}}),
                "unknown clock \"realtime\"",
            ),
            (
                json!({"namespaces": [{"type": "time"}],
                       "timeOffsets": {"monotonic": {"nanosecs": 1_000_000_000}}}),
                "more than a second",
            ),
        ] {
            let text = checked(linux).unwrap_err().to_string();
            assert!(
                text.contains(part) && text.contains("linux.timeOffsets"),
                "{text}"
            );
        }
    }
}
