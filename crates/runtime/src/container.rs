// SPDX-License-Identifier: Apache-2.0
//! The shim's side: creating, starting, entering and destroying a container.
//!
//! Straight sequential code that blocks; it runs on a worker thread. Nothing here knows containerd.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cgroups::{Cgroup, Layout};
use oci_spec::runtime::{Process, Spec};
use rustix::process::{Pid, Signal};
use rustix::thread::ThreadNameSpaceType;
use sys::Call;
use sys::spawn::{Child, Spawn};

use crate::error::{Attempt, Error, Result};
use crate::init::{self, Descriptor, Role};
use crate::namespaces::{Kind as Namespace, Namespaces, Source};
use crate::process::{self, Terminal};
use crate::resources;
use crate::rootfs;
use crate::spec;
use crate::state::{self, Directory, State};
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
    spec: Spec,
    namespaces: Namespaces,
}

impl Bundle {
    /// Reads and checks config.json.
    ///
    /// # Errors
    /// The file cannot be read, or asks for what is impossible or not supported; see [`Error`].
    pub fn load(path: &Path) -> Result<Self> {
        let spec = spec::load(path)?;
        let namespaces = Namespaces::from_spec(&spec)?;
        spec::check(&spec, &namespaces)?;
        Ok(Self {
            path: path.to_owned(),
            spec,
            namespaces,
        })
    }

    /// Whether the container has a PID namespace of its own, as opposed to the host's or another
    /// container's: when its init ends, the kernel ends all its processes.
    pub fn has_private_pid_namespace(&self) -> bool {
        *self.namespaces.get(Namespace::Pid) == Source::New
    }
}

