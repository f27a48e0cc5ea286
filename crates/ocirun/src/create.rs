// SPDX-License-Identifier: Apache-2.0
//! `create`, `run`, `start`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use runtime::gate::Gate;
use runtime::rootfs::Pivot;
use runtime::{Bundle, Container, CreateRequest, Keyring, Runtime, Status};

use crate::Code;
use crate::args::Parsed;
use crate::common::{Common, write_pid_file};
use crate::error::{Attempt as _, CREATE_FAILED, Error, RUN_FAILED, of_verb, system};
use crate::foreground::{Foreground, Signals};
use crate::inherited;
use crate::notify::{self, Listener};
use crate::terminal::{Console, Wait, send_pidfd};

/// What `create` and `run` are given.
struct Request<'a> {
    id: &'a str,
    bundle: PathBuf,
    pid_file: Option<&'a str>,
    console_socket: Option<&'a str>,
    pidfd_socket: Option<&'a str>,
    pivot: Pivot,
    keyring: Keyring,
}

impl<'a> Request<'a> {
    fn new(parsed: &'a Parsed) -> Result<Self, Error> {
        let bundle = parsed.value("bundle").filter(|path| !path.is_empty());
        let bundle = bundle.unwrap_or(".");
        Ok(Self {
            id: parsed.id(),
            bundle: std::fs::canonicalize(bundle).attempt(|| format!("open bundle {bundle}"))?,
            pid_file: parsed.value("pid-file"),
            console_socket: parsed.value("console-socket"),
            pidfd_socket: parsed.value("pidfd-socket"),
            pivot: match parsed.is_set("no-pivot") {
                true => Pivot::MoveMount,
                false => Pivot::PivotRoot,
            },
            keyring: match parsed.is_set("no-new-keyring") {
                true => Keyring::Inherited,
                false => Keyring::New,
            },
        })
    }

    /// Creates the container; nothing is left of it on failure.
    fn create(
        &self,
        common: &Common,
        runtime: &Runtime,
        parsed: &Parsed,
        wait: Wait,
    ) -> Result<(Container, Console, Option<OwnedFd>), Error> {
        let mut bundle = Bundle::load(&self.bundle)?;
        let directory = common.directory(self.id)?;
        let socket_directory = notify::prepare(&mut bundle, &directory);
        let process = bundle.spec().process().as_ref();
        let terminal = process
            .and_then(|process| process.terminal())
            .unwrap_or(false);
        let console = Console::new(terminal, wait, self.console_socket)?;
        let (container, master) = Container::create(
            runtime,
            CreateRequest {
                id: self.id,
                bundle: &bundle,
                directory,
                socket_directory,
                gate: Gate::Fifo,
                stdio: console.stdio()?,
                inherited: inherited::take(parsed)?,
                pivot: self.pivot,
                keyring: self.keyring,
                cgroup_driver: common.cgroup_driver(),
                maker: common.maker(),
            },
        )?;
        Ok((container, console, master))
    }

    /// What is told of a new container to whom it may concern.
    fn announce(&self, container: &Container) -> Result<(), Error> {
        send_pidfd(self.pidfd_socket, b"standard", container.pidfd.as_fd())?;
        write_pid_file(self.pid_file, container.pid)
    }
}

/// Ends a container that could not be told to anybody.
fn undo(container: &Container) {
    let ended = sys::signals::send(&container.pidfd, 9)
        .and_then(|()| reaper::wait_for(container.pid, &container.pidfd));
    if let Err(e) = ended {
        log::warn!("undo create: {e}");
    }
    if let Err(e) = container.destroy() {
        log::warn!("undo create: {e}");
    }
}

/// `create`.
pub(crate) fn create(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    of_verb(CREATE_FAILED, create_waiting(common, parsed))
}

fn create_waiting(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let request = Request::new(parsed)?;
    let (runtime, _log) = common.runtime()?;
    let (container, console, master) = request.create(common, &runtime, parsed, Wait::Detached)?;
    let told = console
        .attach(master)
        .and_then(|_| request.announce(&container));
    if told.is_err() {
        undo(&container);
    }
    told.map(|()| 0)
}

/// `run`.
pub(crate) fn run(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    of_verb(RUN_FAILED, create_and_start(common, parsed))
}

fn create_and_start(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let request = Request::new(parsed)?;
    let wait = match parsed.is_set("detach") {
        true => Wait::Detached,
        false => Wait::Foreground,
    };
    let signals = match wait {
        Wait::Foreground => Some(Signals::hold()?),
        Wait::Detached => None,
    };
    if wait == Wait::Foreground && !parsed.is_set("no-subreaper") {
        adopt_orphans()?;
    }
    let (runtime, log) = common.runtime()?;
    let (container, console, master) = request.create(common, &runtime, parsed, wait)?;
    let directory = common.directory(request.id)?;
    let started = console.attach(master).and_then(|relay| {
        request.announce(&container)?;
        let notify = Listener::new(&container, &directory)?;
        container.start()?;
        Ok((relay, notify))
    });
    let (relay, notify) = match started {
        Ok(started) => started,
        Err(error) => {
            undo(&container);
            return Err(error);
        }
    };
    drop(log);
    let Some(signals) = signals else {
        notify.map_or(Ok(()), Listener::wait_until_ready)?;
        return Ok(0);
    };
    let pidfd = container
        .pidfd
        .try_clone()
        .attempt(|| "wait for container".to_owned())?;
    let foreground = Foreground {
        pid: container.pid,
        pidfd,
        relay,
        notify,
    };
    let code = foreground.wait(&signals)?;
    if !parsed.is_set("keep") {
        container.destroy()?;
    }
    Ok(code)
}

/// Processes of the container whose parents end become our children, and not somebody's.
fn adopt_orphans() -> Result<(), Error> {
    use sys::Call as _;
    let set = rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .call("prctl", || "PR_SET_CHILD_SUBREAPER");
    system("adopt orphans", set)
}

/// `start`.
pub(crate) fn start(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let stored = common.stored(parsed.id())?;
    let directory = common.directory(parsed.id())?;
    // One that is not waiting to be started says so itself.
    if !notify::is_wanted(&directory) || stored.status() != Status::Created {
        stored.start()?;
        return Ok(0);
    }
    let container = stored.container()?;
    let notify = Listener::new(&container, &directory)?;
    stored.start()?;
    notify.map_or(Ok(()), Listener::wait_until_ready)?;
    Ok(0)
}
