// SPDX-License-Identifier: Apache-2.0
//! A container and its processes as a client handles them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::{CreateTaskRequest, DeleteResponse, ExecProcessRequest};
use containerd_client::tonic::Status;
use containerd_client::types::Mount;
use containerd_client::types::v1::Process;
use prost_types::Any;
use rustix::process::Signal;
use serde_json::Value;

use crate::client::{Reach, document};
use crate::failure::{Outcome, SOON, failed};
use crate::host;
use crate::lab::Lab;
use crate::spec;
use crate::stdio::{Reader, Writer, make_fifo};

/// How long a process may take to exit by itself.
pub const EXIT: Duration = Duration::from_secs(120);

/// Where a process's stdio goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// Nowhere.
    Null,
    /// stdout and stderr into FIFOs; stdin from one if so chosen.
    Fifos(Stdin),
    /// A terminal, both ways.
    Terminal,
    /// stdout and stderr to an address as `file:///path`.
    Address(String),
}

/// Does a process have a stdin?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// No.
    Closed,
    /// Yes.
    Open,
}

/// A container to be made.
pub struct Builder<'a> {
    lab: &'a Lab,
    id: String,
    spec: Value,
    stdio: Stdio,
    options: Option<Any>,
    runtime: String,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(lab: &'a Lab, id: String, args: Vec<String>) -> Self {
        let spec = spec::container(&args, &lab.cgroup(&id));
        Self {
            lab,
            id,
            spec,
            stdio: Stdio::Fifos(Stdin::Closed),
            options: None,
            runtime: lab.shim.runtime().to_owned(),
        }
    }

    /// Changes the OCI document.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self
    }

    /// Chooses where stdio goes.
    #[must_use]
    pub fn stdio(mut self, stdio: Stdio) -> Self {
        if stdio == Stdio::Terminal {
            self.spec["process"]["terminal"] = true.into();
        }
        self.stdio = stdio;
        self
    }

    /// Gives the process a stdin.
    #[must_use]
    pub fn with_stdin(self) -> Self {
        self.stdio(Stdio::Fifos(Stdin::Open))
    }

    /// Gives the process a terminal.
    #[must_use]
    pub fn with_terminal(self) -> Self {
        self.stdio(Stdio::Terminal)
    }

    /// Shares the host's namespace of `kind`.
    #[must_use]
    pub fn sharing(mut self, kind: &str) -> Self {
        spec::share_namespace(&mut self.spec, kind);
        self
    }

    /// Sets the runtime options.
    #[must_use]
    pub fn options(mut self, options: Any) -> Self {
        self.options = Some(options);
        self
    }

    /// Puts the container into a pod: `sandbox` is the pod's id.
    #[must_use]
    pub fn in_pod(mut self, sandbox: &str) -> Self {
        self.spec["annotations"]["io.kubernetes.cri.sandbox-id"] = sandbox.into();
        self
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Records the container; there is no task yet.
    ///
    /// # Errors
    /// What containerd says.
    pub fn record(self) -> Outcome<Container<'a>> {
        let client = self.lab.client();
        let options = self.options.clone();
        let rootfs = client.create_container(&self.id, &self.runtime, options, &self.spec)?;
        let streams = Streams::open(self.lab, &self.id, &self.stdio)?;
        Ok(Container {
            lab: self.lab,
            id: self.id,
            rootfs,
            streams,
            options: self.options,
            pid: 0,
            gone: false,
        })
    }

    /// Records the container and creates its task.
    ///
    /// # Errors
    /// What containerd says.
    pub fn create(self) -> Outcome<Container<'a>> {
        let mut container = self.record()?;
        container.create()?;
        Ok(container)
    }

    /// All that and starts it.
    ///
    /// # Errors
    /// What containerd says.
    pub fn start(self) -> Outcome<Container<'a>> {
        let container = self.create()?;
        container.start()?;
        Ok(container)
    }

    /// Lets it live its whole life, and checks that nothing is left.
    ///
    /// # Errors
    /// What containerd says, or what is left.
    pub fn run(self) -> Outcome<Finished> {
        self.start()?.finish()
    }
}