/// A container to be created.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its containerd namespace: a directory under `state_root`.
    pub namespace: &'a str,
    /// Its bundle; the root file system is mounted already.
    pub bundle: &'a Bundle,
    /// Where state is kept.
    pub state_root: &'a Path,
    /// Its init's standard streams.
    pub stdio: Stdio,
    /// How the root is changed.
    pub pivot: rootfs::Pivot,
    /// Whose session keyring it uses.
    pub keyring: Keyring,
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
    directory: Directory,
    keyring: Keyring,
    process: process::Plan,
    /// Until started.
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
    /// Creates a container: its init is ready and waits to be started.
    ///
    /// On failure nothing is left: no process, cgroup or state.
    ///
    /// # Errors
    /// Whatever the specification asks for that is impossible or fails; see [`Error`].
    pub fn create(
        runtime: &Runtime,
        request: CreateRequest<'_>,
    ) -> Result<(Self, Option<OwnedFd>)> {
        let Bundle {
            spec,
            namespaces,
            path: bundle,
        } = request.bundle;
        let Some(process) = spec.process() else {
            return Err(Error::spec("process", "property must not be empty"));
        };
        let terminal = matches!(request.stdio, Stdio::Terminal);
        check_terminal(terminal, process)?;
        let plan = process::Plan::new("process", process, terminal, None)?;
        let cgroups_path = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().as_ref());
        let record = Cgroup::plan(
            &runtime.cgroups,
            cgroups_path.map(|path| path.to_string_lossy()).as_deref(),
            request.id,
        )
        .map_err(|source| Error::Cgroup {
            attempt: "plan cgroup",
            source,
        })?;
        let rootfs = rootfs::Plan::from_spec(
            spec,
            &rootfs::Host {
                bundle,
                pivot: request.pivot,
                cgroups: cgroup_view(
                    &runtime.cgroups,
                    &record,
                    namespaces.is_private(Namespace::Cgroup),
                ),
            },
        )?;
        let resources = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref());
        let (devices, limits) = resources::plan(resources)?;
        let joined = namespaces.open_joined()?;

        let directory = Directory::new(request.state_root, request.namespace, request.id)?;
        directory.create()?;
        let mut made = Made {
            directory: Some(directory),
            cgroup: None,
            child: None,
        };
        let state = initial_state(spec, &request, &record);
        made.save(&state)?;
        let cgroup = Cgroup::create(&runtime.cgroups, &record).map_err(|source| Error::Cgroup {
            attempt: "unable to apply cgroup configuration",
            source,
        })?;
        let cgroup = made.cgroup.insert(cgroup);
        // Before anybody is in it: CAP_MKNOD is among the default capabilities.
        cgroup
            .set_devices(&devices)
            .map_err(|source| Error::Cgroup {
                attempt: "unable to apply device rules",
                source,
            })?;

        let pid_namespace = joined.iter().find(|(kind, _)| *kind == Namespace::Pid);
        let (child, channel) = spawn(
            runtime,
            namespaces.clone_flags(),
            cgroup,
            pid_namespace.map(|(_, fd)| PidNamespace::Path(fd.as_fd())),
        )?;
        let child = made.child.insert(child);
        set_oom_score(child.pid, process)?;

        let container = init::Container {
            new_cgroup_namespace: *namespaces.get(Namespace::Cgroup) == Source::New,
            new_network_namespace: *namespaces.get(Namespace::Network) == Source::New,
            rootfs,
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            sysctls: sysctls(spec),
        };
        let mut descriptors = Descriptors::new(runtime, cgroup)?;
        for (kind, fd) in &joined {
            if *kind != Namespace::Pid {
                descriptors.push(Descriptor::Namespace(*kind), fd.as_fd());
            }
        }
        let keyring = request.keyring;
        let role = Role::Init(Box::new(container));
        descriptors.send(
            &channel,
            runtime,
            request.id,
            keyring,
            &plan,
            role,
            &request.stdio,
        )?;
        drop(request.stdio);

        let console = receive_console(&channel, &plan, child)?;
        answer(&channel, Kind::Ready, child, "create")?;
        // As late as possible: our own setup is not the container's to pay for.
        cgroup.set_limits(&limits).map_err(|source| Error::Cgroup {
            attempt: "unable to apply cgroup limits",
            source,
        })?;
        let state = State {
            init_process_pid: child.pid.as_raw_nonzero().get(),
            init_process_start: state::start_time(child.pid.as_raw_nonzero().get()).unwrap_or(0),
            namespace_paths: namespace_paths(child.pid),
            ..state
        };
        made.save(&state)?;
        let (directory, cgroup, child) = made.keep()?;
        let container = Self {
            id: request.id.to_owned(),
            pid: child.pid,
            pidfd: child.pidfd,
            cgroup,
            private_pid_namespace: request.bundle.has_private_pid_namespace(),
            directory,
            keyring,
            process: plan,
            channel: Mutex::new(Some(channel)),
        };
        Ok((container, console))
    }

    /// Lets init execute the user's program; returns when it has.
    ///
    /// # Errors
    /// The program could not be executed (init has ended then), or the container was started
    /// already.
    pub fn start(&self) -> Result<()> {
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

    /// Plans one more process in the container; pure.
    ///
    /// # Errors
    /// What the process asks for is impossible or not supported.
    pub fn plan_exec(&self, process: &Process, terminal: bool) -> Result<process::Plan> {
        spec::check_process("process", process)?;
        process::Plan::new("process", process, terminal, Some(&self.process))
    }

    /// Runs one more process in the container; returns when its program is executed.
    ///
    /// On failure the process is gone.
    ///
    /// # Errors
    /// As [`Container::create`].
    pub fn exec(&self, runtime: &Runtime, process: &Process, stdio: Stdio) -> Result<ExecProcess> {
        let plan = self.plan_exec(process, matches!(stdio, Stdio::Terminal))?;
        let (child, channel) = spawn(
            runtime,
            0,
            &self.cgroup,
            Some(PidNamespace::Of(self.pidfd.as_fd())),
        )?;
        let mut made = Made {
            directory: None,
            cgroup: None,
            child: None,
        };
        let child = made.child.insert(child);
        set_oom_score(child.pid, process)?;
        let mut descriptors = Descriptors::new(runtime, &self.cgroup)?;
        descriptors.push(Descriptor::Init, self.pidfd.as_fd());
        descriptors.send(
            &channel,
            runtime,
            &self.id,
            self.keyring,
            &plan,
            Role::Exec,
            &stdio,
        )?;
        drop(stdio);
        let console = receive_console(&channel, &plan, child)?;
        answer(&channel, Kind::Executing, child, "exec")?;
        if let Some(message) = channel.expect(&[])? {
            return Err(Error::Protocol(format!("{:?} after the end", message.kind)));
        }
        let Some(Child { pid, pidfd }) = made.child.take() else {
            return Err(Error::Protocol("no child".to_owned()));
        };
        Ok(ExecProcess {
            pid,
            pidfd,
            console,
        })
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

    /// Removes what is left of the container: processes, cgroup, state. Its init is still the
    /// caller's to wait for. May be repeated after a failure.
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
            self.kill_all()?;
        }
        self.cgroup.remove().map_err(|source| Error::Cgroup {
            attempt: "remove cgroup",
            source,
        })?;
        self.directory.remove()
    }
}

