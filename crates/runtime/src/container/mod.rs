// SPDX-License-Identifier: Apache-2.0
//! The shim's side: creating, starting, entering and destroying a container.
//!
//! Straight sequential code that blocks; it runs on a worker thread. Nothing here knows containerd.

mod bundle;
mod confine;
mod control;
mod create;
mod exec;
mod made;
mod spawn;
mod stored;
mod update;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cgroups::{Cgroup, Layout};
use oci_spec::runtime::Spec;
use rustix::process::{Pid, Signal, pidfd_send_signal};
use sys::Call;

use self::control::explain_kill;
pub use self::stored::{Deletion, Recipient, Status, Stored, Summary};
use crate::error::{Attempt, Error, Result};
use crate::gate::{Fifo, Gate};
use crate::hooks::{Hooks, Kind as Hook, Lifecycle};
use crate::host_root::HostRoot;
use crate::intel_rdt;
use crate::namespaces::{Kind as Namespace, Namespaces, Source};
use crate::process;
use crate::rootfs;
use crate::seccomp_filter::{Cache, Seccomp};
use crate::spec;
use crate::state::Directory;
use crate::sync::{Channel, Kind};

/// What all containers of a shim share.
#[derive(Debug)]
pub struct Runtime {
    /// The shim's own executable, as init processes are to see it: not writable through any
    /// `/proc/<pid>/exe` (CVE-2019-5736).
    pub exe: OwnedFd,
    /// Write end of the log pipe, non-blocking.
    pub log: OwnedFd,
    /// The machine's cgroup hierarchies.
    pub cgroups: Layout,
    /// The shim's own PID namespace.
    pub pid_namespace: OwnedFd,
    /// Whether init processes log each step.
    pub debug: bool,
    /// Compiled seccomp profiles.
    pub filters: Cache,
}

impl Runtime {
    /// Looks at the machine.
    ///
    /// # Errors
    /// No cgroup hierarchy is found, or `/proc` cannot be read.
    pub fn new(exe: OwnedFd, log: OwnedFd, debug: bool) -> Result<Self> {
        use rustix::fs::{Mode, OFlags, open};
        let cgroups = Layout::detect().map_err(|source| Error::Cgroup {
            attempt: "find cgroup hierarchies",
            source,
        })?;
        let pid_namespace = open(
            "/proc/self/ns/pid",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .call("open", || "/proc/self/ns/pid")
        .attempt(|| "open own PID namespace")?;
        Ok(Self {
            exe,
            log,
            cgroups,
            pid_namespace,
            debug,
            filters: Cache::default(),
        })
    }
}

/// Where a process's standard streams go.
#[derive(Debug)]
pub enum Stdio {
    /// A terminal made in the container; its master is in the result.
    Terminal,
    /// These descriptors, which become 0, 1 and 2.
    Streams([OwnedFd; 3]),
}

/// What a process gets beyond its specification; mostly nothing.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Descriptors, from 3 on.
    pub fds: Vec<OwnedFd>,
    /// What goes to the end of its environment, `NAME=value`.
    pub environment: Vec<String>,
    /// For an exec: where it is placed below the container's cgroup, by controller; the empty name
    /// stands for all.
    pub cgroups: BTreeMap<String, String>,
}

/// Whether the container gets a session keyring of its own (`Options.no_new_keyring`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyring {
    /// Its own, named `_ses.<id>`.
    New,
    /// The shim's.
    Inherited,
}

/// A bundle's configuration, read and checked.
#[derive(Debug)]
pub struct Bundle {
    /// Where it is.
    pub path: PathBuf,
    json: Vec<u8>,
    spec: Spec,
    namespaces: Namespaces,
    hooks: Hooks,
}

impl Bundle {
    /// Reads and checks config.json.
    ///
    /// # Errors
    /// The file cannot be read, or asks for what is impossible or not supported; see [`Error`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_json(path, spec::read(path)?)
    }

    /// Checks what was read of a bundle's config.json.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn from_json(path: &Path, json: Vec<u8>) -> Result<Self> {
        let span = telemetry::span("check spec");
        let spec = spec::parse_config(path, &json)?;
        let namespaces = Namespaces::from_spec(&spec)?;
        spec::check(&spec, &namespaces)?;
        let hooks = Hooks::from_spec(&spec)?;
        span.done();
        Ok(Self {
            path: path.to_owned(),
            json,
            spec,
            namespaces,
            hooks,
        })
    }

    /// The configuration.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether the container has a PID namespace of its own, as opposed to the host's or another
    /// container's: when its init ends, the kernel ends all its processes.
    pub fn has_private_pid_namespace(&self) -> bool {
        *self.namespaces.get(Namespace::Pid) == Source::New
    }
}

/// Who makes a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// The host's root.
    Root,
    /// Somebody who may map some ids: a container with a user namespace and without cgroups, which
    /// can do no more than he can.
    User,
}

impl Maker {
    /// Who runs this process.
    pub fn current() -> Self {
        match rustix::process::geteuid().is_root() {
            true => Self::Root,
            false => Self::User,
        }
    }
}

