// SPDX-License-Identifier: Apache-2.0
//! The server's socket: its address, and who may create and remove it.
//!
//! Containers of one group (a pod) share one server, found through the socket's name: a hash of
//! containerd's address, the namespace and the group. So two `start`s may want the same name at
//! once, and one may find a name whose server has died. Creating and replacing therefore happen
//! under a lock on the directory, and a name is removed only if nobody listens on it.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use sha2::{Digest as _, Sha256};
use sys::Call as _;

/// Where sockets are unless containerd says otherwise.
pub(crate) const DEFAULT_DIR: &str = "/run/containerd/s";
/// What addresses begin with.
pub(crate) const SCHEME: &str = "unix://";
/// The longest path that fits `sockaddr_un` with its final NUL.
const PATH_MAX: usize = 107;
/// How many connections may wait while the server starts.
const BACKLOG: i32 = 4096;
/// How long a server may take to accept a connection.
const CONNECT: std::time::Duration = std::time::Duration::from_millis(100);

/// A socket that could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("socket path {path:?} is {} bytes long: more than {PATH_MAX}", path.as_os_str().len())]
    TooLong { path: PathBuf },
    #[error("create directory {path:?} for sockets")]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("listen on {path:?}")]
    Listen { path: PathBuf, source: sys::Error },
}

/// What [`claim`] found.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The name was free: here is its listener.
    Bound(OwnedFd),
    /// A server listens there already.
    InUse,
}

/// The path of a group's socket: `dir/<hash>`.
pub(crate) fn path(dir: &Path, address: &str, parts: &[&str]) -> PathBuf {
    let mut hash = Sha256::new();
    hash.update(go_join(address, parts));
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    dir.join(hex)
}

/// Go's `filepath.Join`: joined with slashes and cleaned, without looking at the file system.
fn go_join(first: &str, rest: &[&str]) -> String {
    let elements = std::iter::once(first).chain(rest.iter().copied());
    let joined: Vec<&str> = elements.filter(|e| !e.is_empty()).collect();
    let joined = joined.join("/");
    let rooted = joined.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for element in joined.split('/') {
        match element {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => drop(kept.pop()),
            ".." if rooted => {}
            other => kept.push(other),
        }
    }
    match (rooted, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) if joined.is_empty() => String::new(),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}

/// The lock under which sockets of one directory appear and disappear.
#[derive(Debug)]
pub(crate) struct Lock {
    _dir: OwnedFd,
}

impl Lock {
    /// Waits for the lock, for as long as another `start` needs to bind a socket.
    pub(crate) fn take(dir: &Path) -> sys::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty()).call("open", || format!("{dir:?}"))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive))
            .call("flock", || format!("{dir:?}, LOCK_EX"))?;
        Ok(Self { _dir: fd })
    }
}

/// Makes the directory for sockets, for its owner alone.
pub(crate) fn make_dir(dir: &Path) -> Result<(), SocketError> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| SocketError::Directory {
            path: dir.to_owned(),
            source,
        })
}

/// Binds the socket, or finds that a server listens on it. A dead server's socket is replaced.
pub(crate) fn claim(path: &Path, _lock: &Lock) -> Result<Claim, SocketError> {
    let fail = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    if path.as_os_str().len() > PATH_MAX {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
        });
    }
    match listen(path) {
        Ok(listener) => Ok(Claim::Bound(listener)),
        Err(error) if error.errno() == Errno::ADDRINUSE => {
            if is_alive(path) {
                return Ok(Claim::InUse);
            }
            unlink(path).map_err(fail)?;
            listen(path).map(Claim::Bound).map_err(fail)
        }
        Err(error) => Err(fail(error)),
    }
}

/// Binds the socket whatever is in its place.
pub(crate) fn replace(path: &Path, _lock: &Lock) -> Result<OwnedFd, SocketError> {
    if path.as_os_str().len() > PATH_MAX {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
        });
    }
    unlink(path)
        .and_then(|()| listen(path))
        .map_err(|source| SocketError::Listen {
            path: path.to_owned(),
            source,
        })
}

fn listen(path: &Path) -> sys::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path).call("bind", || format!("{path:?}"))?;
    let fd = socket(SocketFlags::CLOEXEC)?;
    // The mask gives mode 0600 from the first moment on; nothing else runs in this process yet.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&fd, &address);
    rustix::process::umask(mask);
    bound.call("bind", || format!("{path:?}"))?;
    rustix::net::listen(&fd, BACKLOG).call("listen", || format!("{path:?}"))?;
    Ok(fd)
}

fn socket(flags: SocketFlags) -> sys::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .call("socket", || "AF_UNIX, SOCK_STREAM")
}