/// Whom a request wants on a terminal must be whom the specification does.
fn check_terminal(requested: bool, process: &Process) -> Result<()> {
    match (requested, process.terminal().unwrap_or(false)) {
        (true, false) => Err(Error::spec(
            "process.terminal",
            "a terminal was requested, but the specification has none",
        )),
        (false, true) => Err(Error::spec(
            "process.terminal",
            "cannot allocate tty: the request has no terminal",
        )),
        _ => Ok(()),
    }
}

/// What has been made so far of a container; undone on drop unless kept.
struct Made {
    directory: Option<Directory>,
    cgroup: Option<Cgroup>,
    child: Option<Child>,
}

impl Made {
    fn save(&self, state: &State) -> Result<()> {
        self.directory
            .as_ref()
            .map_or(Ok(()), |directory| directory.save(state))
    }

    fn keep(mut self) -> Result<(Directory, Cgroup, Child)> {
        match (self.directory.take(), self.cgroup.take(), self.child.take()) {
            (Some(directory), Some(cgroup), Some(child)) => Ok((directory, cgroup, child)),
            _ => Err(Error::Protocol("incomplete container".to_owned())),
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // ESRCH: it has ended by itself.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
            if let Err(e) = reaper::wait_for(child.pid, &child.pidfd) {
                log::warn!("undo create: {e}");
            }
        }
        if let Some(cgroup) = self.cgroup.take() {
            if let Err(e) = cgroup.kill().and_then(|()| cgroup.remove()) {
                log::warn!("undo create: {e}");
            }
        }
        if let Some(directory) = self.directory.take() {
            if let Err(e) = directory.remove() {
                log::warn!("undo create: {e}");
            }
        }
    }
}

/// A PID namespace for a child to be born into.
enum PidNamespace<'a> {
    /// This one.
    Path(BorrowedFd<'a>),
    /// That of the process behind this pidfd.
    Of(BorrowedFd<'a>),
}

/// Executes init. The calling thread enters the PID namespace for its *children* only and leaves it
/// again: no intermediate process is needed, and the shim is the parent.
fn spawn(
    runtime: &Runtime,
    namespaces: u64,
    cgroup: &Cgroup,
    pid_namespace: Option<PidNamespace<'_>>,
) -> Result<(Child, Channel)> {
    let (ours, theirs) = Channel::pair()?;
    let entered = pid_namespace
        .map(|target| Entered::enter(runtime, &target))
        .transpose()?;
    let gate = reaper::Spawning::begin();
    let child = Spawn {
        exe: runtime.exe.as_fd(),
        args: &[c"containerd-shim-rust-v2", c"init"],
        env: &[],
        namespaces,
        cgroup: cgroup.clone_target(),
        channel: theirs.as_fd(),
    }
    .run();
    if let Ok(child) = &child {
        gate.born(child.pid);
    }
    drop(entered);
    Ok((child.attempt(|| "start container init")?, ours))
}

/// The calling thread's children are born into another PID namespace until this is dropped.
struct Entered<'a>(&'a Runtime);

