// SPDX-License-Identifier: Apache-2.0
//! A subject in its world, and the calls that are measured.
//!
//! Calls go over one plain connection without threads: nothing but the shim should be seen.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use integration::mock::api::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
    DeleteResponse, Empty, ExecProcessRequest, ShutdownRequest, StartRequest, StartResponse,
    WaitRequest, WaitResponse,
};
use integration::mock::{
    Bundle, Connection, Container, Process, Reply, Shim, Spec, Stdio, StdioKind, Subject, World,
};
use protobuf::Message;

use crate::Error;
use crate::subjects::{RECORDING, SILENT};

/// Longer than anything that is measured.
const LIMIT: Duration = Duration::from_secs(60);

/// A subject, its world, and a pod in it.
pub(crate) struct Rig {
    subject: Subject,
    pub(crate) world: World,
    pub(crate) pod: Pod,
    count: AtomicU32,
}

/// A pod whose sandbox runs.
pub(crate) struct Pod {
    pub(crate) sandbox: Container,
    pub(crate) shim: Shim,
    pub(crate) rpc: Rpc,
    pub(crate) bundle: Bundle,
}

/// The name of the pod, and of its sandbox.
pub(crate) const POD: &str = "pod";

impl Rig {
    /// Makes the world and the pod.
    pub(crate) fn new(subject: &Subject) -> Result<Self, Error> {
        let mut world = World::new(subject)?;
        if subject.name == SILENT {
            world.set_environment(RECORDING.0, RECORDING.1);
        }
        let bundle = world.bundle(POD, &Spec::pod_sandbox(POD))?;
        let shim = world.start(&bundle)?;
        let sandbox = shim.create(&bundle, StdioKind::Null)?;
        sandbox.start()?;
        let rpc = Rpc::open(shim.reply(), &world)?;
        let pod = Pod {
            sandbox,
            shim,
            rpc,
            bundle,
        };
        Ok(Self {
            subject: subject.clone(),
            world,
            pod,
            count: AtomicU32::new(0),
        })
    }

    /// The subject's name.
    pub(crate) fn name(&self) -> &str {
        &self.subject.name
    }

