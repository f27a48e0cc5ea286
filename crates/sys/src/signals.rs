// SPDX-License-Identifier: Apache-2.0
//! Signal dispositions and masks of a process that is about to become somebody else's program.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

use crate::error::{Error, Result};

/// Blocks `signals` for this thread, and for the threads it starts from now on, and gives a
/// non-blocking descriptor that is readable when one of them is pending (`signalfd(2)`).
///
/// # Errors
/// `signalfd(2)`.
pub fn watch(signals: &[c_int]) -> Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: an initialised set; an impossible number is refused and changes nothing.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: an initialised set; pthread_sigmask fails only for a bad `how`.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) };
    // SAFETY: an initialised set.
    let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        let args = format!("{signals:?}");
        return Err(Error::new(
            "signalfd",
            args,
            Errno::from_raw_os_error(errno),
        ));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes one pending signal from a descriptor made by [`watch`]; `None` when there is none.
pub fn next(signals: impl AsFd) -> Option<c_int> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(&signals, &mut info[..])).ok()?;
    let number: [u8; 4] = info.get(..4)?.try_into().ok()?;
    (read == info.len()).then(|| u32::from_ne_bytes(number) as c_int)
}

/// Gives every standard signal a known disposition and unblocks all signals.
///
/// Signals whose default action ends a process make this one exit with 128 + signal; the rest get
/// their default action. `execve(2)` turns the handlers into default actions and keeps what is
/// ignored, so a program executed afterwards starts with no signal ignored or blocked (Rust's
/// runtime ignores `SIGPIPE`). The handlers are needed because the kernel never applies a default
/// action to process 1 of a PID namespace: without them a container that is created but not
/// started could not be ended by `SIGTERM`.
pub fn exit_on_fatal_signals() {
    // The real-time signals have their default action: nobody above us ignores them.
    for signal in 1..=libc::SIGSYS {
        // These two cannot be changed.
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        let quiet = matches!(
            signal,
            libc::SIGCHLD
                | libc::SIGCONT
                | libc::SIGURG
                | libc::SIGWINCH
                | libc::SIGTSTP
                | libc::SIGTTIN
                | libc::SIGTTOU
        );
        // SAFETY: an all-zero sigaction is a valid one: default action, empty mask, no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        if !quiet {
            action.sa_sigaction = exit_with_signal as *const () as usize;
        }
        // SAFETY: a valid action; the handler only calls _exit. Failure means that the signal
        // does not exist here.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: an initialised set; sigprocmask fails only for a bad `how`.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
}

extern "C" fn exit_with_signal(signal: c_int) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
}

/// Ignores `SIGPIPE`: a write to a closed socket or pipe is an error, not a death.
pub fn ignore_sigpipe() {
    // SAFETY: changes one disposition to SIG_IGN; no handler code is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Empties the calling thread's signal mask.
pub fn unblock_all() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: an initialised set; pthread_sigmask fails only for a bad `how`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
}

/// Sends a signal to the process behind a pidfd; 0 only asks whether it can be signalled.
///
/// # Errors
/// `pidfd_send_signal(2)`: `ESRCH` when the process has ended, `EINVAL` for no signal.
pub fn send(pidfd: impl AsFd, signal: c_int) -> Result<()> {
    use std::os::fd::AsRawFd;
    let fd = pidfd.as_fd().as_raw_fd();
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: plain numbers and a null siginfo: the kernel fills it in.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    if ret < 0 {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        let errno = Errno::from_raw_os_error(errno);
        return Err(Error::new(
            "pidfd_send_signal",
            format!("{fd}, {signal}"),
            errno,
        ));
    }
    Ok(())
}
