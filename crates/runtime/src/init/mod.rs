// SPDX-License-Identifier: Apache-2.0
//! The child's side: the shim's executable, executed again in the container's namespaces.
//!
//! A fresh, single-threaded process without any of the shim's memory. It receives its plan over the
//! sync socket (the one descriptor it inherits), works through a list of named steps, and executes
//! the user's program. The order of the steps is runc's: LSM policies, hooks and seccomp profiles
//! depend on it.

mod attributes;
mod filesystem;
mod filter;
mod gate;
mod hooks;
mod inside;
mod joining;
mod streams;
pub(crate) mod timings;

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::process::DumpableBehavior;
use serde::{Deserialize, Serialize};
use sys::Errno;

use self::gate::Listener;
use crate::error::{Failure, Operation};
use crate::hooks::Lifecycle;
use crate::namespaces;
use crate::process;
use crate::procfs::Procfs;
use crate::rootfs;
use crate::seccomp_filter::Filter;
use crate::sync::record::FdKind;
use crate::sync::{Channel, Kind};

/// The word that makes the shim's executable an init: its first argument.
pub const ARGUMENT: &str = "init";

/// What one of the descriptors that come with the plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Descriptor {
    /// Standard input of the process.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Where log lines go.
    Log,
    /// A `tasks` file of a cgroup v1 hierarchy: writing "0" joins it.
    CgroupTasks,
    /// A namespace to join.
    Namespace(namespaces::Kind),
    /// The pidfd of the container's init: an exec joins its namespaces.
    Init,
    /// The root directory, if the container shares its mount namespace with the host.
    Root,
    /// The FIFO at which a container's first process waits for its start, `O_PATH`.
    Gate,
    /// What the program itself is to have, from 3 on in the order of the packet.
    Inherited,
}

/// All that an init or exec process needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The exec's id; empty for the container's init.
    pub exec: String,
    /// Its pid as the shim sees it; 0 if the shim does not know it.
    pub pid: i32,
    /// Whether to log each step.
    pub debug: bool,
    /// What the descriptors of the packet are for, in their order.
    pub descriptors: Vec<Descriptor>,
    /// Whether the container has a session keyring of its own.
    pub keyring: bool,
    /// What the process is to be.
    pub process: process::Plan,
    /// The filter on its system calls.
    pub seccomp: Option<Filter>,
    /// What is to be done before.
    pub role: Role,
}

/// Whether the process begins a container or joins one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Role {
    /// The container's first process.
    Init(Box<Container>),
    /// One more process in a running container, which enters its namespaces of these kinds.
    Exec(Vec<namespaces::Kind>),
}

/// What only the first process does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Container {
    /// Whether to make a cgroup namespace, once in the cgroup.
    pub new_cgroup_namespace: bool,
    /// Whether the network namespace is new, so that its loopback is down.
    pub new_network_namespace: bool,
    /// Whether the container has a user namespace: the one that comes with the plan, else a new
    /// one.
    pub user_namespace: bool,
    /// The namespaces to be made inside the user namespace, as `CLONE_NEW*` flags.
    pub inside: u64,
    /// Whether to make a time namespace.
    pub new_time_namespace: bool,
    /// The offsets of its clocks, as `/proc/<pid>/timens_offsets` takes them.
    pub time_offsets: String,
    /// The file system.
    pub rootfs: rootfs::Plan,
    /// Host name to set.
    pub hostname: Option<String>,
    /// NIS domain name to set.
    pub domainname: Option<String>,
    /// Kernel parameters to set.
    pub sysctls: Vec<(String, String)>,
    /// Whether the shim moves devices into the network namespace, to be set up there.
    pub net_devices: bool,
    /// Hooks, to wait for or to run.
    pub hooks: Lifecycle,
}

/// Why a step failed.
#[derive(Debug)]
struct StepError {
    message: String,
    errno: Option<Errno>,
    operation: Option<Operation>,
}

impl StepError {
    /// Without a system call behind it.
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            errno: None,
            operation: None,
        }
    }

    /// The same error in other words.
    fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// As it is reported.
    fn of_step(self, step: &str, prefix: &str) -> Failure {
        Failure {
            step: step.to_owned(),
            message: format!("{prefix}{}", self.message),
            errno: self.errno.map(Errno::raw_os_error),
            operation: self.operation,
        }
    }
}

impl From<sys::Error> for StepError {
    fn from(error: sys::Error) -> Self {
        Self {
            message: error.to_string(),
            errno: Some(error.errno()),
            operation: Some((&error).into()),
        }
    }
}