    /// A name that was not used yet.
    pub(crate) fn next_id(&self) -> String {
        format!("b{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// A bundle with a new name.
    pub(crate) fn bundle(&self, spec: &Spec) -> Result<Bundle, Error> {
        Ok(self.world.bundle(&self.next_id(), spec)?)
    }

    /// A container of the pod that runs this.
    pub(crate) fn workload(&self, arguments: &[&str]) -> Result<Bundle, Error> {
        self.bundle(&self.workload_spec(arguments))
    }

    /// The same with all that CRI's default has.
    pub(crate) fn cri_workload(&self, arguments: &[&str]) -> Result<Bundle, Error> {
        let files = self.world.pod_files().display().to_string();
        self.bundle(&self.workload_spec(arguments).confined_as_by_cri(&files))
    }

    fn workload_spec(&self, arguments: &[&str]) -> Spec {
        let files = self.world.pod_files().display().to_string();
        Spec::pod_workload(POD, self.pod.sandbox.pid, arguments, &files)
    }

    /// Runs `start` and asks a first question; returns when it is answered.
    pub(crate) fn start(&self, bundle: &Bundle) -> Result<Started, Error> {
        let reply = self.world.start_only(bundle)?;
        let mut rpc = Rpc::open(&reply, &self.world)?;
        let request = ConnectRequest {
            id: bundle.id().to_owned(),
            ..Default::default()
        };
        let answer: ConnectResponse = rpc.call("Connect", &request)?;
        Ok(Started {
            rpc,
            pid: answer.shim_pid,
        })
    }

    /// The request that creates a container of this bundle.
    pub(crate) fn create_request(&self, bundle: &Bundle, stdio: &Stdio) -> CreateTaskRequest {
        self.pod.shim.create_request(bundle, stdio)
    }
}

/// A shim that was started.
pub(crate) struct Started {
    pub(crate) rpc: Rpc,
    pid: u32,
}

impl Started {
    /// Asks the shim to end.
    pub(crate) fn shutdown(&mut self, id: &str) {
        let request = ShutdownRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        // The connection may be closed before the answer.
        let _ = self.rpc.call::<Empty>("Shutdown", &request);
    }

    /// The process. It may have ended.
    pub(crate) fn process(&self) -> Result<Process, Error> {
        Ok(Process::open(self.pid)?)
    }
}

/// A connection to a shim's Task service.
pub(crate) struct Rpc {
    connection: Connection,
    service: &'static str,
    namespace: String,
}

impl Rpc {
    /// Connects.
    pub(crate) fn open(reply: &Reply, world: &World) -> Result<Self, Error> {
        let service = if reply.version >= 3 {
            "containerd.task.v3.Task"
        } else {
            "containerd.task.v2.Task"
        };
        let connection = Connection::open(&reply.address)?;
        Ok(Self {
            connection,
            service,
            namespace: world.namespace().to_owned(),
        })
    }

    fn begin(&mut self, method: &str, message: &impl Message) -> Result<u32, Error> {
        let none = Duration::ZERO;
        Ok(self
            .connection
            .begin(self.service, method, message, &self.namespace, none)?)
    }

    /// Calls and waits for the answer.
    pub(crate) fn call<R: Message>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<R, Error> {
        let stream = self.begin(method, message)?;
        let answer = self.connection.finish(stream, LIMIT);
        answer.map_err(|error| format!("{method}: {error}").into())
    }

    /// Creates a container.
    pub(crate) fn create(&mut self, request: &CreateTaskRequest) -> Result<u32, Error> {
        Ok(self.call::<CreateTaskResponse>("Create", request)?.pid)
    }

    /// Waits, starts, and deletes after the end, as CRI does. Returns the milliseconds from Start
    /// to the end, and those of Delete.
    pub(crate) fn run(&mut self, id: &str, exec: &str) -> Result<(f64, f64), Error> {
        let (id, exec_id) = (id.to_owned(), exec.to_owned());
        let wait = WaitRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            ..Default::default()
        };
        let start = StartRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            ..Default::default()
        };
        let delete = DeleteRequest {
            id,
            exec_id,
            ..Default::default()
        };
        let wait = self.begin("Wait", &wait)?;
        let begun = Instant::now();
        self.call::<StartResponse>("Start", &start)?;
        let exit: WaitResponse = self.connection.finish(wait, LIMIT)?;
        let ran = ms_since(begun);
        let begun = Instant::now();
        self.call::<DeleteResponse>("Delete", &delete)?;
        match exit.exit_status {
            0 => Ok((ran, ms_since(begun))),
            status => Err(format!("the container ended with {status}").into()),
        }
    }

    /// Starts without waiting for the end.
    pub(crate) fn start(&mut self, id: &str, exec: &str) -> Result<u32, Error> {
        let start = StartRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        Ok(self.call::<StartResponse>("Start", &start)?.pid)
    }

    /// Waits for the end and deletes.
    pub(crate) fn finish(&mut self, id: &str, exec: &str) -> Result<(), Error> {
        let (id, exec_id) = (id.to_owned(), exec.to_owned());
        let wait = WaitRequest {
            id: id.clone(),
            exec_id: exec_id.clone(),
            ..Default::default()
        };
        self.call::<WaitResponse>("Wait", &wait)?;
        let delete = DeleteRequest {
            id,
            exec_id,
            ..Default::default()
        };
        self.call::<DeleteResponse>("Delete", &delete).map(drop)
    }

    /// Adds a process.
    pub(crate) fn exec(&mut self, request: &ExecProcessRequest) -> Result<(), Error> {
        self.call::<Empty>("Exec", request).map(drop)
    }
}

/// Milliseconds since then.
pub(crate) fn ms_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}
