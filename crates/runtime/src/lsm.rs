// SPDX-License-Identifier: Apache-2.0
//! Security modules of the kernel: whether they are there, and what a process tells them.
//!
//! A profile or label that cannot be set stops the process: it fails closed. The files are opened
//! through a [`Procfs`] that the container cannot have tampered with (CVE-2019-16884), by the
//! process itself: the kernel takes the label from nobody else.

use rustix::fs::{FsWord, StatVfsMountFlags};
use rustix::io::Errno;

use crate::procfs::{Error, Procfs, Result};

/// Magic number of selinuxfs, `linux/magic.h`.
const SELINUX_MAGIC: FsWord = 0xf97c_ff8c;

/// Whether the kernel confines with AppArmor; looked at as runc does.
///
/// # Errors
/// Why not, as a sentence.
pub fn check_apparmor() -> std::result::Result<(), &'static str> {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    let there = std::fs::metadata("/sys/kernel/security/apparmor").is_ok();
    if there && enabled.is_ok_and(|text| text.first() == Some(&b'Y')) {
        return Ok(());
    }
    Err("config provided but apparmor not supported")
}

/// Whether the kernel confines with SELinux: its file system is mounted, and not read-only, which
/// is how a container's manager says that it is not to be used.
///
/// # Errors
/// Why not, as a sentence.
pub fn check_selinux() -> std::result::Result<(), &'static str> {
    const PATH: &str = "/sys/fs/selinux";
    let is_selinuxfs = rustix::fs::statfs(PATH).is_ok_and(|fs| fs.f_type == SELINUX_MAGIC);
    let writable =
        rustix::fs::statvfs(PATH).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    if is_selinuxfs && writable {
        return Ok(());
    }
    Err("selinux label is specified in config, but selinux is disabled or not supported")
}

/// The program that is executed next runs under this AppArmor profile.
///
/// # Errors
/// The profile is not loaded, or may not be changed to.
pub(crate) fn apparmor_on_exec(procfs: &Procfs, profile: &str) -> Result<()> {
    let text = format!("exec {profile}");
    // The one of AppArmor alone since Linux 5.8; the other belongs to the first module that has it.
    match procfs.write_self("attr/apparmor/exec", text.as_bytes()) {
        Err(Error::File { source, .. })
            if source.call() != "write" && source.errno() == Errno::NOENT =>
        {
            procfs.write_self("attr/exec", text.as_bytes())
        }
        other => other,
    }
}

/// The program that is executed next runs with this SELinux label.
///
/// # Errors
/// The policy does not know the label or does not allow it.
pub(crate) fn selinux_on_exec(procfs: &Procfs, label: &str) -> Result<()> {
    procfs.write_self("attr/exec", label.as_bytes())
}

/// Keys that are made from now on have this SELinux label, or none of their own.
///
/// # Errors
/// As [`selinux_on_exec`].
pub(crate) fn selinux_on_keys(procfs: &Procfs, label: Option<&str>) -> Result<()> {
    match label {
        Some(label) => procfs.write_self("attr/keycreate", label.as_bytes()),
        // An empty write(2) does not reach the module: a NUL byte stands for "none".
        None => procfs.write_self("attr/keycreate", b"\0"),
    }
}
