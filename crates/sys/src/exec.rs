// SPDX-License-Identifier: Apache-2.0
//! `execve(2)` and the end of a process that failed to get there.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::RawFd;
use std::ptr;

use rustix::io::Errno;

use crate::error::{Error, Result};

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
/// `close_range(2)` (Linux 5.9).
pub fn close_from(first: RawFd) -> Result<()> {
    // SAFETY: for a process about to execute: the caller owns the process, and whoever still holds
    // an `OwnedFd` of a closed number must not drop it. Only code that ends in execve or _exit
    // calls this.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_int::MAX, 0) };
    if ret < 0 {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        return Err(Error::new(
            "close_range",
            first.to_string(),
            Errno::from_raw_os_error(errno),
        ));
    }
    Ok(())
}
