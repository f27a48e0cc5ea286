// SPDX-License-Identifier: Apache-2.0
//! A process that does nothing but live in a user namespace: by it the namespace can be given its
//! maps, or asked for them, and by its `/proc/<pid>/ns/user` it can be opened.
//!
//! No process with several threads can enter a user namespace, and entering one is a way without
//! return. So a copy of this process does it, and waits to be killed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};

use crate::error::{Call, Error, Result};
use crate::spawn::CloneArgs;

/// Which user namespace.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// A new one, without maps.
    New,
    /// This one.
    Existing(BorrowedFd<'a>),
}

/// The process; it ends when this is dropped, and when the thread that made it ends.
#[derive(Debug)]
pub struct Resident {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Resident {
    /// Starts it; it is in its namespace when this returns.
    ///
    /// # Errors
    /// `clone3(2)`: `ENOSPC` or `EUSERS` when there are too many user namespaces. `setns(2)`:
    /// `EINVAL` if the namespace is not another than ours.
    pub fn start(place: Place<'_>) -> Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).call("pipe2", || "O_CLOEXEC")?;
        let mut pidfd: RawFd = -1;
        let new = match place {
            Place::New => libc::CLONE_NEWUSER,
            Place::Existing(_) => 0,
        };
        // No exit signal: nobody but us is to notice it. A shared table of descriptors: it keeps
        // none open beyond our closing it.
        let args = CloneArgs {
            flags: (new | libc::CLONE_PIDFD | libc::CLONE_FILES) as u64,
            pidfd: ptr::from_mut(&mut pidfd) as u64,
            ..CloneArgs::default()
        };
        let join = match place {
            Place::New => -1,
            Place::Existing(fd) => fd.as_raw_fd(),
        };
        let word = writer.as_raw_fd();
        // Who is not root may give it mappings only if its files in procfs are not root's.
        let dumpable = join < 0 && !rustix::process::geteuid().is_root();
        // SAFETY: without CLONE_VM and with no stack given this is fork(2). Other threads may hold
        // locks in the copy for ever: it only makes raw system calls and never returns.
        let ret =
            unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
        if ret == 0 {
            reside(join, word, dumpable);
        }
        if ret < 0 {
            return Err(Error::new(
                "clone3",
                format!("flags={:#x}", args.flags),
                last_errno(),
            ));
        }
        // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD); nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let Some(pid) = Pid::from_raw(ret as i32) else {
            return Err(Error::new("clone3", "returned no pid", Errno::SRCH));
        };
        let resident = Self { pid, pidfd };
        match wait_for_word(&reader, &resident.pidfd)? {
            0 => Ok(resident),
            errno => {
                let errno = Errno::from_raw_os_error(errno.into());
                Err(Error::new("setns", "user namespace", errno))
            }
        }
    }

    /// Its process id. It is nobody else's as long as this lives.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // ESRCH: it has ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        // SAFETY: all-zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: the kernel writes one siginfo_t. __WALL: it has no exit signal.
            let ret = unsafe {
                libc::waitid(
                    libc::P_PIDFD,
                    self.pidfd.as_raw_fd() as libc::id_t,
                    &raw mut info,
                    libc::WEXITED | libc::__WALL,
                )
            };
            if ret == 0 || last_errno() != Errno::INTR {
                break;
            }
        }
    }
}

/// Waits until the process says how it went: 0 or an errno. The descriptors are shared, so that
/// its death closes nothing: that is seen by its pidfd.
fn wait_for_word(reader: &OwnedFd, pidfd: &OwnedFd) -> Result<u8> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [
        PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut fds, None)).call("poll", || "helper process")?;
    if fds[0].revents().contains(PollFlags::IN) {
        let mut word = [0u8];
        rustix::io::read(reader, &mut word).call("read", || "helper process")?;
        return Ok(word[0]);
    }
    Err(Error::new(
        "clone3",
        "the helper process died",
        Errno::CHILD,
    ))
}

/// The life of the copy. Raw system calls only.
fn reside(join: RawFd, word: RawFd, dumpable: bool) -> ! {
    let mut errno = 0u8;
    // SAFETY: plain numbers; it is the copy's own memory that becomes invisible.
    let set = |option: i32, value: i32| unsafe {
        libc::syscall(libc::SYS_prctl, option, value, 0, 0, 0) == 0
    };
    // Before setns as well as after it: from the moment that we are in the namespace its root may
    // look into whoever shows himself.
    let mut safe = set(libc::PR_SET_DUMPABLE, i32::from(dumpable));
    if join >= 0 && safe {
        // SAFETY: plain numbers.
        if unsafe { libc::syscall(libc::SYS_setns, join, libc::CLONE_NEWUSER) } != 0 {
            // SAFETY: the copy's own errno.
            errno = unsafe { *libc::__errno_location() } as u8;
        }
    }
    // setns may reset both. It does not outlive its maker's thread.
    safe = safe
        && set(libc::PR_SET_DUMPABLE, i32::from(dumpable))
        && set(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    if safe {
        // SAFETY: one byte of our own. If nobody reads it, nobody waits for it.
        unsafe { libc::syscall(libc::SYS_write, word, &raw const errno, 1) };
    }
    loop {
        if !safe || errno != 0 {
            // SAFETY: ends this process; the loop is for the type.
            unsafe { libc::syscall(libc::SYS_exit_group, 1) };
        }
        // SAFETY: waits for a signal, with no pointers involved.
        unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) };
    }
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(pid: Pid) -> String {
        let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
        std::fs::read_link(path)
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }

    #[test]
    fn a_new_namespace_is_entered_by_a_second_process_and_both_end() {
        let first = Resident::start(Place::New).unwrap();
        let fd = std::fs::File::open(format!("/proc/{}/ns/user", first.pid().as_raw_nonzero()));
        let second = Resident::start(Place::Existing(fd.unwrap().as_fd())).unwrap();
        assert_eq!(namespace(first.pid()), namespace(second.pid()));
        assert_ne!(namespace(first.pid()), namespace(rustix::process::getpid()));
        let pids = [first.pid(), second.pid()];
        drop((first, second));
        for pid in pids {
            assert!(
                rustix::process::test_kill_process(pid).is_err(),
                "{pid:?} is left"
            );
        }
    }

    #[test]
    fn what_cannot_be_joined_is_an_error_with_its_errno() {
        for path in ["/proc/self/ns/user", "/proc/self/ns/net", "/dev/null"] {
            let fd = std::fs::File::open(path).unwrap();
            let error = Resident::start(Place::Existing(fd.as_fd())).unwrap_err();
            assert_eq!(
                (error.call(), error.errno()),
                ("setns", Errno::INVAL),
                "{path}"
            );
        }
    }
}