/// What a process left behind.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: u32,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// The output of a process that succeeded.
    ///
    /// # Errors
    /// When it did not.
    pub fn success(self) -> Outcome<String> {
        if self.status == 0 {
            return Ok(self.stdout);
        }
        Err(failed(format!("the process failed: {self:?}")))
    }
}

/// The client's side of one process's stdio.
pub struct Streams {
    folder: PathBuf,
    /// Names for the request: stdin, stdout, stderr.
    names: [String; 3],
    terminal: bool,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
}

impl Streams {
    fn open(lab: &Lab, name: &str, stdio: &Stdio) -> Outcome<Self> {
        let folder = lab.containerd().folder().join("io").join(name);
        let mut this = Self {
            names: [const { String::new() }; 3],
            terminal: *stdio == Stdio::Terminal,
            stdout: None,
            stderr: None,
            folder,
        };
        match stdio {
            Stdio::Null => {}
            Stdio::Address(address) => {
                this.names[1].clone_from(address);
                this.names[2].clone_from(address);
            }
            Stdio::Fifos(stdin) => {
                if *stdin == Stdin::Open {
                    this.fifo(0)?;
                }
                this.stdout = Some(Reader::start(&this.fifo(1)?));
                this.stderr = Some(Reader::start(&this.fifo(2)?));
            }
            Stdio::Terminal => {
                this.fifo(0)?;
                this.stdout = Some(Reader::start(&this.fifo(1)?));
            }
        }
        Ok(this)
    }

    fn fifo(&mut self, number: usize) -> Outcome<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(number.to_string());
        make_fifo(&path)?;
        self.names[number] = path.to_string_lossy().into_owned();
        Ok(path)
    }

    fn stdout(&self) -> Outcome<&Reader> {
        let reader = self.stdout.as_ref();
        reader.ok_or_else(|| failed("this process has no stdout here"))
    }

    /// Waits for the end of both streams.
    fn collect(&self) -> Outcome<(String, String)> {
        let read = |reader: &Option<Reader>| match reader {
            Some(reader) => reader.wait_end(SOON),
            None => Ok(Vec::new()),
        };
        let (stdout, stderr) = (read(&self.stdout)?, read(&self.stderr)?);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((text(stdout), text(stderr)))
    }
}

/// A recorded container, and the task of it.
pub struct Container<'a> {
    lab: &'a Lab,
    id: String,
    rootfs: Vec<Mount>,
    streams: Streams,
    options: Option<Any>,
    pid: u32,
    gone: bool,
}

impl<'a> Container<'a> {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The init process's id; 0 before Create.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The lab that it is in.
    #[must_use]
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// Creates the task.
    ///
    /// # Errors
    /// The server's status.
    pub fn create(&mut self) -> Result<u32, Status> {
        let [stdin, stdout, stderr] = self.streams.names.clone();
        self.pid = self.lab.client().create_task(CreateTaskRequest {
            container_id: self.id.clone(),
            rootfs: self.rootfs.clone(),
            stdin,
            stdout,
            stderr,
            terminal: self.streams.terminal,
            options: self.options.clone(),
            ..CreateTaskRequest::default()
        })?;
        Ok(self.pid)
    }

    /// Starts the task.
    ///
    /// # Errors
    /// The server's status.
    pub fn start(&self) -> Result<u32, Status> {
        self.lab.client().start(&self.id, "")
    }

    /// The state of init.
    ///
    /// # Errors
    /// The server's status.
    pub fn state(&self) -> Result<Process, Status> {
        self.lab.client().state(&self.id, "")
    }

    /// Signals init.
    ///
    /// # Errors
    /// The server's status.
    pub fn kill(&self, signal: Signal) -> Result<(), Status> {
        let client = self.lab.client();
        client.kill(&self.id, "", signal.as_raw(), Reach::One)
    }

