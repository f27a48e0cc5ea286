// SPDX-License-Identifier: Apache-2.0
//! Delete: of an exec, and of a container with everything that belongs to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};
use protobuf::MessageField;
use runtime::rootfs_mounts;

use crate::container::{Draining, Exited, Mode, Phase, ReplyTo};
use crate::create::end_io;
use crate::events;
use crate::server::{Server, Timer};
use crate::service::{Answer, exec_id, kill_process, message};
use crate::status::{Operation, Status};

/// How long a Delete waits for output that somebody still holds open or does not read.
const DRAIN: Duration = Duration::from_secs(10);
/// A wait for output that took less is no part of a Delete that anybody looks for.
const WORTH_TELLING: u64 = 100_000;

impl Server {
    pub(crate) fn delete(&mut self, to: ReplyTo, request: &DeleteRequest) {
        let id = request.id.clone();
        match exec_id(&request.exec_id) {
            Some(exec) => self.delete_exec(to, &id, exec),
            None if self.containers.contains_key(&id) => {
                self.enqueue(&request.id, Mode::Exclusive, move |server| {
                    if let Err(status) = server.delete_init(to, &id) {
                        server.reply(to, Err(status));
                        server.operation_finished(&id, Mode::Exclusive);
                    }
                });
            }
            None => self.reply(to, Err(Status::container_not_created())),
        }
    }

    fn delete_exec(&mut self, to: ReplyTo, id: &str, exec_id: &str) {
        if let Err(status) = self.begin_delete_exec(to, id, exec_id) {
            self.reply(to, Err(status));
        }
    }

    fn begin_delete_exec(&mut self, to: ReplyTo, id: &str, exec_id: &str) -> Result<(), Status> {
        let exec = self
            .container_mut(id)?
            .execs
            .get_mut(exec_id)
            .filter(|exec| !exec.deleting)
            .ok_or_else(|| Status::process_does_not_exist(exec_id))?;
        match exec.process.phase {
            Phase::Starting | Phase::Running | Phase::Creating => {
                let phase = exec.process.phase.for_status();
                return Err(Status::refused(Operation::Delete, phase));
            }
            Phase::Created | Phase::Stopped(_) => exec.deleting = true,
        }
        self.drain(to, id, Some(exec_id));
        Ok(())
    }

