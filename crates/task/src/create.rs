// SPDX-License-Identifier: Apache-2.0
//! Create: from a request to a container that waits to be started.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse};
use options::Options;
use runtime::cgroups::pressure::{self, Setting};
use runtime::rootfs_mounts::{self, RootfsMount};
use runtime::{Bundle, CreateRequest, Keyring, Runtime, Stdio};
use rustix::event::epoll::EventFlags;
use stdio::{ChildStdio, DataPath, Owner, ProcessIo, Terminal};

use crate::container::{Container, Mode, Operations, Phase, Process, ReplyTo, StdioPaths};
use crate::diagnostics::labels::Labels;
use crate::diagnostics::log_json;
use crate::diagnostics::sync_record::SyncRecord;
use crate::events;
use crate::freeze::Freeze;
use crate::notify_relay;
use crate::pressure::PressureState;
use crate::server::{ProcessName, Server, Timer};
use crate::service::{Answer, message};
use crate::status::{Status, chain};
use crate::token::Token;

/// What a worker hands back.
struct Created {
    container: Arc<runtime::Container>,
    io: ProcessIo,
    rootfs_mounted: bool,
    notify: Option<notify::Relay>,
    labels: Labels,
    pressure: Setting,
}

impl Server {
    /// Create: the container is in the books at once, so that its id is taken.
    pub(crate) fn create(&mut self, to: ReplyTo, request: CreateTaskRequest) {
        if let Err(status) = self.check_create(&request) {
            return self.reply(to, Err(status));
        }
        let id = request.id.clone();
        // Another container has come: an earlier Shutdown no longer holds.
        self.shutdown_wanted = false;
        let key = self.new_key(ProcessName {
            container: id.clone(),
            exec: None,
        });
        let paths = StdioPaths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let container = Container {
            bundle: PathBuf::from(&request.bundle),
            created: std::time::SystemTime::now(),
            runtime: None,
            init: Process::new(key, Phase::Creating, paths),
            execs: std::collections::BTreeMap::new(),
            operations: Operations::default(),
            running_execs: 0,
            init_exit: None,
            delete_when_stopped: None,
            freeze: Freeze::No,
            oom: None,
            pressure: PressureState::new(Setting::Off),
            rootfs_mounted: false,
            notify: None,
            labels: Labels::default(),
            restarts: 0,
        };
        self.containers.insert(id.clone(), container);
        self.enqueue(&id, Mode::Exclusive, move |server| {
            let runtime = Arc::clone(&server.runtime);
            let namespace = server.config.namespace.clone();
            let notify_socket = server.config.notify_socket.clone();
            server.workers.run(move || {
                let created = create(&runtime, &namespace, notify_socket.as_deref(), &request);
                Box::new(move |server: &mut Server| server.created(to, &request, created))
            });
        });
    }

    fn check_create(&self, request: &CreateTaskRequest) -> Result<(), Status> {
        if self.containers.contains_key(&request.id) {
            return Err(Status::container_exists());
        }
        if request.id.is_empty() || request.bundle.is_empty() {
            return Err(Status::invalid_argument("id and bundle must not be empty"));
        }
        if !request.checkpoint.is_empty() {
            return Err(Status::not_implemented(
                "restore from a checkpoint is not supported by this shim yet",
            ));
        }
        Ok(())
    }

    fn created(
        &mut self,
        to: ReplyTo,
        request: &CreateTaskRequest,
        created: Result<Created, Status>,
    ) {
        let id = &request.id;
        let registered = created.and_then(|created| self.register(id, created));
        match registered {
            Ok(pid) => {
                self.publish(events::task_create(request, pid));
                self.reply(to, created_answer(pid));
                self.watch_pressure(id);
                self.watch_oom(id);
                self.begin_input_later(id);
                self.operation_finished(id, Mode::Exclusive);
            }
            Err(status) => {
                let trail = telemetry::Context::current().trail();
                log::error!(container = id.as_str(), trail = trail.as_str(); "create {id}: {status}");
                log_json::append(Path::new(&request.bundle), &status.message);
                self.remove_container(id);
                self.reply(to, Err(status));
            }
        }
    }

    /// Takes a created container into the books and watches its init.
    fn register(&mut self, id: &str, created: Created) -> Result<u32, Status> {
        let Some(container) = self.containers.get_mut(id) else {
            return Err(Status::container_not_created());
        };
        let pid = created.container.pid.as_raw_nonzero().get();
        let pidfd = rustix::io::fcntl_dupfd_cloexec(&created.container.pidfd, 0)
            .map_err(|errno| Status::unknown(format!("duplicate pidfd: {errno}")))?;
        let pidfd = Arc::new(pidfd);
        let process = &mut container.init;
        process.phase = Phase::Created;
        process.pid = pid;
        process.pidfd = Some(Arc::clone(&pidfd));
        let key = process.key;
        container.runtime = Some(created.container);
        container.rootfs_mounted = created.rootfs_mounted;
        container.restarts = self.observed.made(&created.labels);
        container.labels = created.labels;
        container.pressure = PressureState::new(created.pressure);
        self.watch(pidfd.as_fd(), Token::Exit(key), EventFlags::IN)?;
        self.adopt_io(id, None, created.io);
        self.adopt_notify(id, created.notify);
        Ok(pid as u32)
    }