/// Connects, waiting no longer than `CONNECT`.
pub(crate) fn connect(path: &Path) -> sys::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path).call("connect", || format!("{path:?}"))?;
    let fd = socket(SocketFlags::CLOEXEC)?;
    // Bounds connect(2) too: it waits while the server's backlog is full.
    sockopt::set_socket_timeout(&fd, Timeout::Send, Some(CONNECT))
        .call("setsockopt", || "SO_SNDTIMEO")?;
    rustix::net::connect(&fd, &address).call("connect", || format!("{path:?}"))?;
    Ok(fd)
}

/// Whether a server listens; a busy one, whose backlog is full, does.
fn is_alive(path: &Path) -> bool {
    match connect(path) {
        Ok(_) => true,
        Err(error) => matches!(error.errno(), Errno::AGAIN | Errno::INTR),
    }
}

fn unlink(path: &Path) -> sys::Result<()> {
    match rustix::fs::unlink(path) {
        Err(Errno::NOENT) => Ok(()),
        result => result.call("unlink", || format!("{path:?}")),
    }
}

/// Removes a socket if its server is dead; says nothing of failures, for whoever calls is
/// cleaning up and would go on anyway.
pub(crate) fn remove_stale(path: &Path) {
    let is_socket = || std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if !is_socket() {
        return;
    }
    let Some(Ok(_lock)) = path.parent().map(Lock::take) else {
        return;
    };
    if is_socket() && !is_alive(path) {
        // Gone already is as good.
        let _ = unlink(path);
    }
}

/// The name of a bound socket, remembered as the file that it is now.
///
/// The server removes it when it ends; but not a socket of the same name that another server has
/// made meanwhile.
#[derive(Debug)]
pub(crate) struct Name {
    path: PathBuf,
    file: (u64, u64),
}

impl Name {
    /// The name that a listener is bound to; `None` if it has none in the file system.
    pub(crate) fn of(listener: impl AsFd) -> Option<Self> {
        let address = rustix::net::getsockname(listener).ok()?;
        let address = SocketAddrUnix::try_from(address).ok()?;
        let bytes = address.path_bytes()?.to_vec();
        let path = PathBuf::from(OsString::from_vec(bytes));
        let file = identity(&path)?;
        Some(Self { path, file })
    }

    /// The directory that the name is in.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.path.parent()
    }

    /// Removes the name if it still leads to the same socket.
    pub(crate) fn remove(&self) {
        let Some(Ok(_lock)) = self.path.parent().map(Lock::take) else {
            return;
        };
        if identity(&self.path) == Some(self.file) {
            // Gone already is as good.
            let _ = unlink(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn names_are_the_hash_that_containerd_computes() {
        // printf %s /run/containerd/containerd.sock/k8s.io/abc | sha256sum
        let path = path(
            Path::new("/run/containerd/s"),
            "/run/containerd/containerd.sock",
            &["k8s.io", "abc"],
        );
        assert_eq!(
            path.to_str().unwrap(),
            "/run/containerd/s/a99a1752d3a0fadfb1f869026f16760475df03a572e20f4ccea9e6c1e5470b72"
        );
    }

    #[test]
    fn joining_cleans_as_go_does() {
        let cases = [
            ("/run//c.sock/", &["ns", "id"][..], "/run/c.sock/ns/id"),
            (
                "/run/./x/../c.sock",
                &["ns", "id", "debug"],
                "/run/c.sock/ns/id/debug",
            ),
            ("", &["ns", "id"], "ns/id"),
            ("", &["", ""], ""),
            ("a", &["..", "..", "b"], "../b"),
            ("/..", &["a"], "/a"),
            ("a", &[".."], "."),
        ];
        for (first, rest, want) in cases {
            assert_eq!(go_join(first, rest), want);
        }
    }

    #[test]
    fn a_live_socket_is_found_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let lock = Lock::take(dir.path()).unwrap();
        let Claim::Bound(listener) = claim(&path, &lock).unwrap() else {
            panic!("in use")
        };
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(matches!(claim(&path, &lock).unwrap(), Claim::InUse));

        drop(listener);
        let Claim::Bound(_live) = claim(&path, &lock).unwrap() else {
            panic!("in use")
        };
        drop(lock);
        remove_stale(&path);
        assert!(path.exists());
    }

    #[test]
    fn a_server_removes_its_own_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let lock = Lock::take(dir.path()).unwrap();
        let first = replace(&path, &lock).unwrap();
        let name = Name::of(&first).unwrap();
        let second = replace(&path, &lock).unwrap();
        drop(lock);
        name.remove();
        assert!(path.exists());
        Name::of(&second).unwrap().remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let path = dir.path().join("x".repeat(100));
        let error = claim(&path, &lock).unwrap_err().to_string();
        assert!(error.ends_with("bytes long: more than 107"), "{error}");
    }
}
