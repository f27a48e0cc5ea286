// SPDX-License-Identifier: Apache-2.0
//! One running shim: its connection and process, and creating containers in it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::api::CreateTaskRequest;
use protobuf::well_known_types::any::Any;

use super::bootstrap::Reply;
use super::client::Task;
use super::container::Container;
use super::diagnostics_client::Diagnostics;
use super::error::{CallError, Error, Result};
use super::process::Process;
use super::stdio::{Stdio, StdioKind};
use super::wire::Connection;
use super::world::Bundle;

/// A connection to a shim. Several may lead to the same process: one for each `start`.
pub struct Shim {
    /// The Task service.
    pub task: Task,
    reply: Reply,
    namespace: String,
    options: Option<Any>,
    process: Arc<Process>,
}

impl fmt::Debug for Shim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shim {} at {}", self.pid(), self.reply.address)
    }
}

impl Shim {
    /// Connects as the daemon does after `start`.
    pub(crate) fn connect(
        reply: Reply,
        namespace: &str,
        id: &str,
        options: Option<Any>,
    ) -> Result<Self> {
        let task = Task::connect_to(&reply.address, reply.version, namespace)?;
        let pid = task.connect(id)?.shim_pid;
        let process = Arc::new(Process::open(pid)?);
        Ok(Self {
            task,
            reply,
            namespace: namespace.to_owned(),
            options,
            process,
        })
    }

    /// What `start` said.
    #[must_use]
    pub fn reply(&self) -> &Reply {
        &self.reply
    }

    /// The process that serves.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Another connection, as that of a restarted daemon.
    pub fn reconnect(&self) -> Result<Task> {
        Task::connect_to(&self.reply.address, self.reply.version, &self.namespace)
    }

    /// Another connection, that talks this version of the API.
    pub fn reconnect_as(&self, version: i32) -> Result<Task> {
        Task::connect_to(&self.reply.address, version, &self.namespace)
    }

    /// Another connection, without what ttrpc's client adds to the time of a call.
    pub fn reconnect_lean(&self) -> Result<Task> {
        let connection = Arc::new(Mutex::new(self.open_raw()?));
        Ok(Task::over(connection, self.reply.version, &self.namespace))
    }

    /// Another connection, for raw frames.
    pub fn open_raw(&self) -> Result<Connection> {
        Connection::open(&self.reply.address).map_err(|cause| Error::Call {
            method: "dial".to_owned(),
            cause,
        })
    }

    /// Another connection, that asks the shim about itself.
    pub fn diagnostics(&self) -> Result<Diagnostics> {
        self.open_raw().map(Diagnostics::new)
    }

    /// The request that creates a container of this bundle.
    #[must_use]
    pub fn create_request(&self, bundle: &Bundle, stdio: &Stdio) -> CreateTaskRequest {
        CreateTaskRequest {
            id: bundle.id().to_owned(),
            bundle: bundle.path().display().to_string(),
            rootfs: bundle.rootfs().to_vec(),
            terminal: stdio.is_terminal(),
            stdin: stdio.stdin().to_owned(),
            stdout: stdio.stdout().to_owned(),
            stderr: stdio.stderr().to_owned(),
            options: self.options.clone().into(),
            ..Default::default()
        }
    }

    /// Creates a container.
    pub fn create(&self, bundle: &Bundle, kind: StdioKind) -> Result<Container> {
        self.create_on(bundle, bundle.stdio(kind)?)
    }

    /// Creates a container with this stdio.
    pub fn create_on(&self, bundle: &Bundle, stdio: Stdio) -> Result<Container> {
        let pid = self.task.create(&self.create_request(bundle, &stdio))?;
        Ok(Container::new(self.task.clone(), bundle, pid, stdio))
    }

    /// Asks it to end and waits until it has. That the connection is closed before the answer
    /// has come is no error: containerd allows it too.
    pub fn shutdown(&self, id: &str) -> Result<()> {
        match self.task.shutdown(id) {
            Ok(())
            | Err(Error::Call {
                cause: CallError::Closed(_),
                ..
            }) => {}
            Err(error) => return Err(error),
        }
        self.process.wait_end(Duration::from_secs(10))
    }

    /// SIGKILL. Returns when the process has ended.
    pub fn kill(&self) -> Result<()> {
        self.process.kill();
        self.process.wait_end(Duration::from_secs(10))
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        Path::new(self.reply.address.trim_start_matches("unix://"))
    }
}
