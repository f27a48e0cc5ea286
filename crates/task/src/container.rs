// SPDX-License-Identifier: Apache-2.0
//! What the shim knows of a container and its processes. Owned by the reactor thread: no lock.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::runtime::Process as ProcessSpec;
use stdio::ProcessIo;

use crate::diagnostics::labels::Labels;
use crate::freeze::Freeze;
use crate::notify_relay::Notify;
use crate::oom::OomState;
use crate::pressure::PressureState;
use crate::server::Server;
use crate::status;
use crate::timers::TimerId;

/// Where an answer goes: a call on a connection. The connection may be gone by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ReplyTo {
    pub(crate) connection: u64,
    pub(crate) stream: u32,
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exited {
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
}

impl Exited {
    /// Whether SIGKILL ended it, which is how the kernel frees memory.
    pub(crate) fn was_killed(self) -> bool {
        self.status == 128 + libc::SIGKILL as u32
    }
}

/// Where a process is in its life. What may follow what is in the methods of [`Process`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A worker creates the container; nobody but Create and Delete knows of it yet.
    Creating,
    /// Created, not started.
    Created,
    /// A worker starts it.
    Starting,
    /// Its program runs.
    Running,
    /// It has ended; kept until it is deleted.
    Stopped(Exited),
}

impl Phase {
    /// For error texts.
    pub(crate) fn for_status(self) -> status::Phase {
        match self {
            Phase::Creating | Phase::Created => status::Phase::Created,
            Phase::Starting | Phase::Running => status::Phase::Running,
            Phase::Stopped(_) => status::Phase::Stopped,
        }
    }
}

/// The paths that containerd gave, and gets back from State.
#[derive(Debug, Clone, Default)]
pub(crate) struct StdioPaths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// A Wait that has not been answered.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) to: ReplyTo,
    pub(crate) deadline: Option<TimerId>,
}

/// A Delete that waits until the process's output has been read.
#[derive(Debug)]
pub(crate) struct Draining {
    pub(crate) to: ReplyTo,
    pub(crate) limit: TimerId,
    /// Since when, on the flight recorder's clock.
    pub(crate) since: u64,
}

/// An init or exec process.
pub(crate) struct Process {
    /// Names it in epoll tokens; never used again for another process.
    pub(crate) key: u64,
    pub(crate) phase: Phase,
    /// 0 before it exists.
    pub(crate) pid: i32,
    /// When its program was executed.
    pub(crate) started: Option<SystemTime>,
    pub(crate) pidfd: Option<Arc<OwnedFd>>,
    pub(crate) io: Option<ProcessIo>,
    /// `CloseIO` came before the streams were there.
    pub(crate) stdin_closed: bool,
    pub(crate) paths: StdioPaths,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) draining: Option<Draining>,
    /// It ended while a worker was still starting it: told after the start has been.
    pub(crate) early_exit: Option<Exited>,
}

impl Process {
    pub(crate) fn new(key: u64, phase: Phase, paths: StdioPaths) -> Self {
        Self {
            key,
            phase,
            pid: 0,
            started: None,
            pidfd: None,
            io: None,
            stdin_closed: false,
            paths,
            waiters: Vec::new(),
            draining: None,
            early_exit: None,
        }
    }

    pub(crate) fn exited(&self) -> Option<Exited> {
        match self.phase {
            Phase::Stopped(exited) => Some(exited),
            _ => None,
        }
    }
}

/// An exec: a process and what it is to be.
pub(crate) struct Exec {
    pub(crate) process: Process,
    pub(crate) spec: Arc<ProcessSpec>,
    /// A Delete is under way: the id is no longer known to others.
    pub(crate) deleting: bool,
}

/// Whether an operation may run beside others of the same container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Alone: create, start, delete.
    Exclusive,
    /// Beside others of its kind: starting an exec.
    Shared,
}

type Operation = Box<dyn FnOnce(&mut Server)>;

/// The slow operations of one container, in the order in which they were asked for.
#[derive(Default)]
pub(crate) struct Operations {
    shared: usize,
    exclusive: bool,
    waiting: VecDeque<(Mode, Operation)>,
}

