// SPDX-License-Identifier: Apache-2.0
//! Signal dispositions and masks of a process that is about to become somebody else's program.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

/// Gives every signal a known disposition and unblocks all of them.
///
/// Signals whose default action ends a process make this one exit with 128 + signal; the rest get
/// their default action. `execve(2)` turns the handlers into default actions and keeps what is
/// ignored, so a program executed afterwards starts with no signal ignored or blocked (Rust's
/// runtime ignores `SIGPIPE`). The handlers are needed because the kernel never applies a default
/// action to process 1 of a PID namespace: without them a container that is created but not
/// started could not be ended by `SIGTERM`.
pub fn exit_on_fatal_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SIGKILL and SIGSTOP cannot be changed; 32 and 33 are the C library's.
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP | 32 | 33) {
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
