// SPDX-License-Identifier: Apache-2.0
//! A procfs that nobody can have tampered with.
//!
//! A container, or one that shares mounts with it, may mount anything over files below `/proc`, and
//! so turn a write to `attr/exec` or to a sysctl into a write to something else or to nothing
//! (CVE-2019-16884, CVE-2025-52881). So nothing here goes through the path `/proc`: files are
//! opened beneath the root of a procfs that is mounted nowhere, or whose root we hold from before
//! it was, and on the way there may be no symlink and no other mount (`RESOLVE_NO_XDEV`).
//!
//! The handle is made when first used, in the caller's PID namespace, and is close-on-exec. It shows
//! what the container's own `/proc` hides: it must be dropped before anything of the container runs.

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use sys::mount::{Extent, MountApi, Param, attr};
use sys::{Call, Result as SysResult};

use crate::error::Operation;
use crate::resolve::retrying;

/// The inode number of the root of every procfs.
const ROOT_INODE: u64 = 1;

const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);

/// Something in procfs could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no procfs to be had.
    #[error("open a private procfs: {0}")]
    Unavailable(#[source] sys::Error),
    /// What should be the root of a procfs is not.
    #[error("open a private procfs: not the root of a procfs")]
    Counterfeit,
    /// A kernel parameter with an impossible name.
    #[error("sysctl {0:?}: not a valid name")]
    SysctlName(String),
    /// A kernel parameter could not be set.
    #[error("write sysctl {name} = {value:?}: {source}")]
    Sysctl {
        /// Its name as it was given.
        name: String,
        /// The value.
        value: String,
        /// Why.
        #[source]
        source: sys::Error,
    },
    /// A file of procfs could not be used.
    #[error("{attempt} /proc/{path}: {source}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// Relative to the root of procfs.
        path: String,
        /// Why.
        #[source]
        source: sys::Error,
    },
}

impl Error {
    /// The system call that failed, and the file that it was for.
    pub fn operation(&self) -> Option<Operation> {
        let (source, object) = match self {
            Self::Unavailable(source) => (source, "/proc".to_owned()),
            Self::Sysctl { name, source, .. } => (source, name.clone()),
            Self::File { path, source, .. } => (source, format!("/proc/{path}")),
            Self::Counterfeit | Self::SysctlName(_) => return None,
        };
        Some(Operation {
            call: source.call().to_owned(),
            object,
        })
    }

    /// The error number of the failed call, if a call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Unavailable(source) | Self::Sysctl { source, .. } | Self::File { source, .. } => {
                Some(source.errno())
            }
            Self::Counterfeit | Self::SysctlName(_) => None,
        }
    }
}

/// Result of using procfs.
pub type Result<T> = std::result::Result<T, Error>;

/// How much of procfs is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Processes only (`subset=pid`): nothing in it could harm the host.
    Processes,
    /// Everything, for `/proc/sys`.
    Whole,
}

/// The handle; made when first used.
#[derive(Debug, Default)]
pub struct Procfs {
    processes: OnceCell<OwnedFd>,
    whole: OnceCell<OwnedFd>,
    thread_self: OnceCell<String>,
}

impl Procfs {
    /// Uses the root of a procfs that the caller has mounted itself and kept: this saves making
    /// another one. It must be of the caller's PID namespace, not read-only and not a subset.
    ///
    /// # Errors
    /// It is no procfs.
    pub fn from_mount(root: OwnedFd) -> Result<Self> {
        verify(&root)?;
        let whole = OnceCell::from(root);
        Ok(Self {
            whole,
            ..Self::default()
        })
    }

    /// Writes a file of the calling thread, such as `attr/exec`, with one `write(2)`.
    ///
    /// # Errors
    /// It could not be opened safely or written completely.
    pub fn write_self(&self, file: &str, data: &[u8]) -> Result<()> {
        let fd = self.open_self(file, OFlags::WRONLY)?;
        write_once(&fd, data).map_err(|source| self.failed("write", file, source))
    }

