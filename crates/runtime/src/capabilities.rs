// SPDX-License-Identifier: Apache-2.0
//! Capabilities: names to bits, and the order in which a process gives them up.

use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use sys::Call;

/// In the order of their numbers, `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Whether `name` ("CAP_CHOWN") is a capability that we know.
pub(crate) fn is_known(name: &str) -> bool {
    name.strip_prefix("CAP_")
        .is_some_and(|short| NAMES.contains(&short))
}

/// The five sets of a process, as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the process and its children can ever have.
    pub bounding: u64,
    /// What it has now.
    pub effective: u64,
    /// What it may take.
    pub permitted: u64,
    /// What survives an execve through file capabilities. Never filled by us (CVE-2022-29162).
    pub inheritable: u64,
    /// What survives an execve of an ordinary program.
    pub ambient: u64,
}

impl From<&LinuxCapabilities> for Plan {
    fn from(spec: &LinuxCapabilities) -> Self {
        Self {
            bounding: bits(spec.bounding()),
            effective: bits(spec.effective()),
            permitted: bits(spec.permitted()),
            inheritable: bits(spec.inheritable()),
            ambient: bits(spec.ambient()),
        }
    }
}

fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter().flatten().fold(0, |bits, capability| {
        let name = capability.to_string();
        let number = NAMES.iter().position(|known| *known == name);
        bits | number.map_or(0, |n| 1 << n)
    })
}

impl Plan {
    /// Removes from the bounding set what the plan does not hold; needs `CAP_SETPCAP`, so it goes
    /// before everything else.
    ///
    /// # Errors
    /// `prctl(PR_CAPBSET_DROP)`.
    pub fn drop_bounding(&self) -> sys::Result<()> {
        for number in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding & (1 << number) != 0 {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // The kernel's last capability is behind us.
                Err(rustix::io::Errno::INVAL) => break,
                other => other.call("prctl", || format!("PR_CAPBSET_DROP, {number}"))?,
            }
        }
        Ok(())
    }

    /// Sets effective, permitted, inheritable and ambient; the last step with privileges.
    ///
    /// # Errors
    /// `capset(2)`. An ambient capability that cannot be raised (it is not both permitted and
    /// inheritable) is only logged, as runc does.
    pub fn apply(&self) -> sys::Result<()> {
        let set = |bits| CapabilitySet::from_bits_retain(bits & kernel_mask());
        rustix::thread::set_capabilities(
            None,
            CapabilitySets {
                effective: set(self.effective),
                permitted: set(self.permitted),
                inheritable: set(self.inheritable),
            },
        )
        .call("capset", || format!("{self:x?}"))?;
        rustix::thread::clear_ambient_capability_set()
            .call("prctl", || "PR_CAP_AMBIENT_CLEAR_ALL")?;
        for (number, name) in NAMES.iter().enumerate() {
            if self.ambient & (1 << number) == 0 {
                continue;
            }
            let one = CapabilitySet::from_bits_retain(1 << number);
            if let Err(errno) = rustix::thread::configure_capability_in_ambient_set(one, true) {
                log::warn!("can't raise ambient capability CAP_{name}: {errno}");
            }
        }
        Ok(())
    }
}

/// Bits that this kernel knows: `capset` refuses none, but drops the rest silently; keep it so.
fn kernel_mask() -> u64 {
    (1 << NAMES.len()) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_the_kernels_numbers() {
        let spec: LinuxCapabilities = serde_json::from_str(
            r#"{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN","CAP_CHECKPOINT_RESTORE"]}"#,
        )
        .unwrap();
        assert_eq!(Plan::from(&spec).bounding, 1 | 1 << 21 | 1 << 40);
        assert_eq!(Plan::from(&spec).inheritable, 0);
    }

    #[test]
    fn every_capability_of_the_specification_crate_has_a_number() {
        for name in NAMES.map(|name| format!("CAP_{name}")) {
            let json = format!(r#"{{"effective":["{name}"]}}"#);
            let spec: LinuxCapabilities = serde_json::from_str(&json).unwrap();
            assert_eq!(Plan::from(&spec).effective.count_ones(), 1, "{name}");
        }
        assert!(is_known("CAP_BPF") && !is_known("CAP_FOO") && !is_known("BPF"));
    }
}
