// SPDX-License-Identifier: Apache-2.0
//! `posix_spawn(3)` of a program that outlives us: own process group, descriptors at fixed
//! numbers, standard streams at `/dev/null`.
//!
//! The C library's implementation shares our memory until the program is executed, so nothing is
//! copied; and it reports a failed `execve(2)` to the caller.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

use crate::error::{Call, Errno, Error, Result};

/// Descriptors are first moved here, so that no target number is taken by another's source.
const PARKED: RawFd = 64;

/// What to execute.
#[derive(Debug)]
pub struct Daemon<'a> {
    /// The program; it need not have a path.
    pub exe: BorrowedFd<'a>,
    /// Arguments, `argv[0]` included.
    pub args: &'a [CString],
    /// Environment, `NAME=value`.
    pub env: &'a [CString],
    /// Descriptors and the numbers, from 3 on, under which the program finds them.
    pub fds: &'a [(BorrowedFd<'a>, RawFd)],
}

impl Daemon<'_> {
    /// Executes the program; it runs when this returns. It is our child.
    ///
    /// # Errors
    /// No memory, no process, or `execve` failed.
    pub fn run(&self) -> Result<Pid> {
        let park = |fd: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, PARKED).call("fcntl", || "F_DUPFD_CLOEXEC")
        };
        let exe = park(self.exe)?;
        let path = CString::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))
            .map_err(|_| Error::new("posix_spawn", "", Errno::INVAL))?;
        let mut actions = Actions::new()?;
        actions.open_null(0)?;
        actions.dup(0, 1)?;
        actions.dup(0, 2)?;
        let mut parked: Vec<OwnedFd> = Vec::with_capacity(self.fds.len());
        for (fd, number) in self.fds {
            let fd = park(*fd)?;
            actions.dup(fd.as_raw_fd(), *number)?;
            parked.push(fd);
        }
        let attributes = Attributes::new()?;
        spawn(
            &path,
            &actions,
            &attributes,
            &pointers(self.args),
            &pointers(self.env),
        )
    }
}

/// To be called by the program that was executed: undoes what `posix_spawn` has left behind.
///
/// The C library ignores its own two signals while it shares our memory, and does not take that
/// back before `execve(2)`. Ignored signals are inherited, so every container would have them.
pub fn settle() {
    // The kernel's struct sigaction: default action, no flags, empty mask, on every architecture.
    let default = [0u64; 4];
    for signal in [32, 33] {
        // SAFETY: the structure is not larger than what is given, and lives through the call.
        // The C library refuses these signals in its own function; it sets their handlers itself
        // when it first needs them, which cannot have been yet.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                8usize,
            )
        };
    }
}

/// A NULL-terminated array of the strings, which it must not outlive.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

fn spawn(
    path: &CStr,
    actions: &Actions,
    attributes: &Attributes,
    argv: &[*mut c_char],
    envp: &[*mut c_char],
) -> Result<Pid> {
    let mut pid: libc::pid_t = 0;
    // SAFETY: both objects are initialised, both arrays end with NULL and point to strings that
    // the caller holds; posix_spawn only reads all of them.
    let ret = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    check(ret, "posix_spawn", || path.to_string_lossy().into_owned())?;
    Pid::from_raw(pid).ok_or_else(|| Error::new("posix_spawn", "", Errno::SRCH))
}

/// Turns the return value of the `posix_spawn` family, an errno, into a result.
fn check(ret: c_int, call: &'static str, args: impl FnOnce() -> String) -> Result<()> {
    if ret == 0 {
        Ok(())
    } else {
        Err(Error::new(call, args(), Errno::from_raw_os_error(ret)))
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes the whole object.
        let ret = unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) };
        check(ret, "posix_spawn_file_actions_init", String::new)?;
        // SAFETY: initialised by the successful call above.
        Ok(Self(unsafe { raw.assume_init() }))
    }

    fn open_null(&mut self, number: RawFd) -> Result<()> {
        // SAFETY: an initialised object; the path is copied.
        let ret = unsafe {
            libc::posix_spawn_file_actions_addopen(
                &raw mut self.0,
                number,
                c"/dev/null".as_ptr(),
                libc::O_RDWR,
                0,
            )
        };
        check(ret, "posix_spawn_file_actions_addopen", || {
            format!("{number}, /dev/null")
        })
    }

    /// Source and target must differ: the copy is what loses close-on-exec.
    fn dup(&mut self, from: RawFd, to: RawFd) -> Result<()> {
        // SAFETY: an initialised object; the numbers are used in the child only.
        let ret = unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) };
        check(ret, "posix_spawn_file_actions_adddup2", || {
            format!("{from}, {to}")
        })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, and destroyed only here.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A process group of its own and no signal blocked.
    fn new() -> Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes the whole object.
        let ret = unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) };
        check(ret, "posix_spawnattr_init", String::new)?;
        // SAFETY: initialised by the successful call above.
        let mut this = Self(unsafe { raw.assume_init() });
        let flags = libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGMASK;
        // SAFETY: an initialised object. The flags fit a short. Group 0 is the default: its own.
        let ret =
            unsafe { libc::posix_spawnattr_setflags(&raw mut this.0, flags as libc::c_short) };
        check(ret, "posix_spawnattr_setflags", String::new)?;
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set it is given.
        unsafe { libc::sigemptyset(none.as_mut_ptr()) };
        // SAFETY: an initialised object and an initialised set, which is copied.
        let ret = unsafe { libc::posix_spawnattr_setsigmask(&raw mut this.0, none.as_ptr()) };
        check(ret, "posix_spawnattr_setsigmask", String::new)?;
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and destroyed only here.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::process::{WaitOptions, waitpid};
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_daemon_has_its_descriptors_its_group_and_null_streams() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let shell = File::open("/bin/sh").unwrap();
        let script = "cd /proc/self/fd; echo $X $0 $(readlink 0 2) >&4; \
                      read -r _ _ _ _ group _ < /proc/$$/stat; [ $group = $$ ] && echo own >&5";
        let args = ["sh", "-c", script, "name"].map(|a| CString::new(a).unwrap());
        let env = [CString::new("X=7").unwrap()];
        let daemon = Daemon {
            exe: shell.as_fd(),
            args: &args,
            env: &env,
            // The same source twice, and targets that may well be numbers in use here.
            fds: &[(write.as_fd(), 4), (write.as_fd(), 5)],
        };
        let pid = daemon.run().unwrap();
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(text, "7 name /dev/null /dev/null\nown\n");
        assert_eq!(status.exit_status(), Some(0));
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let error = Daemon {
            exe: file.as_fd(),
            args: &[],
            env: &[],
            fds: &[],
        }
        .run()
        .unwrap_err();
        assert_eq!(error.errno(), Errno::ACCESS);
    }
}
