// SPDX-License-Identifier: Apache-2.0
//! Adopts and reaps what shims leave.
//!
//! The server that `start` leaves behind, and the processes of a shim that was killed, become
//! children of the nearest subreaper. Were that a slow one (process 1 of a container may be), a
//! container's init could not end: it waits until everyone in its PID namespace is reaped. So the
//! mock is one, and reaps at once.
//!
//! Invariant: children that were spawned here are left to those who spawned them.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};

use super::error::{During as _, Result};

/// Children with an owner.
static OWNED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn owned() -> MutexGuard<'static, Vec<u32>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to adopt and reap. Later calls do nothing.
pub(crate) fn adopt() -> Result<()> {
    static BEGUN: Once = Once::new();
    let mut result = Ok(());
    BEGUN.call_once(|| result = begin());
    result
}

fn begin() -> Result<()> {
    let (mut read, write) = UnixStream::pair().during(|| "socketpair".to_owned())?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, write)
        .during(|| "handle SIGCHLD".to_owned())?;
    set_child_subreaper(Pid::from_raw(1)).during(|| "become a subreaper".to_owned())?;
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while read.read(&mut buffer).is_ok_and(|count| count > 0) {
            reap();
        }
    });
    Ok(())
}

fn reap() {
    let owned = owned();
    for thread in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let pids = children
            .split_ascii_whitespace()
            .filter_map(|word| word.parse::<u32>().ok());
        for pid in pids.filter(|pid| !owned.contains(pid)) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may still run: then its end will be told.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }
}

/// A child that is not reaped behind its owner's back.
///
/// Killed and waited for when it is dropped.
#[derive(Debug)]
pub struct Owned(Option<Child>);

/// Executes a command.
///
/// # Errors
/// Those of [`Command::spawn`].
pub fn spawn(command: &mut Command) -> std::io::Result<Owned> {
    let mut owned = owned();
    let child = command.spawn()?;
    owned.push(child.id());
    Ok(Owned(Some(child)))
}

/// Executes a command to its end, and returns what it wrote.
pub fn run(command: &mut Command) -> std::io::Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    spawn(command).and_then(Owned::output)
}

/// Executes a command to its end, and fails if it does. Its stdio is the caller's business.
pub fn run_to_end(command: &mut Command) -> std::io::Result<()> {
    let status = spawn(command).and_then(Owned::wait)?;
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(status.to_string()))
    }
}

impl Owned {
    /// Its number; 0 once somebody has waited for it.
    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// The child's standard input, once.
    pub(crate) fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.0.as_mut()?.stdin.take()
    }

    /// Kills it, if it has not ended.
    pub(crate) fn kill(&mut self) {
        if let Some(child) = &mut self.0 {
            // Fails only after the end.
            let _ = child.kill();
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Those of [`Child::wait`].
    pub fn wait(mut self) -> std::io::Result<ExitStatus> {
        match self.0.as_mut() {
            Some(child) => child.wait(),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    /// Waits for its end and returns what it wrote.
    pub(crate) fn output(mut self) -> std::io::Result<Output> {
        let Some(child) = self.0.take() else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let pid = child.id();
        let output = child.wait_with_output();
        owned().retain(|one| *one != pid);
        output
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Nothing to do if it was waited for; else nobody wants it any more.
            let _ = child.kill();
            let _ = child.wait();
            owned().retain(|one| *one != child.id());
        }
    }
}
