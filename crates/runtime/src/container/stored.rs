// SPDX-License-Identifier: Apache-2.0
//! A container found on disk: what a process that has not made it can say of it and do with it.
//!
//! Its init is known by pid and start time. Whoever acts on it opens a pidfd first and compares
//! then: from there on the pid cannot become another process's.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cgroups::{Cgroup, Layout};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use sys::Errno;
use sys::spawn::Child;

use super::create::{Parts, plan_of};
use super::update::Resources;
use super::{Bundle, Container, Keyring};
use crate::cleanup;
use crate::error::{Attempt, Error, Result};
use crate::gate::{Fifo, Gate};
use crate::hooks::{Kind as Hook, Lifecycle};
use crate::resources;
use crate::seccomp_filter::{Cache, Seccomp};
use crate::state::{self, Directory, State};

const SIGKILL: i32 = 9;

/// Where a container is in its life, in the specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its init waits at the gate.
    Created,
    /// Its program runs.
    Running,
    /// All its processes are stopped, and can go on.
    Paused,
    /// Its init has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// The container's init.
    Init,
    /// Every process in the container's cgroup.
    All,
}

/// Whether a container that runs may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Only what is stopped or was never started.
    Orderly,
    /// Whatever there is, killed first.
    Forced,
}

/// What `state` and `list` show; the specification's state and what runc adds.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Version of the specification.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The pid of its init; 0 when it has ended.
    pub pid: i32,
    /// Its status.
    pub status: Status,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its root file system.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Its annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The name of the user who owns its state.
    pub owner: String,
}

/// A container by its state directory.
#[derive(Debug)]
pub struct Stored {
    directory: Directory,
    state: State,
}

impl Stored {
    /// Reads the state.
    ///
    /// # Errors
    /// [`Error::DoesNotExist`], or the state cannot be read.
    pub fn open(directory: Directory) -> Result<Self> {
        let state = directory.load()?.ok_or(Error::DoesNotExist)?;
        Ok(Self { directory, state })
    }

