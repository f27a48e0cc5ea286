// SPDX-License-Identifier: Apache-2.0
//! The Task service, typed and blocking.
//!
//! By default over `ttrpc`'s own client: written by others, so it checks our server's framing
//! too. The bench uses [`Connection`] instead, which adds no threads to what is measured.

use std::os::fd::IntoRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, WaitRequest,
    WaitResponse,
};
use protobuf::Message;

use super::error::{CallError, Error, Result};
use super::wire::{self, Connection};

/// Calls without a limit of their own are given this one.
const LIMIT: Duration = Duration::from_secs(40);

/// Carries unary calls to a shim.
pub trait Transport: Send + Sync {
    /// Sends the payload and returns the answer's.
    fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        namespace: &str,
        limit: Duration,
    ) -> std::result::Result<Vec<u8>, CallError>;
}

/// `ttrpc`'s client.
struct Oracle {
    client: Option<ttrpc::Client>,
    /// The same socket, to shut it down.
    stream: UnixStream,
}

impl Oracle {
    fn open(address: &str) -> std::result::Result<Self, CallError> {
        let closed = |error: std::io::Error| CallError::Closed(error.to_string());
        let stream = wire::dial(address).map_err(closed)?;
        let copy = stream.try_clone().map_err(closed)?;
        let client = ttrpc::Client::new(copy.into_raw_fd())
            .map_err(|error| CallError::Closed(error.to_string()))?;
        Ok(Self {
            client: Some(client),
            stream,
        })
    }
}

impl Transport for Oracle {
    fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        namespace: &str,
        limit: Duration,
    ) -> std::result::Result<Vec<u8>, CallError> {
        let client = self
            .client
            .as_ref()
            .ok_or_else(|| CallError::Closed("dropped".to_owned()))?;
        let begun = Instant::now();
        let request = wire::request(service, method, payload, namespace, limit);
        match client.request(request) {
            Ok(response) => wire::outcome(response),
            Err(ttrpc::Error::RpcStatus(status)) => Err(CallError::Status {
                code: status.code.enum_value_or(ttrpc::proto::Code::UNKNOWN),
                message: status.message,
            }),
            Err(_) if begun.elapsed() >= limit => Err(CallError::Late(limit)),
            Err(error) => Err(CallError::Closed(error.to_string())),
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // An error says that the shim has closed it already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        // The client's receiver may be between poll and recv: closing the descriptor now could
        // make it read from another that was given the same number. It sees the end within 10 ms.
        let client = self.client.take();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(client);
        });
    }
}

impl Transport for Mutex<Connection> {
    fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        namespace: &str,
        limit: Duration,
    ) -> std::result::Result<Vec<u8>, CallError> {
        let mut connection = self.lock().unwrap_or_else(PoisonError::into_inner);
        let request = wire::request(service, method, payload, namespace, limit);
        let stream = connection.send_frame(&wire::encode(&request)?)?;
        connection.finish_bytes(stream, limit)
    }
}

/// A client of the Task service.
#[derive(Clone)]
pub struct Task {
    transport: Arc<dyn Transport>,
    service: &'static str,
    namespace: String,
}

/// A call that runs in a thread of its own.
#[derive(Debug)]
pub struct Pending<T>(JoinHandle<Result<T>>);