impl Operations {
    pub(crate) fn push(&mut self, mode: Mode, operation: Operation) {
        self.waiting.push_back((mode, operation));
    }

    /// Takes the next operation that may run now and counts it as running.
    pub(crate) fn take_ready(&mut self) -> Option<Operation> {
        let may_run = match self.waiting.front()?.0 {
            Mode::Exclusive => !self.exclusive && self.shared == 0,
            Mode::Shared => !self.exclusive,
        };
        if !may_run {
            return None;
        }
        let (mode, operation) = self.waiting.pop_front()?;
        match mode {
            Mode::Exclusive => self.exclusive = true,
            Mode::Shared => self.shared += 1,
        }
        Some(operation)
    }

    pub(crate) fn finished(&mut self, mode: Mode) {
        match mode {
            Mode::Exclusive => self.exclusive = false,
            Mode::Shared => self.shared = self.shared.saturating_sub(1),
        }
    }

    /// All that still wait: the container is gone, and they will find that out.
    pub(crate) fn take_all(&mut self) -> Vec<Operation> {
        self.waiting
            .drain(..)
            .map(|(_, operation)| operation)
            .collect()
    }

    pub(crate) fn load(&self) -> (usize, usize) {
        (
            self.shared + usize::from(self.exclusive),
            self.waiting.len(),
        )
    }
}

/// A container.
pub(crate) struct Container {
    pub(crate) bundle: PathBuf,
    /// When Create was called.
    pub(crate) created: SystemTime,
    /// `None` while it is being created.
    pub(crate) runtime: Option<Arc<runtime::Container>>,
    pub(crate) init: Process,
    pub(crate) execs: BTreeMap<String, Exec>,
    pub(crate) operations: Operations,
    /// Execs that are being started or run: the init's exit is told after theirs.
    pub(crate) running_execs: usize,
    /// The init has ended; told when no exec runs any more.
    pub(crate) init_exit: Option<Exited>,
    /// A Delete of the created container: it goes on when the init has been killed.
    pub(crate) delete_when_stopped: Option<ReplyTo>,
    /// Whether its processes may run.
    pub(crate) freeze: Freeze,
    /// Processes killed for memory; from Create on.
    pub(crate) oom: Option<OomState>,
    /// How short its memory has got.
    pub(crate) pressure: PressureState,
    /// Whether Create mounted the root file system.
    pub(crate) rootfs_mounted: bool,
    /// Its relay of notifications, if it has one.
    pub(crate) notify: Option<Notify>,
    /// What it is called by those who made it.
    pub(crate) labels: Labels,
    /// How many of the same name there were before it.
    pub(crate) restarts: u32,
}

impl Container {
    pub(crate) fn process(&self, exec_id: Option<&str>) -> Option<&Process> {
        match exec_id {
            None => Some(&self.init),
            Some(id) => self
                .execs
                .get(id)
                .filter(|e| !e.deleting)
                .map(|exec| &exec.process),
        }
    }

    pub(crate) fn process_mut(&mut self, exec_id: Option<&str>) -> Option<&mut Process> {
        match exec_id {
            None => Some(&mut self.init),
            Some(id) => self.execs.get_mut(id).map(|exec| &mut exec.process),
        }
    }

    /// Whether the init has ended, told or not.
    pub(crate) fn init_has_ended(&self) -> bool {
        self.init_exit.is_some() || self.init.exited().is_some() || self.init.early_exit.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_operations_run_alone_and_shared_ones_together() {
        let mut operations = Operations::default();
        for mode in [Mode::Shared, Mode::Shared, Mode::Exclusive, Mode::Shared] {
            operations.push(mode, Box::new(|_| ()));
        }
        assert!(operations.take_ready().is_some() && operations.take_ready().is_some());
        assert!(
            operations.take_ready().is_none(),
            "the exclusive one waits for both"
        );
        operations.finished(Mode::Shared);
        assert!(operations.take_ready().is_none());
        operations.finished(Mode::Shared);
        assert!(operations.take_ready().is_some());
        assert!(operations.take_ready().is_none(), "nothing runs beside it");
        operations.finished(Mode::Exclusive);
        assert!(operations.take_ready().is_some());
        assert_eq!(operations.load(), (1, 0));
    }
}
