// SPDX-License-Identifier: Apache-2.0
//! The server: takes what `start` handed over, makes the process what a shim must be, and gives
//! it to the task service until that ends.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior};
use sys::Call as _;
use sys::inherit;

use crate::args::Args;
use crate::bootstrap::level_filter;
use crate::error::{Error, chain};
use crate::launch::{DEBUG_LISTENER, LISTENER};
use crate::socket::{self, Lock, Name};
use crate::{RUNTIME, ready};

/// What tools look for in the process list.
const PROCESS_NAME: &std::ffi::CStr = c"containerd-shim";
/// containerd's log FIFO in the bundle.
const LOG: &str = "log";
/// The variable that asks for another form of the log: `json`.
const LOG_FORMAT: &str = "CONTAINERD_SHIM_RUST_LOG_FORMAT";
/// The variable that switches the flight recorder off: `off`.
const RECORDING: &str = "CONTAINERD_SHIM_RUST_RECORDING";

/// Serves until told to end.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let ready = args
        .ready_fd
        .map(inherit::take)
        .transpose()
        .map_err(Error::Setup)?;
    // Kept to the end: an error of the service is told on it, too.
    let report = ready.as_ref().and_then(|pipe| pipe.try_clone().ok());
    let done = become_shim(args).and_then(|()| serve(args, ready));
    if let Err(error) = &done {
        let text = chain(error);
        log::error!("{text}");
        if let Some(report) = report {
            ready::fail(report, &text);
        }
    }
    done
}

/// Makes this process a shim, before there is a second thread or a descriptor of anybody.
fn become_shim(args: &Args) -> Result<(), Error> {
    sys::daemon::settle();
    sys::memory::keep_small();
    // The name is for people only: the server works without.
    let _ = rustix::thread::set_name(PROCESS_NAME);
    // Containers of other users must not read our memory or descriptors through /proc.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .call("prctl", || "PR_SET_DUMPABLE, 0")
        .map_err(Error::Setup)?;
    // Children of containers without a PID namespace become ours to reap.
    set_child_subreaper(Some(getpid()))
        .call("prctl", || "PR_SET_CHILD_SUBREAPER, 1")
        .map_err(Error::Setup)?;
    let level = match (args.debug, args.log_level) {
        (false, Some(level)) => level_filter(level),
        (true, Some(level)) => level_filter(level).max(log::LevelFilter::Debug),
        (true, None) => log::LevelFilter::Debug,
        (false, None) => telemetry::DEFAULT_LEVEL,
    };
    // A missing FIFO is a caller that does not want a log.
    if let Ok(sink) = telemetry::Sink::open(Path::new(LOG)) {
        let json = std::env::var_os(LOG_FORMAT).is_some_and(|format| format == "json");
        let format = if json {
            telemetry::Format::Json
        } else {
            telemetry::Format::Text
        };
        telemetry::install(sink.with_format(format), RUNTIME, level);
    }
    let off = std::env::var_os(RECORDING).is_some_and(|value| value == "off");
    telemetry::recorder::set_recording(!off);
    match telemetry::otlp::Config::from_variables(|name| std::env::var(name).ok()) {
        Ok(Some(config)) => telemetry::otlp::start(config),
        Ok(None) => {}
        Err(why) => log::warn!("no export of traces: {why}"),
    }
    Ok(())
}

fn serve(args: &Args, ready: Option<OwnedFd>) -> Result<(), Error> {
    let listener = listener(&args.socket, LISTENER)?;
    let debug_listener = match args.debug {
        // Whoever starts us may well give none.
        true => self::listener(&args.debug_socket, DEBUG_LISTENER).ok(),
        false => None,
    };
    inherit::forget_others();
    let listeners = [Some(&listener), debug_listener.as_ref()];
    let names: Vec<Name> = listeners
        .into_iter()
        .flatten()
        .filter_map(Name::of)
        .collect();
    let exe = match sys::exeseal::current().map_err(Error::Seal)? {
        Some(exe) => exe,
        None => {
            sys::exeseal::seal(spare_dir(&names))
                .map_err(Error::Seal)?
                .exe
        }
    };
    let config = task::Config {
        listener,
        debug_listener,
        namespace: args.namespace.clone(),
        id: args.id.clone(),
        containerd_ttrpc_address: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        notify_socket: Some(args.notify_socket.clone()).filter(|socket| !socket.is_empty()),
        exe,
        ready,
        debug: args.debug,
        version: crate::info::VERSION,
        revision: crate::info::REVISION,
    };
    log::debug!(container = args.id.as_str(); "serving");
    let done = task::serve(config).map_err(|e| Error::Server(chain(&e)));
    // First: nobody shall connect any more while a collector is waited for.
    for name in &names {
        name.remove();
    }
    telemetry::otlp::flush();
    done
}

/// The socket at `path`, else the one inherited as `number`.
fn listener(path: &str, number: i32) -> Result<OwnedFd, Error> {
    if path.is_empty() {
        return inherit::take(number).map_err(Error::NoListener);
    }
    let path = Path::new(path.strip_prefix(socket::SCHEME).unwrap_or(path));
    let dir = path.parent().unwrap_or(Path::new("."));
    let lock = Lock::take(dir).map_err(Error::Lock)?;
    Ok(socket::replace(path, &lock)?)
}

/// A directory that does not hold our executable.
fn spare_dir(names: &[Name]) -> &Path {
    names
        .first()
        .and_then(Name::dir)
        .unwrap_or(Path::new("/proc"))
}
