// SPDX-License-Identifier: Apache-2.0
//! A process as a client handles it: a container's init, or a further process in it.

use std::time::Duration;

use containerd_client::services::v1::{DeleteResponse, ExecProcessRequest};
use containerd_client::tonic::Status;
use containerd_client::types::v1::Process as State;
use rustix::process::Signal;
use serde_json::Value;

use crate::client::{Reach, document};
use crate::failure::{Outcome, failed};
use crate::lab::Lab;
use crate::spec;
use crate::streams::{Finished, Stdin, Stdio, Streams};

/// How long a process may take to exit by itself.
pub const EXIT: Duration = Duration::from_secs(120);

/// A process. Without an exec id it is the init of its container.
pub struct Process<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) container: String,
    pub(crate) exec: String,
    /// The client's side of its stdio.
    pub streams: Streams,
}

impl Process<'_> {
    /// Starts it, and returns its pid.
    ///
    /// # Errors
    /// The server's status.
    pub fn start(&self) -> Result<u32, Status> {
        self.lab.client().start(&self.container, &self.exec)
    }

    /// Its state.
    ///
    /// # Errors
    /// The server's status.
    pub fn state(&self) -> Result<State, Status> {
        self.lab.client().state(&self.container, &self.exec)
    }

    /// Signals it.
    ///
    /// # Errors
    /// The server's status.
    pub fn kill(&self, signal: Signal) -> Result<(), Status> {
        self.kill_raw(signal.as_raw(), Reach::One)
    }

    /// Signals it by number, or all of the container's processes.
    ///
    /// # Errors
    /// The server's status.
    pub fn kill_raw(&self, signal: i32, reach: Reach) -> Result<(), Status> {
        let client = self.lab.client();
        client.kill(&self.container, &self.exec, signal, reach)
    }

    /// Waits for its exit, and returns the status.
    ///
    /// # Errors
    /// The server's status.
    pub fn wait(&self) -> Result<u32, Status> {
        let client = self.lab.client();
        Ok(client.wait(&self.container, &self.exec, EXIT)?.exit_status)
    }

    /// Deletes it: the task, or the exec.
    ///
    /// # Errors
    /// The server's status.
    pub fn delete(&self) -> Result<DeleteResponse, Status> {
        let client = self.lab.client();
        if self.exec.is_empty() {
            return client.delete_task(&self.container);
        }
        client.delete_exec(&self.container, &self.exec)
    }

    /// Closes the shim's end of its stdin.
    ///
    /// # Errors
    /// The server's status.
    pub fn close_stdin(&self) -> Result<(), Status> {
        self.lab.client().close_stdin(&self.container, &self.exec)
    }

    /// Sets its terminal's width and height.
    ///
    /// # Errors
    /// The server's status.
    pub fn resize(&self, width: u32, height: u32) -> Result<(), Status> {
        let client = self.lab.client();
        client.resize(&self.container, &self.exec, (width, height))
    }

    /// Waits for its exit, deletes it, and returns what it left.
    ///
    /// # Errors
    /// What containerd says.
    pub fn finish_process(&self) -> Outcome<Finished> {
        let status = self.wait()?;
        // Delete closes what its children may hold open; the streams end after it.
        let deleted = self.delete()?;
        if deleted.exit_status != status {
            let other = deleted.exit_status;
            return Err(failed(format!("Wait said {status}, Delete {other}")));
        }
        let (stdout, stderr) = self.streams.collect()?;
        Ok(Finished {
            status,
            stdout,
            stderr,
        })
    }
}

/// A further process to be made.
pub struct ExecBuilder<'a> {
    lab: &'a Lab,
    container: String,
    id: String,
    process: Value,
    stdio: Stdio,
}

impl<'a> ExecBuilder<'a> {
    pub(crate) fn new(lab: &'a Lab, container: &str, id: &str, args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        Self {
            lab,
            container: container.to_owned(),
            id: id.to_owned(),
            process: spec::process(&args),
            stdio: Stdio::Fifos(Stdin::Closed),
        }
    }

    /// Changes the process document.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.process);
        self
    }

    /// Chooses where stdio goes.
    #[must_use]
    pub fn stdio(mut self, stdio: Stdio) -> Self {
        self.stdio = stdio;
        self
    }

    /// Adds the process; it does not run yet.
    ///
    /// # Errors
    /// What containerd says.
    pub fn add(mut self) -> Outcome<Process<'a>> {
        let streams = Streams::open(self.lab, &self.stdio)?;
        let [stdin, stdout, stderr] = streams.names.clone();
        if streams.terminal {
            self.process["terminal"] = true.into();
        }
        self.lab.client().exec(ExecProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            stdin,
            stdout,
            stderr,
            terminal: streams.terminal,
            spec: Some(document("Process", &self.process)?),
        })?;
        Ok(Process {
            lab: self.lab,
            container: self.container,
            exec: self.id,
            streams,
        })
    }

    /// Adds and starts the process.
    ///
    /// # Errors
    /// What containerd says.
    pub fn start(self) -> Outcome<Process<'a>> {
        let exec = self.add()?;
        exec.start()?;
        Ok(exec)
    }

    /// Lets the process live its whole life.
    ///
    /// # Errors
    /// What containerd says.
    pub fn run(self) -> Outcome<Finished> {
        self.start()?.finish_process()
    }
}