    /// Gives a process its streams and starts to relay them.
    pub(crate) fn adopt_io(&mut self, id: &str, exec_id: Option<&str>, mut io: ProcessIo) {
        // Not by known_process: the epoll is needed besides.
        let Some(process) = self
            .containers
            .get_mut(id)
            .and_then(|container| container.process_mut(exec_id))
        else {
            return;
        };
        let key = process.key;
        let token = |stream| Token::Stream(key, stream).encode();
        if let Err(e) = io.register(self.epoll.as_fd(), token) {
            log::error!("{}: {e}", exec_id.unwrap_or(id));
        }
        if process.stdin_closed {
            io.close_stdin();
        }
        process.io = Some(io);
        for stream in [
            stdio::Stream::Stdin,
            stdio::Stream::Stdout,
            stdio::Stream::Stderr,
        ] {
            self.drive_stream(key, stream);
        }
    }

    fn begin_input_later(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        let init = &container.init;
        if !init.paths.stdin.is_empty() {
            let timer = Timer::Input {
                container: id.to_owned(),
                key: init.key,
            };
            self.timers.set(Instant::now() + INPUT_PATIENCE, timer);
        }
    }

    /// The time for it has come, if it is the same container still.
    pub(crate) fn begin_input_of_created(&mut self, id: &str, key: u64) {
        let container = self.containers.get(id);
        if container.is_some_and(|container| container.init.key == key) {
            self.begin_input(id, None);
        }
    }

    /// Lets a process's client send. Whoever calls this knows that containerd finds the process: a
    /// `CloseIO` may follow at once.
    pub(crate) fn begin_input(&mut self, id: &str, exec_id: Option<&str>) {
        let Some(process) = self.known_process(id, exec_id) else {
            return;
        };
        let key = process.key;
        if let Some(Err(e)) = process.io.as_mut().map(ProcessIo::begin_input) {
            log::error!("{}: no input: {}", exec_id.unwrap_or(id), chain(&e));
        }
        self.drive_stream(key, stdio::Stream::Stdin);
    }
}

/// A client that waits until it can send before it calls Start waits no longer than this after
/// Create; containerd has taken the task into its books long before.
const INPUT_PATIENCE: Duration = Duration::from_secs(1);

fn created_answer(pid: u32) -> Answer {
    message(&CreateTaskResponse {
        pid,
        ..Default::default()
    })
}

/// The worker's part: everything that blocks. On failure nothing is left.
fn create(
    runtime: &Runtime,
    namespace: &str,
    notify_socket: Option<&str>,
    request: &CreateTaskRequest,
) -> Result<Created, Status> {
    let options = options_of(request)?;
    let state_root = Path::new(options.state_root());
    let directory = runtime::state::Directory::new(state_root, namespace, &request.id)
        .map_err(|e| failed(&e))?;
    let path = Path::new(&request.bundle);
    let mut bundle = Bundle::load(path).map_err(|e| failed(&e))?;
    // Dropped last of all: whatever becomes of the Create is in the record.
    let _record = SyncRecord::of_create(&bundle, &request.id);
    options
        .write(path)
        .map_err(|e| Status::unknown(e.to_string()))?;
    write(&path.join("runtime"), &options.binary_name, 0o600)?;

    let pressure = Setting::decide(bundle.annotation(pressure::ANNOTATION))
        .map_err(Status::invalid_argument)?;
    let notify = notify_relay::prepare(&mut bundle, notify_socket)?;
    let rootfs = telemetry::traced("mount root file system", || Rootfs::mount(request, path))?;
    let (mut io, child) = telemetry::traced("open stdio", || {
        open_stdio(namespace, request, &options, &bundle)
    })?;
    let wanted = CreateRequest {
        id: &request.id,
        bundle: &bundle,
        directory,
        socket_directory: None,
        gate: runtime::gate::Gate::Channel,
        stdio: child,
        inherited: runtime::Inherited::default(),
        pivot: match options.no_pivot_root {
            true => runtime::rootfs::Pivot::MoveMount,
            false => runtime::rootfs::Pivot::PivotRoot,
        },
        keyring: match options.no_new_keyring {
            true => Keyring::Inherited,
            false => Keyring::New,
        },
        maker: runtime::Maker::Root,
        cgroup_driver: match options.systemd_cgroup {
            true => runtime::CgroupDriver::Systemd,
            false => runtime::CgroupDriver::Cgroupfs,
        },
    };
    let (container, console) = match runtime::Container::create(runtime, wanted) {
        Ok(created) => created,
        Err(e) => {
            end_io(io);
            return Err(failed(&e));
        }
    };
    let finished = attach(&mut io, console).and_then(|()| {
        let pid = container.pid.as_raw_nonzero().to_string();
        write(&path.join("init.pid"), &pid, 0o644)
    });
    if let Err(status) = finished {
        undo(&container);
        end_io(io);
        return Err(status);
    }
    Ok(Created {
        container: Arc::new(container),
        io,
        rootfs_mounted: rootfs.keep(),
        notify,
        labels: Labels::of(bundle.spec()),
        pressure,
    })
}

