// SPDX-License-Identifier: Apache-2.0
//! The daemon's events service, `containerd.services.events.ttrpc.v1.Events/Forward`.
//!
//! Invariant: what was answered with success is recorded, in the order of arrival.

use std::fmt;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim_protos::events::task as message;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use protobuf::Message;
use ttrpc::proto::{Code, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE, Request, Response, Status};

use super::error::{CallError, During as _, Error, Result};
use super::wire;

/// An event of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of containerd's messages")]
pub enum Event {
    Create {
        id: String,
        pid: u32,
    },
    Start {
        id: String,
        pid: u32,
    },
    Oom {
        id: String,
    },
    Exit {
        id: String,
        process: String,
        pid: u32,
        status: u32,
    },
    Delete {
        id: String,
        process: String,
        pid: u32,
        status: u32,
    },
    ExecAdded {
        id: String,
        exec: String,
    },
    ExecStarted {
        id: String,
        exec: String,
        pid: u32,
    },
    Paused {
        id: String,
    },
    Resumed {
        id: String,
    },
    Checkpointed {
        id: String,
    },
}

impl Event {
    /// The container.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Create { id, .. }
            | Self::Start { id, .. }
            | Self::Oom { id }
            | Self::Exit { id, .. }
            | Self::Delete { id, .. }
            | Self::ExecAdded { id, .. }
            | Self::ExecStarted { id, .. }
            | Self::Paused { id }
            | Self::Resumed { id }
            | Self::Checkpointed { id } => id,
        }
    }

    fn topic(&self) -> &'static str {
        match self {
            Self::Create { .. } => "/tasks/create",
            Self::Start { .. } => "/tasks/start",
            Self::Oom { .. } => "/tasks/oom",
            Self::Exit { .. } => "/tasks/exit",
            Self::Delete { .. } => "/tasks/delete",
            Self::ExecAdded { .. } => "/tasks/exec-added",
            Self::ExecStarted { .. } => "/tasks/exec-started",
            Self::Paused { .. } => "/tasks/paused",
            Self::Resumed { .. } => "/tasks/resumed",
            Self::Checkpointed { .. } => "/tasks/checkpointed",
        }
    }
}

/// Without process numbers and the container's name, so that a test can write down a whole life.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { .. } => write!(f, "create"),
            Self::Start { .. } => write!(f, "start"),
            Self::Oom { .. } => write!(f, "oom"),
            Self::Exit {
                id,
                process,
                status,
                ..
            } if id == process => write!(f, "exit {status}"),
            Self::Exit {
                process, status, ..
            } => write!(f, "exit of {process} {status}"),
            Self::Delete { status, .. } => write!(f, "delete {status}"),
            Self::ExecAdded { exec, .. } => write!(f, "added {exec}"),
            Self::ExecStarted { exec, .. } => write!(f, "started {exec}"),
            Self::Paused { .. } => write!(f, "paused"),
            Self::Resumed { .. } => write!(f, "resumed"),
            Self::Checkpointed { .. } => write!(f, "checkpointed"),
        }
    }
}

/// An event as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When.
    pub at: Instant,
    /// What it says.
    pub event: Event,
    /// As it was sent.
    pub envelope: Envelope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Answering,
    /// Connections are accepted by the kernel, but nobody reads them.
    Hung,
    /// The socket is closed and gone.
    Stopped,
}

struct State {
    mode: Mode,
    /// Counts stops: a thread of an earlier life ends itself.
    life: u64,
    connections: Vec<UnixStream>,
    recorded: Vec<Recorded>,
    /// Requests that containerd would have refused.
    refused: Vec<String>,
}

