// SPDX-License-Identifier: Apache-2.0
//! Pause and Resume: all processes of a container stop, and go on.

use std::sync::Arc;

use containerd_shim_protos::api::Status as TaskStatus;

use crate::container::{Container, Mode, Phase, ReplyTo};
use crate::events;
use crate::server::Server;
use crate::service::empty;
use crate::status::{self, Operation, Status};

/// Whether a container's processes may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    /// They may.
    No,
    /// A worker is stopping them.
    Pausing,
    /// They have stopped.
    Paused,
}

impl Container {
    /// Its phase for error texts, which know of pauses.
    pub(crate) fn phase_for_status(&self) -> status::Phase {
        match (self.init.phase, self.freeze) {
            _ if self.init_has_ended() => status::Phase::Stopped,
            (Phase::Running, Freeze::Paused | Freeze::Pausing) => status::Phase::Paused,
            (phase, _) => phase.for_status(),
        }
    }

    /// What State says of a process that is in this phase.
    pub(crate) fn task_status(&self, phase: Phase) -> TaskStatus {
        match (phase, self.freeze) {
            (Phase::Stopped(_), _) => TaskStatus::STOPPED,
            (_, Freeze::Pausing) => TaskStatus::PAUSING,
            (_, Freeze::Paused) => TaskStatus::PAUSED,
            (Phase::Creating | Phase::Created | Phase::Starting, Freeze::No) => TaskStatus::CREATED,
            (Phase::Running, Freeze::No) => TaskStatus::RUNNING,
        }
    }
}

impl Server {
    pub(crate) fn pause(&mut self, to: ReplyTo, id: &str) {
        self.switch(to, id, Operation::Pause);
    }

    pub(crate) fn resume(&mut self, to: ReplyTo, id: &str) {
        self.switch(to, id, Operation::Resume);
    }

    fn switch(&mut self, to: ReplyTo, id: &str, operation: Operation) {
        if let Err(status) = self.container(id) {
            return self.reply(to, Err(status));
        }
        let owned = id.to_owned();
        self.enqueue(id, Mode::Exclusive, move |server| {
            if let Err(status) = server.begin_switch(to, &owned, operation) {
                server.reply(to, Err(status));
                server.operation_finished(&owned, Mode::Exclusive);
            }
        });
    }

    fn begin_switch(&mut self, to: ReplyTo, id: &str, operation: Operation) -> Result<(), Status> {
        let container = self.container_mut(id)?;
        let phase = container.phase_for_status();
        let wanted = match operation {
            Operation::Pause => status::Phase::Running,
            _ => status::Phase::Paused,
        };
        if phase != wanted {
            return Err(Status::refused(operation, phase));
        }
        let runtime = container
            .runtime
            .clone()
            .ok_or_else(Status::container_not_created)?;
        if operation == Operation::Pause {
            container.freeze = Freeze::Pausing;
        }
        let id = id.to_owned();
        self.workers.run(move || {
            let done = match operation {
                Operation::Pause => runtime.pause(),
                _ => runtime.resume(),
            };
            Box::new(move |server: &mut Server| server.switched(to, &id, operation, done))
        });
        Ok(())
    }

    fn switched(&mut self, to: ReplyTo, id: &str, operation: Operation, done: runtime::Result<()>) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let pausing = operation == Operation::Pause;
        container.freeze = match pausing == done.is_ok() {
            true => Freeze::Paused,
            false => Freeze::No,
        };
        let ended = container.init_has_ended();
        let answer = match done {
            Ok(()) if ended => {
                // It ended meanwhile: nobody is to stay behind, frozen.
                self.thaw_ended(id);
                Err(Status::refused(operation, status::Phase::Stopped))
            }
            Ok(()) => {
                self.publish(match pausing {
                    true => events::task_paused(id),
                    false => events::task_resumed(id),
                });
                empty()
            }
            Err(e) => {
                let verb = if pausing { "pause" } else { "resume" };
                log::error!("{verb} {id}: {e}");
                Err(Status::unknown(format!("OCI runtime {verb} failed: {e}")))
            }
        };
        self.reply(to, answer);
        self.operation_finished(id, Mode::Exclusive);
    }

    /// A container's init has ended: what others of it are frozen go on, to end as well.
    pub(crate) fn thaw_ended(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        // A worker that is still at it finds out when it is done.
        if container.freeze == Freeze::Paused {
            container.freeze = Freeze::No;
            self.thaw_killed(id);
        }
    }

    /// On v1 a frozen process does not even die: after SIGKILL everything is thawed, as runc does.
    pub(crate) fn thaw_killed(&mut self, id: &str) {
        let Some(runtime) = self
            .containers
            .get(id)
            .and_then(|container| container.runtime.as_ref())
        else {
            return;
        };
        let runtime = Arc::clone(runtime);
        self.workers.run(move || {
            if let Err(e) = runtime.resume() {
                log::debug!("{}: {e}", runtime.id);
            }
            Box::new(|_: &mut Server| ())
        });
    }
}
