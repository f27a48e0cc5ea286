// SPDX-License-Identifier: Apache-2.0
//! The gate in the file system: `exec.fifo` in a container's state directory.
//!
//! A shim holds the sync socket of a created container, and says Run when it is to start. A command
//! line ends after create, and start is another process. There init waits as runc's does: it opens a
//! FIFO for writing, which blocks until somebody opens it for reading. It has no descriptor of the
//! state directory, only one of the FIFO itself.
//!
//! ```text
//!   start                                  init
//!    | open for reading  ────────────────►  |  open for writing returns
//!    |   ◄────────────────────────── "0"    |  the last word before execve
//!    |   ◄ ─ ─ ─ ─ ─ ─ ─ end of stream ─    |  close-on-exec: execve has succeeded
//! ```
//!
//! After "0" init may send a sentence instead: execve has failed. As long as the FIFO exists the
//! container counts as created.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use sys::Call;

use crate::error::{Attempt, Error, Failure, Result};

/// Its name, which is runc's.
const FILE: &str = "exec.fifo";
/// What init writes when it is through.
pub(crate) const THROUGH: &[u8] = b"0";
/// No reason why execve failed is longer.
const LONGEST: u64 = 64 * 1024;

/// Who opens the gate of a created container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The process that has created it, over the sync socket; its end is the container's.
    Channel,
    /// Any process that finds the state directory.
    Fifo,
}

/// The FIFO of a container.
#[derive(Debug)]
pub(crate) struct Fifo(PathBuf);

impl Fifo {
    /// The one in this state directory.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self(directory.join(FILE))
    }

    /// Makes it; what init gets.
    pub(crate) fn make(&self) -> Result<OwnedFd> {
        let path = &self.0;
        let number = 0;
        // The container's root may be anybody on the host, and must be able to write.
        let mode = Mode::from_raw_mode(0o622);
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, mode, number)
            .call("mknodat", || format!("{path:?}, S_IFIFO"))
            .attempt(|| "make the gate")?;
        // Without the umask.
        fs::set_permissions(path, fs::Permissions::from_mode(0o622))
            .call("chmod", || format!("{path:?}"))
            .attempt(|| "make the gate")?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .call("open", || format!("{path:?}, O_PATH"))
            .attempt(|| "open the gate")
    }

    /// Whether it is there: nobody has started the container.
    pub(crate) fn exists(&self) -> bool {
        fs::symlink_metadata(&self.0).is_ok()
    }

    /// Lets init through; returns when its program is executed. `pidfd` is init's.
    pub(crate) fn open(&self, pidfd: impl AsFd) -> Result<()> {
        let path = &self.0;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Err(started_already()),
            other => other
                .call("open", || format!("{path:?}"))
                .attempt(|| "open the gate")?,
        };
        wait_for_either(fifo.as_fd(), pidfd.as_fd())?;
        rustix::fs::fcntl_setfl(&fifo, OFlags::empty())
            .call("fcntl", || "F_SETFL")
            .attempt(|| "open the gate")?;
        let mut said = Vec::new();
        // Without a writer this is the end of the file, not a wait for one.
        fs::File::from(fifo)
            .take(LONGEST)
            .read_to_end(&mut said)
            .call("read", || format!("{path:?}"))
            .attempt(|| "open the gate")?;
        let Some(reason) = said.strip_prefix(THROUGH) else {
            return Err(match self.exists() {
                true => Error::NotPossible("container process is already dead".to_owned()),
                false => started_already(),
            });
        };
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e)
                    .call("unlink", || format!("{path:?}"))
                    .attempt(|| "remove the gate");
            }
            // ENOENT: somebody deletes the container meanwhile.
            _ => {}
        }
        if reason.is_empty() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(reason);
        let failure = Failure::new("execute program", reason, None);
        failure.log();
        Err(Error::Init(failure))
    }
}

fn started_already() -> Error {
    Error::NotPossible("cannot start an already running container".to_owned())
}

/// Waits until init has written, or ended.
fn wait_for_either(
    fifo: std::os::fd::BorrowedFd<'_>,
    pidfd: std::os::fd::BorrowedFd<'_>,
) -> Result<()> {
    let mut fds = [
        PollFd::new(&fifo, PollFlags::IN),
        PollFd::new(&pidfd, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut fds, None))
        .call("poll", || "gate, pidfd")
        .attempt(|| "wait at the gate")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    fn pidfd_of(child: &std::process::Child) -> OwnedFd {
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
    }

    fn own_pidfd() -> OwnedFd {
        rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap()
    }

    #[test]
    fn the_gate_opens_once_and_is_gone_then() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = Fifo::in_directory(directory.path());
        let path = directory.path().join(FILE);
        drop(fifo.make().unwrap());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o622
        );
        let init = std::thread::spawn(move || {
            let mut gate = fs::OpenOptions::new().write(true).open(path).unwrap();
            gate.write_all(THROUGH).unwrap();
        });
        fifo.open(own_pidfd()).unwrap();
        init.join().unwrap();
        assert!(!fifo.exists());
        let error = fifo.open(own_pidfd()).unwrap_err().to_string();
        assert_eq!(error, "cannot start an already running container");
    }

    #[test]
    fn what_init_says_after_the_gate_is_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = Fifo::in_directory(directory.path());
        let path = directory.path().join(FILE);
        drop(fifo.make().unwrap());
        let init = std::thread::spawn(move || {
            let mut gate = fs::OpenOptions::new().write(true).open(path).unwrap();
            gate.write_all(THROUGH).unwrap();
            gate.write_all(b"exec /x: exec format error").unwrap();
        });
        let error = fifo.open(own_pidfd()).unwrap_err().to_string();
        init.join().unwrap();
        assert!(error.ends_with("exec /x: exec format error"), "{error}");
        assert!(!fifo.exists());
    }

    #[test]
    fn an_init_that_ends_at_the_gate_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = Fifo::in_directory(directory.path());
        drop(fifo.make().unwrap());
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_of(&child);
        std::thread::scope(|scope| {
            let started = scope.spawn(|| fifo.open(&pidfd));
            child.kill().unwrap();
            let error = started.join().unwrap().unwrap_err().to_string();
            assert_eq!(error, "container process is already dead");
        });
        child.wait().unwrap();
        assert!(fifo.exists(), "it was never started");
    }
}
