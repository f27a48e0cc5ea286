// SPDX-License-Identifier: Apache-2.0
//! Executing init, and what is said to it first: the sequence that create and exec share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cgroups::Cgroup;
use oci_spec::runtime::Process;
use rustix::process::Pid;
use rustix::thread::ThreadNameSpaceType;
use sys::Call;
use sys::spawn::{Child, Spawn};

use super::{Keyring, Runtime, Stdio};
use crate::error::{Attempt, Error, Result};
use crate::init::{self, Descriptor, Role};
use crate::namespaces::Kind as Namespace;
use crate::process::{self, Terminal};
use crate::seccomp_agent::Subject;
use crate::seccomp_filter::Seccomp;
use crate::sync::{Channel, Kind, Message};

/// Whom a request wants on a terminal must be whom the specification does.
pub(super) fn check_terminal(requested: bool, process: &Process) -> Result<()> {
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

/// A PID namespace for a child to be born into.
pub(super) enum PidNamespace<'a> {
    /// This one.
    Path(BorrowedFd<'a>),
    /// That of the process behind this pidfd.
    Of(BorrowedFd<'a>),
}

/// Executes init, in this v2 cgroup if there is one. The calling thread enters the PID namespace for
/// its *children* only and leaves it again: no intermediate process is needed, and the shim is the
/// parent.
pub(super) fn spawn(
    runtime: &Runtime,
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    pid_namespace: Option<PidNamespace<'_>>,
) -> Result<(Child, Channel)> {
    let span = telemetry::span("clone init");
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
        cgroup,
        channel: theirs.as_fd(),
    }
    .run();
    if let Ok(child) = &child {
        gate.born(child.pid);
        ours.set_peer(child.pid.as_raw_nonzero().get());
    }
    drop(entered);
    let child = child.attempt(|| "start container init")?;
    span.done();
    Ok((child, ours))
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
pub(super) struct Descriptors<'a> {
    roles: Vec<Descriptor>,
    fds: Vec<BorrowedFd<'a>>,
    tasks: Vec<OwnedFd>,
}

impl<'a> Descriptors<'a> {
    pub(super) fn new(runtime: &'a Runtime, cgroup: &Cgroup) -> Result<Self> {
        let tasks = cgroup.join_files().map_err(|source| Error::Cgroup {
            attempt: "unable to start container process: error adding pid to cgroup",
            source,
        })?;
        Ok(Self {
            roles: vec![Descriptor::Log],
            fds: vec![runtime.log.as_fd()],
            tasks,
        })
    }

    pub(super) fn push(&mut self, role: Descriptor, fd: BorrowedFd<'a>) {
        self.roles.push(role);
        self.fds.push(fd);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one message")]
    pub(super) fn send(
        mut self,
        channel: &Channel,
        runtime: &Runtime,
        id: &str,
        keyring: Keyring,
        process: &process::Plan,
        seccomp: Option<&Seccomp>,
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
        let labels: Vec<_> = self.roles.iter().map(|role| role.label()).collect();
        let scope = telemetry::Context::current().shared_scope();
        let plan = init::Plan {
            id: id.to_owned(),
            exec: scope
                .map(|scope| scope.exec.to_string())
                .unwrap_or_default(),
            pid: channel.peer(),
            debug: runtime.debug || log::max_level() >= log::LevelFilter::Debug,
            descriptors: self.roles,
            keyring: keyring == Keyring::New,
            process: process.clone(),
            seccomp: seccomp.map(|seccomp| (*seccomp.filter).clone()),
            role,
        };
        telemetry::traced("send plan", || {
            channel.send_labelled(Kind::Plan, &plan, &fds, &labels)
        })
    }
}

pub(super) fn receive_console(
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

/// Brings the listener of the process's filter to the agent, if it has one.
pub(super) fn hand_over_listener(
    seccomp: Option<&Seccomp>,
    channel: &Channel,
    child: &Child,
    subject: &Subject<'_>,
    phase: &'static str,
) -> Result<()> {
    let Some(agent) = seccomp.and_then(|seccomp| seccomp.agent.as_ref()) else {
        return Ok(());
    };
    let number = message(channel, Kind::Seccomp, child, phase)?.body()?;
    agent.serve(channel, number, child, subject)
}

/// Waits for one message from init and returns its descriptors; if init ends instead, says how.
pub(super) fn answer(
    channel: &Channel,
    kind: Kind,
    child: &Child,
    phase: &'static str,
) -> Result<Vec<OwnedFd>> {
    message(channel, kind, child, phase).map(|message| message.fds)
}

fn message(channel: &Channel, kind: Kind, child: &Child, phase: &'static str) -> Result<Message> {
    let span = telemetry::span("wait for init");
    match channel.expect(&[kind])? {
        Some(message) => {
            span.done();
            Ok(message)
        }
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

/// Writes `process.oomScoreAdj`. The pid cannot be another process's: it is our child and not
/// waited for.
pub(super) fn set_oom_score(pid: Pid, score: Option<i32>) -> Result<()> {
    let Some(score) = score else {
        return Ok(());
    };
    let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    std::fs::write(&path, score.to_string())
        .call("write", || format!("{path:?}, {score}"))
        .attempt(|| "set oom_score_adj")
}
