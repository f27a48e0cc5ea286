// SPDX-License-Identifier: Apache-2.0
//! `config.json`: parsed once into typed values, checked once.
//!
//! Unknown fields are ignored, as the specification demands. A value that is impossible, or that we
//! cannot honour yet, is refused with its JSON path: nothing that was asked for is silently left out.

use std::path::Path;

use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::error::{Error, Result};
use crate::leniency;
use crate::namespaces::{Kind, Namespaces};
use crate::own_namespaces;

/// Reads `config.json` of a bundle.
///
/// # Errors
/// The file cannot be read.
pub fn read(bundle: &Path) -> Result<Vec<u8>> {
    let path = bundle.join("config.json");
    std::fs::read(&path).map_err(|source| Error::ReadSpec { path, source })
}

/// Parses `config.json` of a bundle.
///
/// # Errors
/// A value has the wrong type; the error names the JSON path.
pub fn parse_config(bundle: &Path, json: &[u8]) -> Result<Spec> {
    parse(json).map_err(|(field, reason)| Error::ParseSpec {
        path: bundle.join("config.json"),
        field,
        reason,
    })
}

/// Parses the process of an exec request.
///
/// # Errors
/// A value has the wrong type; the error names the JSON path.
pub fn parse_process(json: &[u8]) -> Result<Process> {
    parse(json).map_err(|(field, reason)| Error::spec(format!("process.{field}"), reason))
}

/// Parses the resources of an update request.
///
/// # Errors
/// A value has the wrong type; the error names the JSON path.
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources> {
    parse(json).map_err(|(field, reason)| Error::spec(format!("resources.{field}"), reason))
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> std::result::Result<T, (String, String)> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let first = match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => return Ok(value),
        Err(e) => e,
    };
    // The parser is stricter than runc's.
    if let Ok(mut value) = serde_json::from_slice(json) {
        if leniency::repair(&mut value) {
            let again = serde_path_to_error::deserialize(value);
            return again.map_err(|e: serde_path_to_error::Error<serde_json::Error>| {
                (e.path().to_string(), e.into_inner().to_string())
            });
        }
    }
    Err((first.path().to_string(), first.into_inner().to_string()))
}

/// Checks what can be checked without looking at the system.
///
/// # Errors
/// The first value that is impossible or that we cannot honour yet.
pub fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    check_version(spec.version())?;
    let Some(process) = spec.process() else {
        return Err(Error::spec("process", "property must not be empty"));
    };
    check_process("process", process)?;
    if !namespaces.is_private(Kind::Mount) {
        check_without_mount_namespace(spec, namespaces)?;
    }
    for (field, value) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        let set = value.as_ref().is_some_and(|name| !name.is_empty());
        if set && !namespaces.is_private(Kind::Uts) {
            let reason = format!("unable to set {field} without a private UTS namespace");
            return Err(Error::spec(field, reason));
        }
    }
    own_namespaces::check(spec, namespaces)?;
    check_sysctls(spec, namespaces)
}

/// What the host's mount namespace has no place for; runc's rule for paths.
fn check_without_mount_namespace(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let linux = spec.linux().as_ref();
    for (field, paths) in [
        ("maskedPaths", linux.and_then(|l| l.masked_paths().as_ref())),
        (
            "readonlyPaths",
            linux.and_then(|l| l.readonly_paths().as_ref()),
        ),
    ] {
        if paths.is_some_and(|paths| !paths.is_empty()) {
            let reason = "unable to restrict sys entries without a private MNT namespace";
            return Err(Error::spec(format!("linux.{field}"), reason));
        }
    }
    if namespaces.is_private(Kind::User) {
        let reason = "a user namespace needs a mount namespace of its own to mount anything in";
        return Err(Error::spec("linux.namespaces", reason));
    }
    Ok(())
}

/// `ociVersion` must be a version of the 1.x specification; runtime-tools tests this, runc does not.
fn check_version(version: &str) -> Result<()> {
    let number = version.split(['-', '+']).next().unwrap_or("");
    let mut parts = number.split('.');
    let numeric = number
        .split('.')
        .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if numeric && parts.next() == Some("1") && number.split('.').count() == 3 {
        return Ok(());
    }
    Err(Error::spec(
        "ociVersion",
        format!("{version:?} is not a version 1.x.y"),
    ))
}

/// Checks one process; `field` is its place in the document.
///
/// # Errors
/// As [`check`].
pub fn check_process(field: &str, process: &Process) -> Result<()> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(Error::spec(format!("{field}.args"), "must not be empty"));
    }
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(Error::spec(
            format!("{field}.cwd"),
            "Cwd must be an absolute path",
        ));
    }
    for (name, list) in [("args", Some(args)), ("env", process.env().as_deref())] {
        for (index, value) in list.into_iter().flatten().enumerate() {
            if value.contains('\0') {
                let reason = "contains a NUL byte";
                return Err(Error::spec(format!("{field}.{name}[{index}]"), reason));
            }
        }
    }
    for (index, variable) in process.env().iter().flatten().enumerate() {
        let reason = match variable.find('=') {
            None => "invalid environment variable: missing '='",
            Some(0) => "invalid environment variable: name cannot be empty",
            Some(_) => continue,
        };
        return Err(Error::spec(format!("{field}.env[{index}]"), reason));
    }
    for (name, id) in [("uid", process.user().uid()), ("gid", process.user().gid())] {
        if id == u32::MAX {
            return Err(Error::spec(
                format!("{field}.user.{name}"),
                "4294967295 is no valid id",
            ));
        }
    }
    Ok(())
}

