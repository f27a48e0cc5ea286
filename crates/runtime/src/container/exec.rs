// SPDX-License-Identifier: Apache-2.0
//! One more process in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Process;
use sys::spawn::Child;
use sys::{Call, Errno};

use super::create::settling::take_over;
use super::made::Made;
use super::spawn::{
    Descriptors, PidNamespace, answer, hand_over_listener, receive_console, set_oom_score, spawn,
};
use super::{Container, ExecProcess, Inherited, Maker, Runtime, Stdio};
use crate::error::{Attempt, Error, Result};
use crate::host_root::HostRoot;
use crate::init::{Descriptor, Role};
use crate::namespaces::{Kind as Namespace, foreign};
use crate::process;
use crate::seccomp_agent::Subject;
use crate::spec;
use crate::sync::{Channel, Kind};

/// How often init may move while it is being followed.
const MOVES: u32 = 5;

impl Container {
    /// Plans one more process in the container; pure.
    ///
    /// # Errors
    /// What the process asks for is impossible or not supported.
    pub fn plan_exec(&self, process: &Process, terminal: bool) -> Result<process::Plan> {
        spec::check_process("process", process)?;
        process::Plan::new("process", process, terminal, Some(&self.process))
    }

    /// The namespaces that an exec has to enter itself. Root enters all that are usual, without
    /// looking; somebody else may not enter those that are the host's.
    fn to_join(&self) -> Result<Vec<Namespace>> {
        const USUAL: [Namespace; 5] = [
            Namespace::Mount,
            Namespace::Cgroup,
            Namespace::Uts,
            Namespace::Ipc,
            Namespace::Network,
        ];
        if Maker::current() == Maker::User {
            return foreign(self.pid, &Namespace::ALL);
        }
        let mut kinds = foreign(self.pid, &[Namespace::User, Namespace::Time])?;
        // The host's has another root than the container.
        let own_root = self.host_root.is_none();
        kinds.extend(
            USUAL
                .iter()
                .filter(|kind| own_root || **kind != Namespace::Mount),
        );
        Ok(kinds)
    }

    /// Runs one more process in the container; returns when its program is executed.
    ///
    /// On failure the process is gone.
    ///
    /// # Errors
    /// As [`Container::create`].
    pub fn exec(&self, runtime: &Runtime, process: &Process, stdio: Stdio) -> Result<ExecProcess> {
        if self.is_paused()? {
            // It would not come to its program either, and we would wait for it.
            return Err(Error::NotPossible(
                "cannot exec in a paused container (use --ignore-paused to override)".to_owned(),
            ));
        }
        self.exec_with(runtime, process, stdio, Inherited::default())
    }

