// SPDX-License-Identifier: Apache-2.0
//! Namespaces of the calling thread, and namespace files.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use crate::error::{Call, Error, Result};

/// `NSFS_MAGIC`.
const NSFS: rustix::fs::FsWord = 0x6e73_6673;

/// `NS_GET_NSTYPE`.
const GET_TYPE: libc::Ioctl = 0xb703;

/// The kind of the namespace that a file stands for, as its `CLONE_NEW*` flag.
///
/// # Errors
/// `EINVAL` if it is no namespace file; `fstatfs(2)`, `ioctl(2)`.
pub fn kind_of(fd: impl AsFd) -> Result<u64> {
    let fd = fd.as_fd();
    // No other file is asked: who knows what it does with the request.
    let fs = rustix::fs::fstatfs(fd).call("fstatfs", || "namespace")?;
    if fs.f_type != NSFS {
        return Err(Error::new("fstatfs", "not a namespace", Errno::INVAL));
    }
    // SAFETY: a request without an argument.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), GET_TYPE) };
    if kind < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        let errno = errno.map_or(Errno::IO, Errno::from_raw_os_error);
        return Err(Error::new("ioctl", "NS_GET_NSTYPE", errno));
    }
    Ok(kind as u64)
}

/// Leaves shared parts of the execution context behind.
///
/// # Errors
/// `unshare(2)`.
pub fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: rustix marks it unsafe for UnshareFlags::FILES, under which descriptors of other
    // threads would no longer be this thread's; that flag is taken out.
    unsafe { rustix::thread::unshare_unsafe(flags & !UnshareFlags::FILES) }
        .call("unshare", || format!("{flags:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_file_tells_its_kind_and_no_other_file_is_one() {
        let kind = |path: &str| kind_of(std::fs::File::open(path).unwrap());
        assert_eq!(
            kind("/proc/self/ns/net").unwrap(),
            libc::CLONE_NEWNET as u64
        );
        assert_eq!(
            kind("/proc/self/ns/user").unwrap(),
            libc::CLONE_NEWUSER as u64
        );
        for other in ["/dev/null", "/proc/self/status", "/"] {
            assert_eq!(kind(other).unwrap_err().errno(), Errno::INVAL, "{other}");
        }
    }
}
