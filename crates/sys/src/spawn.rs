// SPDX-License-Identifier: Apache-2.0
//! `clone3(2)` followed at once by `execveat(2)`: how every process of a container begins.
//!
//! The child shares our memory (`CLONE_VM | CLONE_VFORK`) until it executes the same program
//! anew: nothing of our heap is copied, no page table is charged to the container's cgroup, and
//! the calling thread stands still meanwhile. Between the two calls the child makes raw system
//! calls only, on a stack of its own.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::error::{Error, Result};

/// The descriptor number under which the new program finds [`Spawn::channel`].
pub const CHANNEL_FD: RawFd = 3;

/// Room for the child's frames: three small functions of raw calls.
const STACK: usize = 16 * 1024;

/// What to execute and where.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program, executed through this descriptor (`AT_EMPTY_PATH`).
    pub exe: BorrowedFd<'a>,
    /// Its arguments, `argv[0]` included.
    pub args: &'a [&'a CStr],
    /// Its environment, `NAME=value`.
    pub env: &'a [&'a CStr],
    /// `CLONE_NEW*` flags: the namespaces that the child is born into.
    pub namespaces: u64,
    /// A cgroup v2 directory that the child is born into (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The one descriptor the program gets beyond 0 to 2, as [`CHANNEL_FD`].
    pub channel: BorrowedFd<'a>,
}

/// A child just executed.
#[derive(Debug)]
pub struct Child {
    /// Its process id in our PID namespace.
    pub pid: Pid,
    /// Its pidfd (`CLOEXEC`).
    pub pidfd: OwnedFd,
}

/// `struct clone_args` of `clone3(2)`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

/// What the child reads and where it leaves word of a failure. Lives in the parent's frame,
/// which stands still until the child has executed or ended.
struct Orders {
    exe: c_int,
    channel: c_int,
    argv: *const *const c_char,
    envp: *const *const c_char,
    failed: c_int,
}