/// Records events. Starts answering when made.
pub struct EventServer {
    path: PathBuf,
    namespace: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventServer {
    /// Listens at `path`.
    pub fn listen(path: &Path, namespace: &str) -> Result<Self> {
        let state = State {
            mode: Mode::Stopped,
            life: 0,
            connections: Vec::new(),
            recorded: Vec::new(),
            refused: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let server = Self {
            path: path.to_owned(),
            namespace: namespace.to_owned(),
            shared,
        };
        server.restart()?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the socket and all connections, as a daemon that was killed.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        if state.mode == Mode::Stopped {
            return;
        }
        state.mode = Mode::Stopped;
        state.life += 1;
        for connection in state.connections.drain(..) {
            // Fails if the shim has closed it.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        drop(state);
        // Wakes the thread in accept, which then closes the socket.
        let _ = UnixStream::connect(&self.path);
        // Fails only if somebody else removed it.
        let _ = std::fs::remove_file(&self.path);
        self.shared.changed.notify_all();
    }

    /// Stops reading, as a daemon that hangs.
    pub fn hang(&self) {
        self.shared.lock().mode = Mode::Hung;
    }

    /// Answers again after `hang`.
    pub fn resume(&self) {
        self.shared.lock().mode = Mode::Answering;
        self.shared.changed.notify_all();
    }

    /// Listens again after `stop`.
    pub fn restart(&self) -> Result<()> {
        let listener = UnixListener::bind(&self.path)
            .during(|| format!("listen at {}", self.path.display()))?;
        let mut state = self.shared.lock();
        state.mode = Mode::Answering;
        let life = state.life;
        drop(state);
        let (shared, namespace) = (Arc::clone(&self.shared), self.namespace.clone());
        thread::spawn(move || accept(&listener, &shared, &namespace, life));
        Ok(())
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Recorded> {
        self.shared.lock().recorded.clone()
    }

    /// The events of a container so far.
    #[must_use]
    pub fn of(&self, id: &str) -> Vec<Event> {
        let state = self.shared.lock();
        state
            .recorded
            .iter()
            .map(|one| one.event.clone())
            .filter(|event| event.id() == id)
            .collect()
    }

    /// The same as short texts.
    #[must_use]
    pub fn texts(&self, id: &str) -> Vec<String> {
        self.of(id).iter().map(ToString::to_string).collect()
    }

    /// Requests that containerd would have refused, and why.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.shared.lock().refused.clone()
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.shared.lock().recorded.clear();
    }

    /// Waits until the events of a container satisfy `enough`, and returns them.
    pub fn wait(
        &self,
        id: &str,
        limit: Duration,
        enough: impl Fn(&[Event]) -> bool,
    ) -> Result<Vec<Event>> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let events: Vec<Event> = state
                .recorded
                .iter()
                .map(|one| one.event.clone())
                .filter(|event| event.id() == id)
                .collect();
            if enough(&events) {
                return Ok(events);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let have: Vec<String> = events.iter().map(ToString::to_string).collect();
                return Err(Error::Late {
                    what: format!("events of {id}, have {have:?}"),
                    limit,
                });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the last event of a container's life.
    pub fn wait_delete(&self, id: &str) -> Result<Vec<Event>> {
        self.wait(id, Duration::from_secs(20), |events| {
            events
                .iter()
                .any(|event| matches!(event, Event::Delete { .. }))
        })
    }

    /// Waits for the exit of a process.
    pub fn wait_exit(&self, id: &str, of: &str) -> Result<Vec<Event>> {
        self.wait(id, Duration::from_secs(20), |events| {
            events
                .iter()
                .any(|event| matches!(event, Event::Exit { process, .. } if process == of))
        })
    }
}

impl Drop for EventServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>, namespace: &str, life: u64) {
    while let Ok((stream, _)) = listener.accept() {
        let mut state = shared.lock();
        if state.life != life {
            return;
        }
        let Ok(copy) = stream.try_clone() else { return };
        state.connections.push(copy);
        drop(state);
        let (shared, namespace) = (Arc::clone(shared), namespace.to_owned());
        thread::spawn(move || serve(&stream, &shared, &namespace, life));
    }
}

/// Answers one connection until it is closed. An error is its end.
fn serve(stream: &UnixStream, shared: &Shared, namespace: &str, life: u64) {
    while let Ok((header, body)) = wire::read_frame(stream) {
        let mut state = shared.lock();
        while state.mode == Mode::Hung {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.life != life {
            return;
        }
        if header.kind != MESSAGE_TYPE_REQUEST {
            state.refused.push(format!("frame of type {}", header.kind));
            return;
        }
        let mut response = Response::new();
        if is_question(&body) {
            let mut status = Status::new();
            status.code = Code::UNIMPLEMENTED.into();
            response.status = Some(status).into();
            if answer(stream, header.stream, &response).is_err() {
                return;
            }
            continue;
        }
        match check(&body, namespace) {
            Ok((envelope, event)) => {
                state.recorded.push(Recorded {
                    at: Instant::now(),
                    event,
                    envelope,
                });
            }
            Err(why) => {
                let mut status = Status::new();
                status.code = Code::INVALID_ARGUMENT.into();
                status.message.clone_from(&why);
                response.status = Some(status).into();
                state.refused.push(why);
            }
        }
        shared.changed.notify_all();
        // Answered under the lock: a `stop` comes before (not recorded) or after (answered).
        if answer(stream, header.stream, &response).is_err() {
            return;
        }
    }
}

fn answer(stream: &UnixStream, number: u32, response: &Response) -> io::Result<()> {
    let body = response.write_to_bytes().map_err(io::Error::other)?;
    wire::write_frame(stream, number, MESSAGE_TYPE_RESPONSE, &body)
}

/// What containerd checks before it passes an event on, and a little more.
/// A call of a method that containerd does not have: our shim, which had no answer for long, asks on a
/// second connection whether anybody is there.
fn is_question(body: &[u8]) -> bool {
    wire::decode::<Request>(body).is_ok_and(|request| {
        request.service == "containerd.services.events.ttrpc.v1.Events" && request.method == "Ping"
    })
}

fn check(body: &[u8], namespace: &str) -> std::result::Result<(Envelope, Event), String> {
    let text = |error: CallError| error.to_string();
    let request: Request = wire::decode(body).map_err(text)?;
    if request.service != "containerd.services.events.ttrpc.v1.Events"
        || request.method != "Forward"
    {
        return Err(format!(
            "unknown method {}/{}",
            request.service, request.method
        ));
    }
    let named = |entry: &&ttrpc::proto::KeyValue| entry.key == "containerd-namespace-ttrpc";
    let sent = request
        .metadata
        .iter()
        .find(named)
        .map(|entry| entry.value.as_str());
    if sent != Some(namespace) {
        return Err(format!("namespace in the metadata is {sent:?}"));
    }
    let forward: ForwardRequest = wire::decode(&request.payload).map_err(text)?;
    let envelope = forward.envelope.into_option().ok_or("no envelope")?;
    if envelope.namespace != namespace {
        return Err(format!(
            "namespace in the envelope is {:?}",
            envelope.namespace
        ));
    }
    if envelope
        .timestamp
        .as_ref()
        .is_none_or(|time| time.seconds <= 0)
    {
        return Err("no timestamp".to_owned());
    }
    let any = envelope.event.as_ref().ok_or("no event")?;
    let event = parse(&any.type_url, &any.value).map_err(text)?;
    let event = event.ok_or_else(|| format!("unknown type {}", any.type_url))?;
    if event.topic() != envelope.topic {
        return Err(format!("{} sent as {}", any.type_url, envelope.topic));
    }
    Ok((envelope, event))
}

fn parse(url: &str, value: &[u8]) -> std::result::Result<Option<Event>, CallError> {
    let Some(name) = url.strip_prefix("containerd.events.") else {
        return Ok(None);
    };
    Ok(Some(match name {
        "TaskCreate" => {
            let sent: message::TaskCreate = wire::decode(value)?;
            Event::Create {
                id: sent.container_id,
                pid: sent.pid,
            }
        }
        "TaskStart" => {
            let sent: message::TaskStart = wire::decode(value)?;
            Event::Start {
                id: sent.container_id,
                pid: sent.pid,
            }
        }
        "TaskOOM" => {
            let sent: message::TaskOOM = wire::decode(value)?;
            Event::Oom {
                id: sent.container_id,
            }
        }
        "TaskExit" => {
            let sent: message::TaskExit = wire::decode(value)?;
            Event::Exit {
                id: sent.container_id,
                process: sent.id,
                pid: sent.pid,
                status: sent.exit_status,
            }
        }
        "TaskDelete" => {
            let sent: message::TaskDelete = wire::decode(value)?;
            Event::Delete {
                id: sent.container_id,
                process: sent.id,
                pid: sent.pid,
                status: sent.exit_status,
            }
        }
        "TaskExecAdded" => {
            let sent: message::TaskExecAdded = wire::decode(value)?;
            Event::ExecAdded {
                id: sent.container_id,
                exec: sent.exec_id,
            }
        }
        "TaskExecStarted" => {
            let sent: message::TaskExecStarted = wire::decode(value)?;
            Event::ExecStarted {
                id: sent.container_id,
                exec: sent.exec_id,
                pid: sent.pid,
            }
        }
        "TaskPaused" => {
            let sent: message::TaskPaused = wire::decode(value)?;
            Event::Paused {
                id: sent.container_id,
            }
        }
        "TaskResumed" => {
            let sent: message::TaskResumed = wire::decode(value)?;
            Event::Resumed {
                id: sent.container_id,
            }
        }
        "TaskCheckpointed" => {
            let sent: message::TaskCheckpointed = wire::decode(value)?;
            Event::Checkpointed {
                id: sent.container_id,
            }
        }
        _ => return Ok(None),
    }))
}
