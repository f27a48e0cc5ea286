// SPDX-License-Identifier: Apache-2.0
//! `posix_spawn(3)`: another program beside ours, with descriptors placed at 3 and up.
//!
//! `std::process::Command` can place 0 to 2 only, and copies our page tables. What runs here is
//! a program that the host's configuration names (a logger, a hook), never a container's process.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::{Call, Error, Result};

/// The number that the first of [`Launch::fds`] gets.
const FIRST: c_int = 3;

/// What to execute, and what it inherits.
///
/// The program starts in a process group of its own, with every signal at its default action and
/// none blocked, with `/dev/null` as 0 to 2, and in our working directory (or as its [`Placement`]
/// says). Of our descriptors it gets `fds` and nothing else, not even what somebody left open
/// without close-on-exec.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program's path: it is not looked up in `$PATH`.
    pub program: &'a CStr,
    /// Its arguments, `argv[0]` included.
    pub args: &'a [&'a CStr],
    /// Its whole environment, `NAME=value`.
    pub env: &'a [&'a CStr],
    /// The descriptors that it finds at 3, 4 and so on.
    pub fds: &'a [BorrowedFd<'a>],
}

/// Where a program's standard streams lead, and where it is.
#[derive(Debug)]
pub struct Placement<'a> {
    /// What it finds as 0, 1 and 2.
    pub streams: [BorrowedFd<'a>; 3],
    /// Its working directory; ours if there is none.
    pub directory: Option<BorrowedFd<'a>>,
}

impl Launch<'_> {
    /// Starts the program; returns once it has been executed. It is a child of ours that the
    /// caller waits for.
    ///
    /// # Errors
    /// `posix_spawn`, with the errno of the step that failed (`ENOENT`: no such program).
    pub fn run(&self) -> Result<Pid> {
        self.spawn(None)
    }

    /// As [`Launch::run`], with other streams and another working directory.
    ///
    /// # Errors
    /// As [`Launch::run`].
    pub fn run_at(&self, placement: &Placement<'_>) -> Result<Pid> {
        self.spawn(Some(placement))
    }

    fn spawn(&self, placement: Option<&Placement<'_>>) -> Result<Pid> {
        // Copies above all target numbers: placing one cannot close another.
        let above = FIRST + self.fds.len() as c_int;
        let copy = |fd: &BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, above).call("fcntl", || "F_DUPFD_CLOEXEC")
        };
        let streams = placement.map_or([].as_slice(), |placement| &placement.streams);
        let streams: Vec<OwnedFd> = streams.iter().map(copy).collect::<Result<_>>()?;
        let directory = placement.and_then(|placement| placement.directory.as_ref());
        let directory = directory.map(copy).transpose()?;
        let copies: Vec<OwnedFd> = self.fds.iter().map(copy).collect::<Result<_>>()?;
        let mut actions = Actions::new().map_err(|errno| self.error(errno))?;
        for fd in 0..FIRST {
            match streams.get(fd as usize) {
                Some(stream) => actions.place(stream, fd),
                None => actions.null(fd),
            }
            .map_err(|errno| self.error(errno))?;
        }
        for (fd, copy) in (FIRST..).zip(&copies) {
            actions.place(copy, fd).map_err(|errno| self.error(errno))?;
        }
        if let Some(directory) = &directory {
            actions
                .enter(directory)
                .map_err(|errno| self.error(errno))?;
        }
        actions
            .close_from(above)
            .map_err(|errno| self.error(errno))?;
        let attributes = Attributes::new().map_err(|errno| self.error(errno))?;
        let argv = pointers(self.args);
        let envp = pointers(self.env);
        let mut pid: libc::pid_t = 0;
        // SAFETY: the path and all strings are NUL-terminated and outlive the call, both arrays
        // end in a null pointer, and `actions` and `attributes` are initialised. The library does
        // not write through the `*mut c_char` of the arrays.
        check(unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.program.as_ptr(),
                &raw const actions.0,
                &raw const attributes.0,
                argv.as_ptr(),
                envp.as_ptr(),
            )
        })
        .map_err(|errno| self.error(errno))?;
        Pid::from_raw(pid).ok_or_else(|| self.error(Errno::SRCH))
    }

    fn error(&self, errno: Errno) -> Error {
        Error::new("posix_spawn", format!("{:?}", self.program), errno)
    }
}

fn pointers(strings: &[&CStr]) -> Vec<*mut c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

/// These functions return an errno instead of setting it.
fn check(code: c_int) -> std::result::Result<(), Errno> {
    if code == 0 {
        Ok(())
    } else {
        Err(Errno::from_raw_os_error(code))
    }
}

/// What happens to descriptors between fork and exec.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> std::result::Result<Self, Errno> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises the object it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialised just above; the object may be moved, it holds no pointer to itself.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    /// `fd` becomes `/dev/null`.
    fn null(&mut self, fd: c_int) -> std::result::Result<(), Errno> {
        let path = c"/dev/null".as_ptr();
        // SAFETY: an initialised object, and a path that lives for ever.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, fd, path, libc::O_RDWR, 0)
        })
    }

    /// `fd` becomes a copy of `source`, inherited.
    fn place(&mut self, source: &OwnedFd, fd: c_int) -> std::result::Result<(), Errno> {
        let source = source.as_raw_fd();
        // SAFETY: an initialised object; the descriptor is open until the program has started.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, source, fd) })
    }

    /// The program's working directory.
    fn enter(&mut self, directory: &OwnedFd) -> std::result::Result<(), Errno> {
        let directory = directory.as_raw_fd();
        // SAFETY: an initialised object; the descriptor is open until the program has started.
        check(unsafe { libc::posix_spawn_file_actions_addfchdir_np(&raw mut self.0, directory) })
    }
}

