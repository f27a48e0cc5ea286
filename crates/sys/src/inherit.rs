// SPDX-License-Identifier: Apache-2.0
//! Descriptors that the program was started with.
//!
//! Everything this program opens itself is close-on-exec; what came through `execve(2)` is not.
//! That tells the two apart, so that a number can be turned into an owned descriptor safely.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

use crate::error::{Call, Errno, Error, Result};

/// Takes the descriptor inherited as `number` into ownership and makes it close-on-exec.
///
/// # Errors
/// `EBADF`: there is no such descriptor, or it was not inherited, or it was taken before.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    let refuse = |errno| Error::new("fcntl", format!("{number}, F_GETFD"), errno);
    if number < 3 {
        return Err(refuse(Errno::BADF));
    }
    // SAFETY: only fcntl calls are made on this borrow, which are harmless on any number: one
    // that is not open gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed).map_err(refuse)?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(refuse(Errno::BADF));
    }
    rustix::io::fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)
        .call("fcntl", || format!("{number}, F_SETFD, FD_CLOEXEC"))?;
    // SAFETY: open and not close-on-exec, so it was inherited, and nothing in this program owns
    // it: whatever the program opens is close-on-exec, and so is, from here on, this one.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes every descriptor but 0 to 2 close-on-exec: what nobody has taken is not passed on.
///
/// Kernels before 5.11 cannot; there it does nothing.
pub fn forget_others() {
    // SAFETY: sets a flag on descriptors and closes none; no memory is involved.
    unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_what_was_inherited_can_be_taken_and_only_once() {
        let (read, _write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        assert_eq!(take(read.as_raw_fd()).unwrap_err().errno(), Errno::BADF);

        rustix::io::fcntl_setfd(&read, FdFlags::empty()).unwrap();
        let number = read.into_raw_fd();
        let taken = take(number).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&taken).unwrap(), FdFlags::CLOEXEC);
        assert_eq!(take(number).unwrap_err().errno(), Errno::BADF);
        assert_eq!(take(2).unwrap_err().errno(), Errno::BADF);
        assert_eq!(take(1_000_000).unwrap_err().errno(), Errno::BADF);
    }
}