impl From<rootfs::Error> for StepError {
    fn from(error: rootfs::Error) -> Self {
        Self {
            message: error.to_string(),
            errno: error.errno(),
            operation: error.operation(),
        }
    }
}

impl From<crate::procfs::Error> for StepError {
    fn from(error: crate::procfs::Error) -> Self {
        Self {
            message: error.to_string(),
            errno: error.errno(),
            operation: error.operation(),
        }
    }
}

impl From<process::NotFound> for StepError {
    fn from(error: process::NotFound) -> Self {
        Self {
            message: error.message,
            errno: Some(error.errno),
            operation: None,
        }
    }
}

type StepResult = Result<(), StepError>;

/// A named step. It runs as part of a list, in the list's order.
struct Step {
    name: &'static str,
    run: fn(&mut Init) -> StepResult,
}

const fn step(name: &'static str, run: fn(&mut Init) -> StepResult) -> Step {
    Step { name, run }
}

/// The first process of a container, up to the gate where it waits for Run.
const INIT: &[Step] = &[
    // First of all: whatever is charged from here on is charged to the container.
    step("join cgroups", Init::join_cgroups),
    // After the cgroup: what its cpuset does not allow is left out then, and comes back with it.
    step("reset processor affinity", Init::reset_affinity),
    step("open what is the host's", Init::open_as_host),
    // All were opened before the first is entered: none of the paths means something else now.
    step("join namespaces", Init::join_namespaces),
    step("enter user namespace", Init::enter_user_namespace),
    step("join remaining namespaces", Init::join_remaining_namespaces),
    step("make time namespace", Init::make_time_namespace),
    // The process that goes on from here may be another one.
    step("make namespaces", Init::make_namespaces),
    step("start session", Init::start_session),
    step("join session keyring", Init::join_keyring),
    // After the cgroup: the kernel makes the current cgroup the namespace's root.
    step("make cgroup namespace", Init::make_cgroup_namespace),
    step("set loopback up", Init::loopback_up),
    step("place standard streams", Init::place_stdio),
    step("receive sources of mounts", Init::receive_sources),
    step("set up network devices", Init::set_up_net_devices),
    step("prepare root file system", Init::prepare_rootfs),
    // With everything mounted, and the host's root still there to mount from.
    step("wait for host hooks", Init::wait_for_host_hooks),
    step("run createContainer hooks", Init::create_container_hooks),
    step("pivot root", Init::pivot_root),
    step("reopen /dev/null", Init::reopen_dev_null),
    // In the jail by now: "../.." in the path is harmless.
    step("make working directory", Init::make_cwd),
    // Before masks and read-only paths: they must cover what is mounted on /dev/console too.
    step("open terminal", Init::open_terminal),
    step("finalize root file system", Init::finalize_rootfs),
    step("set umask", Init::set_umask),
    step("set host name", Init::set_hostname),
    step("set domain name", Init::set_domainname),
    step("set AppArmor profile", Init::set_apparmor_profile),
    step("set sysctls", Init::set_sysctls),
    step("make paths read-only", Init::read_only_paths),
    step("mask paths", Init::mask_paths),
    step("set no_new_privs", Init::set_no_new_privileges),
    step("set scheduler", Init::set_scheduler),
    step("set I/O priority", Init::set_io_priority),
    step("set personality", Init::set_personality),
    step("set memory policy", Init::set_memory_policy),
    step("set resource limits", Init::set_rlimits),
    step("set SELinux label", Init::set_selinux_label),
    step("find gate", Init::find_gate),
    // Here it takes privileges, unless there is no_new_privs: then it is loaded last.
    step("load seccomp filter", Init::load_filter_with_privileges),
    step("change to working directory", Init::change_directory),
    step("complete environment", Init::complete_environment),
    step("drop bounding set", Init::drop_bounding_set),
    step("own standard streams", Init::own_stdio),
    step("become user", Init::become_user),
    step(
        "change to working directory as user",
        Init::change_directory_again,
    ),
    // A descriptor of the host must not be the way out: CVE-2024-21626.
    step("verify working directory", Init::verify_cwd),
    step("apply capabilities", Init::apply_capabilities),
    step("find program", Init::find_program),
];