impl Actions {
    /// Everything from `fd` on is closed.
    #[cfg(target_env = "gnu")]
    fn close_from(&mut self, fd: c_int) -> std::result::Result<(), Errno> {
        // SAFETY: an initialised object and a plain number.
        check(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, fd) })
    }

    /// Nothing to do: all of ours is close-on-exec, and this library has no such action.
    #[cfg(not(target_env = "gnu"))]
    fn close_from(&mut self, _fd: c_int) -> std::result::Result<(), Errno> {
        Ok(())
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once. It cannot fail.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// Default signal actions, empty mask, own process group.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> std::result::Result<Self, Errno> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises the object it is given.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised just above; the object may be moved, it holds no pointer to itself.
        let mut this = Self(unsafe { attributes.assume_init() });
        let (mut all, mut none) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: each initialises the set it is given; neither can fail.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
        }
        let flags = libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETPGROUP;
        // SAFETY: an initialised object and initialised sets throughout.
        unsafe {
            check(libc::posix_spawnattr_setsigdefault(
                &raw mut this.0,
                all.as_ptr(),
            ))?;
            check(libc::posix_spawnattr_setsigmask(
                &raw mut this.0,
                none.as_ptr(),
            ))?;
            check(libc::posix_spawnattr_setpgroup(&raw mut this.0, 0))?;
            check(libc::posix_spawnattr_setflags(&raw mut this.0, flags as _))?;
        }
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once. It cannot fail.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn wait(pid: Pid) {
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    }

    #[test]
    fn the_program_gets_its_descriptors_in_order_and_none_of_ours() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let args = [c"cat", c"/dev/fd/3"];
        let fds = [reader.as_fd(), null.as_fd(), writer.as_fd()];
        let pid = Launch {
            program: c"/bin/cat",
            args: &args,
            env: &[],
            fds: &fds,
        }
        .run()
        .unwrap();
        // `cat` waits for ever: it holds a write end of the pipe that it reads.
        let link = |fd: i32| {
            let path = format!("/proc/{}/fd/{fd}", pid.as_raw_nonzero());
            std::fs::read_link(path).map(|path| path.to_string_lossy().into_owned())
        };
        for fd in [0, 1, 2, 4] {
            assert_eq!(link(fd).unwrap(), "/dev/null");
        }
        assert!(link(3).unwrap().starts_with("pipe:"));
        assert_eq!(link(3).unwrap(), link(5).unwrap());
        // 6 is the file that cat opened.
        assert!((7..300).all(|fd| link(fd).is_err()));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        wait(pid);
    }

    #[test]
    fn signals_are_at_their_defaults_and_the_environment_is_only_what_was_given() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        // The last one in the shell's place: a shell blocks signals for the moment of a fork.
        let script =
            c"{ echo $GREETING; tr '\\0' '\\n' </proc/$$/environ; exec cat /proc/self/status; } >&3";
        let pid = Launch {
            program: c"/bin/sh",
            args: &[c"sh", c"-c", script],
            env: &[c"GREETING=hello"],
            fds: &[writer.as_fd()],
        }
        .run()
        .unwrap();
        drop(writer);
        let mut text = String::new();
        std::fs::File::from(reader)
            .read_to_string(&mut text)
            .unwrap();
        wait(pid);
        assert!(text.starts_with("hello\nGREETING=hello\nName:"), "{text}");
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        // Rust's runtime ignores SIGPIPE: that is not passed on. (32 and 33 are the C library's
        // own, which it ignores in every program that it spawns.)
        let ignored = u64::from_str_radix(&field("SigIgn:"), 16).unwrap();
        assert_eq!(ignored & !0x1_8000_0000, 0, "{text}");
        assert_eq!(field("SigBlk:"), "0000000000000000");
        assert_eq!(field("NSpgid:"), field("Pid:"));
    }

    #[test]
    fn streams_and_directory_are_those_of_the_placement() {
        let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&to, b"hello\n").unwrap();
        drop(to);
        let directory = tempfile::tempdir().unwrap();
        let place = std::fs::File::open(directory.path()).unwrap();
        let script = c"cat; pwd; ls -m /proc/self/fd >&2";
        let pid = Launch {
            program: c"/bin/sh",
            args: &[c"sh", c"-c", script],
            env: &[],
            fds: &[],
        }
        .run_at(&Placement {
            streams: [from.as_fd(), writer.as_fd(), writer.as_fd()],
            directory: Some(place.as_fd()),
        })
        .unwrap();
        drop(writer);
        let mut text = String::new();
        std::fs::File::from(reader)
            .read_to_string(&mut text)
            .unwrap();
        wait(pid);
        let path = directory.path().display();
        // 3 is the directory that ls reads.
        assert_eq!(text, format!("hello\n{path}\n0, 1, 2, 3\n"));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_its_errno() {
        let launch = Launch {
            program: c"/nope",
            args: &[c"/nope"],
            env: &[],
            fds: &[],
        };
        let error = launch.run().unwrap_err();
        assert_eq!(
            error.to_string(),
            "posix_spawn(\"/nope\"): no such file or directory"
        );
    }
}