    /// Opens a file of the calling thread.
    ///
    /// # Errors
    /// It could not be opened safely.
    pub fn open_self(&self, file: &str, flags: OFlags) -> Result<OwnedFd> {
        let path = format!("{}/{file}", self.thread_self()?);
        retrying(
            self.root(Scope::Processes)?,
            &path,
            flags,
            Mode::empty(),
            STRICT,
        )
        .map_err(|source| self.failed("open", file, source))
    }

    /// Reads a file of the calling thread to its end.
    ///
    /// # Errors
    /// It could not be opened safely or read.
    pub fn read_self(&self, file: &str) -> Result<String> {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::from(self.open_self(file, OFlags::RDONLY)?)
            .read_to_string(&mut text)
            .call("read", String::new)
            .map_err(|source| self.failed("read", file, source))?;
        Ok(text)
    }

    /// Where a link of the calling thread points to, such as `cwd` or `fd/3`.
    ///
    /// # Errors
    /// It could not be opened safely.
    pub fn readlink_self(&self, link: &str) -> Result<String> {
        let fd = self.open_self(link, OFlags::PATH | OFlags::NOFOLLOW)?;
        rustix::fs::readlinkat(&fd, "", Vec::new())
            .call("readlinkat", || link.to_owned())
            .map(|target| target.to_string_lossy().into_owned())
            .map_err(|source| self.failed("readlink", link, source))
    }

    /// Opens anew, with other flags, what a descriptor refers to.
    ///
    /// # Errors
    /// The link to the descriptor is mounted over, or the file does not allow it.
    pub fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        self.own_descriptors()?.reopen(fd, flags)
    }

    /// The directory of the calling thread's descriptors, to be kept longer than the whole.
    ///
    /// # Errors
    /// It could not be opened safely.
    pub fn own_descriptors(&self) -> Result<OwnDescriptors> {
        let directory = self.open_self("fd", OFlags::PATH | OFlags::DIRECTORY)?;
        let mount = mount_id(self.root_fd(), "", AtFlags::EMPTY_PATH)
            .map_err(|source| self.failed("look at", "fd", source))?;
        Ok(OwnDescriptors { directory, mount })
    }

    /// Sets a kernel parameter, with one `write(2)`. The name is as `sysctl(8)` takes it: the
    /// first separator decides, and in dotted form a `/` stands for a dot in a name.
    ///
    /// # Errors
    /// No such parameter, or its value is refused.
    pub fn write_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name).ok_or_else(|| Error::SysctlName(name.to_owned()))?;
        let root = self.root(Scope::Whole)?;
        retrying(root, &path, OFlags::WRONLY, Mode::empty(), STRICT)
            .and_then(|fd| write_once(&fd, value.as_bytes()))
            .map_err(|source| Error::Sysctl {
                name: name.to_owned(),
                value: value.to_owned(),
                source,
            })
    }

    /// The root of a procfs with at least the processes: for `mount(2)` on kernels that cannot
    /// mount on descriptors, with paths like `self/fd/3` relative to it.
    pub(crate) fn directory(&self) -> Result<BorrowedFd<'_>> {
        self.root(Scope::Processes)
    }

    /// `<pid>/task/<tid>` as this procfs numbers us: other than `thread-self` no symlink.
    fn thread_self(&self) -> Result<&str> {
        if let Some(path) = self.thread_self.get() {
            return Ok(path);
        }
        let target =
            rustix::fs::readlinkat(self.root(Scope::Processes)?, "thread-self", Vec::new())
                .call("readlinkat", || "thread-self")
                .map_err(Error::Unavailable)?;
        Ok(self
            .thread_self
            .get_or_init(|| target.to_string_lossy().into_owned()))
    }

    fn root(&self, scope: Scope) -> Result<BorrowedFd<'_>> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole.as_fd());
        }
        let cell = match scope {
            Scope::Whole => &self.whole,
            Scope::Processes => &self.processes,
        };
        if cell.get().is_none() {
            let made = open_private(&MountApi::new(), scope)?;
            return Ok(cell.get_or_init(|| made).as_fd());
        }
        cell.get().map(AsFd::as_fd).ok_or(Error::Counterfeit)
    }

    /// The root that was used last; only called after [`Procfs::root`].
    fn root_fd(&self) -> BorrowedFd<'_> {
        self.whole
            .get()
            .or(self.processes.get())
            .map_or(rustix::fs::CWD, AsFd::as_fd)
    }

    fn failed(&self, attempt: &'static str, file: &str, source: sys::Error) -> Error {
        Error::File {
            attempt,
            path: format!("thread-self/{file}"),
            source,
        }
    }
}

