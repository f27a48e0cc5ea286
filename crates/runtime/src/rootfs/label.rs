// SPDX-License-Identifier: Apache-2.0
//! The SELinux label of the container's files (`linux.mountLabel`), for file systems that have
//! none of their own.

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, XattrFlags};
use sys::Call;

use super::error::Cause;
use super::plan::Filesystem;
use crate::procfs::Procfs;

/// The parameter by which a file system is told one label for all of its files.
pub(super) const CONTEXT: &str = "context";

/// A file system as it is to be mounted. What shows the kernel keeps the kernel's labels.
pub(super) fn labelled<'a>(filesystem: &'a Filesystem, label: Option<&str>) -> Cow<'a, Filesystem> {
    let kernels = ["proc", "sysfs", "cgroup", "cgroup2", "mqueue"];
    let has_one = filesystem.params.iter().any(|(key, _)| key == CONTEXT);
    match label {
        Some(label) if !has_one && !kernels.contains(&filesystem.fstype.as_str()) => {
            let mut filesystem = filesystem.clone();
            let param = (CONTEXT.to_owned(), Some(label.to_owned()));
            filesystem.params.push(param);
            Cow::Owned(filesystem)
        }
        _ => Cow::Borrowed(filesystem),
    }
}

/// An mqueue takes no parameter: its root is labelled.
pub(super) fn label_mqueue(procfs: &Procfs, mount: &OwnedFd, label: &str) -> Result<(), Cause> {
    let root = procfs.reopen(mount, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let name = "security.selinux";
    rustix::fs::fsetxattr(&root, name, label.as_bytes(), XattrFlags::empty())
        .call("fsetxattr", || format!("{name}, {label:?}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::attach::data;

    fn filesystem(fstype: &str, params: &[(&str, &str)]) -> Filesystem {
        let params = params.iter();
        Filesystem {
            fstype: fstype.into(),
            source: "x".into(),
            params: params
                .map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())))
                .collect(),
            copy_up: false,
        }
    }

    #[test]
    fn only_what_has_no_labels_of_its_own_gets_one() {
        let label = Some("a:b:c:s0:c1,c2");
        let tmpfs = filesystem("tmpfs", &[("size", "1")]);
        // With quotation marks: mount(2) would take the comma for the end.
        let text = data(&labelled(&tmpfs, label));
        assert_eq!(text, "size=1,context=\"a:b:c:s0:c1,c2\"");
        assert_eq!(*labelled(&tmpfs, None), tmpfs);
        for kind in ["proc", "sysfs", "mqueue", "cgroup2"] {
            let kernels = filesystem(kind, &[]);
            assert_eq!(*labelled(&kernels, label), kernels);
        }
        let own = filesystem("devpts", &[("context", "x")]);
        assert_eq!(*labelled(&own, label), own);
    }
}
