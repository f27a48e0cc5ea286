// SPDX-License-Identifier: Apache-2.0
//! The end of processes, and the order in which it is told.
//!
//! This is the one place that decides it: the start of a process is told before its end; the ends of
//! all execs are told before the init's; whoever waits is answered before the event is queued.

use std::sync::Arc;
use std::time::SystemTime;

use rustix::process::Pid;

use crate::container::{Exited, Mode, Phase};
use crate::events;
use crate::server::{ProcessName, Server};
use crate::token::Token;
use stdio::{Drive, Stream};

impl Server {
    /// A pidfd is readable: takes the status.
    pub(crate) fn process_ended(&mut self, key: u64) {
        let Some(name) = self.processes.get(&key).cloned() else {
            return;
        };
        if name.exec.is_none() {
            self.end_notify(&name.container);
        }
        let Some(process) = self.known_process(&name.container, name.exec.as_deref()) else {
            return;
        };
        let (Some(pidfd), Some(pid)) = (process.pidfd.clone(), Pid::from_raw(process.pid)) else {
            return;
        };
        let status = match reaper::collect(pid, &*pidfd) {
            Ok(Some(exit)) => exit.status(),
            Ok(None) => return,
            Err(e) => {
                // Somebody else has taken the status: what is left to know is that it has ended.
                log::error!("{name:?}: {e}: exit status is lost");
                255
            }
        };
        self.unwatch(&*pidfd);
        let exited = Exited {
            status,
            at: SystemTime::now(),
        };
        log::debug!("{name:?} ended with status {status}");
        match name.exec {
            None => self.init_ended(&name.container, exited),
            Some(exec) => self.exec_ended(&name.container, &exec, exited),
        }
    }

    pub(crate) fn init_ended(&mut self, id: &str, exited: Exited) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.init.phase == Phase::Starting {
            container.init.early_exit = Some(exited);
            return;
        }
        container.init_exit = Some(exited);
        // Without a PID namespace of its own nobody else ends the container's other processes.
        if let Some(runtime) = container
            .runtime
            .as_ref()
            .filter(|c| !c.private_pid_namespace)
        {
            let runtime = Arc::clone(runtime);
            self.workers.run(move || {
                if let Err(e) = runtime.kill_all() {
                    log::error!("{}: {e}", runtime.id);
                }
                Box::new(|_: &mut Server| ())
            });
        }
        self.thaw_ended(id);
        self.tell_init_exit(id);
    }

    /// Tells of the init's end, unless an exec still runs.
    pub(crate) fn tell_init_exit(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.running_execs > 0 {
            return;
        }
        let Some(exited) = container.init_exit.take() else {
            return;
        };
        let pid = container.init.pid as u32;
        self.last_look_for_oom(id);
        self.end_pressure(id);
        let waiters = self.stop_process(id, None, exited);
        self.answer_waiters(waiters, exited);
        self.publish(events::task_exit(id, id, pid, exited.status, exited.at));
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if let Some(to) = container.delete_when_stopped.take() {
            self.delete_stopped_init(id, to);
        }
    }

    fn exec_ended(&mut self, id: &str, exec_id: &str, exited: Exited) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(exec) = container.execs.get_mut(exec_id) else {
            return;
        };
        let pid = exec.process.pid as u32;
        if exited.was_killed() {
            self.look_for_oom(id);
        }
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.running_execs = container.running_execs.saturating_sub(1);
        let waiters = self.stop_process(id, Some(exec_id), exited);
        self.answer_waiters(waiters, exited);
        self.publish(events::task_exit(
            id,
            exec_id,
            pid,
            exited.status,
            exited.at,
        ));
        self.tell_init_exit(id);
    }

    /// The transition to Stopped.
    fn stop_process(
        &mut self,
        id: &str,
        exec_id: Option<&str>,
        exited: Exited,
    ) -> Vec<crate::container::Waiter> {
        let Some(process) = self.known_process(id, exec_id) else {
            return Vec::new();
        };
        process.phase = Phase::Stopped(exited);
        process.pidfd = None;
        if let Some(io) = &mut process.io {
            // Each stream is driven below, whatever this says.
            let _ = io.process_exited();
        }
        let key = process.key;
        let waiters = std::mem::take(&mut process.waiters);
        for stream in [Stream::Stdin, Stream::Stdout, Stream::Stderr] {
            self.drive_stream(key, stream);
        }
        waiters
    }

    /// Moves data of a relayed stream; edge-triggered, so it goes on until it would block.
    pub(crate) fn drive_stream(&mut self, key: u64, stream: Stream) {
        let Some(ProcessName { container, exec }) = self.processes.get(&key).cloned() else {
            return;
        };
        let Some(process) = self.known_process(&container, exec.as_deref()) else {
            return;
        };
        let Some(io) = &mut process.io else { return };
        match io.drive(stream) {
            Drive::Again => self.again.push_back(Token::Stream(key, stream)),
            Drive::Idle => {}
            Drive::Done => {
                if process.draining.is_some() && io.drained() {
                    self.drained(&container, exec.as_deref());
                }
            }
        }
    }

    /// A slow operation of a container begins now or when those before it have ended.
    pub(crate) fn enqueue(
        &mut self,
        id: &str,
        mode: Mode,
        operation: impl FnOnce(&mut Server) + 'static,
    ) {
        let context = telemetry::Context::current();
        let operation = move |server: &mut Server| {
            let _entered = context.enter();
            operation(server);
        };
        match self.containers.get_mut(id) {
            Some(container) => container.operations.push(mode, Box::new(operation)),
            // The operation finds out by itself.
            None => return operation(self),
        }
        self.run_operations(id);
    }

    /// An operation has ended: the next may begin.
    pub(crate) fn operation_finished(&mut self, id: &str, mode: Mode) {
        if let Some(container) = self.containers.get_mut(id) {
            container.operations.finished(mode);
        }
        self.note_activity();
        self.run_operations(id);
    }

    fn run_operations(&mut self, id: &str) {
        while let Some(operation) = self
            .containers
            .get_mut(id)
            .and_then(|container| container.operations.take_ready())
        {
            operation(self);
        }
    }

    /// Takes a container out of the books; whatever still waits for it is told that it is gone.
    pub(crate) fn remove_container(&mut self, id: &str) {
        let Some(mut container) = self.containers.remove(id) else {
            return;
        };
        self.processes.remove(&container.init.key);
        for exec in container.execs.values() {
            self.processes.remove(&exec.process.key);
        }
        for operation in container.operations.take_all() {
            operation(self);
        }
        drop(container);
        self.container_is_gone();
    }
}