impl<'a> Entered<'a> {
    fn enter(runtime: &'a Runtime, target: &PidNamespace<'_>) -> Result<Self> {
        match target {
            PidNamespace::Path(fd) => {
                rustix::thread::move_into_link_name_space(*fd, Some(Namespace::Pid.link_type()))
            }
            PidNamespace::Of(pidfd) => rustix::thread::move_into_thread_name_spaces(
                *pidfd,
                ThreadNameSpaceType::PROCESS_ID,
            ),
        }
        .call("setns", || "pid namespace")
        .attempt(|| "enter PID namespace")?;
        Ok(Self(runtime))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let back = rustix::thread::move_into_link_name_space(
            self.0.pid_namespace.as_fd(),
            Some(Namespace::Pid.link_type()),
        );
        if let Err(errno) = back {
            // Entering one's own namespace has no way to fail. If it does, whatever this thread
            // starts next would land in a container: stop it here for good.
            log::error!("leave PID namespace of a container: {errno}; parking this thread");
            loop {
                std::thread::park();
            }
        }
    }
}

/// The descriptors that go along with a plan.
struct Descriptors<'a> {
    roles: Vec<Descriptor>,
    fds: Vec<BorrowedFd<'a>>,
    tasks: Vec<OwnedFd>,
}

impl<'a> Descriptors<'a> {
    fn new(runtime: &'a Runtime, cgroup: &Cgroup) -> Result<Self> {
        let tasks = cgroup.join_files().map_err(|source| Error::Cgroup {
            attempt: "open cgroup tasks",
            source,
        })?;
        Ok(Self {
            roles: vec![Descriptor::Log],
            fds: vec![runtime.log.as_fd()],
            tasks,
        })
    }

    fn push(&mut self, role: Descriptor, fd: BorrowedFd<'a>) {
        self.roles.push(role);
        self.fds.push(fd);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one message")]
    fn send(
        mut self,
        channel: &Channel,
        runtime: &Runtime,
        id: &str,
        keyring: Keyring,
        process: &process::Plan,
        role: Role,
        stdio: &Stdio,
    ) -> Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = std::mem::take(&mut self.fds);
        for tasks in &self.tasks {
            self.roles.push(Descriptor::CgroupTasks);
            fds.push(tasks.as_fd());
        }
        if let Stdio::Streams(streams) = stdio {
            self.roles
                .extend([Descriptor::Stdin, Descriptor::Stdout, Descriptor::Stderr]);
            fds.extend(streams.iter().map(AsFd::as_fd));
        }
        let plan = init::Plan {
            id: id.to_owned(),
            debug: runtime.debug,
            descriptors: self.roles,
            keyring: keyring == Keyring::New,
            process: process.clone(),
            role,
        };
        channel.send(Kind::Plan, &plan, &fds)
    }
}

fn receive_console(
    channel: &Channel,
    plan: &process::Plan,
    child: &Child,
) -> Result<Option<OwnedFd>> {
    if plan.terminal == Terminal::No {
        return Ok(None);
    }
    let mut fds = answer(channel, Kind::Console, child, "open terminal")?;
    let master = fds
        .pop()
        .ok_or_else(|| Error::Protocol("Console without terminal".to_owned()))?;
    // It comes from a process in the container's mount namespace: is it what it should be?
    if !rustix::termios::isatty(&master) {
        return Err(Error::Protocol("Console is not a terminal".to_owned()));
    }
    Ok(Some(master))
}