/// The directory of a thread's own descriptors in a procfs. It leads nowhere else.
#[derive(Debug)]
pub struct OwnDescriptors {
    directory: OwnedFd,
    /// The mount of the procfs that it was opened in.
    mount: u64,
}

impl OwnDescriptors {
    /// As [`Procfs::reopen`]; blocks if opening the file does.
    ///
    /// # Errors
    /// As [`Procfs::reopen`].
    pub fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        self.verify(&fd)?;
        self.reopen_verified(fd, flags)
    }

    /// Whether a descriptor's link is procfs's own and nothing is mounted over it.
    ///
    /// # Errors
    /// Something is.
    pub fn verify(&self, fd: impl AsFd) -> Result<()> {
        let number = fd.as_fd().as_raw_fd().to_string();
        mount_id(self.directory.as_fd(), &number, AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|found| match found == self.mount {
                true => Ok(()),
                false => Err(sys::Error::new("statx", number.clone(), Errno::XDEV)),
            })
            .map_err(|source| reopening(&number, source))
    }

    /// As [`Self::reopen`] after [`Self::verify`]: no other system call than `openat(2)`, which
    /// every seccomp profile allows.
    ///
    /// # Errors
    /// The file does not allow it.
    pub fn reopen_verified(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let number = fd.as_fd().as_raw_fd().to_string();
        let flags = flags | OFlags::CLOEXEC;
        rustix::io::retry_on_intr(|| {
            rustix::fs::openat(&self.directory, &*number, flags, Mode::empty())
        })
        .call("openat", || format!("{number:?}, {flags:?}"))
        .map_err(|source| reopening(&number, source))
    }
}

fn reopening(number: &str, source: sys::Error) -> Error {
    Error::File {
        attempt: "reopen",
        path: format!("thread-self/fd/{number}"),
        source,
    }
}

/// A name of a kernel parameter with dots as separators, whatever its form; a dot within a part of
/// the name becomes a slash, as `sysctl(8)` prints it.
pub fn sysctl_with_dots(name: &str) -> String {
    match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some("/") => swapped(name),
        _ => name.to_owned(),
    }
}

/// The file of a kernel parameter, relative to the root of procfs.
fn sysctl_path(name: &str) -> Option<String> {
    let path = match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some(".") => swapped(name),
        _ => name.to_owned(),
    };
    let valid = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    valid.then(|| format!("sys/{path}"))
}

fn swapped(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}

/// A procfs of our PID namespace that is not attached anywhere. Where the kernel or a filter of
/// system calls does not allow one: a clone of what is at `/proc` without anything mounted on it,
/// or at last `/proc` itself, which the strict resolution still guards.
fn open_private(api: &MountApi, scope: Scope) -> Result<OwnedFd> {
    let params: &[Param<'_>] = match scope {
        Scope::Processes => &[Param::Value("subset", "pid")],
        Scope::Whole => &[],
    };
    let attributes = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    let root = api
        .filesystem("proc", params, attributes)
        .or_else(|_| api.clone_path("/proc", Extent::Mount))
        .or_else(|_| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open("/proc", flags, Mode::empty()).call("open", || "\"/proc\"")
        })
        .map_err(Error::Unavailable)?;
    verify(&root)?;
    Ok(root)
}

