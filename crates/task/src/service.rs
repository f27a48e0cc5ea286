// SPDX-License-Identifier: Apache-2.0
//! The Task service: one method for each call. What can be answered from memory is answered here;
//! what blocks goes to [`crate::create`], [`crate::start`] and [`crate::delete`].

use std::time::Instant;

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, Empty, ExecProcessRequest, KillRequest,
    PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, StateRequest, StateResponse,
    StatsRequest, WaitRequest, WaitResponse,
};
use protobuf::{EnumOrUnknown, Message, MessageField};
use rustix::process::{Pid, Signal};

use crate::container::{Container, Exec, Exited, Phase, Process, ReplyTo, StdioPaths, Waiter};
use crate::events;
use crate::freeze::Freeze;
use crate::metrics;
use crate::server::{ProcessName, Server, Timer};
use crate::status::{self, Operation, Status};
use crate::ttrpc::{Incoming, Method, TaskRequest};

/// The answer to a call: an encoded message, or why not.
pub(crate) type Answer = Result<Vec<u8>, Status>;

/// Encodes an answer.
pub(crate) fn message(message: &impl Message) -> Answer {
    message
        .write_to_bytes()
        .map_err(|e| Status::internal(format_args!("encode answer: {e}")))
}

/// The empty answer.
pub(crate) fn empty() -> Answer {
    message(&Empty::default())
}

/// How a process ended, as a Wait is answered.
fn wait_answer(exited: Exited) -> Answer {
    message(&WaitResponse {
        exit_status: exited.status,
        exited_at: MessageField::some(events::timestamp(Some(exited.at))),
        ..Default::default()
    })
}

/// "" is the init process.
pub(crate) fn exec_id(id: &str) -> Option<&str> {
    (!id.is_empty()).then_some(id)
}

impl Server {
    /// Serves one call, now or later.
    pub(crate) fn call(&mut self, to: ReplyTo, incoming: Incoming) {
        if incoming.service == ::diagnostics::SERVICE {
            return self.diagnose(to, &incoming);
        }
        let request = Method::parse(&incoming.service, &incoming.method)
            .and_then(|method| method.decode(&incoming.payload));
        let request = match request {
            Ok(request) => request,
            Err(status) => return self.reply(to, Err(status)),
        };
        let deadline = incoming.deadline;
        let _entered = self.call_begins(to, &request, &incoming).enter();
        log::debug!("{request:?}");
        let answer = match request {
            TaskRequest::State(request) => self.state(&request),
            TaskRequest::Pids(request) => self.pids(&request),
            TaskRequest::Stats(request) => match self.stats(to, &request) {
                Some(answer) => answer,
                None => return,
            },
            TaskRequest::Connect(request) => self.connect(&request),
            TaskRequest::ResizePty(request) => self.resize_pty(&request),
            TaskRequest::CloseIo(request) => self.close_io(&request),
            TaskRequest::Exec(request) => self.exec(request),
            TaskRequest::Shutdown(_) => self.shutdown(),
            TaskRequest::Kill(request) => match self.kill(to, &request) {
                Some(answer) => answer,
                None => return,
            },
            TaskRequest::Wait(request) => match self.wait(to, &request, deadline) {
                Some(answer) => answer,
                None => return,
            },
            TaskRequest::Create(request) => return self.create(to, request),
            TaskRequest::Start(request) => return self.start(to, &request, deadline),
            TaskRequest::Delete(request) => return self.delete(to, &request),
            TaskRequest::Pause(request) => return self.pause(to, &request.id),
            TaskRequest::Resume(request) => return self.resume(to, &request.id),
            TaskRequest::Update(request) => return self.update(to, request),
            TaskRequest::Checkpoint(_) => Err(not_yet("checkpoint")),
        };
        self.reply(to, answer);
    }

    /// The container, once it has been created.
    pub(crate) fn container(&self, id: &str) -> Result<&Container, Status> {
        self.containers
            .get(id)
            .filter(|container| container.init.phase != Phase::Creating)
            .ok_or_else(Status::container_not_created)
    }