/// A container to be created.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its bundle; the root file system is mounted already.
    pub bundle: &'a Bundle,
    /// Where state is kept.
    pub directory: Directory,
    /// The name of a directory that is made there with the state, for a socket that is mounted
    /// into the container.
    pub socket_directory: Option<&'a str>,
    /// Who starts it.
    pub gate: Gate,
    /// Its init's standard streams.
    pub stdio: Stdio,
    /// What its init has beyond those.
    pub inherited: Inherited,
    /// How the root is changed.
    pub pivot: rootfs::Pivot,
    /// Whose session keyring it uses.
    pub keyring: Keyring,
    /// Who manages its cgroup.
    pub cgroup_driver: cgroups::Driver,
    /// Who makes it.
    pub maker: Maker,
}

/// A container whose init waits for [`Container::start`], or runs.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its init's pid in the shim's PID namespace.
    pub pid: Pid,
    /// Its init's pidfd.
    pub pidfd: OwnedFd,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Whether its processes are in a PID namespace of their own: when init ends, the kernel ends
    /// all of them.
    pub private_pid_namespace: bool,
    /// The kernel's count of processes killed for memory in its cgroup when nobody was in there.
    pub oom_kills_before: u64,
    /// Not there during an update.
    resources: Mutex<Option<update::Resources>>,
    /// Whether it uses the host's network: its traffic is not its own.
    host_network: bool,
    directory: Directory,
    keyring: Keyring,
    process: process::Plan,
    seccomp: Option<Seccomp>,
    /// For the agent that decides on its system calls.
    bundle: PathBuf,
    annotations: HashMap<String, String>,
    gate: Gate,
    intel_rdt: Option<intel_rdt::Group>,
    /// Of a container without a mount namespace.
    host_root: Option<HostRoot>,
    hooks: Lifecycle,
    /// Until started, at [`Gate::Channel`].
    channel: Mutex<Option<Channel>>,
}

/// A process that runs, and its terminal's master if it has one.
#[derive(Debug)]
pub struct ExecProcess {
    /// Its pid in the shim's PID namespace.
    pub pid: Pid,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The terminal's master.
    pub console: Option<OwnedFd>,
}

impl Container {
    /// Lets init execute the user's program; returns when it has, and the `poststart` hooks have
    /// been run.
    ///
    /// # Errors
    /// The program could not be executed (init has ended then), or the container was started
    /// already. If a `poststart` hook failed, init has been killed.
    pub fn start(&self) -> Result<()> {
        telemetry::traced("wait for execve", || self.release_init())
            .map_err(|error| explain_kill(&self.cgroup, self.oom_kills_before, error))?;
        let pid = self.pid.as_raw_nonzero().get();
        let hooked = self.hooks.run_on_host(Hook::Poststart, pid);
        hooked.map_err(|error| {
            // ESRCH: it has ended already.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            Error::Hook(error)
        })
    }

    fn release_init(&self) -> Result<()> {
        if self.gate == Gate::Fifo {
            return Fifo::in_directory(self.directory.path()).open(&self.pidfd);
        }
        let channel = self
            .channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(channel) = channel else {
            return Err(Error::NotPossible(
                "cannot start a running process".to_owned(),
            ));
        };
        let died = |how: &str| Error::Died {
            how: how.to_owned(),
            phase: "start",
        };
        channel
            .signal(Kind::Run, &[])
            .map_err(|_| died("had ended"))?;
        match channel.expect(&[Kind::Executing])? {
            None => Err(died("ended")),
            Some(_) => match channel.expect(&[])? {
                None => Ok(()),
                Some(message) => Err(Error::Protocol(format!("{:?} after the end", message.kind))),
            },
        }
    }

    /// Pids of all processes in the container's cgroup, in the shim's PID namespace.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.cgroup.pids().map_err(|source| Error::Cgroup {
            attempt: "list processes",
            source,
        })
    }

    /// Kills every process in the container's cgroup.
    ///
    /// # Errors
    /// Some process is still there after the time limit.
    pub fn kill_all(&self) -> Result<()> {
        self.cgroup.kill().map_err(|source| Error::Cgroup {
            attempt: "kill all processes",
            source,
        })
    }

    /// Removes what is left of the container: processes, cgroup, state; then runs the `poststop`
    /// hooks. Its init is still the caller's to wait for. May be repeated after a failure.
    ///
    /// # Errors
    /// The cgroup or the state directory cannot be removed.
    pub fn destroy(&self) -> Result<()> {
        // Ends an init that was never started.
        drop(
            self.channel
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let populated = self.cgroup.populated().unwrap_or(true);
        if populated {
            telemetry::traced("kill processes", || self.kill_all())?;
        }
        telemetry::traced("remove cgroup", || self.cgroup.remove()).map_err(|source| {
            Error::Cgroup {
                attempt: "remove cgroup",
                source,
            }
        })?;
        if let Some(group) = &self.intel_rdt {
            group.remove()?;
        }
        if let Some(root) = &self.host_root {
            root.undo()?;
        }
        telemetry::traced("remove state", || self.directory.remove())?;
        self.hooks.run_poststop();
        Ok(())
    }
}