/// Only sysctls that a namespace of the container keeps to itself; runc's list.
fn check_sysctls(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let list = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref());
    for name in list.into_iter().flatten().map(|(name, _)| name) {
        let dotted = crate::procfs::sysctl_with_dots(name);
        let needs = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            Some(Kind::Ipc)
        } else if dotted.starts_with("net.") {
            Some(Kind::Network)
        } else if dotted == "kernel.domainname" {
            Some(Kind::Uts)
        } else {
            None
        };
        let field = format!("linux.sysctl[{name:?}]");
        match needs {
            Some(kind) if namespaces.is_private(kind) => {}
            Some(kind) => {
                let reason = format!("not allowed without a {} namespace", kind.proc_name());
                return Err(Error::spec(field, reason));
            }
            None => return Err(Error::spec(field, "is not in a separate kernel namespace")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(changes: serde_json::Value) -> Result<()> {
        let mut document = serde_json::json!({
            "ociVersion": "1.1.0", "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "network"}]},
        });
        merge(&mut document, changes);
        let spec = parse::<Spec>(document.to_string().as_bytes())
            .map_err(|(field, reason)| Error::spec(field, reason))?;
        check(&spec, &Namespaces::from_spec(&spec)?)
    }

    fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
        match from {
            serde_json::Value::Object(map) if into.is_object() => {
                for (key, value) in map {
                    merge(
                        into.as_object_mut()
                            .unwrap()
                            .entry(key)
                            .or_insert_with(|| serde_json::json!({})),
                        value,
                    );
                }
            }
            other => *into = other,
        }
    }

    #[test]
    fn a_plain_specification_passes() {
        checked(serde_json::json!({})).unwrap();
        checked(serde_json::json!({"linux": {"resources": {"memory": {}, "cpu": {}, "pids": {"limit": 0}}}})).unwrap();
        checked(serde_json::json!({"linux": {"sysctl": {"net.ipv4.ip_forward": "1"}}})).unwrap();
        checked(serde_json::json!({"annotations": {"a": "b"}, "whatever": {"x": 1}})).unwrap();
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_its_json_path() {
        for (change, part) in [
            (
                serde_json::json!({"hostname": "x"}),
                "hostname: unable to set hostname",
            ),
            (serde_json::json!({"ociVersion": "2.0.0"}), "ociVersion"),
            (serde_json::json!({"ociVersion": "invalid"}), "ociVersion"),
            (
                serde_json::json!({"process": {"args": []}}),
                "process.args: must not be empty",
            ),
            (
                serde_json::json!({"process": {"cwd": "x"}}),
                "process.cwd: Cwd must be an absolute path",
            ),
            (
                serde_json::json!({"process": {"env": ["A=\u{0}"]}}),
                "process.env[0]: contains a NUL",
            ),
            (
                serde_json::json!({"process": {"env": ["A=", "B"]}}),
                "process.env[1]: invalid environment variable: missing '='",
            ),
            (
                serde_json::json!({"process": {"env": ["=x"]}}),
                "process.env[0]: invalid environment variable: name cannot be empty",
            ),
            (
                serde_json::json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                    "flags": ["SECCOMP_FILTER_FLAG_X"]}}}),
                "unknown variant `SECCOMP_FILTER_FLAG_X`",
            ),
            (
                serde_json::json!({"linux": {"namespaces": [], "maskedPaths": ["/proc/kcore"]}}),
                "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace",
            ),
            (
                serde_json::json!({"linux": {"namespaces": [], "readonlyPaths": ["/proc/sys"]}}),
                "linux.readonlyPaths: unable to restrict sys entries without a private MNT",
            ),
            (
                serde_json::json!({"linux": {"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}]}}),
                "linux.namespaces: a user namespace needs a mount namespace",
            ),
            (
                serde_json::json!({"linux": {"sysctl": {"kernel.msgmax": "1"}}}),
                "not allowed without a ipc namespace",
            ),
            (
                serde_json::json!({"linux": {"sysctl": {"kernel.hostname": "1"}}}),
                "is not in a separate kernel namespace",
            ),
            (
                serde_json::json!({"process": {"user": {"uid": -1}}}),
                "process.user.uid",
            ),
        ] {
            let text = checked(change).unwrap_err().to_string();
            assert!(text.contains(part), "{text} should contain {part}");
        }
    }

    #[test]
    fn an_unknown_capability_is_ignored_and_the_known_ones_are_kept() {
        let json = br#"{"user":{"uid":0,"gid":0},"cwd":"/","capabilities":{"bounding":["CAP_FOO","CAP_KILL"]}}"#;
        let process = parse_process(json).unwrap();
        assert_eq!(
            process
                .capabilities()
                .as_ref()
                .unwrap()
                .bounding()
                .as_ref()
                .unwrap()
                .len(),
            1
        );
    }
}
