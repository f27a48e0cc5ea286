// SPDX-License-Identifier: Apache-2.0
//! `waitid(2)` for "any child".

use rustix::process::Pid;

/// The pid of a dead child that nobody has waited for yet, without taking its status.
pub fn peek_dead_child() -> Option<Pid> {
    loop {
        // SAFETY: all-zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the kernel writes one siginfo_t.
        if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } == 0 {
            // SAFETY: waitid filled in the SIGCHLD fields, or left zero: no dead child.
            return Pid::from_raw(unsafe { info.si_pid() });
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None; // ECHILD: no children at all
        }
    }
}