    /// All containers directly below `root`, by id. A directory without a state, or one that is
    /// removed meanwhile, is none.
    ///
    /// # Errors
    /// The directory or a state in it cannot be read.
    pub fn list(root: &Path) -> Result<Vec<Self>> {
        let failed = |source| Error::State {
            attempt: "read",
            path: root.to_owned(),
            source,
        };
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let directory = Directory::of_command_line(root, &name.to_string_lossy());
            let (Ok(directory), true) = (directory, entry.path().is_dir()) else {
                continue;
            };
            match Self::open(directory) {
                Ok(stored) => found.push(stored),
                Err(Error::DoesNotExist) => {}
                Err(e) => return Err(e),
            }
        }
        found.sort_by(|a, b| a.state.id.cmp(&b.state.id));
        Ok(found)
    }

    /// What is on disk.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where the container is in its life, as far as can be seen from outside.
    pub fn status(&self) -> Status {
        let (pid, started) = (self.state.init_process_pid, self.state.init_process_start);
        if pid == 0 || !state::is_alive(pid, started) {
            Status::Stopped
        } else if self
            .cgroup()
            .is_ok_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
        {
            Status::Paused
        } else if Fifo::in_directory(self.directory.path()).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// What `state` and `list` show.
    pub fn summary(&self) -> Summary {
        let status = self.status();
        let labels = self.state.config.labels.iter();
        let annotations = labels
            .filter_map(|label| label.split_once('='))
            .filter(|(key, _)| *key != "bundle")
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        Summary {
            oci_version: self.state.config.version.clone(),
            id: self.state.id.clone(),
            pid: match status {
                Status::Stopped => 0,
                _ => self.state.init_process_pid,
            },
            status,
            bundle: self.state.bundle().unwrap_or(Path::new("")).to_owned(),
            rootfs: self.state.config.rootfs.clone(),
            created: self.state.created.clone(),
            annotations: annotations.collect(),
            owner: self.owner(),
        }
    }

    /// As specified, and as updated since.
    fn resources(&self, bundle: &Bundle) -> Result<Resources> {
        let linux = bundle.spec.linux().as_ref();
        let specified = linux.and_then(|linux| linux.resources().as_ref());
        let (devices, limits) = resources::plan(specified)?;
        let limits = limits.merged(&(&self.state.config.cgroups).into());
        Ok(Resources { devices, limits })
    }

    fn owner(&self) -> String {
        use std::os::unix::fs::MetadataExt;
        let uid = std::fs::metadata(self.directory.path()).map_or(0, |meta| meta.uid());
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        user.unwrap_or_else(|| format!("#{uid}"))
    }

    /// The container, to be started or entered.
    ///
    /// # Errors
    /// Its init has ended, its configuration was not kept, or its cgroup cannot be opened.
    pub fn container(&self) -> Result<Container> {
        let child = self.init()?;
        let bundle = self.bundle()?;
        let cgroup = self.cgroup()?;
        let Some(process) = bundle.spec.process() else {
            return Err(Error::spec("process", "property must not be empty"));
        };
        let terminal = process.terminal().unwrap_or(false);
        let parts = Parts {
            child,
            oom_kills_before: cgroup.oom_kills(),
            resources: self.resources(&bundle)?,
            cgroup,
            directory: self.directory.clone(),
            keyring: match self.state.config.no_new_keyring {
                true => Keyring::Inherited,
                false => Keyring::New,
            },
            process: plan_of(&bundle.spec, process, terminal)?,
            seccomp: Seccomp::of(&bundle.spec, &Cache::default())?,
            gate: Gate::Fifo,
            channel: None,
            intel_rdt: self.state.intel_rdt.clone(),
            host_root: self.state.host_root.clone(),
        };
        Ok(Container::assemble(&bundle, parts))
    }

    /// The configuration that the container was created with.
    ///
    /// # Errors
    /// It was not kept: the container belongs to a shim.
    pub fn bundle(&self) -> Result<Bundle> {
        let Some(json) = self.directory.load_config()? else {
            return Err(Error::NotPossible(
                "the container was not created by this command: its configuration was not kept"
                    .to_owned(),
            ));
        };
        Bundle::from_json(self.state.bundle().unwrap_or(Path::new("/")), json)
    }

    fn cgroup(&self) -> Result<Cgroup> {
        let failed = |source| Error::Cgroup {
            attempt: "open cgroup",
            source,
        };
        let layout = Layout::detect().map_err(failed)?;
        Cgroup::open(&layout, &self.state.cgroup_paths).map_err(failed)
    }

    /// The container's init, held by its pidfd.
    fn init(&self) -> Result<Child> {
        let not_running = || Error::NotPossible("container not running".to_owned());
        let (pid, started) = (self.state.init_process_pid, self.state.init_process_start);
        let id = Pid::from_raw(pid).ok_or_else(not_running)?;
        let pidfd = pidfd_open(id, PidfdFlags::empty()).map_err(|_| not_running())?;
        // The pidfd pins the process; its start time says whether it is the one we mean.
        if !state::is_alive(pid, started) {
            return Err(not_running());
        }
        Ok(Child { pid: id, pidfd })
    }

    /// Lets the container's init execute its program; returns when it has.
    ///
    /// # Errors
    /// The container is not just created, or the program could not be executed.
    pub fn start(&self) -> Result<()> {
        let refused = match self.status() {
            Status::Created => {
                let init = self.init()?;
                Fifo::in_directory(self.directory.path()).open(&init.pidfd)?;
                return self.run_poststart(&init);
            }
            Status::Running => "cannot start an already running container",
            Status::Paused => "cannot start a container in the paused state",
            Status::Stopped => "cannot start a container that has stopped",
        };
        Err(Error::NotPossible(refused.to_owned()))
    }

    /// A hook that fails ends the container.
    fn run_poststart(&self, init: &Child) -> Result<()> {
        let hooks = Lifecycle::from_state(&self.state);
        let hooked = hooks.run_on_host(Hook::Poststart, self.state.init_process_pid);
        hooked.map_err(|error| {
            // ESRCH: it has ended already.
            let _ = sys::signals::send(&init.pidfd, SIGKILL);
            Error::Hook(error)
        })
    }

    /// Sends a signal. One that ends an init without a PID namespace of its own goes to all: the
    /// kernel would leave the rest alone.
    ///
    /// # Errors
    /// The container does not run, or the signal cannot be sent.
    pub fn kill(&self, signal: i32, to: Recipient) -> Result<()> {
        let shared = || {
            self.bundle()
                .is_ok_and(|bundle| !bundle.has_private_pid_namespace())
        };
        if to == Recipient::All || (signal == SIGKILL && shared()) {
            let some = self.kill_all(signal)?;
            // Asked for all, none is fine; as runc.
            return match (some, to) {
                (false, Recipient::Init) => Err(Error::NotPossible("container not running".into())),
                _ => Ok(()),
            };
        }
        let init = self.init()?;
        send(&init.pidfd, signal)?;
        if signal == SIGKILL {
            // On v1 who is frozen dies when thawed. It is not frozen mostly, or gone by now.
            if let Err(e) = self.cgroup()?.thaw() {
                log::debug!("thaw a killed container: {e}");
            }
        }
        Ok(())
    }

    /// Stops all processes; returns when they have stopped.
    ///
    /// # Errors
    /// The container does not run, or its processes do not stop.
    pub fn pause(&self) -> Result<()> {
        match self.status() {
            Status::Created | Status::Running => self.container()?.pause(),
            // runc's word also for one that is paused.
            Status::Paused | Status::Stopped => {
                Err(Error::NotPossible("container not running".to_owned()))
            }
        }
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// The container is not paused, or its processes cannot be let go on.
    pub fn resume(&self) -> Result<()> {
        match self.status() {
            Status::Paused => self.container()?.resume(),
            _ => Err(Error::NotPossible("container not paused".to_owned())),
        }
    }

    /// Signals every process in the cgroup; says whether there was any.
    fn kill_all(&self, signal: i32) -> Result<bool> {
        let cgroup = self.cgroup()?;
        let failed = |source| Error::Cgroup {
            attempt: "kill all processes",
            source,
        };
        let pids = cgroup.pids().map_err(failed)?;
        if signal == SIGKILL && !pids.is_empty() {
            cgroup.kill().map_err(failed)?;
            return Ok(true);
        }
        let mut some = false;
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // Read again: a pid that is still in the cgroup while we hold its pidfd is the one.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            let still = cgroup.pids().map_err(failed)?;
            if still.contains(&pid.as_raw_nonzero().get()) {
                some |= send(&pidfd, signal)?;
            }
        }
        Ok(some)
    }

    /// Pids of all processes in the container's cgroup.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.cgroup()?.pids().map_err(|source| Error::Cgroup {
            attempt: "list processes",
            source,
        })
    }

    /// Removes what is left of the container: processes, cgroup, state; then runs its `poststop`
    /// hooks.
    ///
    /// # Errors
    /// It runs and is not to be killed, or something of it cannot be removed.
    pub fn delete(&self, how: Deletion) -> Result<()> {
        let status = self.status();
        let runs = matches!(status, Status::Running | Status::Paused);
        if runs && how == Deletion::Orderly {
            return Err(Error::NotPossible(format!(
                "cannot delete container {} that is not stopped: {status}",
                self.state.id
            )));
        }
        cleanup::end_processes(&self.state)?;
        if let Some(group) = &self.state.intel_rdt {
            group.remove()?;
        }
        self.directory.remove()?;
        Lifecycle::from_state(&self.state).run_poststop();
        Ok(())
    }
}

/// Sends a signal; says whether there was still somebody to get it.
fn send(pidfd: &OwnedFd, signal: i32) -> Result<bool> {
    match sys::signals::send(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(e) if e.errno() == Errno::SRCH => Ok(false),
        Err(e) => Err(e).attempt(|| "send signal"),
    }
}
