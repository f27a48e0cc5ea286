// SPDX-License-Identifier: Apache-2.0
//! `execve(2)` and the end of a process that failed to get there.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use crate::error::{Call, Error, Result};

/// Replaces this process by the program at `path`; returns only with the error.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: null-terminated arrays of pointers to strings that live to the end of the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let errno = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    Error::new(
        "execve",
        format!("{path:?}"),
        Errno::from_raw_os_error(errno),
    )
}

/// Ends this process at once: no destructor, no exit handler.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// `close_range(2)` (Linux 5.9), where closing one by one fails too: a seccomp filter may know
/// nothing of that call yet.
pub fn close_from(first: RawFd) -> Result<()> {
    close_between(first, libc::c_int::MAX)
}

/// Closes every descriptor from `first` to `last`; there may be none.
fn close_between(first: RawFd, last: RawFd) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: for a process about to execute: the caller owns the process, and whoever still holds
    // an `OwnedFd` of a closed number must not drop it. Only code that ends in execve or _exit
    // calls this.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if ret < 0 {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        if close_each(first, last) {
            return Ok(());
        }
        return Err(Error::new(
            "close_range",
            first.to_string(),
            Errno::from_raw_os_error(errno),
        ));
    }
    Ok(())
}

/// Closes descriptors one by one; says whether that worked. All that a plan can bring are below the
/// limit.
fn close_each(first: RawFd, last: RawFd) -> bool {
    const LIMIT: RawFd = 4096;
    (first..=last.min(LIMIT)).all(|fd| {
        // SAFETY: as in `close_from`, whose callers' obligation it is.
        let ret = unsafe { libc::close(fd) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        ret == 0 || matches!(errno, Some(libc::EBADF | libc::EINTR))
    })
}

/// Leaves nothing open but 0 to 2, `inherited` from 3 on in their order, and `last`, which alone is
/// close-on-exec and is returned. Without `inherited` it takes `close_range(2)` or `close(2)` only:
/// an old seccomp filter may know nothing of `dup3(2)`.
///
/// # Errors
/// `fcntl(2)`, `dup3(2)`, `close_range(2)`. Numbers may have changed hands by then: the caller can
/// only end.
pub fn keep_only(inherited: Vec<OwnedFd>, last: OwnedFd) -> Result<OwnedFd> {
    const FIRST: RawFd = 3;
    let place = FIRST + inherited.len() as RawFd;
    if inherited.is_empty() {
        close_between(FIRST, last.as_raw_fd() - 1)?;
        close_from(last.as_raw_fd() + 1)?;
        return Ok(last);
    }
    // Copies above all places first: placing one cannot close another.
    let above = |fd: OwnedFd| {
        rustix::io::fcntl_dupfd_cloexec(&fd, place + 1).call("fcntl", || "F_DUPFD_CLOEXEC")
    };
    let copies: Vec<OwnedFd> = inherited.into_iter().map(above).collect::<Result<_>>()?;
    let last = above(last)?;
    let put = |fd: &OwnedFd, number: RawFd, flags: i32| {
        // SAFETY: plain numbers. What was open as `number` is closed by it: as in `close_from`,
        // the process is about to execute or end, and drops no other owner of a descriptor.
        let ret = unsafe { libc::dup3(fd.as_raw_fd(), number, flags) };
        let errno = || std::io::Error::last_os_error().raw_os_error();
        if ret < 0 {
            let errno = Errno::from_raw_os_error(errno().unwrap_or(libc::EIO));
            return Err(Error::new("dup3", format!("{number}"), errno));
        }
        Ok(())
    };
    for (copy, number) in copies.iter().zip(FIRST..) {
        put(copy, number, 0)?;
    }
    put(&last, place, libc::O_CLOEXEC)?;
    for copy in copies.into_iter().chain([last]) {
        // Closed by number, with all the rest.
        let _ = copy.into_raw_fd();
    }
    close_from(place + 1)?;
    // SAFETY: opened just above by dup3, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(place) })
}
