// SPDX-License-Identifier: Apache-2.0
//! `seccomp(2)`: a filter on the system calls of this process.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::error::{Error, Result};

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: loading returns a descriptor.
pub const NEW_LISTENER: u32 = 1 << 3;

/// One instruction of classic BPF, `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Puts a filter on this thread, and on what it becomes and makes. With [`NEW_LISTENER`] among the
/// flags the descriptor to answer notifications through, close-on-exec.
///
/// The kernel checks the program, so that any instructions are safe to hand over.
///
/// # Errors
/// `EINVAL`: the program is not valid or too long, or a flag is unknown; `EACCES`: neither
/// no_new_privs nor `CAP_SYS_ADMIN`.
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let describe = || {
        let length = program.len();
        format!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {length} instructions")
    };
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(Error::new("seccomp", describe(), Errno::INVAL));
    };
    let filter = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `filter` points to `len` instructions in the layout of `struct sock_filter`, which the
    // kernel copies and does not write to.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    if ret < 0 {
        return Err(Error::new("seccomp", describe(), last_errno()));
    }
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as RawFd) }))
}

/// Whether the kernel knows all of `flags`.
#[must_use]
pub fn knows_flags(flags: u32) -> bool {
    // SAFETY: a null pointer for the program: the kernel looks at the flags first and then fails to
    // read it. Nothing is loaded.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    ret < 0 && last_errno() == Errno::FAULT
}

fn last_errno() -> Errno {
    let errno = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(errno.unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LD: u16 = 0x20;
    const JEQ: u16 = 0x15;
    const RET: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;

    fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// In a thread of its own, which alone is filtered.
    #[test]
    fn a_loaded_filter_is_felt() {
        let felt = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            let program = [
                instruction(LD, 0, 0, 0),
                instruction(JEQ, 0, 1, libc::SYS_getpriority as u32),
                instruction(RET, 0, 0, 0x0005_0000 | libc::EXFULL as u32),
                instruction(RET, 0, 0, ALLOW),
            ];
            let none = load(&program, 0).unwrap();
            assert!(none.is_none());
            rustix::process::getpriority_process(None).unwrap_err()
        });
        assert_eq!(felt.join().unwrap().raw_os_error(), libc::EXFULL);
    }

    #[test]
    fn an_invalid_program_is_refused() {
        let error = load(&[instruction(0xffff, 0, 0, 0)], 0).unwrap_err();
        assert!(matches!(error.errno(), Errno::INVAL | Errno::ACCESS));
        assert!(
            error
                .to_string()
                .starts_with("seccomp(SECCOMP_SET_MODE_FILTER, 0x0, 1 inst")
        );
        assert!(load(&[], 0).is_err());
    }

    #[test]
    fn the_kernel_says_which_flags_it_knows() {
        assert!(knows_flags(0) && knows_flags(NEW_LISTENER) && knows_flags(1 << 2));
        assert!(!knows_flags(1 << 20));
    }
}