/// One more process in a running container.
const EXEC: &[Step] = &[
    step("set initial processor affinity", Init::set_initial_affinity),
    step("join cgroups", Init::join_cgroups),
    step("set final processor affinity", Init::set_final_affinity),
    step("start session", Init::start_session),
    step("join container", Init::join_container),
    step("join session keyring", Init::join_keyring),
    step("place standard streams", Init::place_stdio),
    step("reopen /dev/null", Init::reopen_dev_null),
    step("open terminal", Init::open_exec_terminal),
    step("set no_new_privs", Init::set_no_new_privileges),
    step("set umask", Init::set_umask),
    step("set scheduler", Init::set_scheduler),
    step("set I/O priority", Init::set_io_priority),
    step("set personality", Init::set_personality),
    step("set memory policy", Init::set_memory_policy),
    step("set resource limits", Init::set_rlimits),
    step("set SELinux label", Init::set_selinux_label),
    // runc does it as the user; but then there may be no private /proc to be had any more.
    step("set AppArmor profile", Init::set_apparmor_profile),
    // Here it takes privileges, unless there is no_new_privs: then it is loaded last.
    step("load seccomp filter", Init::load_filter_with_privileges),
    step("change to working directory", Init::change_directory),
    step("complete environment", Init::complete_environment),
    step("drop bounding set", Init::drop_bounding_set),
    step("own standard streams", Init::own_stdio),
    step("become user", Init::become_user),
    step(
        "change to working directory as user",
        Init::change_directory_again,
    ),
    step("verify working directory", Init::verify_cwd),
    step("apply capabilities", Init::apply_capabilities),
    step("find program", Init::find_program),
];

/// How errors of a container's first process begin, as runc's do.
const IN_INIT: &str = "error during container init: ";

/// The name of a step of an exec, or of an init.
pub(crate) fn step_name(exec: bool, index: usize) -> Option<&'static str> {
    let steps = if exec { EXEC } else { INIT };
    steps.get(index).map(|step| step.name)
}

impl Descriptor {
    /// What a record of the sync socket calls it.
    pub(crate) fn label(&self) -> FdKind {
        match self {
            Descriptor::Stdin => FdKind::Stdin,
            Descriptor::Stdout => FdKind::Stdout,
            Descriptor::Stderr => FdKind::Stderr,
            Descriptor::Log => FdKind::Log,
            Descriptor::CgroupTasks => FdKind::Cgroup,
            Descriptor::Namespace(_) => FdKind::Namespace,
            Descriptor::Init => FdKind::Init,
            #[allow(unreachable_patterns, reason = "what others come along with")]
            _ => FdKind::Other,
        }
    }
}

/// Runs a container's process from plan to execve. Never returns.
pub fn main() -> ! {
    // Nobody in a container may look into a process that still holds the host's descriptors
    // (CVE-2016-9962). A failure would leave us visible: better not to go on.
    if rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        sys::exec::exit_now(1);
    }
    let Some(socket) = sys::spawn::take_channel() else {
        sys::exec::exit_now(1);
    };
    let channel = Channel::from(socket);
    let (listener, failure) = match Init::receive(channel) {
        Ok(mut init) => match init.prepare() {
            Ok(()) => init.execute(),
            Err(failure) => (Listener::Channel(init.channel), failure),
        },
        Err((channel, failure)) => (Listener::Channel(channel), failure),
    };
    listener.tell(&failure)
}

struct Init {
    channel: Channel,
    plan: Plan,
    fds: Vec<(Descriptor, OwnedFd)>,
    rootfs: Option<rootfs::Prepared>,
    /// What the shim has opened for mounts.
    sources: Vec<OwnedFd>,
    /// Where offsets of clocks are written to: opened by the host's root.
    time_offsets: Option<OwnedFd>,
    /// For what is written before there is a root file system, or in an exec.
    procfs: Procfs,
    environment: Vec<String>,
    /// The directory could not be entered as root: NFS and FUSE may allow it to the user only.
    cwd_deferred: bool,
    program: CString,
    gate: gate::Gate,
}

impl Init {
    fn receive(channel: Channel) -> Result<Self, (Channel, Failure)> {
        let (plan, mut fds) = match receive_plan(&channel) {
            Ok(received) => received,
            Err(message) => {
                let failure = Failure::new("receive plan", message, None);
                return Err((channel, failure));
            }
        };
        if let Some(place) = fds.iter().position(|(what, _)| *what == Descriptor::Log) {
            crate::init_log::install(fds.remove(place).1, &plan.id, plan.debug);
        }
        Ok(Self {
            channel,
            plan,
            fds,
            rootfs: None,
            sources: Vec::new(),
            time_offsets: None,
            procfs: Procfs::default(),
            environment: Vec::new(),
            gate: gate::Gate::Channel,
            cwd_deferred: false,
            program: CString::default(),
        })
    }

