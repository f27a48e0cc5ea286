// SPDX-License-Identifier: Apache-2.0
//! What a containerd instance is to a shim: folders, an image, an events server, a namespace.
//!
//! Everything lies on a tmpfs of the world's own, so one lazy unmount takes down whatever a shim
//! has mounted below. Names carry the process number and a count: a later run recognises what a
//! killed one left, and removes it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::Mount;
use containerd_shim_protos::shim::oci::Options;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use sha2::{Digest as _, Sha256};

use super::bootstrap::{self, Daemon, Deletion};
use super::cgroup;
use super::error::{During as _, Result};
use super::events::EventServer;
use super::image;
use super::orphans;
use super::process::{self, Process, Usage};
use super::shim::Shim;
use super::spec::Spec;
use super::stdio::{self, Output, Stdio, StdioKind};
use super::subject::Subject;

const ROOT: &str = "/run/shim-mock";
const CGROUPS: &str = "shim-mock-";

/// A containerd, as far as a shim can see.
pub struct World {
    /// The shim that is judged.
    pub subject: Subject,
    /// Receives the events.
    pub events: EventServer,
    name: String,
    folder: PathBuf,
    daemon: Daemon,
    /// Shims that were started, and their sockets.
    shims: Mutex<Vec<(Arc<Process>, PathBuf)>>,
}

/// A bundle: what the daemon makes before it calls a shim.
#[derive(Debug)]
pub struct Bundle {
    id: String,
    path: PathBuf,
    rootfs: Vec<Mount>,
    io: PathBuf,
    cgroup: String,
    log: Output,
}

impl Bundle {
    /// The container's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What Create mounts.
    #[must_use]
    pub fn rootfs(&self) -> &[Mount] {
        &self.rootfs
    }

    /// The container's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// What the shim has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.so_far()
    }

    pub(crate) fn io_folder(&self) -> &Path {
        &self.io
    }

    /// Makes stdio for its init.
    pub fn stdio(&self, kind: StdioKind) -> Result<Stdio> {
        Stdio::make(&self.io.join("init"), kind)
    }

    /// Replaces the text of `config.json`.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let path = self.path.join("config.json");
        fs::write(&path, text).during(|| format!("write {}", path.display()))
    }
}

