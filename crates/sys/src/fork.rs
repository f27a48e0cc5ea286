// SPDX-License-Identifier: Apache-2.0
//! A second process with a copy of our memory, without executing anything.
//!
//! Only a process that is single-threaded can have one safely: no lock is held by a thread that
//! the copy lacks. The kernel is asked first.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::{Error, Result};
use crate::spawn::{Child, CloneArgs};

/// Which of the two processes one is after [`sibling`].
#[derive(Debug)]
pub enum Side {
    /// The one that called; the other one is this.
    Original(Child),
    /// The new one.
    Copy,
}

/// Makes a copy of this process as another child of its parent (`CLONE_PARENT`), born into new
/// namespaces of the given kinds (`CLONE_NEW*`). It has our cgroup, our descriptors, our signal
/// mask and our exit signal.
///
/// # Errors
/// `EINVAL` if this process has several threads; `clone3(2)`.
pub fn sibling(namespaces: u64) -> Result<Side> {
    fork(namespaces | libc::CLONE_PARENT as u64)
}

fn fork(flags: u64) -> Result<Side> {
    // SAFETY: nothing is unshared: CLONE_THREAD alone only asks whether this process has one
    // thread.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } != 0 {
        return Err(Error::new("unshare", "CLONE_THREAD", last_errno()));
    }
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and with no stack given this is fork(2): the child goes on here
    // with a copy of everything. This process has one thread, so no lock is held by another and
    // the child may do whatever we may.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if ret < 0 {
        return Err(Error::new(
            "clone3",
            format!("flags={flags:#x}"),
            last_errno(),
        ));
    }
    let Some(pid) = Pid::from_raw(ret as i32) else {
        return Ok(Side::Copy);
    };
    // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD); nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Side::Original(Child { pid, pidfd }))
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_refused() {
        // The harness runs a test in a thread of its own.
        let error = sibling(0).unwrap_err();
        assert_eq!((error.call(), error.errno()), ("unshare", Errno::INVAL));
    }
}