    pub(crate) fn container_mut(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers
            .get_mut(id)
            .filter(|container| container.init.phase != Phase::Creating)
            .ok_or_else(Status::container_not_created)
    }

    fn process(&self, id: &str, exec: &str) -> Result<&Process, Status> {
        self.container(id)?
            .process(exec_id(exec))
            .ok_or_else(|| Status::process_does_not_exist(exec))
    }

    fn process_mut(&mut self, id: &str, exec: &str) -> Result<&mut Process, Status> {
        let container = self.container_mut(id)?;
        if container.process(exec_id(exec)).is_none() {
            return Err(Status::process_does_not_exist(exec));
        }
        container
            .process_mut(exec_id(exec))
            .ok_or_else(|| Status::process_does_not_exist(exec))
    }

    /// As [`process_mut`](Self::process_mut) of who asks nothing: an exec counts while it is being
    /// deleted.
    pub(crate) fn known_process(&mut self, id: &str, exec: Option<&str>) -> Option<&mut Process> {
        self.containers.get_mut(id)?.process_mut(exec)
    }

    fn state(&self, request: &StateRequest) -> Answer {
        let container = self.container(&request.id)?;
        let process = self.process(&request.id, &request.exec_id)?;
        let (status, exited) = (container.task_status(process.phase), process.exited());
        let id = exec_id(&request.exec_id).unwrap_or(&request.id);
        message(&StateResponse {
            id: id.to_owned(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid as u32,
            status: EnumOrUnknown::new(status),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status: exited.map_or(0, |exited| exited.status),
            exited_at: MessageField::some(events::timestamp(exited.map(|exited| exited.at))),
            ..Default::default()
        })
    }

    fn connect(&self, request: &ConnectRequest) -> Answer {
        let pid = self
            .container(&request.id)
            .map_or(0, |container| container.init.pid);
        message(&ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid as u32,
            ..Default::default()
        })
    }

    fn pids(&self, request: &PidsRequest) -> Answer {
        let container = self.container(&request.id)?;
        let Some(runtime) = &container.runtime else {
            return Err(Status::container_not_created());
        };
        let mut pids = runtime.pids().map_err(|e| Status::unknown(e.to_string()))?;
        // containerd takes an empty list for a leaked shim, and would throw away the exit status of
        // a task that ended while it was down.
        if pids.is_empty() && container.init.pid != 0 {
            pids.push(container.init.pid);
        }
        let mut response = PidsResponse::default();
        for pid in pids {
            let mut info = ProcessInfo {
                pid: pid as u32,
                ..Default::default()
            };
            let exec = container
                .execs
                .iter()
                .find(|(_, exec)| exec.process.pid == pid && exec.process.phase == Phase::Running);
            if let Some((id, _)) = exec {
                info.info = MessageField::some(process_details(id));
            }
            response.processes.push(info);
        }
        message(&response)
    }

    /// A few dozen small files of the kernel. For some of them it adds up what all processors have
    /// counted, and on a large host others may be doing the same: a worker reads them.
    fn stats(&self, to: ReplyTo, request: &StatsRequest) -> Option<Answer> {
        let container = match self.container(&request.id) {
            Ok(container) => container,
            Err(status) => return Some(Err(status)),
        };
        let Some(runtime) = container.runtime.clone() else {
            return Some(Err(Status::no_cgroup()));
        };
        let last = container.oom.as_ref().map(|oom| *oom.last());
        self.workers.read(move || {
            let stats = metrics::read(&runtime, last.as_ref());
            let answer = message(&metrics::response(&stats, &runtime.network()));
            Box::new(move |server: &mut Server| server.reply(to, answer))
        });
        None
    }

