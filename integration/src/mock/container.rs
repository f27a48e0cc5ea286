// SPDX-License-Identifier: Apache-2.0
//! A container and its further processes, as short calls for tests.

use std::fmt;
use std::path::PathBuf;

use containerd_shim_protos::api::{
    DeleteResponse, ExecProcessRequest, KillRequest, Status, WaitResponse,
};
use protobuf::well_known_types::any::Any;
use serde_json::Value;

use super::client::{Pending, Task};
use super::error::{Error, Result};
use super::spec::Spec;
use super::stdio::{Stdio, StdioKind};
use super::world::Bundle;

/// A container that was created.
pub struct Container {
    /// The Task service.
    pub task: Task,
    /// Number of its init.
    pub pid: u32,
    /// The client's ends of its stdio.
    pub io: Stdio,
    id: String,
    folder: PathBuf,
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {} with init {}", self.id, self.pid)
    }
}

impl Container {
    pub(crate) fn new(task: Task, bundle: &Bundle, pid: u32, io: Stdio) -> Self {
        let (id, folder) = (bundle.id().to_owned(), bundle.io_folder().to_owned());
        Self {
            task,
            pid,
            io,
            id,
            folder,
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it.
    pub fn start(&self) -> Result<u32> {
        self.task.start(&self.id, "")
    }

    /// Waits for the end of its init and returns the exit status.
    pub fn wait(&self) -> Result<u32> {
        Ok(self.task.wait(&self.id, "")?.exit_status)
    }

    /// Begins to wait.
    #[must_use]
    pub fn begin_wait(&self) -> Pending<WaitResponse> {
        self.task.begin_wait(&self.id, "")
    }

    /// Starts it, waits for its end and returns the exit status.
    pub fn run(&self) -> Result<u32> {
        self.start()?;
        self.wait()
    }

    /// Sends a signal to its init.
    pub fn kill(&self, signal: u32) -> Result<()> {
        self.signal(signal, "", false)
    }

    /// Sends a signal to all its processes.
    pub fn kill_all(&self, signal: u32) -> Result<()> {
        self.signal(signal, "", true)
    }

    fn signal(&self, signal: u32, exec: &str, all: bool) -> Result<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.task.kill(&request)
    }

    /// Its state.
    pub fn status(&self) -> Result<Status> {
        let state = self.task.state(&self.id, "")?;
        Ok(state.status.enum_value_or(Status::UNKNOWN))
    }

    /// Deletes it.
    pub fn delete(&self) -> Result<DeleteResponse> {
        self.task.delete(&self.id, "")
    }

    /// Kills it, waits for its end and deletes it.
    pub fn end(&self) -> Result<DeleteResponse> {
        match self.kill(9) {
            // It has ended by itself.
            Err(error) if error.code() != Some(super::Code::NOT_FOUND) => return Err(error),
            _ => {}
        }
        self.wait()?;
        self.delete()
    }

    /// Adds a process with this command line, not started yet.
    pub fn exec(&self, exec: &str, arguments: &[&str], kind: StdioKind) -> Result<Exec> {
        self.exec_process(exec, &Spec::process(arguments), kind)
    }

    /// Adds a process, not started yet.
    pub fn exec_process(&self, exec: &str, process: &Value, kind: StdioKind) -> Result<Exec> {
        let io = Stdio::make(&self.folder.join(exec), kind)?;
        let mut spec = Any::new();
        spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned();
        spec.value = process.to_string().into_bytes();
        let request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal: io.is_terminal(),
            stdin: io.stdin().to_owned(),
            stdout: io.stdout().to_owned(),
            stderr: io.stderr().to_owned(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.task.exec(&request)?;
        Ok(Exec {
            task: self.task.clone(),
            io,
            id: self.id.clone(),
            exec: exec.to_owned(),
        })
    }

    /// Runs a command to its end; returns its exit status and what it wrote to stdout.
    pub fn output_of(&self, exec: &str, arguments: &[&str]) -> Result<(u32, String)> {
        let process = self.exec(exec, arguments, StdioKind::Output)?;
        process.start()?;
        let status = process.wait()?;
        let text = process.io.out.text()?;
        process.delete()?;
        Ok((status, text))
    }
}

/// A further process of a container.
pub struct Exec {
    /// The client's ends of its stdio.
    pub io: Stdio,
    task: Task,
    id: String,
    exec: String,
}

impl Exec {
    /// Starts it.
    pub fn start(&self) -> Result<u32> {
        self.task.start(&self.id, &self.exec)
    }

    /// Waits for its end and returns the exit status.
    pub fn wait(&self) -> Result<u32> {
        Ok(self.task.wait(&self.id, &self.exec)?.exit_status)
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: u32) -> Result<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            signal,
            ..Default::default()
        };
        self.task.kill(&request)
    }

    /// Its state.
    pub fn status(&self) -> Result<Status> {
        let state = self.task.state(&self.id, &self.exec)?;
        Ok(state.status.enum_value_or(Status::UNKNOWN))
    }

    /// Deletes it.
    pub fn delete(&self) -> Result<DeleteResponse> {
        self.task.delete(&self.id, &self.exec)
    }

    /// Starts it, waits for its end, deletes it, and returns the exit status.
    pub fn run(&self) -> Result<u32> {
        self.start()?;
        let status = self.wait()?;
        let deleted = self.delete()?.exit_status;
        if deleted == status {
            return Ok(status);
        }
        let what = format!("Wait said {status}, Delete {deleted}");
        Err(Error::Late {
            what,
            limit: std::time::Duration::ZERO,
        })
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exec {} of {}", self.exec, self.id)
    }
}