    /// The init's part of a Delete, begun when no other operation of the container runs.
    fn delete_init(&mut self, to: ReplyTo, id: &str) -> Result<(), Status> {
        let container = self.container_mut(id)?;
        match container.init.phase {
            Phase::Stopped(_) => self.delete_stopped_init(id, to),
            // Its end is told first, like any other.
            Phase::Created => {
                kill_process(&container.init);
                container.delete_when_stopped = Some(to);
            }
            _ => {
                return Err(Status::refused(
                    Operation::Delete,
                    container.phase_for_status(),
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn delete_stopped_init(&mut self, id: &str, to: ReplyTo) {
        self.drain(to, id, None);
    }

    /// Goes on when the process's output has been read, or after the limit.
    fn drain(&mut self, to: ReplyTo, id: &str, exec_id: Option<&str>) {
        let timer = Timer::DrainLimit {
            container: id.to_owned(),
            exec: exec_id.map(str::to_owned),
        };
        let limit = self.timers.set(Instant::now() + DRAIN, timer);
        let Some(process) = self.known_process(id, exec_id) else {
            return;
        };
        let since = telemetry::recorder::now();
        process.draining = Some(Draining { to, limit, since });
        // What was never started has nothing to read.
        let started = process.exited().is_some();
        if !started || process.io.as_ref().is_none_or(stdio::ProcessIo::drained) {
            self.drained(id, exec_id);
        }
    }

    /// The second half of a Delete.
    pub(crate) fn drained(&mut self, id: &str, exec_id: Option<&str>) {
        let Some(process) = self.known_process(id, exec_id) else {
            return;
        };
        let Some(Draining { to, limit, since }) = process.draining.take() else {
            return;
        };
        self.timers.cancel(limit);
        // It may be an event of a stream that has led here: what follows is the Delete's.
        let context = self.calls.get(&to).map(|(_, call)| call.context());
        if let Some(context) = &context {
            let waited = telemetry::recorder::now().saturating_sub(since);
            if waited > WORTH_TELLING {
                context.add("wait for output", since, waited, telemetry::Outcome::Done);
            }
        }
        let _entered = context.map(telemetry::Context::enter);
        match exec_id {
            Some(exec_id) => self.remove_exec(to, id, exec_id),
            None => self.destroy(to, id),
        }
    }

    fn remove_exec(&mut self, to: ReplyTo, id: &str, exec_id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(exec) = container.execs.remove(exec_id) else {
            return;
        };
        let pid_file = container.bundle.join(format!("{exec_id}.pid"));
        self.processes.remove(&exec.process.key);
        let process = exec.process;
        let answer = delete_answer(process.pid as u32, process.exited());
        let never_started = process.pid == 0;
        let logger = process.io.and_then(|mut io| io.cut());
        if never_started && logger.is_none() {
            return self.reply(to, answer);
        }
        // One small file on a memory file system: not worth a thread.
        if let Err(e) = std::fs::remove_file(&pid_file) {
            if e.kind() != std::io::ErrorKind::NotFound {
                log::warn!("remove {}: {e}", pid_file.display());
            }
        }
        match logger {
            None => self.reply(to, answer),
            Some(logger) => self.workers.run(move || {
                logger.finish();
                Box::new(move |server: &mut Server| server.reply(to, answer))
            }),
        }
        self.note_activity();
    }

    /// Removes the container's processes, cgroup, mounts and state on a worker.
    fn destroy(&mut self, to: ReplyTo, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let execs = container.execs.values_mut().map(|exec| &mut exec.process);
        let io: Vec<_> = execs
            .chain([&mut container.init])
            .filter_map(|process| process.io.take())
            .collect();
        let rootfs = container
            .rootfs_mounted
            .then(|| container.bundle.join("rootfs"));
        let runtime = container.runtime.clone();
        let id = id.to_owned();
        self.workers.run(move || {
            let ending = telemetry::span("end streams");
            io.into_iter().for_each(end_io);
            ending.done();
            let destroyed = destroy(runtime, rootfs);
            Box::new(move |server: &mut Server| server.destroyed(to, &id, destroyed))
        });
    }

    fn destroyed(&mut self, to: ReplyTo, id: &str, destroyed: Result<(), Status>) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        if let Err(status) = destroyed {
            log::error!("delete {id}: {status}");
            self.reply(to, Err(status));
            // It stays stopped: the call may be repeated.
            return self.operation_finished(id, Mode::Exclusive);
        }
        let (pid, exited) = (container.init.pid as u32, container.init.exited());
        let status = exited.map_or(0, |exited| exited.status);
        self.publish(events::task_delete(
            id,
            pid,
            status,
            exited.map(|exited| exited.at),
        ));
        self.remove_container(id);
        self.reply(to, delete_answer(pid, exited));
    }
}

fn delete_answer(pid: u32, exited: Option<Exited>) -> Answer {
    message(&DeleteResponse {
        pid,
        exit_status: exited.map_or(0, |exited| exited.status),
        exited_at: MessageField::some(events::timestamp(exited.map(|exited| exited.at))),
        ..Default::default()
    })
}

fn destroy(
    runtime: Option<Arc<runtime::Container>>,
    rootfs: Option<PathBuf>,
) -> Result<(), Status> {
    if let Some(runtime) = runtime {
        runtime
            .destroy()
            .map_err(|e| Status::unknown(format!("failed to delete task: {e}")))?;
    }
    if let Some(rootfs) = rootfs {
        telemetry::traced("unmount root file system", || {
            rootfs_mounts::unmount(&rootfs)
        })
        .map_err(|e| Status::unknown(format!("failed rootfs umount: {e}")))?;
    }
    Ok(())
}