    fn resize_pty(&self, request: &ResizePtyRequest) -> Answer {
        let process = self.process(&request.id, &request.exec_id)?;
        if process.exited().is_some() {
            return Err(Status::refused(
                Operation::ResizePty,
                status::Phase::Stopped,
            ));
        }
        let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        if let Some(io) = &process.io {
            io.resize(cells(request.width), cells(request.height))
                .map_err(|e| Status::unknown(e.to_string()))?;
        }
        empty()
    }

    fn close_io(&mut self, request: &CloseIORequest) -> Answer {
        let process = self.process_mut(&request.id, &request.exec_id)?;
        process.stdin_closed = true;
        if let Some(io) = &mut process.io {
            io.close_stdin();
        }
        let key = process.key;
        self.drive_stream(key, stdio::Stream::Stdin);
        empty()
    }

    fn exec(&mut self, request: ExecProcessRequest) -> Answer {
        let container = self.container_mut(&request.id)?;
        if container.execs.contains_key(&request.exec_id) || request.exec_id == request.id {
            return Err(Status::exec_id_exists(&request.exec_id));
        }
        if request.exec_id.is_empty() {
            return Err(Status::invalid_argument("exec id must not be empty"));
        }
        match container.phase_for_status() {
            status::Phase::Created | status::Phase::Running => {}
            phase => return Err(Status::refused(Operation::Exec, phase)),
        }
        let spec =
            runtime::spec::parse_process(&request.spec.value).map_err(Status::invalid_argument)?;
        let paths = StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let name = ProcessName {
            container: request.id.clone(),
            exec: Some(request.exec_id.clone()),
        };
        let key = self.new_key(name);
        let process = Process::new(key, Phase::Created, paths);
        let exec = Exec {
            process,
            spec: spec.into(),
            deleting: false,
        };
        self.container_mut(&request.id)?
            .execs
            .insert(request.exec_id.clone(), exec);
        self.publish(events::task_exec_added(&request.id, &request.exec_id));
        empty()
    }

    /// Answers at once, or `None`: a worker will.
    fn kill(&mut self, to: ReplyTo, request: &KillRequest) -> Option<Answer> {
        match self.kill_now(request) {
            Ok(None) => Some(empty()),
            Ok(Some(runtime)) => {
                let signal = request.signal;
                self.workers.run(move || {
                    let killed = signal_all(&runtime, signal);
                    Box::new(move |server: &mut Server| {
                        server.reply(to, killed.and_then(|()| empty()));
                    })
                });
                None
            }
            Err(status) => Some(Err(status)),
        }
    }

