// SPDX-License-Identifier: Apache-2.0
//! `-v` and `-info`: what this program is and what its runtime supports.
//!
//! containerd decides by the features what it may ask for: recursively read-only mounts need
//! `rro` among the mount options, user namespaces need `user` and id-mapped mounts. Whatever is
//! listed here is implemented; what is not, is not listed.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use options::Options;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::RUNTIME;
use crate::bootstrap::InputError;
use crate::error::Error;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REVISION: &str = env!("SHIM_REVISION");
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
const INPUT_MAX: u64 = 10 << 20;

/// The text of `-v`.
pub(crate) fn version(program: &OsStr) -> String {
    let name = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    format!(
        "{name}:\n  Version:  {VERSION}\n  Revision: {REVISION}\n  Rust version: {}\n\n",
        env!("SHIM_RUSTC")
    )
}

/// The reply to `-info`; `input` may hold the options of a runtime handler.
pub(crate) fn run(input: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    input
        .take(INPUT_MAX)
        .read_to_end(&mut bytes)
        .map_err(InputError::Read)?;
    let given = Any::parse_from_bytes(&bytes)
        .ok()
        .filter(|any| !any.type_url.is_empty());
    if let Some(any) = given
        .as_ref()
        .filter(|any| Options::is_known_type(&any.type_url))
    {
        Options::from_any(&any.type_url, &any.value)
            .and_then(|options| options.check_binary())
            .map_err(InputError::Options)?;
    }
    let mut version = RuntimeVersion::new();
    version.version = VERSION.to_owned();
    version.revision = REVISION.to_owned();
    let mut info = RuntimeInfo::new();
    info.name = RUNTIME.to_owned();
    info.version = Some(version).into();
    info.options = given.into();
    info.features = Some(Any {
        type_url: FEATURES.to_owned(),
        value: features().to_string().into_bytes(),
        ..Any::default()
    })
    .into();
    // Encoding into memory fails only for a message without a size: none of ours.
    Ok(info.write_to_bytes().unwrap_or_default())
}

/// The features document of the OCI runtime specification.
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop",
        ],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": CAPABILITIES,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE",
                    "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

/// Options of a mount that are not handed to the file system.
const MOUNT_OPTIONS: &[&str] = &[
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "relatime",
    "remount",
    "ridmap",
    "ro",
    "rprivate",
    "rro",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Every capability that Linux has.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn info(input: &[u8]) -> RuntimeInfo {
        RuntimeInfo::parse_from_bytes(&run(input).unwrap()).unwrap()
    }

    #[test]
    fn containerd_finds_what_it_looks_for() {
        let info = info(b"");
        assert_eq!(
            (info.name.as_str(), info.version.version.as_str()),
            (RUNTIME, VERSION)
        );
        assert_eq!(info.features.type_url, FEATURES);
        let features: Value = serde_json::from_slice(&info.features.value).unwrap();
        let has = |list: &Value, item: &str| list.as_array().unwrap().contains(&item.into());
        assert!(has(&features["mountOptions"], "rro"));
        assert!(has(&features["linux"]["namespaces"], "user"));
        assert_eq!(
            features["linux"]["mountExtensions"]["idmap"]["enabled"],
            true
        );
        assert!(info.options.is_none());
    }

    #[test]
    fn options_come_back_and_a_foreign_runtime_is_refused() {
        let any = |type_url: &str, value: &[u8]| {
            let any = Any {
                type_url: type_url.into(),
                value: value.into(),
                ..Any::default()
            };
            any.write_to_bytes().unwrap()
        };
        let known = any("containerd.runc.v1.Options", b"\x32\x04runc");
        assert_eq!(info(&known).options.type_url, "containerd.runc.v1.Options");
        assert_eq!(
            info(&any("other.Options", b"?")).options.type_url,
            "other.Options"
        );
        assert!(run(&any("containerd.runc.v1.Options", b"\x32\x03no-")[..]).is_err());
        assert!(info(b"\xff\xff").options.is_none());
    }

    #[test]
    fn the_version_is_printed_as_containerds_shims_do() {
        let text = version(OsStr::new("/usr/bin/containerd-shim-rust-v2"));
        assert!(text.starts_with(&format!(
            "containerd-shim-rust-v2:\n  Version:  {VERSION}\n"
        )));
        assert!(text.ends_with("\n\n"));
    }
}