    /// As [`Self::exec`], with more than the specification gives.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub fn exec_with(
        &self,
        runtime: &Runtime,
        process: &Process,
        stdio: Stdio,
        inherited: Inherited,
    ) -> Result<ExecProcess> {
        let failed = |source| Error::Cgroup {
            attempt: "unable to start container process: error adding pid to cgroup",
            source,
        };
        let mut plan = self.plan_exec(process, matches!(stdio, Stdio::Terminal))?;
        plan.env.extend(inherited.environment);
        // If init has ended and its pid is another's by now, nothing below succeeds: the pidfd.
        let below = match inherited.cgroups.is_empty() {
            true => None,
            false => Some(self.cgroup.below(&inherited.cgroups).map_err(failed)?),
        };
        let cgroup = below.as_ref().unwrap_or(&self.cgroup);
        let joined = self.to_join()?;
        let joins_pid = joined.contains(&Namespace::Pid);
        let (child, channel) = match &below {
            Some(asked) => self.spawn_in(runtime, asked.clone_target())?,
            None => self.spawn_inside(runtime)?,
        };
        let mut made = Made::default();
        let child = made.child.insert(child);
        set_oom_score(child.pid, process.oom_score_adj())?;
        if let Some(group) = &self.intel_rdt {
            group.join(child.pid)?;
        }
        let mut descriptors = Descriptors::new(runtime, cgroup)?;
        descriptors.push(Descriptor::Init, self.pidfd.as_fd());
        let root = self.host_root.as_ref().map(HostRoot::open).transpose()?;
        if let Some(root) = &root {
            descriptors.push(Descriptor::Root, root.as_fd());
        }
        for fd in &inherited.fds {
            descriptors.push(Descriptor::Inherited, fd.as_fd());
        }
        let gate = joins_pid.then(reaper::Spawning::begin);
        descriptors.send(
            &channel,
            runtime,
            &self.id,
            self.keyring,
            &plan,
            self.seccomp.as_ref(),
            Role::Exec(joined),
            &stdio,
        )?;
        drop((stdio, inherited.fds));
        if let Some(gate) = gate {
            take_over(&channel, child, gate, "exec")?;
        }
        let console = self.follow_exec(&channel, child, &plan)?;
        let Some(Child { pid, pidfd }) = made.child.take() else {
            return Err(Error::Protocol("no child".to_owned()));
        };
        Ok(ExecProcess {
            pid,
            pidfd,
            console,
        })
    }

    /// Answers a process that is in its place until its program is executed: its terminal, if it has one.
    fn follow_exec(
        &self,
        channel: &Channel,
        child: &Child,
        plan: &process::Plan,
    ) -> Result<Option<OwnedFd>> {
        let console = receive_console(channel, plan, child)?;
        let subject = Subject {
            id: &self.id,
            status: "running",
            init: self.pid,
            bundle: &self.bundle,
            annotations: &self.annotations,
        };
        hand_over_listener(self.seccomp.as_ref(), channel, child, &subject, "exec")?;
        answer(channel, Kind::Executing, child, "exec")?;
        match channel.expect(&[])? {
            Some(message) => Err(Error::Protocol(format!("{:?} after the end", message.kind))),
            None => Ok(console),
        }
    }

    fn spawn_in(
        &self,
        runtime: &Runtime,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(Child, Channel)> {
        // Somebody who is not root may not enter it alone.
        let namespace = match Maker::current() {
            Maker::Root => Some(PidNamespace::Of(self.pidfd.as_fd())),
            Maker::User => None,
        };
        spawn(runtime, 0, cgroup, namespace)
    }

    /// In the container's cgroup; in its init's, which is below that, if the container has made it
    /// one that takes no processes itself.
    fn spawn_inside(&self, runtime: &Runtime) -> Result<(Child, Channel)> {
        let mut spawned = self.spawn_in(runtime, self.cgroup.clone_target());
        for _ in 0..MOVES {
            let Err(Error::System { source, .. }) = &spawned else {
                break;
            };
            // It has controllers for those below; or is threaded; or init has moved on.
            if !matches!(
                source.errno(),
                Errno::BUSY | Errno::OPNOTSUPP | Errno::NODEV
            ) {
                break;
            }
            match self.cgroup_of_init() {
                Ok(Some(inner)) => {
                    log::debug!("{}: {source}: joining the cgroup of init", self.id);
                    spawned = self.spawn_in(runtime, Some(inner.as_fd()));
                }
                Ok(None) => break,
                Err(Error::Cgroup { source, .. }) if source.errno() == Some(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        spawned
    }

    /// The v2 cgroup of init, if that is not the container's own.
    fn cgroup_of_init(&self) -> Result<Option<OwnedFd>> {
        let path = format!("/proc/{}/cgroup", self.pid.as_raw_nonzero());
        let text = std::fs::read_to_string(&path)
            .call("read", || format!("{path:?}"))
            .attempt(|| "find the cgroup of init")?;
        // If it is still there now, the pid has been its own all the time.
        if self.init_has_ended() {
            return Err(Error::NotPossible("container not running".to_owned()));
        }
        let inner = self.cgroup.open_inner(&text);
        inner.map_err(|source| Error::Cgroup {
            attempt: "join the cgroup of init",
            source,
        })
    }
}
