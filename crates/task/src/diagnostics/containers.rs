// SPDX-License-Identifier: Apache-2.0
//! Containers and their processes, as messages.

use diagnostics::v1;
use protobuf::MessageField;

use super::unix_ns;
use crate::container::{Container, Phase, Process};
use crate::pressure::PressureState;
use crate::server::Server;
use crate::status::Status;

impl Server {
    /// One container, or all in the order of their creation.
    pub(super) fn describe_containers(&self, id: &str) -> Result<v1::ContainersResponse, Status> {
        let mut response = v1::ContainersResponse::new();
        if id.is_empty() {
            let mut all: Vec<_> = self.containers.iter().collect();
            all.sort_by_key(|(_, container)| container.created);
            response.containers = all.into_iter().map(|(id, c)| describe(id, c)).collect();
        } else {
            let container = self
                .containers
                .get(id)
                .ok_or_else(Status::container_not_created)?;
            response.containers.push(describe(id, container));
        }
        Ok(response)
    }
}

fn describe(id: &str, container: &Container) -> v1::Container {
    let mut message = v1::Container::new();
    message.id = id.to_owned();
    message.bundle = container.bundle.to_string_lossy().into_owned();
    message.created_unix_ns = unix_ns(Some(container.created));
    let mut init = describe_process("", &container.init);
    init.exit_held_back |= container.init_exit.is_some();
    message.init = MessageField::some(init);
    message.execs = container
        .execs
        .iter()
        .map(|(id, exec)| describe_process(id, &exec.process))
        .collect();
    let (running, waiting) = container.operations.load();
    message.operations_running = running as u32;
    message.operations_waiting = waiting as u32;
    message.restarts = container.restarts;
    message.labels = container
        .labels
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if let Some(notify) = &container.notify {
        message.notify = MessageField::some(describe_notify(notify.relay.state()));
    }
    message.paused = container.freeze != crate::freeze::Freeze::No;
    let oom = container.oom.as_ref();
    message.oom_kills = oom.map_or(0, |oom| oom.last().oom_kill);
    message.memory_pressure = pressure(&container.pressure);
    if let Some(runtime) = &container.runtime {
        message.private_pid_namespace = runtime.private_pid_namespace;
        message.cgroups = runtime
            .cgroup
            .record()
            .paths()
            .values()
            .map(|path| path.to_string())
            .collect();
        message.cgroups.dedup();
    }
    message
}

fn pressure(state: &PressureState) -> MessageField<v1::MemoryPressure> {
    if state.source().is_empty() {
        return MessageField::none();
    }
    let mut message = v1::MemoryPressure::new();
    [message.low, message.medium, message.critical] = state.signals();
    message.source = state.source().to_owned();
    MessageField::some(message)
}

fn describe_notify(state: &notify::State) -> v1::NotifyState {
    let mut message = v1::NotifyState::new();
    message.ready = state.ready;
    message.reloading = state.reloading;
    message.stopping = state.stopping;
    message.status.clone_from(&state.status);
    message.errno = state.errno.unwrap_or(0);
    message.main_pid = state.main_pid.unwrap_or(0);
    message.last_unix_ns = unix_ns(state.last);
    message
}

fn describe_process(exec: &str, process: &Process) -> v1::Process {
    let mut message = v1::Process::new();
    message.exec = exec.to_owned();
    message.state = state(process.phase).to_owned();
    message.pid = process.pid;
    message.started_unix_ns = unix_ns(process.started);
    if let Some(exited) = process.exited() {
        message.exit_status = exited.status;
        message.exited_unix_ns = unix_ns(Some(exited.at));
    }
    message.terminal = process.paths.terminal;
    message.waiters = process.waiters.len() as u32;
    message.draining = process.draining.is_some();
    message.exit_held_back = process.early_exit.is_some();
    message.stdin.clone_from(&process.paths.stdin);
    message.stdout.clone_from(&process.paths.stdout);
    message.stderr.clone_from(&process.paths.stderr);
    message
}

fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Created => "created",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopped(_) => "stopped",
    }
}