impl Spawn<'_> {
    /// Clones and executes; returns once the child runs the new program.
    ///
    /// The child starts with every signal blocked: the program itself says when it is ready for
    /// them. `SIGCHLD` is its exit signal.
    ///
    /// # Errors
    /// `clone3` or, if the child could not execute, `execveat`; then nothing is left behind.
    pub fn run(&self) -> Result<Child> {
        let argv = pointers(self.args);
        let envp = pointers(self.env);
        let mut orders = Orders {
            exe: self.exe.as_raw_fd(),
            channel: self.channel.as_raw_fd(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            failed: 0,
        };
        // u128: the stack pointer must be 16-byte aligned on x86-64 and aarch64.
        let mut stack = vec![0u128; STACK / 16];
        let mut pidfd: RawFd = -1;
        let mut args = CloneArgs {
            flags: self.namespaces
                | (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64,
            pidfd: ptr::from_mut(&mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack.as_mut_ptr() as u64,
            stack_size: STACK as u64,
            ..CloneArgs::default()
        };
        if let Some(cgroup) = self.cgroup {
            args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
            args.cgroup = cgroup.as_raw_fd() as u64;
        }

        let mask = SignalMask::block_all();
        // SAFETY: `args` describes a live stack of STACK bytes, and `orders` outlives the child's
        // use of it: CLONE_VFORK suspends this thread until the child has executed or exited. The
        // child runs `child_main`, which makes raw system calls only and never returns.
        let ret = unsafe { clone3(&mut args, child_main, ptr::from_mut(&mut orders).cast()) };
        drop(mask);
        drop(stack);

        if ret < 0 {
            let errno = Errno::from_raw_os_error(-ret as i32);
            return Err(Error::new(
                "clone3",
                format!("flags={:#x}", args.flags),
                errno,
            ));
        }
        // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD); nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let Some(pid) = Pid::from_raw(ret as i32) else {
            return Err(Error::new("clone3", "returned no pid", Errno::SRCH));
        };
        // SAFETY: `orders` is ours again; volatile because the child wrote it behind the
        // compiler's back.
        let failed = unsafe { ptr::read_volatile(&raw const orders.failed) };
        if failed != 0 {
            use std::os::fd::AsFd;
            // The child is already dead or dying; a failing wait would change nothing.
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            return Err(Error::new(
                "execveat",
                "own executable",
                Errno::from_raw_os_error(failed),
            ));
        }
        Ok(Child { pid, pidfd })
    }
}

fn pointers(strings: &[&CStr]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// All signals blocked for this thread until dropped.
struct SignalMask(libc::sigset_t);

impl SignalMask {
    fn block_all() -> Self {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initialises the set it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: both pointers are to live sets; the first is initialised above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) };
        // SAFETY: pthread_sigmask stored the previous mask there; it fails only for a bad `how`.
        Self(unsafe { old.assume_init() })
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: restores the mask that pthread_sigmask gave us.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// The child's whole life between clone3 and the new program.
extern "C" fn child_main(orders: *mut c_void) -> ! {
    let orders = orders.cast::<Orders>();
    // SAFETY: the parent's frame, valid until we execute or exit (see `run`).
    let Orders {
        exe,
        channel,
        argv,
        envp,
        ..
    } = unsafe { ptr::read(orders) };
    let exe = if exe == CHANNEL_FD {
        // Out of the channel's way.
        // SAFETY: a raw system call on plain numbers.
        unsafe {
            libc::syscall(libc::SYS_fcntl, exe, libc::F_DUPFD_CLOEXEC, CHANNEL_FD + 1) as c_int
        }
    } else {
        exe
    };
    // SAFETY: raw system calls on plain numbers; they touch no memory of ours.
    let moved = unsafe {
        if channel == CHANNEL_FD {
            libc::syscall(libc::SYS_fcntl, channel, libc::F_SETFD, 0)
        } else {
            libc::syscall(libc::SYS_dup3, channel, CHANNEL_FD, 0)
        }
    };
    if moved >= 0 {
        // Everything of ours is close-on-exec already; this guards against a library that forgets.
        // SAFETY: plain numbers; failure (before Linux 5.11) changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                CHANNEL_FD + 1,
                c_int::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        // SAFETY: `argv` and `envp` are null-terminated arrays in the parent's frame.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                exe,
                c"".as_ptr(),
                argv,
                envp,
                libc::AT_EMPTY_PATH,
            )
        };
    }
    // SAFETY: errno is the parent thread's, which is suspended and reads it not.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the parent's frame again; it reads this after our exit.
    unsafe {
        ptr::write_volatile(
            &raw mut (*orders).failed,
            if errno == 0 { libc::EIO } else { errno },
        )
    };
    loop {
        // SAFETY: ends this process; the loop is for the type.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

/// Raw clone3 whose child calls `main(arg)` on the new stack.
///
/// # Safety
/// `args` must describe a writable stack that nobody else uses, and with CLONE_VM `main` must not
/// return, unwind, or touch anything that the suspended parent may not find changed.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    args: &mut CloneArgs,
    main: extern "C" fn(*mut c_void) -> !,
    arg: *mut c_void,
) -> isize {
    let ret: isize;
    // SAFETY: clone3 preserves all registers but rax, rcx, r11; the child only runs the lines up
    // to `call` and never reaches label 2. The caller vouches for stack and `main`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => ret,
            in("rdi") ptr::from_mut(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") arg,
            in("r13") main,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}

/// Raw clone3 whose child calls `main(arg)` on the new stack.
///
/// # Safety
/// As on x86-64.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(
    args: &mut CloneArgs,
    main: extern "C" fn(*mut c_void) -> !,
    arg: *mut c_void,
) -> isize {
    let ret: isize;
    // SAFETY: a system call preserves all registers but x0; the child only runs the lines up to
    // `blr` and never reaches label 2. The caller vouches for stack and `main`.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") ptr::from_mut(args) => ret,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x20") arg,
            in("x21") main,
        );
    }
    ret
}

/// Takes over the descriptor that [`Spawn::channel`] became in this process, once.
///
/// It is made close-on-exec. `None` on a second call, or if nothing is open there.
pub fn take_channel() -> Option<OwnedFd> {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if TAKEN.swap(true, std::sync::atomic::Ordering::SeqCst) {
        return None;
    }
    // SAFETY: looks at a number only.
    let flags = unsafe { libc::fcntl(CHANNEL_FD, libc::F_SETFD, libc::FD_CLOEXEC) };
    if flags < 0 {
        return None;
    }
    // SAFETY: open, inherited for exactly this use, and handed out once.
    Some(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn spawn(path: &str, script: &CStr) -> Result<(Child, std::fs::File)> {
        let exe = std::fs::File::open(path).unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let child = Spawn {
            exe: exe.as_fd(),
            args: &[c"sh", c"-c", script],
            env: &[c"GREETING=hello"],
            namespaces: 0,
            cgroup: None,
            channel: writer.as_fd(),
        }
        .run()?;
        Ok((child, std::fs::File::from(reader)))
    }

    #[test]
    fn the_program_gets_its_environment_and_the_channel_and_no_other_descriptor() {
        let script = c"echo $GREETING >&3; exec ls -m /proc/self/fd >&3";
        let (child, mut reader) = spawn("/bin/sh", script).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // 4 is the directory that ls reads.
        assert_eq!(text, "hello\n0, 1, 2, 3, 4\n");
        rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_an_error_with_its_errno() {
        let error = spawn("/etc/passwd", c"").unwrap_err();
        assert_eq!(error.errno(), Errno::ACCESS);
        assert_eq!(error.call(), "execveat");
    }
}