fn verify(root: &OwnedFd) -> Result<()> {
    let fs = rustix::fs::fstatfs(root)
        .call("fstatfs", || "procfs")
        .map_err(Error::Unavailable)?;
    let stat = rustix::fs::fstat(root)
        .call("fstat", || "procfs")
        .map_err(Error::Unavailable)?;
    if fs.f_type == PROC_SUPER_MAGIC && stat.st_ino == ROOT_INODE {
        Ok(())
    } else {
        Err(Error::Counterfeit)
    }
}

fn mount_id(directory: BorrowedFd<'_>, path: &str, flags: AtFlags) -> SysResult<u64> {
    rustix::fs::statx(directory, Path::new(path), flags, StatxFlags::MNT_ID)
        .call("statx", || format!("{path:?}"))
        .map(|stat| stat.stx_mnt_id)
}

/// The kernel takes the value of a parameter as one `write(2)`: a second one would replace it.
fn write_once(fd: &OwnedFd, data: &[u8]) -> SysResult<()> {
    let describe = || format!("{:?}", String::from_utf8_lossy(data));
    let written = rustix::io::write(fd, data).call("write", describe)?;
    if written == data.len() {
        Ok(())
    } else {
        Err(sys::Error::new("write", describe(), Errno::IO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sysctls_are_taken_in_both_forms() {
        for (name, path, dotted) in [
            (
                "net.ipv4.ip_forward",
                "sys/net/ipv4/ip_forward",
                "net.ipv4.ip_forward",
            ),
            (
                "net/ipv4/ip_forward",
                "sys/net/ipv4/ip_forward",
                "net.ipv4.ip_forward",
            ),
            (
                "net/ipv4/conf/eno2.100/forwarding",
                "sys/net/ipv4/conf/eno2.100/forwarding",
                "net.ipv4.conf.eno2/100.forwarding",
            ),
            (
                "net.ipv4.conf.eno2/100.forwarding",
                "sys/net/ipv4/conf/eno2.100/forwarding",
                "net.ipv4.conf.eno2/100.forwarding",
            ),
        ] {
            assert_eq!(sysctl_path(name).unwrap(), path);
            assert_eq!(sysctl_with_dots(name), dotted);
        }
        for name in [
            "",
            "..",
            "kernel/../../1/mem",
            "kernel..x",
            "/kernel/x",
            "a//b",
            "a.",
        ] {
            assert_eq!(sysctl_path(name), None, "{name}");
        }
    }

    #[test]
    fn a_thread_reads_and_reopens_its_own() {
        let procfs = Procfs::default();
        let status = procfs.read_self("status").unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().to_string();
        assert!(status.contains(&format!("Pid:\t{tid}\n")), "{status}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let place = rustix::fs::open(file.path(), OFlags::PATH, Mode::empty()).unwrap();
        let reopened = procfs.reopen(&place, OFlags::WRONLY).unwrap();
        assert_eq!(rustix::io::write(&reopened, b"x").unwrap(), 1);
        let link = procfs
            .readlink_self(&format!("fd/{}", place.as_raw_fd()))
            .unwrap();
        assert_eq!(link, file.path().to_str().unwrap());
        // What lies behind a magic link is not beneath procfs.
        let error = procfs.open_self("cwd/etc", OFlags::PATH).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::LOOP), "{error}");
    }

    #[test]
    fn something_else_is_no_procfs() {
        let directory = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert!(matches!(Procfs::from_mount(fd), Err(Error::Counterfeit)));
        let fd = rustix::fs::open("/proc/self", OFlags::PATH, Mode::empty()).unwrap();
        assert!(matches!(Procfs::from_mount(fd), Err(Error::Counterfeit)));
    }
}
