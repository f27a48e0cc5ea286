// SPDX-License-Identifier: Apache-2.0
//! What a container says over `NOTIFY_SOCKET` reaches the host, and nothing else does.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use integration::mock::{Bundle, Container, Shim, Spec, StdioKind, Subject, World};
use rustix::net::sockopt;
use serde_json::json;

use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("no_notify_socket_unasked", no_notify_socket_unasked),
    ours(
        "ready_status_and_reload_reach_the_host",
        ready_status_and_reload_reach_the_host,
    ),
    ours(
        "a_barrier_ends_with_the_hosts",
        a_barrier_ends_with_the_hosts,
    ),
    ours("main_pid_is_the_hosts", main_pid_is_the_hosts),
    ours(
        "a_user_without_rights_may_notify",
        a_user_without_rights_may_notify,
    ),
    ours("the_shims_own_socket_counts", the_shims_own_socket_counts),
    ours("kill_says_stopping_first", kill_says_stopping_first),
    ours("last_words_are_heard", last_words_are_heard),
    ours(
        "the_notify_directory_is_sealed",
        the_notify_directory_is_sealed,
    ),
    ours(
        "a_wrong_annotation_is_refused",
        a_wrong_annotation_is_refused,
    ),
];

const ID: &str = "main";
const ANNOTATION: &str = "io.containerd.rust.notify";
const CLIENT: &str = "/notify-client";

/// The host's service manager.
struct Host {
    socket: UnixDatagram,
    path: PathBuf,
}

/// A datagram as the host sees it.
struct Heard {
    text: String,
    sender: i32,
    fds: Vec<OwnedFd>,
}

impl Host {
    fn new(world: &World) -> std::io::Result<Self> {
        let path = world.folder().join("host-notify");
        let socket = UnixDatagram::bind(&path)?;
        sockopt::set_socket_passcred(&socket, true)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { socket, path })
    }

    fn address(&self) -> String {
        self.path.display().to_string()
    }

    fn hear(&self) -> Result<Heard, Box<dyn std::error::Error>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut data = [0; 8192];
        loop {
            match sys::datagram::receive(&self.socket, &mut data) {
                Ok(received) => {
                    let sender = received.sender.and_then(|sender| sender.pid);
                    return Ok(Heard {
                        text: String::from_utf8(data[..received.size].to_vec())?,
                        sender: sender.map_or(0, |pid| pid.as_raw_nonzero().get()),
                        fds: received.fds,
                    });
                }
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn is_silent(&self) -> bool {
        sys::datagram::receive(&self.socket, &mut [0; 16]).is_err()
    }
}

struct Scene {
    container: Container,
    shim: Shim,
    bundle: Bundle,
    host: Host,
    world: World,
}

impl Scene {
    /// A container that runs the client with these steps.
    fn new(
        subject: &Subject,
        steps: &[&str],
        edit: impl FnOnce(Spec) -> Spec,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let world = World::new(subject)?;
        let host = Host::new(&world)?;
        let spec = edit(client(steps).annotation(ANNOTATION, &host.address()));
        Self::with(world, host, &spec)
    }

    fn with(world: World, host: Host, spec: &Spec) -> Result<Self, Box<dyn std::error::Error>> {
        let bundle = world.bundle(ID, spec)?;
        let shim = world.start(&bundle)?;
        let container = shim.create(&bundle, StdioKind::Output)?;
        container.start()?;
        Ok(Self {
            container,
            shim,
            bundle,
            host,
            world,
        })
    }

    fn end(self) -> Outcome {
        self.container.end()?;
        self.finish()
    }

    fn finish(self) -> Outcome {
        self.world.events.wait_delete(ID)?;
        assert!(
            !self.bundle.path().join("notify").exists(),
            "left in the bundle"
        );
        self.shim.shutdown(ID)?;
        self.world.delete(&self.bundle)?;
        crate::scene::assert_nothing_left(&self.world, &self.bundle);
        Ok(())
    }
}

/// The client, with the libraries that it needs, in the test image.
fn client(steps: &[&str]) -> Spec {
    let mut arguments = vec![CLIENT];
    arguments.extend(steps);
    let mut spec = Spec::new(&arguments).bind(env!("CARGO_BIN_EXE_notify-client"), CLIENT);
    for library in libraries() {
        spec = spec.bind(&library, &library);
    }
    spec
}

/// What this program has loaded, the client needs too.
fn libraries() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut paths: Vec<String> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    // The loader is asked for by another name.
    let loader = "/lib64/ld-linux-x86-64.so.2";
    if std::path::Path::new(loader).exists() {
        paths.push(loader.to_owned());
    }
    paths
}