    /// Waits for init's exit, and returns its status.
    ///
    /// # Errors
    /// The server's status.
    pub fn wait(&self) -> Result<u32, Status> {
        let answer = self.lab.client().wait(&self.id, "", EXIT)?;
        Ok(answer.exit_status)
    }

    /// Deletes the task.
    ///
    /// # Errors
    /// The server's status.
    pub fn delete(&self) -> Result<DeleteResponse, Status> {
        self.lab.client().delete_task(&self.id)
    }

    /// What init wrote to stdout.
    ///
    /// # Errors
    /// When stdout does not come here.
    pub fn stdout(&self) -> Outcome<&Reader> {
        self.streams.stdout()
    }

    /// Reads stdout anew, as a client that attaches does; the old reader goes first.
    ///
    /// # Errors
    /// When stdout does not come here.
    pub fn read_again(&mut self) -> Outcome {
        self.stdout()?;
        self.streams.stdout = None;
        self.streams.stdout = Some(Reader::start(self.streams.names[1].as_ref()));
        Ok(())
    }

    /// Stops reading stdout, as a client that goes does.
    pub fn stop_reading(&mut self) {
        self.streams.stdout = None;
    }

    /// Opens the writing end of init's stdin.
    ///
    /// # Errors
    /// When nobody reads there.
    pub fn stdin(&self) -> Outcome<Writer> {
        Writer::open(self.streams.names[0].as_ref())
    }

    /// Closes the shim's end of init's stdin.
    ///
    /// # Errors
    /// The server's status.
    pub fn close_stdin(&self) -> Result<(), Status> {
        self.lab.client().close_stdin(&self.id, "")
    }

    /// A further process in the container.
    pub fn exec<'c, const N: usize>(&'c self, id: &str, args: [&str; N]) -> ExecBuilder<'c, 'a> {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        ExecBuilder {
            container: self,
            id: id.to_owned(),
            process: spec::process(&args),
            stdio: Stdio::Fifos(Stdin::Closed),
        }
    }

    /// Runs a shell script in the container and returns its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn shell(&self, id: &str, text: &str) -> Outcome<String> {
        self.exec(id, ["sh", "-c", text]).run()?.success()
    }

    /// Waits for the exit, deletes task and container, and checks that nothing is left.
    ///
    /// # Errors
    /// What containerd says, or what is left.
    pub fn finish(self) -> Outcome<Finished> {
        let status = self.wait()?;
        // Delete closes what the container's children may hold open; the end comes after it.
        let deleted = self.delete()?;
        if deleted.exit_status != status {
            let other = deleted.exit_status;
            return Err(failed(format!("Wait said {status}, Delete {other}")));
        }
        let (stdout, stderr) = self.streams.collect()?;
        self.remove()?;
        Ok(Finished {
            status,
            stdout,
            stderr,
        })
    }

    /// Kills init, and then as [`finish`](Self::finish).
    ///
    /// # Errors
    /// What containerd says, or what is left.
    pub fn kill_and_finish(self) -> Outcome<Finished> {
        self.kill(Signal::KILL)?;
        self.finish()
    }

    /// Removes a container without a task, and checks that nothing is left.
    ///
    /// # Errors
    /// What containerd says, or what is left.
    pub fn remove(mut self) -> Outcome {
        self.lab.client().delete_container(&self.id)?;
        self.gone = true;
        self.lab.expect_nothing_left_of(&self.id)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // After a failure only. All of this may fail for the same reason; the lab's end kills
        // whatever stays.
        if self.gone {
            return;
        }
        let client = self.lab.client();
        if client
            .kill(&self.id, "", Signal::KILL.as_raw(), Reach::All)
            .is_ok()
        {
            let _ = client.wait(&self.id, "", Duration::from_secs(5));
        }
        for pid in host::processes_in_cgroup(&self.lab.cgroup(&self.id)) {
            host::signal(pid, Signal::KILL);
        }
        let _ = client.delete_task(&self.id);
        let _ = client.delete_container(&self.id);
    }
}