    /// Signals one process, or gives back the container whose processes all are to be signalled.
    fn kill_now(
        &mut self,
        request: &KillRequest,
    ) -> Result<Option<std::sync::Arc<runtime::Container>>, Status> {
        let is_init = request.exec_id.is_empty();
        let process = self.process(&request.id, &request.exec_id)?;
        if process.exited().is_some() || process.early_exit.is_some() {
            return Err(Status::process_already_finished());
        }
        let Some(pidfd) = process.pidfd.clone() else {
            return Err(Status::process_not_created());
        };
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|number| (0..=64).contains(number))
            .ok_or_else(|| Status::invalid_argument(format_args!("signal {}", request.signal)))?;
        if is_init {
            // Before the signal: systemd shall know why the service ends.
            self.notify_of_signal(&request.id, signal);
        }
        let container = self.container(&request.id)?;
        if let Some(runtime) = container.runtime.as_ref().filter(|_| is_init) {
            let everyone = signal == libc::SIGKILL && !runtime.private_pid_namespace;
            if request.all || everyone {
                return Ok(Some(runtime.clone()));
            }
        }
        let freeze = container.freeze;
        match sys::signals::send(&*pidfd, signal) {
            Ok(()) => {
                if signal == libc::SIGKILL && freeze != Freeze::No {
                    self.thaw_killed(&request.id);
                }
                Ok(None)
            }
            Err(e) if e.errno() == sys::Errno::SRCH => Err(Status::process_already_finished()),
            Err(e) => Err(Status::unknown(format!("unknown error after kill: {e}"))),
        }
    }

    /// Answers at once if the process has ended, else stores the call.
    fn wait(
        &mut self,
        to: ReplyTo,
        request: &WaitRequest,
        deadline: Option<Instant>,
    ) -> Option<Answer> {
        match self.process(&request.id, &request.exec_id) {
            Err(status) => return Some(Err(status)),
            Ok(process) => {
                if let Some(exited) = process.exited() {
                    return Some(wait_answer(exited));
                }
            }
        }
        let deadline = deadline.map(|at| self.timers.set(at, Timer::WaitDeadline(to)));
        if let Ok(process) = self.process_mut(&request.id, &request.exec_id) {
            process.waiters.push(Waiter { to, deadline });
        }
        None
    }

    /// Answers everybody who waits for a process.
    pub(crate) fn answer_waiters(&mut self, waiters: Vec<Waiter>, exited: Exited) {
        for waiter in waiters {
            if let Some(timer) = waiter.deadline {
                self.timers.cancel(timer);
            }
            self.reply(waiter.to, wait_answer(exited));
        }
    }

    /// A Wait's deadline has passed.
    pub(crate) fn give_up_wait(&mut self, to: ReplyTo) {
        self.remove_waiters(|waiter| waiter.to == to);
        self.reply(to, Err(Status::deadline_exceeded()));
    }

    /// A connection is gone: its Waits are of no use.
    pub(crate) fn forget_waiters(&mut self, connection: u64) {
        self.remove_waiters(|waiter| waiter.to.connection == connection);
    }

    fn remove_waiters(&mut self, gone: impl Fn(&Waiter) -> bool) {
        let (timers, mut ended) = (&mut self.timers, Vec::new());
        for container in self.containers.values_mut() {
            let execs = container.execs.values_mut().map(|exec| &mut exec.process);
            for process in execs.chain([&mut container.init]) {
                process.waiters.retain(|waiter| {
                    let gone = gone(waiter);
                    if gone {
                        ended.push(waiter.to);
                    }
                    if let Some(timer) = waiter.deadline.filter(|_| gone) {
                        timers.cancel(timer);
                    }
                    !gone
                });
            }
        }
        let cancelled = Status::new(status::Code::Cancelled, "the caller is gone");
        for to in ended {
            self.call_ended(to, Some(&cancelled));
        }
    }

    fn shutdown(&mut self) -> Answer {
        if self.containers.is_empty() {
            self.end();
        } else {
            // containerd asks once: the request holds until the last container is gone.
            self.shutdown_wanted = true;
        }
        empty()
    }
}

fn not_yet(operation: &str) -> Status {
    Status::not_implemented(format_args!(
        "{operation} is not supported by this shim yet"
    ))
}

fn signal_all(runtime: &runtime::Container, signal: u32) -> Result<(), Status> {
    let failed = |e: runtime::Error| Status::unknown(format!("unknown error after kill: {e}"));
    if signal == libc::SIGKILL as u32 {
        return runtime.kill_all().map_err(failed);
    }
    for pid in runtime.pids().map_err(failed)? {
        let Some(pid) = Pid::from_raw(pid) else {
            continue;
        };
        let flags = rustix::process::PidfdFlags::empty();
        // It may have ended since the list was read.
        let Ok(pidfd) = rustix::process::pidfd_open(pid, flags) else {
            continue;
        };
        let _ = sys::signals::send(&pidfd, signal as i32);
    }
    Ok(())
}

fn process_details(exec_id: &str) -> protobuf::well_known_types::any::Any {
    // containerd.runc.v1.ProcessDetails{exec_id = 1}: one string field.
    let details = containerd_shim_protos::shim::oci::ProcessDetails {
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    protobuf::well_known_types::any::Any {
        type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
        value: details.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

/// Ends the init of a container that was created and never started.
pub(crate) fn kill_process(process: &Process) {
    if let Some(pidfd) = &process.pidfd {
        // ESRCH: it is ending already.
        let _ = rustix::process::pidfd_send_signal(&**pidfd, Signal::KILL);
    }
}
