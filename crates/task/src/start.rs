// SPDX-License-Identifier: Apache-2.0
//! Start: of a container's init, and of an exec.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use containerd_shim_protos::api::{StartRequest, StartResponse};
use rustix::event::epoll::EventFlags;
use stdio::{DataPath, Owner, ProcessIo};

use crate::container::{Exited, Mode, Phase, ReplyTo, StdioPaths};
use crate::create::{attach, end_io, open, terminal};
use crate::diagnostics::log_json;
use crate::diagnostics::sync_record::SyncRecord;
use crate::events;
use crate::server::Server;
use crate::service::{Answer, exec_id, message};
use crate::status::{Operation, Status};
use crate::token::Token;

/// What a worker hands back of an exec.
struct Started {
    pid: i32,
    pidfd: OwnedFd,
    io: ProcessIo,
}

impl Server {
    pub(crate) fn start(&mut self, to: ReplyTo, request: &StartRequest, deadline: Option<Instant>) {
        if let Err(status) = self.container(&request.id) {
            return self.reply(to, Err(status));
        }
        let id = request.id.clone();
        match exec_id(&request.exec_id) {
            None => self.enqueue(&request.id, Mode::Exclusive, move |server| {
                if !server.expired(to, deadline) && server.start_init(to, &id) {
                    return;
                }
                server.operation_finished(&id, Mode::Exclusive);
            }),
            Some(exec) => {
                let exec = exec.to_owned();
                self.enqueue(&request.id, Mode::Shared, move |server| {
                    if !server.expired(to, deadline) && server.start_exec(to, &id, &exec) {
                        return;
                    }
                    server.operation_finished(&id, Mode::Shared);
                });
            }
        }
    }

    /// An operation whose caller has given up while it waited for its turn is not begun.
    fn expired(&mut self, to: ReplyTo, deadline: Option<Instant>) -> bool {
        let expired = deadline.is_some_and(|at| at <= Instant::now());
        if expired {
            self.reply(to, Err(Status::deadline_exceeded()));
        }
        expired
    }

    /// Says whether a worker has taken over.
    fn start_init(&mut self, to: ReplyTo, id: &str) -> bool {
        match self.begin_init(id) {
            Err(status) => {
                self.reply(to, Err(status));
                false
            }
            Ok(runtime) => {
                self.begin_input(id, None);
                let id = id.to_owned();
                let bundle = self.containers.get(&id).map(|c| c.bundle.clone());
                self.workers.run(move || {
                    let record = bundle.and_then(|path| SyncRecord::of_later(&path, &id, ""));
                    let started = runtime.start();
                    drop(record);
                    Box::new(move |server: &mut Server| server.init_started(to, &id, started))
                });
                true
            }
        }
    }

    fn begin_init(&mut self, id: &str) -> Result<Arc<runtime::Container>, Status> {
        let container = self.container_mut(id)?;
        let phase = container.init.phase;
        if phase != Phase::Created || container.init_has_ended() {
            return Err(Status::refused(
                Operation::Start,
                container.phase_for_status(),
            ));
        }
        let runtime = container
            .runtime
            .clone()
            .ok_or_else(Status::container_not_created)?;
        container.init.phase = Phase::Starting;
        Ok(runtime)
    }