fn no_notify_socket_unasked(subject: &Subject) -> Outcome {
    let script = "env | grep NOTIFY; ls -d /run/notify; true";
    let scene = crate::scene::Scene::created(subject, &Spec::shell(script), StdioKind::Output)?;
    assert_eq!(scene.container.run()?, 0);
    scene.container.delete()?;
    assert_eq!(scene.container.io.out.text()?, "");
    Ok(())
}

fn ready_status_and_reload_reach_the_host(subject: &Subject) -> Outcome {
    let steps = [
        "send:STATUS=half way|READY=1",
        "send:WATCHDOG=1",
        "store",
        "send:RELOADING=1|MONOTONIC_USEC=123456",
        "send:READY=1|STATUS=again",
        "send:EXTEND_TIMEOUT_USEC=9000000|FDSTORE=1|WATCHDOG_USEC=1",
        "stay",
    ];
    let scene = Scene::new(subject, &steps, |spec| spec)?;
    let pid = scene.container.pid;
    let first = scene.host.hear()?;
    assert_eq!(
        first.text,
        format!("MAINPID={pid}\nREADY=1\nSTATUS=half way")
    );
    assert_eq!(
        first.sender,
        i32::try_from(pid)?,
        "in the name of the container"
    );
    for wanted in [
        "WATCHDOG=1".to_owned(),
        "RELOADING=1\nMONOTONIC_USEC=123456".to_owned(),
        format!("MAINPID={pid}\nREADY=1\nSTATUS=again"),
        "EXTEND_TIMEOUT_USEC=9000000".to_owned(),
    ] {
        let heard = scene.host.hear()?;
        assert_eq!(heard.text, wanted);
        assert!(heard.fds.is_empty());
    }
    // People see it too, and where no host listens.
    let mut request = diagnostics::v1::EventsRequest::new();
    request.kinds.push("notify".to_owned());
    let told = scene.shim.diagnostics()?.call(&request)?;
    assert_eq!(told.events[0].container, ID);
    assert!(
        told.events[0].text.contains("STATUS=half way"),
        "{:?}",
        told.events
    );
    scene.end()
}

fn a_barrier_ends_with_the_hosts(subject: &Subject) -> Outcome {
    let steps = ["send:STATUS=one", "barrier", "send:STATUS=two", "stay"];
    let scene = Scene::new(subject, &steps, |spec| spec)?;
    assert_eq!(scene.host.hear()?.text, "STATUS=one");
    let barrier = scene.host.hear()?;
    assert_eq!((barrier.text.as_str(), barrier.fds.len()), ("BARRIER=1", 1));
    scene.container.io.out.wait_text("done send:STATUS=one\n")?;
    assert!(
        scene.host.is_silent(),
        "the client goes on before the barrier ends"
    );
    drop(barrier);
    assert_eq!(scene.host.hear()?.text, "STATUS=two");
    scene.end()
}

fn main_pid_is_the_hosts(subject: &Subject) -> Outcome {
    let steps = [
        "send:MAINPID=SELF",
        "send:MAINPID=4711|STATUS=x",
        "send:READY=1",
        "stay",
    ];
    let scene = Scene::new(subject, &steps, |spec| spec)?;
    let pid = scene.container.pid;
    assert_eq!(scene.host.hear()?.text, format!("MAINPID={pid}"));
    assert_eq!(scene.host.hear()?.text, "STATUS=x");
    assert_eq!(scene.host.hear()?.text, format!("MAINPID={pid}\nREADY=1"));
    scene.end()
}

