// SPDX-License-Identifier: Apache-2.0
//! A container as a client handles it.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use containerd_client::services::v1::CreateTaskRequest;
use containerd_client::tonic::Status;
use containerd_client::types::Mount;
use prost::Message;
use prost_types::Any;
use rustix::process::Signal;
use serde_json::Value;

use crate::client::Reach;
use crate::failure::Outcome;
use crate::host;
use crate::lab::Lab;
use crate::process::{ExecBuilder, Process};
use crate::spec;
use crate::streams::{Finished, Stdin, Stdio, Streams};

/// `containerd.runc.v1.Options`, as far as tests set them.
#[derive(Clone, PartialEq, Message)]
pub struct RuncOptions {
    /// Cgroup of the shim.
    #[prost(string, tag = "3")]
    pub shim_cgroup: String,
    /// Owner of the process's ends of the streams.
    #[prost(uint32, tag = "4")]
    pub io_uid: u32,
    /// Group of the process's ends of the streams.
    #[prost(uint32, tag = "5")]
    pub io_gid: u32,
    /// The runtime's executable.
    #[prost(string, tag = "6")]
    pub binary_name: String,
    /// The runtime's state folder.
    #[prost(string, tag = "7")]
    pub root: String,
    /// Lets systemd manage the cgroups.
    #[prost(bool, tag = "9")]
    pub systemd_cgroup: bool,
}

/// A container to be made.
pub struct Builder<'a> {
    lab: &'a Lab,
    id: String,
    spec: Value,
    stdio: Stdio,
    options: Option<Any>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(lab: &'a Lab, id: String, args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        Self {
            spec: spec::container(&args, &lab.cgroup(&id)),
            lab,
            id,
            stdio: Stdio::Fifos(Stdin::Closed),
            options: None,
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

    /// Joins the namespace of `kind` of the process `pid`; `name` is its name in procfs.
    #[must_use]
    pub fn joining(mut self, kind: &str, pid: u32, name: &str) -> Self {
        spec::join_namespace(&mut self.spec, kind, &format!("/proc/{pid}/ns/{name}"));
        self
    }

    /// Sets the runtime options.
    #[must_use]
    pub fn options(mut self, options: &RuncOptions) -> Self {
        self.options = Some(Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.encode_to_vec(),
        });
        self
    }

    /// Puts the container into the pod `sandbox`.
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
        let runtime = self.lab.shim.runtime();
        let options = self.options.clone();
        let rootfs = client.create_container(&self.id, runtime, options, &self.spec)?;
        Ok(Container {
            process: Process {
                streams: Streams::open(self.lab, &self.stdio)?,
                lab: self.lab,
                container: self.id,
                exec: String::new(),
            },
            rootfs,
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

    /// All that, and starts it.
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

    /// Asserts that Create fails and leaves nothing: neither on the host, nor an event. Returns
    /// the status.
    ///
    /// # Errors
    /// What containerd says otherwise, or what is left.
    pub fn expect_create_to_fail(self) -> Outcome<Status> {
        let mut container = self.record()?;
        let Err(status) = container.create() else {
            crate::fail!("Create of {} succeeded", container.id());
        };
        let (lab, id) = (container.lab, container.id().to_owned());
        container.remove()?;
        let events = lab.events().names(&id);
        assert!(events.is_empty(), "events of a failed Create: {events:?}");
        Ok(status)
    }
}

/// A recorded container, and its task: the [`Process`] it derefs to.
pub struct Container<'a> {
    process: Process<'a>,
    rootfs: Vec<Mount>,
    options: Option<Any>,
    pid: u32,
    gone: bool,
}

impl<'a> Deref for Container<'a> {
    type Target = Process<'a>;

    fn deref(&self) -> &Self::Target {
        &self.process
    }
}

impl DerefMut for Container<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.process
    }
}

impl<'a> Container<'a> {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.process.container
    }

    /// The init process's id; 0 before Create.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The mounts of its root file system, to be changed before Create.
    pub fn rootfs_mut(&mut self) -> &mut Vec<Mount> {
        &mut self.rootfs
    }

    /// Creates the task.
    ///
    /// # Errors
    /// The server's status.
    pub fn create(&mut self) -> Result<u32, Status> {
        let [stdin, stdout, stderr] = self.streams.names.clone();
        self.pid = self.lab.client().create_task(CreateTaskRequest {
            container_id: self.id().to_owned(),
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

    /// A further process in the container.
    pub fn exec<const N: usize>(&self, id: &str, args: [&str; N]) -> ExecBuilder<'a> {
        ExecBuilder::new(self.lab, self.id(), id, &args)
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
        let finished = self.finish_process()?;
        self.remove()?;
        Ok(finished)
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
        self.lab.client().delete_container(self.id())?;
        self.gone = true;
        self.lab.expect_nothing_left_of(self.id())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // After a failure only. Each of these may fail for the same reason; the lab's end kills
        // whatever stays.
        if self.gone {
            return;
        }
        let client = self.lab.client();
        if self.kill_raw(Signal::KILL.as_raw(), Reach::All).is_ok() {
            let _ = client.wait(self.id(), "", Duration::from_secs(5));
        }
        for pid in host::processes_in_cgroup(&self.lab.cgroup(self.id())) {
            host::signal(pid, Signal::KILL);
        }
        let _ = client.delete_task(self.id());
        let _ = client.delete_container(self.id());
    }
}