impl<T> Pending<T> {
    /// Has the answer come?
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the answer.
    pub fn finish(self) -> Result<T> {
        self.0
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Task {
    /// Connects with `ttrpc`'s client.
    pub fn connect_to(address: &str, version: i32, namespace: &str) -> Result<Self> {
        let oracle = Oracle::open(address).map_err(|cause| Error::Call {
            method: format!("dial {address}"),
            cause,
        })?;
        Ok(Self::over(Arc::new(oracle), version, namespace))
    }

    /// Talks over this transport, as API version 2 or 3.
    #[must_use]
    pub fn over(transport: Arc<dyn Transport>, version: i32, namespace: &str) -> Self {
        let service = if version >= 3 {
            "containerd.task.v3.Task"
        } else {
            "containerd.task.v2.Task"
        };
        Self {
            transport,
            service,
            namespace: namespace.to_owned(),
        }
    }

    /// The service's full name.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// Calls any method of any service.
    pub fn call<R: Message>(
        &self,
        service: &str,
        method: &str,
        message: &impl Message,
        limit: Duration,
    ) -> Result<R> {
        let wrap = |cause| Error::Call {
            method: method.to_owned(),
            cause,
        };
        let payload = wire::encode(message).map_err(wrap)?;
        self.transport
            .call(service, method, payload, &self.namespace, limit)
            .and_then(|answer| wire::decode(&answer))
            .map_err(wrap)
    }

    fn task<R: Message>(&self, method: &str, message: &impl Message) -> Result<R> {
        self.call(self.service, method, message, LIMIT)
    }

    /// Runs a call in a thread.
    pub fn begin<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let task = self.clone();
        Pending(thread::spawn(move || call(&task)))
    }

    /// Creates a container.
    pub fn create(&self, request: &CreateTaskRequest) -> Result<u32> {
        Ok(self.task::<CreateTaskResponse>("Create", request)?.pid)
    }

    /// Starts a container, or with `exec` a process in it.
    pub fn start(&self, id: &str, exec: &str) -> Result<u32> {
        let request = StartRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        Ok(self.task::<StartResponse>("Start", &request)?.pid)
    }

    /// The state of a process.
    pub fn state(&self, id: &str, exec: &str) -> Result<StateResponse> {
        let request = StateRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.task("State", &request)
    }

    /// Waits for the end of a process.
    pub fn wait(&self, id: &str, exec: &str) -> Result<WaitResponse> {
        self.wait_within(id, exec, LIMIT)
    }

    /// Waits for the end of a process, but not longer than this.
    pub fn wait_within(&self, id: &str, exec: &str, limit: Duration) -> Result<WaitResponse> {
        let request = WaitRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.call(self.service, "Wait", &request, limit)
    }

    /// Begins to wait for the end of a process.
    #[must_use]
    pub fn begin_wait(&self, id: &str, exec: &str) -> Pending<WaitResponse> {
        let (id, exec) = (id.to_owned(), exec.to_owned());
        self.begin(move |task| task.wait(&id, &exec))
    }

    /// Sends a signal.
    pub fn kill(&self, request: &KillRequest) -> Result<()> {
        self.task::<Empty>("Kill", request).map(drop)
    }

    /// Adds a process to a container.
    pub fn exec(&self, request: &ExecProcessRequest) -> Result<()> {
        self.task::<Empty>("Exec", request).map(drop)
    }

    /// Deletes a container, or with `exec` a process of it.
    pub fn delete(&self, id: &str, exec: &str) -> Result<DeleteResponse> {
        let request = DeleteRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.task("Delete", &request)
    }

    /// The processes of a container.
    pub fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let request = PidsRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        let response: PidsResponse = self.task("Pids", &request)?;
        Ok(response
            .processes
            .iter()
            .map(|process| process.pid)
            .collect())
    }

    /// Freezes a container.
    pub fn pause(&self, id: &str) -> Result<()> {
        let request = PauseRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.task::<Empty>("Pause", &request).map(drop)
    }

    /// Thaws a container.
    pub fn resume(&self, id: &str) -> Result<()> {
        let request = ResumeRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.task::<Empty>("Resume", &request).map(drop)
    }

    /// The numbers of shim and container.
    pub fn connect(&self, id: &str) -> Result<ConnectResponse> {
        let request = ConnectRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.task("Connect", &request)
    }

    /// Asks the shim to end if it holds no container.
    pub fn shutdown(&self, id: &str) -> Result<()> {
        let request = ShutdownRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.task::<Empty>("Shutdown", &request).map(drop)
    }

    /// Closes the shim's end of a process's stdin.
    pub fn close_io(&self, id: &str, exec: &str) -> Result<()> {
        let request = CloseIORequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            stdin: true,
            ..Default::default()
        };
        self.task::<Empty>("CloseIO", &request).map(drop)
    }

    /// Sets the size of a terminal.
    pub fn resize(&self, id: &str, exec: &str, width: u32, height: u32) -> Result<()> {
        let request = ResizePtyRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            width,
            height,
            ..Default::default()
        };
        self.task::<Empty>("ResizePty", &request).map(drop)
    }

    /// What the container uses.
    pub fn stats(&self, id: &str) -> Result<StatsResponse> {
        let request = StatsRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.task("Stats", &request)
    }
}