fn a_user_without_rights_may_notify(subject: &Subject) -> Outcome {
    let scene = Scene::new(subject, &["send:STATUS=me", "stay"], |spec| {
        spec.with("/process/user", json!({"uid": 1234, "gid": 1234}))
            .with("/process/capabilities", json!({}))
    })?;
    assert_eq!(scene.host.hear()?.text, "STATUS=me");
    scene.end()
}

/// Without an annotation, in the shim's own name.
fn the_shims_own_socket_counts(subject: &Subject) -> Outcome {
    let mut world = World::new(subject)?;
    let host = Host::new(&world)?;
    world.set_environment("NOTIFY_SOCKET", &host.address());
    let scene = Scene::with(world, host, &client(&["send:READY=1", "stay"]))?;
    let heard = scene.host.hear()?;
    let pid = scene.container.pid;
    assert_eq!(heard.text, format!("MAINPID={pid}\nREADY=1"));
    let shim = scene.shim.process().pid();
    assert_eq!(heard.sender, i32::try_from(shim)?);
    let environment = std::fs::read(format!("/proc/{shim}/environ"))?;
    assert!(
        !String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"),
        "helpers of the shim would inherit it"
    );
    scene.end()
}

fn kill_says_stopping_first(subject: &Subject) -> Outcome {
    let scene = Scene::new(subject, &["send:READY=1", "stay"], |spec| spec)?;
    scene.host.hear()?;
    scene.container.kill(28)?;
    scene.container.kill(15)?;
    scene.container.kill(9)?;
    assert_eq!(scene.host.hear()?.text, "STOPPING=1");
    scene.container.wait()?;
    scene.container.delete()?;
    assert!(scene.host.is_silent(), "said more than once");
    scene.finish()
}

fn last_words_are_heard(subject: &Subject) -> Outcome {
    let steps = ["send:STATUS=1", "send:STATUS=2", "send:STATUS=3"];
    let scene = Scene::new(subject, &steps, |spec| spec)?;
    assert_eq!(scene.container.wait()?, 0);
    for number in 1..=3 {
        assert_eq!(scene.host.hear()?.text, format!("STATUS={number}"));
    }
    scene.container.delete()?;
    scene.finish()
}

fn the_notify_directory_is_sealed(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let host = Host::new(&world)?;
    let script = "grep ' /run/notify ' /proc/self/mountinfo | cut -d' ' -f6; \
                  touch /run/notify/x 2>&1; rm /run/notify/notify.sock 2>&1; \
                  echo $NOTIFY_SOCKET; sleep 1000000";
    let spec = Spec::shell(script).annotation(ANNOTATION, "on");
    let scene = Scene::with(world, host, &spec)?;
    scene
        .container
        .io
        .out
        .wait_text("/run/notify/notify.sock\n")?;
    let text = scene.container.io.out.so_far();
    for wanted in ["ro,", "nosuid", "nodev", "noexec", "Read-only file system"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert_eq!(text.matches("Read-only").count(), 2, "{text}");
    let exec = scene.container.exec(
        "e",
        &["/bin/sh", "-c", "echo $NOTIFY_SOCKET."],
        StdioKind::Output,
    )?;
    assert_eq!(exec.run()?, 0);
    assert_eq!(exec.io.out.text()?, ".\n");
    scene.end()
}

fn a_wrong_annotation_is_refused(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::idle().annotation(ANNOTATION, "maybe"))?;
    let shim = world.start(&bundle)?;
    let refused = shim.create(&bundle, StdioKind::Null);
    crate::scene::assert_refused(refused, integration::mock::Code::INVALID_ARGUMENT, "maybe");
    crate::scene::assert_nothing_left(&world, &bundle);
    Ok(())
}
