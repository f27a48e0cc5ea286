// SPDX-License-Identifier: Apache-2.0
//! containerd's gRPC API without the async: each call blocks, with a deadline.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::container::Runtime as RuntimeOfContainer;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    CloseIoRequest, Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteProcessRequest, DeleteResponse, DeleteTaskRequest, ExecProcessRequest, GetRequest,
    KillRequest, ListPidsRequest, ListTasksRequest, MetricsRequest, PauseTaskRequest,
    ResizePtyRequest, ResumeTaskRequest, StartRequest, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Response, Status};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, ProcessInfo};
use prost_types::Any;
use tokio::runtime::{Builder, Runtime};

use crate::failure::{Outcome, SOON, failed, wait_until};

/// No call takes longer, except waiting for an exit.
const LIMIT: Duration = Duration::from_secs(60);

/// The snapshotter of all containers.
pub const SNAPSHOTTER: &str = "overlayfs";

/// A connection to a containerd, in one namespace.
#[derive(Clone)]
pub struct Client {
    runtime: Arc<Runtime>,
    channel: Channel,
    namespace: String,
}

impl Client {
    /// Connects as soon as containerd serves.
    ///
    /// # Errors
    /// When it does not serve soon.
    pub fn connect(address: &Path, namespace: &str) -> Outcome<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let channel = wait_until(SOON, "containerd to listen", || {
            let connecting = containerd_client::connect(address);
            runtime.block_on(connecting).ok()
        })?;
        let client = Self {
            runtime: Arc::new(runtime),
            channel,
            namespace: namespace.to_owned(),
        };
        wait_until(SOON, "containerd to serve", || {
            let mut version = containerd_client::services::v1::version_client::VersionClient::new(
                client.channel(),
            );
            client.call(version.version(client.request(()))).ok()
        })?;
        Ok(client)
    }

    /// The namespace of all calls.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The connection, for calls that have no method here.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Where to run background work on the connection.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A request in our namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(value) = self.namespace.parse() {
            request.metadata_mut().insert("containerd-namespace", value);
        }
        request
    }

    /// Waits for a call's answer, no longer than the limit.
    ///
    /// # Errors
    /// The server's status, or DeadlineExceeded.
    pub fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        self.call_within(LIMIT, call)
    }

    fn call_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        self.runtime
            .block_on(async { tokio::time::timeout(limit, call).await })
            .unwrap_or_else(|_| {
                let text = format!("no answer from containerd within {limit:?}");
                Err(Status::new(Code::DeadlineExceeded, text))
            })
            .map(Response::into_inner)
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel())
    }

    /// Records a container and prepares its file system. Returns the mounts of that.
    ///
    /// # Errors
    /// The server's status.
    pub fn create_container(
        &self,
        id: &str,
        runtime: &str,
        options: Option<Any>,
        spec: &serde_json::Value,
    ) -> Outcome<Vec<Mount>> {
        let container = Container {
            id: id.to_owned(),
            runtime: Some(RuntimeOfContainer {
                name: runtime.to_owned(),
                options,
            }),
            spec: Some(document("Spec", spec)?),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: id.to_owned(),
            ..Container::default()
        };
        let parent = self.image_snapshot()?;
        let request = CreateContainerRequest {
            container: Some(container),
        };
        let mut containers = ContainersClient::new(self.channel());
        self.call(containers.create(self.request(request)))?;
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
            parent,
            ..PrepareSnapshotRequest::default()
        };
        let mut snapshots = SnapshotsClient::new(self.channel());
        Ok(self.call(snapshots.prepare(self.request(request)))?.mounts)
    }

    /// Removes a container's record and its file system.
    ///
    /// # Errors
    /// The server's status.
    pub fn delete_container(&self, id: &str) -> Outcome {
        let mut containers = ContainersClient::new(self.channel());
        let request = DeleteContainerRequest { id: id.to_owned() };
        self.call(containers.delete(self.request(request)))?;
        let mut snapshots = SnapshotsClient::new(self.channel());
        let request = RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
        };
        match self.call(snapshots.remove(self.request(request))) {
            // containerd's garbage collector was faster.
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => Ok(other?),
        }
    }

    /// The name of the image's file system: the one committed snapshot.
    fn image_snapshot(&self) -> Outcome<String> {
        let mut snapshots = SnapshotsClient::new(self.channel());
        let request = ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            filters: vec!["kind==committed".to_owned()],
        };
        let list = async {
            let mut stream = snapshots.list(self.request(request)).await?.into_inner();
            let mut names = Vec::new();
            while let Some(page) = stream.message().await? {
                names.extend(page.info.into_iter().map(|info| info.name));
            }
            Ok(Response::new(names))
        };
        let names = self.call(list)?;
        let first = names.into_iter().next();
        first.ok_or_else(|| failed("the image is not unpacked"))
    }

    /// Task Create. Returns the pid.
    ///
    /// # Errors
    /// The server's status.
    pub fn create_task(&self, request: CreateTaskRequest) -> Result<u32, Status> {
        let answer = self.call(self.tasks().create(self.request(request)))?;
        Ok(answer.pid)
    }

    /// Task Start; of an exec if `exec` is not empty. Returns the pid.
    ///
    /// # Errors
    /// The server's status.
    pub fn start(&self, id: &str, exec: &str) -> Result<u32, Status> {
        let request = StartRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
        };
        Ok(self.call(self.tasks().start(self.request(request)))?.pid)
    }

    /// Task Exec.
    ///
    /// # Errors
    /// The server's status.
    pub fn exec(&self, request: ExecProcessRequest) -> Result<(), Status> {
        self.call(self.tasks().exec(self.request(request)))
    }

    /// Task Get: the daemon asks the shim for State.
    ///
    /// # Errors
    /// The server's status.
    pub fn state(&self, id: &str, exec: &str) -> Result<Process, Status> {
        let request = GetRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
        };
        let answer = self.call(self.tasks().get(self.request(request)))?;
        answer
            .process
            .ok_or_else(|| Status::internal("Get answered without a process"))
    }

    /// All tasks of the namespace.
    ///
    /// # Errors
    /// The server's status.
    pub fn list_tasks(&self) -> Result<Vec<Process>, Status> {
        let request = self.request(ListTasksRequest::default());
        Ok(self.call(self.tasks().list(request))?.tasks)
    }

    /// Task Kill.
    ///
    /// # Errors
    /// The server's status.
    pub fn kill(&self, id: &str, exec: &str, signal: i32, all: Reach) -> Result<(), Status> {
        let request = KillRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            signal: signal.unsigned_abs(),
            all: all == Reach::All,
        };
        self.call(self.tasks().kill(self.request(request)))
    }

    /// Task Wait, no longer than `limit`.
    ///
    /// # Errors
    /// The server's status.
    pub fn wait(&self, id: &str, exec: &str, limit: Duration) -> Result<WaitResponse, Status> {
        let request = WaitRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
        };
        self.call_within(limit, self.tasks().wait(self.request(request)))
    }

    /// Task Delete.
    ///
    /// # Errors
    /// The server's status.
    pub fn delete_task(&self, id: &str) -> Result<DeleteResponse, Status> {
        let request = DeleteTaskRequest {
            container_id: id.to_owned(),
        };
        self.call(self.tasks().delete(self.request(request)))
    }

    /// Task DeleteProcess.
    ///
    /// # Errors
    /// The server's status.
    pub fn delete_exec(&self, id: &str, exec: &str) -> Result<DeleteResponse, Status> {
        let request = DeleteProcessRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
        };
        self.call(self.tasks().delete_process(self.request(request)))
    }

    /// Task ListPids.
    ///
    /// # Errors
    /// The server's status.
    pub fn pids(&self, id: &str) -> Result<Vec<ProcessInfo>, Status> {
        let request = ListPidsRequest {
            container_id: id.to_owned(),
        };
        let answer = self.call(self.tasks().list_pids(self.request(request)))?;
        Ok(answer.processes)
    }

    /// Task Pause.
    ///
    /// # Errors
    /// The server's status.
    pub fn pause(&self, id: &str) -> Result<(), Status> {
        let request = PauseTaskRequest {
            container_id: id.to_owned(),
        };
        self.call(self.tasks().pause(self.request(request)))
    }

    /// Task Resume.
    ///
    /// # Errors
    /// The server's status.
    pub fn resume(&self, id: &str) -> Result<(), Status> {
        let request = ResumeTaskRequest {
            container_id: id.to_owned(),
        };
        self.call(self.tasks().resume(self.request(request)))
    }

    /// Task Update with these `LinuxResources`.
    ///
    /// # Errors
    /// The server's status.
    pub fn update(&self, id: &str, resources: &serde_json::Value) -> Result<(), Status> {
        let resources = document("LinuxResources", resources)
            .map_err(|failure| Status::internal(failure.to_string()))?;
        let request = UpdateTaskRequest {
            container_id: id.to_owned(),
            resources: Some(resources),
            ..UpdateTaskRequest::default()
        };
        self.call(self.tasks().update(self.request(request)))
    }

    /// Task Metrics of one container: the message, as its shim has sent it.
    ///
    /// # Errors
    /// The server's status; NotFound where it has none.
    pub fn metrics(&self, id: &str) -> Result<Any, Status> {
        let request = MetricsRequest {
            filters: vec![format!("id=={id}")],
        };
        let answer = self.call(self.tasks().metrics(self.request(request)))?;
        let metric = answer.metrics.into_iter().find(|metric| metric.id == id);
        metric
            .and_then(|metric| metric.data)
            .ok_or_else(|| Status::not_found(format!("no metrics of {id}")))
    }

    /// Task ResizePty.
    ///
    /// # Errors
    /// The server's status.
    pub fn resize(&self, id: &str, exec: &str, size: (u32, u32)) -> Result<(), Status> {
        let request = ResizePtyRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            width: size.0,
            height: size.1,
        };
        self.call(self.tasks().resize_pty(self.request(request)))
    }

    /// Task CloseIO of stdin.
    ///
    /// # Errors
    /// The server's status.
    pub fn close_stdin(&self, id: &str, exec: &str) -> Result<(), Status> {
        let request = CloseIoRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            stdin: true,
        };
        self.call(self.tasks().close_io(self.request(request)))
    }
}

/// Whom a signal reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The process itself.
    One,
    /// Every process of the container.
    All,
}

/// A document of the runtime specification, as containerd wraps it.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn document(kind: &str, value: &serde_json::Value) -> Outcome<Any> {
    Ok(Any {
        type_url: format!("types.containerd.io/opencontainers/runtime-spec/1/{kind}"),
        value: serde_json::to_vec(value)?,
    })
}