    fn init_started(&mut self, to: ReplyTo, id: &str, started: runtime::Result<()>) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let pid = container.init.pid as u32;
        let early = container.init.early_exit.take();
        match started {
            Ok(()) => {
                container.init.phase = Phase::Running;
                container.init.started = Some(SystemTime::now());
                self.publish(events::task_start(id, pid));
                self.tell_oom(id);
                self.reply(to, start_answer(pid));
            }
            Err(e) => {
                let trail = telemetry::Context::current().trail();
                log::error!(container = id, trail = trail.as_str(); "start {id}: {e}");
                log_json::append(&container.bundle, &e.to_string());
                container.init.phase = Phase::Created;
                self.reply(
                    to,
                    Err(Status::unknown(format!("OCI runtime start failed: {e}"))),
                );
            }
        }
        if let Some(exited) = early {
            self.init_ended(id, exited);
        }
        self.operation_finished(id, Mode::Exclusive);
    }

    /// Says whether a worker has taken over.
    fn start_exec(&mut self, to: ReplyTo, id: &str, exec_id: &str) -> bool {
        match self.begin_exec(id, exec_id) {
            Err(status) => {
                self.reply(to, Err(status));
                false
            }
            Ok(job) => {
                let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
                self.workers.run(move || {
                    let started = job.run();
                    Box::new(move |server: &mut Server| {
                        server.exec_started(to, &id, &exec_id, started);
                    })
                });
                true
            }
        }
    }

    fn begin_exec(&mut self, id: &str, exec_id: &str) -> Result<ExecJob, Status> {
        let runtime = Arc::clone(&self.runtime);
        let namespace = self.config.namespace.clone();
        let container = self.container_mut(id)?;
        if container.init_has_ended() {
            return Err(Status::init_not_running(id));
        }
        let bundle = container.bundle.clone();
        let target = container
            .runtime
            .clone()
            .ok_or_else(Status::container_not_created)?;
        let exec = container
            .execs
            .get_mut(exec_id)
            .filter(|exec| !exec.deleting)
            .ok_or_else(|| Status::process_does_not_exist(exec_id))?;
        if exec.process.phase != Phase::Created {
            return Err(Status::refused(
                Operation::Start,
                exec.process.phase.for_status(),
            ));
        }
        exec.process.phase = Phase::Starting;
        let job = ExecJob {
            runtime,
            container: target,
            namespace,
            bundle,
            exec_id: exec_id.to_owned(),
            paths: exec.process.paths.clone(),
            spec: Arc::clone(&exec.spec),
        };
        container.running_execs += 1;
        Ok(job)
    }

    fn exec_started(
        &mut self,
        to: ReplyTo,
        id: &str,
        exec_id: &str,
        started: Result<Started, Status>,
    ) {
        match started.and_then(|started| self.register_exec(id, exec_id, started)) {
            Ok(pid) => {
                self.publish(events::task_exec_started(id, exec_id, pid));
                self.reply(to, start_answer(pid));
            }
            Err(status) => {
                let trail = telemetry::Context::current().trail();
                log::warn!(container = id, exec = exec_id, trail = trail.as_str();
                    "start exec {exec_id} of {id}: {status}");
                if let Some(container) = self.containers.get(id) {
                    log_json::append(&container.bundle, &status.message);
                }
                self.exec_failed(id, exec_id);
                self.reply(to, Err(status));
            }
        }
        self.operation_finished(id, Mode::Shared);
    }

    fn register_exec(&mut self, id: &str, exec_id: &str, started: Started) -> Result<u32, Status> {
        let pidfd = Arc::new(started.pidfd);
        let process = self
            .container_mut(id)?
            .process_mut(Some(exec_id))
            .ok_or_else(|| Status::process_does_not_exist(exec_id))?;
        process.phase = Phase::Running;
        process.started = Some(SystemTime::now());
        process.pid = started.pid;
        process.pidfd = Some(Arc::clone(&pidfd));
        let key = process.key;
        self.watch(pidfd.as_fd(), Token::Exit(key), EventFlags::IN)?;
        self.adopt_io(id, Some(exec_id), started.io);
        self.begin_input(id, Some(exec_id));
        Ok(started.pid as u32)
    }

    /// A start that failed leaves the exec created, as in the Go shim; whoever waits is answered, and
    /// no event tells of an end.
    fn exec_failed(&mut self, id: &str, exec_id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.running_execs = container.running_execs.saturating_sub(1);
        if let Some(process) = container.process_mut(Some(exec_id)) {
            process.phase = Phase::Created;
            let waiters = std::mem::take(&mut process.waiters);
            let never = Exited {
                status: 0,
                at: SystemTime::now(),
            };
            self.answer_waiters(waiters, never);
        }
        self.tell_init_exit(id);
    }
}

fn start_answer(pid: u32) -> Answer {
    message(&StartResponse {
        pid,
        ..Default::default()
    })
}

/// The worker's part of starting an exec.
struct ExecJob {
    runtime: Arc<runtime::Runtime>,
    container: Arc<runtime::Container>,
    namespace: String,
    bundle: PathBuf,
    exec_id: String,
    paths: StdioPaths,
    spec: Arc<oci_spec::runtime::Process>,
}

impl ExecJob {
    fn run(self) -> Result<Started, Status> {
        let _record = SyncRecord::of_later(&self.bundle, &self.container.id, &self.exec_id);
        let (mut io, child) = open(&stdio::Request {
            stdin: &self.paths.stdin,
            stdout: &self.paths.stdout,
            stderr: &self.paths.stderr,
            terminal: terminal(self.paths.terminal),
            owner: Owner::default(),
            container_id: &self.container.id,
            namespace: &self.namespace,
            // Children of an exec may outlive it with its output open.
            path: DataPath::Relayed,
        })?;
        let process = match self.container.exec(&self.runtime, &self.spec, child) {
            Ok(process) => process,
            Err(e) => {
                end_io(io);
                let text = format!("OCI runtime exec failed: exec failed: {e}");
                return Err(Status::unknown(text));
            }
        };
        let pid = process.pid.as_raw_nonzero();
        let finished = attach(&mut io, process.console).and_then(|()| {
            let path = self.bundle.join(format!("{}.pid", self.exec_id));
            runtime::state::write_atomically(&path, pid.to_string().as_bytes(), 0o644)
                .map_err(|e| Status::unknown(format!("write {}: {e}", path.display())))
        });
        if let Err(status) = finished {
            let kill = rustix::process::Signal::KILL;
            let _ = rustix::process::pidfd_send_signal(&process.pidfd, kill);
            if let Err(e) = reaper::wait_for(process.pid, &process.pidfd) {
                log::warn!("undo exec: {e}");
            }
            end_io(io);
            return Err(status);
        }
        Ok(Started {
            pid: pid.get(),
            pidfd: process.pidfd,
            io,
        })
    }
}
