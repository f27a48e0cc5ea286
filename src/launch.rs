// SPDX-License-Identifier: Apache-2.0
//! Executes the server: from an unwritable view of this program, with its socket inherited.
//!
//! Until [`Launched::keep`] the server and its sockets are provisional: dropped, they are gone.

use std::ffi::{CString, OsStr};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, waitpid};
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};
use sys::Call as _;
use sys::daemon::Daemon;

use crate::args::Args;
use crate::error::Error;
use crate::ready;
use crate::socket::Name;

/// Where the server finds its listener.
pub(crate) const LISTENER: RawFd = 3;
/// Where the server finds its debug listener, if it is asked for one.
pub(crate) const DEBUG_LISTENER: RawFd = 4;
/// Where the server finds the pipe on which it reports.
const READY: RawFd = 5;

const OOM_SCORE_MAX: i32 = 1000;

/// What the server gets beyond what `start` was given.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Our `argv[0]`.
    pub(crate) program: &'a OsStr,
    /// The command line of `start`.
    pub(crate) args: &'a Args,
    /// containerd's address as the hash of the socket's name has it.
    pub(crate) address: &'a str,
    /// containerd's address for events, if it is not in the environment.
    pub(crate) ttrpc_address: Option<&'a str>,
    /// The log level in the numbers of the bootstrap protocol.
    pub(crate) log_level: Option<i32>,
    /// The socket, listening.
    pub(crate) listener: OwnedFd,
    /// The debug socket, listening.
    pub(crate) debug_listener: Option<OwnedFd>,
    /// The directory of the sockets: the second lower layer of the executable's view.
    pub(crate) socket_dir: &'a Path,
    /// A cgroup for the server to join; empty for none.
    pub(crate) cgroup: &'a str,
}

/// A server that has been executed.
#[derive(Debug)]
pub(crate) struct Launched {
    /// `None` once the server is nobody's child to clean up.
    pid: Option<Pid>,
    names: Vec<Name>,
}

impl Plan<'_> {
    /// Executes the server and waits until it serves.
    pub(crate) fn launch(self) -> Result<Launched, Error> {
        let listeners = [Some(&self.listener), self.debug_listener.as_ref()];
        let names = listeners
            .into_iter()
            .flatten()
            .filter_map(Name::of)
            .collect();
        let mut launched = Launched { pid: None, names };

        if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
            create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ProcessGroup)
                .call("prctl", || "PR_SCHED_CORE, PR_SCHED_CORE_CREATE")
                .map_err(Error::CoreScheduling)?;
        }
        let (ready, pid) = self.execute()?;
        launched.pid = Some(pid);
        if !self.cgroup.is_empty() {
            cgroups::Layout::detect()
                .and_then(|layout| {
                    cgroups::join_shim(&layout, self.cgroup, pid.as_raw_nonzero().get())
                })
                .map_err(Error::Cgroup)?;
        }
        adjust_oom_score(pid).map_err(Error::OomScore)?;
        ready::wait(ready)?;
        Ok(launched)
    }

    fn execute(&self) -> Result<(OwnedFd, Pid), Error> {
        let sealed = sys::exeseal::seal(self.socket_dir).map_err(Error::Seal)?;
        let (ready, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .call("pipe2", || "O_CLOEXEC")
            .map_err(Error::Spawn)?;
        let mut fds: Vec<(BorrowedFd<'_>, RawFd)> =
            vec![(self.listener.as_fd(), LISTENER), (told.as_fd(), READY)];
        if let Some(debug) = &self.debug_listener {
            fds.push((debug.as_fd(), DEBUG_LISTENER));
        }
        let args = self.arguments();
        let env = self.environment();
        let pid = Daemon {
            exe: sealed.exe.as_fd(),
            args: &args,
            env: &env,
            fds: &fds,
        }
        .run()
        .map_err(Error::Spawn)?;
        Ok((ready, pid))
    }

    fn arguments(&self) -> Vec<CString> {
        let mut args: Vec<&[u8]> = vec![self.program.as_bytes()];
        let flags = [
            ("-namespace", self.args.namespace.as_str()),
            ("-id", &self.args.id),
            ("-address", self.address),
        ];
        for (flag, value) in flags {
            args.extend([flag.as_bytes(), value.as_bytes()]);
        }
        if self.args.debug {
            args.push(b"-debug");
        }
        let level = self.log_level.map(|level| format!("-log-level={level}"));
        args.extend(level.as_ref().map(|flag| flag.as_bytes()));
        let notify = own_notify_socket().map(|socket| format!("-notify-socket={socket}"));
        args.extend(notify.as_ref().map(|flag| flag.as_bytes()));
        let ready = format!("-ready-fd={READY}");
        args.push(ready.as_bytes());
        c_strings(args.into_iter().map(<[u8]>::to_vec))
    }

    /// Our own environment, and what containerd says differently elsewhere. `NOTIFY_SOCKET` stays
    /// behind: no program that the server starts is to speak to the service manager.
    fn environment(&self) -> Vec<CString> {
        let own = |name: &OsStr| {
            name == "OTEL_SERVICE_NAME"
                || name == notify::VARIABLE
                || (name == "TTRPC_ADDRESS" && self.ttrpc_address.is_some())
        };
        let inherited = std::env::vars_os()
            .filter(|(name, _)| !own(name))
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let service = format!("OTEL_SERVICE_NAME=containerd-shim-{}", self.args.id);
        let ttrpc = self
            .ttrpc_address
            .map(|address| format!("TTRPC_ADDRESS={address}"));
        let added = ttrpc.into_iter().chain([service]).map(String::into_bytes);
        c_strings(inherited.chain(added))
    }
}

/// The `NOTIFY_SOCKET` that is meant for us: containerd's own is not.
fn own_notify_socket() -> Option<String> {
    let own = std::env::var(notify::VARIABLE).ok();
    let caller = getppid().unwrap_or_else(getpid).as_raw_nonzero();
    // Without it there is nothing to compare with: then nothing is inherited, as far as we know.
    let environment = std::fs::read(format!("/proc/{caller}/environ")).unwrap_or_default();
    notify::setting::own_socket(own, &environment)
}

/// Strings with a NUL inside cannot be passed on; what came through `execve(2)` has none.
fn c_strings(strings: impl Iterator<Item = Vec<u8>>) -> Vec<CString> {
    strings
        .filter_map(|bytes| CString::new(bytes).ok())
        .collect()
}

impl Launched {
    /// The server is to live on.
    pub(crate) fn keep(mut self) {
        self.pid = None;
        self.names.clear();
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // It is our child and not waited for, so the pid is still its own; ESRCH is as good.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        for name in &self.names {
            name.remove();
        }
    }
}

/// One more than containerd's: under pressure the kernel ends the shim before containerd.
fn adjust_oom_score(server: Pid) -> std::io::Result<()> {
    let parent = getppid().unwrap_or_else(getpid);
    let read = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", parent.as_raw_nonzero()))?;
    let score: i32 = read.trim().parse().map_err(|_| ErrorKind::InvalidData)?;
    let score = (score + 1).min(OOM_SCORE_MAX);
    let path = format!("/proc/{}/oom_score_adj", server.as_raw_nonzero());
    match std::fs::write(path, score.to_string()) {
        // Lowering it takes a privilege that a user namespace does not give.
        Err(e) if e.kind() == ErrorKind::PermissionDenied && !is_privileged() => Ok(()),
        result => result,
    }
}

/// Root of the initial user namespace.
fn is_privileged() -> bool {
    let initial = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root()
        && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(initial)
}