fn failed(error: &dyn std::error::Error) -> Status {
    Status::unknown(format!("OCI runtime create failed: {}", chain(error)))
}

fn options_of(request: &CreateTaskRequest) -> Result<Options, Status> {
    let options = match request.options.as_ref() {
        Some(any) => Options::from_any(&any.type_url, &any.value),
        None => Ok(Options::default()),
    };
    let options = options.map_err(Status::invalid_argument)?;
    options.check_binary().map_err(|e| failed(&e))?;
    Ok(options)
}

/// Gives a terminal's master to the relay.
pub(crate) fn attach(
    io: &mut ProcessIo,
    console: Option<std::os::fd::OwnedFd>,
) -> Result<(), Status> {
    let Some(master) = console else { return Ok(()) };
    io.attach_console(master)
        .map_err(|e| Status::unknown(format!("failed to start console copy: {e}")))
}

/// Closes streams that were opened for nothing, and ends their logger; a worker's task.
pub(crate) fn end_io(mut io: ProcessIo) {
    if let Some(logger) = io.cut() {
        logger.finish();
    }
}

/// Ends a container that could not be told to anybody.
fn undo(container: &runtime::Container) {
    let _ = rustix::process::pidfd_send_signal(&container.pidfd, rustix::process::Signal::KILL);
    if let Err(e) = reaper::wait_for(container.pid, &container.pidfd) {
        log::warn!("undo create: {e}");
    }
    if let Err(e) = container.destroy() {
        log::warn!("undo create: {e}");
    }
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), Status> {
    runtime::state::write_atomically(path, content.as_bytes(), mode)
        .map_err(|e| Status::unknown(format!("write {}: {e}", path.display())))
}

/// Opens the streams of an init.
fn open_stdio(
    namespace: &str,
    request: &CreateTaskRequest,
    options: &Options,
    bundle: &Bundle,
) -> Result<(ProcessIo, Stdio), Status> {
    open(&stdio::Request {
        stdin: &request.stdin,
        stdout: &request.stdout,
        stderr: &request.stderr,
        terminal: terminal(request.terminal),
        owner: Owner {
            uid: options.io_uid,
            gid: options.io_gid,
        },
        container_id: &request.id,
        namespace,
        // The processes of another PID namespace may outlive the init and hold its output open.
        path: if bundle.has_private_pid_namespace() {
            DataPath::Direct
        } else {
            DataPath::Relayed
        },
    })
}

pub(crate) fn terminal(wanted: bool) -> Terminal {
    if wanted { Terminal::Yes } else { Terminal::No }
}

/// Opens a process's streams: our side of them and the child's.
pub(crate) fn open(request: &stdio::Request<'_>) -> Result<(ProcessIo, Stdio), Status> {
    let (io, child) = stdio::open(request).map_err(|e| {
        Status::unknown(format!("failed to create init process I/O: {}", chain(&e)))
    })?;
    let child = match child {
        Some(ChildStdio {
            stdin,
            stdout,
            stderr,
        }) => Stdio::Streams([stdin, stdout, stderr]),
        None => Stdio::Terminal,
    };
    Ok((io, child))
}

/// The root file system that a Create mounts; unmounted on drop unless kept.
struct Rootfs(Option<PathBuf>);

impl Rootfs {
    fn mount(request: &CreateTaskRequest, bundle: &Path) -> Result<Self, Status> {
        use std::os::unix::fs::DirBuilderExt;
        if request.rootfs.is_empty() {
            return Ok(Self(None));
        }
        let failed = |e: &dyn std::error::Error| {
            Status::unknown(format!("failed to mount rootfs component: {}", chain(e)))
        };
        let path = bundle.join("rootfs");
        match std::fs::DirBuilder::new().mode(0o711).create(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(&e)),
            _ => {}
        }
        let mounts: Vec<RootfsMount> = request
            .rootfs
            .iter()
            .map(|mount| RootfsMount {
                fstype: mount.type_.clone(),
                source: mount.source.clone(),
                target: mount.target.clone(),
                options: mount.options.clone(),
            })
            .collect();
        rootfs_mounts::mount(&mounts, &path).map_err(|e| failed(&e))?;
        Ok(Self(Some(path)))
    }

    /// Keeps it mounted; says whether there is anything.
    fn keep(mut self) -> bool {
        self.0.take().is_some()
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            if let Err(e) = rootfs_mounts::unmount(&path) {
                log::warn!("undo create: {e}");
            }
        }
    }
}