/// Waits for one message from init; if init ends instead, says how.
fn answer(
    channel: &Channel,
    kind: Kind,
    child: &Child,
    phase: &'static str,
) -> Result<Vec<OwnedFd>> {
    match channel.expect(&[kind])? {
        Some(message) => Ok(message.fds),
        None => {
            // The end of the stream before the last word is death.
            let status = rustix::process::waitid(
                rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
            );
            let how = match status.ok().flatten() {
                Some(status) => match status.terminating_signal() {
                    Some(signal) => format!("was killed by signal {signal}"),
                    None => format!("exited with {}", status.exit_status().unwrap_or(0)),
                },
                None => "ended".to_owned(),
            };
            Err(Error::Died { how, phase })
        }
    }
}

/// What a mount of type `cgroup` shows: the container's place in each hierarchy of the host.
fn cgroup_view(
    layout: &Layout,
    record: &cgroups::Record,
    private_namespace: bool,
) -> Option<rootfs::CgroupView> {
    let mut places = layout.hierarchies().iter().filter_map(|hierarchy| {
        let key = match hierarchy.kind() {
            cgroups::Kind::Controllers(controllers) => controllers.first()?.as_str(),
            cgroups::Kind::Named(name) => name.as_str(),
            cgroups::Kind::Unified => "",
        };
        Some((hierarchy, PathBuf::from(record.paths().get(key)?)))
    });
    if layout.mode() == cgroups::Mode::V2 {
        let (hierarchy, own) = places.next_back()?;
        return Some(rootfs::CgroupView::Unified {
            mount_point: hierarchy.mount_point().into(),
            own,
            private_namespace,
        });
    }
    let name = |mount_point: &str| {
        Path::new(mount_point)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    Some(rootfs::CgroupView::Split(
        places
            .filter_map(|(hierarchy, own)| {
                Some(rootfs::Hierarchy {
                    name: name(hierarchy.mount_point())?,
                    own,
                })
            })
            .collect(),
    ))
}

/// Writes `process.oomScoreAdj`. The pid cannot be another process's: it is our child and not
/// waited for.
fn set_oom_score(pid: Pid, process: &Process) -> Result<()> {
    let Some(score) = process.oom_score_adj() else {
        return Ok(());
    };
    let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    std::fs::write(&path, score.to_string())
        .call("write", || format!("{path:?}, {score}"))
        .attempt(|| "set oom_score_adj")
}

fn sysctls(spec: &Spec) -> Vec<(String, String)> {
    let list = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref());
    let mut sysctls: Vec<_> = list
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    sysctls.sort();
    sysctls
}

fn namespace_paths(pid: Pid) -> BTreeMap<String, String> {
    let pid = pid.as_raw_nonzero();
    Namespace::ALL
        .iter()
        .map(|kind| {
            (
                kind.state_name().to_owned(),
                format!("/proc/{pid}/ns/{}", kind.proc_name()),
            )
        })
        .collect()
}

fn initial_state(spec: &Spec, request: &CreateRequest<'_>, record: &cgroups::Record) -> State {
    let mut labels = vec![format!("bundle={}", request.bundle.path.display())];
    for (key, value) in spec.annotations().iter().flatten() {
        labels.push(format!("{key}={value}"));
    }
    let root = spec
        .root()
        .as_ref()
        .map(|root| root.path().clone())
        .unwrap_or_default();
    let rootfs: PathBuf = if root.is_absolute() {
        root
    } else {
        request.bundle.path.join(root)
    };
    State {
        id: request.id.to_owned(),
        init_process_pid: 0,
        init_process_start: 0,
        created: crate::time::rfc3339_now(),
        config: state::Config { rootfs, labels },
        rootless: false,
        cgroup_paths: record.clone(),
        namespace_paths: BTreeMap::new(),
        external_descriptors: Vec::new(),
        intel_rdt_path: String::new(),
    }
}