impl World {
    /// Makes a world for this shim.
    pub fn new(subject: &Subject) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        orphans::adopt()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{count}", std::process::id());
        let folder = Path::new(ROOT).join(&name);
        fs::create_dir_all(&folder).during(|| format!("mkdir {}", folder.display()))?;
        mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), None)
            .and_then(|()| mount_change(&folder, MountPropagationFlags::PRIVATE))
            .during(|| format!("mount tmpfs at {}", folder.display()))?;
        let path = |name: &str| folder.join(name).display().to_string();
        let daemon = Daemon {
            namespace: format!("mock-{name}"),
            address: path("containerd.sock"),
            events: path("containerd.sock.ttrpc"),
            sockets: path("s"),
            environment: Vec::new(),
        };
        let events = EventServer::listen(Path::new(&daemon.events), &daemon.namespace)?;
        let shims = Mutex::default();
        let world = Self {
            subject: subject.clone(),
            events,
            name,
            folder,
            daemon,
            shims,
        };
        image::make(&world.folder.join("image"))?;
        world.make_pod_files()?;
        Ok(world)
    }

    /// What CRI would bind-mount into a pod's containers.
    fn make_pod_files(&self) -> Result<()> {
        let folder = self.pod_files();
        for name in ["shm", "serviceaccount"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).during(|| format!("mkdir {}", path.display()))?;
        }
        for name in ["hosts", "hostname", "resolv.conf", "termination-log"] {
            let path = folder.join(name);
            fs::write(&path, "").during(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Folder for `files` of [`Spec::pod_workload`].
    #[must_use]
    pub fn pod_files(&self) -> PathBuf {
        self.folder.join("pod")
    }

    /// Sets a variable of the daemon's environment, which its shims inherit.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.daemon
            .environment
            .push((name.to_owned(), value.to_owned()));
    }

    /// The containerd namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.daemon.namespace
    }

    /// The world's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a bundle.
    pub fn bundle(&self, id: &str, spec: &Spec) -> Result<Bundle> {
        let path = self.folder.join("state").join(id);
        let layers = self.folder.join("snapshots").join(id);
        for folder in [
            path.join("rootfs"),
            layers.join("upper"),
            layers.join("work"),
        ] {
            fs::create_dir_all(&folder).during(|| format!("mkdir {}", folder.display()))?;
        }
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .during(|| format!("chmod {}", path.display()))
        };
        mode(&path, 0o700)?;
        mode(&path.join("rootfs"), 0o711)?;
        let log = stdio::log(&path.join("log"))?;
        let binary = path.join("shim-binary-path");
        fs::write(&binary, self.subject.path.as_os_str().as_encoded_bytes())
            .during(|| format!("write {}", binary.display()))?;
        let cgroup = format!("/{CGROUPS}{}/{id}", self.name);
        let spec = spec
            .clone()
            .with("/linux/cgroupsPath", cgroup.clone().into());
        let rootfs = vec![Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                format!("workdir={}", layers.join("work").display()),
                format!("upperdir={}", layers.join("upper").display()),
                format!("lowerdir={}", self.folder.join("image").display()),
            ],
            ..Default::default()
        }];
        let io = self.folder.join("io").join(id);
        let bundle = Bundle {
            id: id.to_owned(),
            path,
            rootfs,
            io,
            cgroup,
            log,
        };
        bundle.write_config(&spec.0.to_string())?;
        Ok(bundle)
    }

    /// Options for `start` and Create, if the subject needs any.
    #[must_use]
    pub fn options(&self) -> Option<Any> {
        let runtime = self.subject.runtime.as_ref()?;
        let mut options = Options::new();
        options.binary_name = runtime.display().to_string();
        let mut any = Any::new();
        any.type_url = "containerd.runc.v1.Options".to_owned();
        any.value = options.write_to_bytes().ok()?;
        Some(any)
    }

    /// Runs `start` and connects.
    pub fn start(&self, bundle: &Bundle) -> Result<Shim> {
        let reply = self.start_only(bundle)?;
        let shim = Shim::connect(reply, self.namespace(), bundle.id(), self.options())?;
        let mut shims = self.shims.lock().unwrap_or_else(PoisonError::into_inner);
        shims.push((Arc::clone(shim.process()), shim.socket().to_owned()));
        Ok(shim)
    }

    /// Runs `start` and nothing else.
    pub fn start_only(&self, bundle: &Bundle) -> Result<bootstrap::Reply> {
        bootstrap::start(&self.subject, &self.daemon, bundle, self.options().as_ref())
    }

    /// Runs `delete`.
    pub fn delete(&self, bundle: &Bundle) -> Result<Deletion> {
        bootstrap::delete(&self.subject, &self.daemon, bundle)
    }

    /// Removes a bundle, as the daemon does after `delete`.
    pub fn remove(&self, bundle: Bundle) {
        // A leftover mount is in the way; then the end of the world removes it.
        let _ = fs::remove_dir_all(&bundle.path);
        let _ = fs::remove_dir_all(self.folder.join("snapshots").join(&bundle.id));
        let _ = fs::remove_dir_all(&bundle.io);
    }

    /// All processes of shims in this world.
    #[must_use]
    pub fn shim_processes(&self) -> Vec<Process> {
        process::with_argument(OsStr::new(self.namespace()))
    }

    /// What all shims in this world use together.
    pub fn shim_usage(&self) -> Result<Usage> {
        let mut sum = Usage::default();
        for process in self.shim_processes() {
            sum += process.usage()?;
        }
        Ok(sum)
    }

    /// What is left of a container: mounts below its bundle, cgroups.
    #[must_use]
    pub fn traces(&self, bundle: &Bundle) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = bundle.path.display().to_string();
        let mut traces: Vec<String> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&below))
            .map(|point| format!("mount {point}"))
            .collect();
        let cgroups = cgroup::folders(&bundle.cgroup);
        traces.extend(
            cgroups
                .iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
        traces
    }

    /// Processes in the container's cgroup.
    #[must_use]
    pub fn cgroup_folders(&self, bundle: &Bundle) -> Vec<PathBuf> {
        cgroup::folders(&bundle.cgroup)
    }

    /// The socket of the shim that serves this group, where releases up to 2.2 want it.
    #[must_use]
    pub fn socket(&self, group: &str) -> PathBuf {
        socket(Path::new("/run/containerd/s"), &self.daemon, group)
    }
}

fn socket(folder: &Path, daemon: &Daemon, group: &str) -> PathBuf {
    let text = format!("{}/{}/{group}", daemon.address, daemon.namespace);
    let mut name = String::new();
    for byte in Sha256::digest(text) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    folder.join(name)
}

impl Drop for World {
    fn drop(&mut self) {
        self.events.stop();
        for (process, socket) in self.shims.get_mut().unwrap_or_else(PoisonError::into_inner) {
            process.kill();
            // Gone if the shim ended well.
            let _ = fs::remove_file(socket);
            // Reported by `destroy` if it matters: the process is found again by its arguments.
            let _ = process.wait_end(Duration::from_secs(5));
        }
        destroy(&self.name);
    }
}

/// Ends everything that belongs to a world, by name. Nothing here can be reported: a caller who
/// cares looks at what is left.
fn destroy(name: &str) {
    let namespace = format!("mock-{name}");
    let folder = Path::new(ROOT).join(name);
    process::kill_all(&process::with_argument(OsStr::new(&namespace)));
    cgroup::destroy(&format!("{CGROUPS}{name}"));
    // A logger of a killed shim.
    process::kill_all(&process::executing_below(&folder));
    let daemon = Daemon {
        namespace: namespace.clone(),
        address: folder.join("containerd.sock").display().to_string(),
        events: String::new(),
        sockets: String::new(),
        environment: Vec::new(),
    };
    for id in fs::read_dir(folder.join("state"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let id = id.file_name().to_string_lossy().into_owned();
        let _ = fs::remove_file(socket(Path::new("/run/containerd/s"), &daemon, &id));
    }
    let _ = unmount(&folder, UnmountFlags::DETACH);
    let _ = fs::remove_dir(&folder);
    let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&namespace));
}

/// Removes what runs left that were killed.
fn sweep() {
    let gone = |name: &str| {
        let pid = name.split('-').next().unwrap_or_default();
        pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
    };
    let folders = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut names: Vec<String> = folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.extend(
        cgroup::top_level(CGROUPS)
            .iter()
            .map(|name| name[CGROUPS.len()..].to_owned()),
    );
    for name in names.iter().filter(|name| gone(name)) {
        destroy(name);
    }
}