/// A further process to be made.
pub struct ExecBuilder<'c, 'a> {
    container: &'c Container<'a>,
    id: String,
    process: Value,
    stdio: Stdio,
}

impl<'c, 'a> ExecBuilder<'c, 'a> {
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
    pub fn add(mut self) -> Outcome<Exec<'c, 'a>> {
        let name = format!("{}-{}", self.container.id, self.id);
        let streams = Streams::open(self.container.lab, &name, &self.stdio)?;
        let [stdin, stdout, stderr] = streams.names.clone();
        if streams.terminal {
            self.process["terminal"] = true.into();
        }
        self.container.lab.client().exec(ExecProcessRequest {
            container_id: self.container.id.clone(),
            exec_id: self.id.clone(),
            stdin,
            stdout,
            stderr,
            terminal: streams.terminal,
            spec: Some(document("Process", &self.process)?),
        })?;
        Ok(Exec {
            container: self.container,
            id: self.id,
            streams,
        })
    }

    /// Adds and starts the process.
    ///
    /// # Errors
    /// What containerd says.
    pub fn start(self) -> Outcome<Exec<'c, 'a>> {
        let exec = self.add()?;
        exec.start()?;
        Ok(exec)
    }

    /// Lets the process live its whole life.
    ///
    /// # Errors
    /// What containerd says.
    pub fn run(self) -> Outcome<Finished> {
        self.start()?.finish()
    }
}

/// A further process in a container.
pub struct Exec<'c, 'a> {
    container: &'c Container<'a>,
    id: String,
    streams: Streams,
}

impl Exec<'_, '_> {
    /// Starts it, and returns its pid.
    ///
    /// # Errors
    /// The server's status.
    pub fn start(&self) -> Result<u32, Status> {
        self.container
            .lab
            .client()
            .start(&self.container.id, &self.id)
    }

    /// Its state.
    ///
    /// # Errors
    /// The server's status.
    pub fn state(&self) -> Result<Process, Status> {
        self.container
            .lab
            .client()
            .state(&self.container.id, &self.id)
    }

    /// Signals it.
    ///
    /// # Errors
    /// The server's status.
    pub fn kill(&self, signal: Signal) -> Result<(), Status> {
        let client = self.container.lab.client();
        client.kill(&self.container.id, &self.id, signal.as_raw(), Reach::One)
    }

    /// Waits for its exit, and returns the status.
    ///
    /// # Errors
    /// The server's status.
    pub fn wait(&self) -> Result<u32, Status> {
        let client = self.container.lab.client();
        Ok(client.wait(&self.container.id, &self.id, EXIT)?.exit_status)
    }

    /// Deletes it.
    ///
    /// # Errors
    /// The server's status.
    pub fn delete(&self) -> Result<DeleteResponse, Status> {
        let client = self.container.lab.client();
        client.delete_exec(&self.container.id, &self.id)
    }

    /// What it wrote to stdout.
    ///
    /// # Errors
    /// When stdout does not come here.
    pub fn stdout(&self) -> Outcome<&Reader> {
        self.streams.stdout()
    }

    /// Opens the writing end of its stdin.
    ///
    /// # Errors
    /// When nobody reads there.
    pub fn stdin(&self) -> Outcome<Writer> {
        Writer::open(self.streams.names[0].as_ref())
    }

    /// Closes the shim's end of its stdin.
    ///
    /// # Errors
    /// The server's status.
    pub fn close_stdin(&self) -> Result<(), Status> {
        self.container
            .lab
            .client()
            .close_stdin(&self.container.id, &self.id)
    }

    /// Waits for its exit, deletes it, and returns what it left.
    ///
    /// # Errors
    /// What containerd says.
    pub fn finish(self) -> Outcome<Finished> {
        let status = self.wait()?;
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
