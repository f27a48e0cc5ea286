// SPDX-License-Identifier: Apache-2.0
//! The features document of the OCI runtime specification, true to what the runtime does today.
//!
//! containerd decides by it what it may ask for: recursively read-only mounts need `rro` among
//! the mount options; user namespaces need `user` and id-mapped mounts. So nothing is listed
//! before it is implemented. An absent field means "unknown" to readers, so what is missing is
//! said with an empty list or `false`.

use serde_json::{Value, json};

/// The document.
pub fn document() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": crate::hooks::Kind::ALL.map(crate::hooks::Kind::name),
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": CAPABILITIES,
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true,
            },
            "seccomp": seccomp(),
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": MEMORY_POLICY_MODES, "flags": MEMORY_POLICY_FLAGS },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "potentiallyUnsafeConfigAnnotations": ANNOTATIONS,
    })
}

/// Only a kernel that is too old lacks a flag.
fn seccomp() -> Value {
    use ::seccomp::{ACTIONS, FLAGS, OPERATORS, arch, program};
    let enabled = ::seccomp::Machine::native().is_some() && sys::seccomp::knows_flags(0);
    if !enabled {
        return json!({ "enabled": false });
    }
    let killable = program::WAIT_KILLABLE_RECV | program::NEW_LISTENER;
    let knows_killable = sys::seccomp::knows_flags(killable);
    let supported: Vec<_> = FLAGS
        .iter()
        .filter(|flag| knows_killable || !flag.ends_with("WAIT_KILLABLE_RECV"))
        .collect();
    json!({
        "enabled": true,
        "actions": ACTIONS,
        "operators": OPERATORS,
        "archs": arch::NAMES,
        "knownFlags": FLAGS,
        "supportedFlags": supported,
    })
}

/// The options of mounts that the runtime understands itself; others go to the file system.
#[rustfmt::skip]
const MOUNT_OPTIONS: &[&str] = &[
    "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap",
    "iversion", "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion",
    "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private",
    "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev",
    "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro",
    "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid",
    "rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid",
    "symfollow", "sync", "tmpcopyup", "unbindable",
];

/// Annotations of a container that change what is done: those of the shim itself, and those that become
/// properties of the container's scope. A dot at the end stands for all that begin so.
const ANNOTATIONS: &[&str] = &["io.containerd.rust.", "org.systemd.property."];

const MEMORY_POLICY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const MEMORY_POLICY_FLAGS: &[&str] = &[
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
];

/// Every capability that Linux has.
#[rustfmt::skip]
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
    "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
    "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_what_the_specification_describes() {
        let text = document().to_string();
        let typed: oci_spec::runtime::Features = serde_json::from_str(&text).unwrap();
        let unsafe_annotations = typed.potentially_unsafe_config_annotations();
        assert_eq!(unsafe_annotations.as_ref().unwrap().len(), 2);
        let linux = typed.linux().as_ref().unwrap();
        assert_eq!(linux.capabilities().as_ref().unwrap().len(), 41);
        // containerd offers user namespaces only with both; a runtime has both or none.
        let namespaces = document()["linux"]["namespaces"].to_string();
        let idmap = document()["linux"]["mountExtensions"]["idmap"]["enabled"] == true;
        assert_eq!(namespaces.contains("\"user\""), idmap);
    }

    #[test]
    fn lists_have_no_entry_twice() {
        for list in [
            MOUNT_OPTIONS,
            CAPABILITIES,
            MEMORY_POLICY_MODES,
            MEMORY_POLICY_FLAGS,
        ] {
            let unique: std::collections::BTreeSet<_> = list.iter().collect();
            assert_eq!(unique.len(), list.len());
        }
    }
}