    fn prepare(&mut self) -> Result<(), Failure> {
        let (steps, prefix) = match self.plan.role {
            Role::Init(_) => (INIT, IN_INIT),
            Role::Exec(_) => (EXEC, ""),
        };
        crate::init_log::about(&self.plan.exec, self.plan.pid);
        timings::begin(!matches!(self.plan.role, Role::Init(_)), steps.len());
        for step in steps {
            timings::step(step.name);
            (step.run)(self).map_err(|error| error.of_step(step.name, prefix))?;
            let took = timings::step_done();
            if self.plan.debug {
                log::debug!("step {:?} took {} us", step.name, took / 1000);
            }
        }
        timings::step("execute program");
        Ok(())
    }

    /// The gate, and through it.
    fn execute(mut self) -> (Listener, Failure) {
        let failed =
            |message: String, errno: Option<i32>| Failure::new("execute program", message, errno);
        let strings = |list: &[String]| -> Result<Vec<CString>, std::ffi::NulError> {
            list.iter()
                .map(|text| CString::new(text.as_str()))
                .collect()
        };
        let (Ok(args), Ok(env)) = (strings(&self.plan.process.args), strings(&self.environment))
        else {
            let failure = failed("an argument contains a NUL byte".into(), None);
            return (Listener::Channel(self.channel), failure);
        };
        let is_init = matches!(self.plan.role, Role::Init(_));
        let inherited = self.take_all(Descriptor::Inherited);
        let filter = self.take_last_filter();
        // Everything else that came with the plan is closed here, before the gate.
        drop((self.fds, self.rootfs, self.sources, self.procfs));
        sys::signals::exit_on_fatal_signals();
        if let Some(filter) = filter {
            if let Err(error) = filter::load(&filter, &self.channel) {
                let prefix = if is_init { IN_INIT } else { "" };
                let failure = error.of_step("load seccomp filter", prefix);
                return (Listener::Channel(self.channel), failure);
            }
        }
        let mut listener = Listener::Channel(self.channel);
        if is_init {
            listener = match self.gate.wait(listener) {
                Ok(listener) => listener,
                Err(failed) => return failed,
            };
        }
        if let Err(e) = hooks::start_container(&self.plan, &self.environment) {
            let failure = StepError::from(e).of_step("run startContainer hooks", "");
            return (listener.through(), failure);
        }
        // From here to execve nothing may use a file. A path like /proc/self/fd/7/x is resolved
        // before close-on-exec acts, so descriptors are closed now; the listener alone remains to
        // tell of a failure, and is a socket or a FIFO: no path leads through it.
        let listener = listener.behind(inherited);
        if let Err(e) = listener.executing() {
            return (listener, failed(e, None));
        }
        let error = sys::exec::execve(&self.program, &args, &env);
        let reason = sys::error::describe(error.errno());
        let program = self.program.to_string_lossy();
        let mut failure = failed(
            format!("exec {program}: {reason}"),
            Some(error.errno().raw_os_error()),
        );
        failure.operation = Some(Operation {
            call: error.call().to_owned(),
            object: program.into_owned(),
        });
        (listener, failure)
    }

    fn container(&self) -> Option<&Container> {
        match &self.plan.role {
            Role::Init(container) => Some(container),
            Role::Exec(_) => None,
        }
    }

    /// Takes the first descriptor of this kind.
    fn take(&mut self, what: Descriptor) -> Option<OwnedFd> {
        let place = self.fds.iter().position(|(kind, _)| *kind == what)?;
        Some(self.fds.remove(place).1)
    }

    /// Takes all descriptors of this kind, in their order.
    fn take_all(&mut self, what: Descriptor) -> Vec<OwnedFd> {
        std::iter::from_fn(|| self.take(what)).collect()
    }
}

/// The plan and its descriptors, or why there is none.
fn receive_plan(channel: &Channel) -> Result<(Plan, Vec<(Descriptor, OwnedFd)>), String> {
    let message = channel
        .receive(sys::packet::MAX_DESCRIPTORS - 1)
        .map_err(|e| e.to_string())?
        .ok_or("no plan")?;
    if message.kind != Kind::Plan {
        return Err(format!("received {:?} instead of the plan", message.kind));
    }
    let plan: Plan = message.body().map_err(|e| e.to_string())?;
    if plan.descriptors.len() != message.fds.len() {
        return Err("the plan does not fit its descriptors".into());
    }
    let fds = plan.descriptors.iter().copied().zip(message.fds).collect();
    Ok((plan, fds))
}
