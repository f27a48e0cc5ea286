// SPDX-License-Identifier: Apache-2.0
//! A private containerd: its own folders, socket, configuration and log, gone without trace at
//! the end. It dies with us; what it leaves then, the next run sweeps away.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::{env, io, process, thread};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::cache::{self, Generation};
use crate::failure::{Outcome, SOON, failed, wait_until};
use crate::host;

/// All instances' folders begin like this; then comes the pid of their owner.
const PREFIX: &str = "shim-e2e-";

/// What an instance does not need. Loading less makes it start faster.
const DISABLED: [&str; 15] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.differ.v1.erofs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.nri.v1.nri",
];

/// A running private containerd.
pub struct Containerd {
    generation: Generation,
    folder: PathBuf,
    path: String,
    running: Mutex<Option<Running>>,
}

/// The process, and what keeps the thread that made it.
type Running = (Child, mpsc::Sender<()>);

impl Containerd {
    /// Starts one. `programs` is a folder that comes first in its PATH.
    ///
    /// # Errors
    /// When its folders or its process cannot be made.
    pub fn start(generation: &Generation, programs: &Path, name: &str) -> Outcome<Self> {
        let folder = env::temp_dir().join(format!("{PREFIX}{}-{name}", process::id()));
        fs::DirBuilder::new().mode(0o711).create(&folder)?;
        let system = env::var("PATH").unwrap_or_default();
        let this = Self {
            generation: generation.clone(),
            path: format!("{}:{system}", programs.display()),
            folder,
            running: Mutex::new(None),
        };
        fs::write(this.folder.join("config.toml"), this.configuration())?;
        this.launch()?;
        Ok(this)
    }

    /// The gRPC socket.
    #[must_use]
    pub fn address(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// Where `state`, `root` and the log are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The namespace of all that tests make in it. Cgroups and state folders have it in their
    /// paths: it is different from every other instance's.
    #[must_use]
    pub fn namespace(&self) -> String {
        namespace_of(&self.folder)
    }

    /// The folder of a task's bundle.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        let tasks = self.folder.join("state/io.containerd.runtime.v2.task");
        tasks.join(self.namespace()).join(id)
    }

    /// The process's id; 0 while it is down.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running().as_ref().map_or(0, |(child, _)| child.id())
    }

    /// Kills the daemon like a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&self) -> Outcome {
        if let Some((mut child, keeper)) = self.running().take() {
            child.kill()?;
            child.wait()?;
            drop(keeper);
        }
        Ok(())
    }

    /// Starts the daemon again after [`kill`](Self::kill).
    ///
    /// # Errors
    /// When its process cannot be made.
    pub fn launch(&self) -> Outcome {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.generation.bin.join("containerd"))
            .arg("--config")
            .arg(self.folder.join("config.toml"))
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        *self.running() = Some(spawn_from_keeper(command)?);
        Ok(())
    }

    /// The log's length now, for [`log_since`](Self::log_since).
    #[must_use]
    pub fn log_position(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |meta| meta.len())
    }

    /// What was logged since `position`.
    #[must_use]
    pub fn log_since(&self, position: u64) -> String {
        let all = fs::read(self.log_path()).unwrap_or_default();
        let start = usize::try_from(position).unwrap_or(0).min(all.len());
        String::from_utf8_lossy(&all[start..]).into_owned()
    }

    /// Runs `ctr` of the same release against it.
    ///
    /// # Errors
    /// When ctr cannot be executed.
    pub fn ctr(&self, args: &[&str]) -> Outcome<process::Output> {
        let output = self.ctr_command().args(args).output()?;
        Ok(output)
    }

    /// `ctr` of the same release, to be given arguments.
    #[must_use]
    pub fn ctr_command(&self) -> Command {
        let mut command = Command::new(self.generation.bin.join("ctr"));
        command
            .arg("--address")
            .arg(self.address())
            .args(["--namespace", &self.namespace()])
            .env("PATH", &self.path);
        command
    }

    /// Imports the test image.
    ///
    /// # Errors
    /// With what ctr says.
    pub fn import_image(&self) -> Outcome {
        let image = cache::image();
        let image = image.to_string_lossy();
        let output = self.ctr(&["images", "import", &image])?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(failed(format!("ctr images import: {text}")));
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("containerd.log")
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        let level = env::var("E2E_LOG").unwrap_or_else(|_| "debug".to_owned());
        let version = if self.generation.at_least(2, 0) { 3 } else { 2 };
        let disabled: Vec<_> = DISABLED.iter().map(|name| format!("{name:?}")).collect();
        let disabled = disabled.join(", ");
        format!(
            r#"version = {version}
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [{disabled}]
[grpc]
address = "{folder}/containerd.sock"
[debug]
level = "{level}"
"#
        )
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A daemon that cannot be killed is one that has gone.
        let _ = self.kill();
        sweep(&self.folder);
    }
}

/// Starts a process from a thread that lives until the sender is dropped: the kernel sends the
/// death signal when the *thread* ends that made the child.
fn spawn_from_keeper(mut command: Command) -> io::Result<(Child, mpsc::Sender<()>)> {
    let (keep, kept) = mpsc::channel::<()>();
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || {
        // The receiver waits below.
        let _ = answer.send(command.spawn());
        // Ends with an error when the sender is dropped, and that is the signal.
        let _ = kept.recv();
    });
    let child = answered.recv().map_err(io::Error::other)??;
    Ok((child, keep))
}

fn namespace_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Ends what belongs to an instance's folder (shims, containers, mounts), and removes it.
fn sweep(folder: &Path) {
    let namespace = namespace_of(folder);
    // What cannot be ended is seen by the next run, or by the tests' own checks.
    let _ = wait_until(SOON, "the last process to end", || {
        let shims = host::processes_with(&namespace);
        let inside = host::processes_in_cgroup(&namespace);
        let pids: Vec<_> = shims.iter().map(|shim| shim.pid).chain(inside).collect();
        for pid in &pids {
            host::signal(*pid, Signal::KILL);
        }
        pids.is_empty().then_some(())
    });
    for mount in host::mounts_below(folder).iter().rev() {
        let _ = unmount(mount, UnmountFlags::DETACH);
    }
    host::remove_cgroups(&namespace);
    let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&namespace));
    let _ = fs::remove_dir_all(folder);
}

/// Removes what instances of owners that are no more have left.
pub fn sweep_stale() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let owner = rest.split('-').next().unwrap_or_default();
        if !owner.is_empty() && !Path::new("/proc").join(owner).exists() {
            sweep(&entry.path());
        }
    }
}
