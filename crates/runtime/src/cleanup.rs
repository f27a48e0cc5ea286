// SPDX-License-Identifier: Apache-2.0
//! Cleaning up a container whose shim is gone: what the `delete` action does.
//!
//! Works from what is on disk, at whatever moment the shim died, and may be repeated. Only what the
//! state file names is touched: a cgroup path from config.json alone may belong to somebody else.

use std::path::Path;
use std::time::{Duration, Instant};

use cgroups::{Cgroup, Layout};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};
use crate::hooks::Lifecycle;
use crate::host_root::HostRoot;
use crate::rootfs_mounts::{WhenBusy, unmount_or};
use crate::state::{self, Directory, State};

/// How long systemd may take to hear that a scope is to be stopped, and as long again to do it.
/// containerd gives the whole of `delete` five seconds.
const UNIT_LIMIT: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The pid of the container's init, 0 if none is known.
    pub pid: i32,
}

/// Ends and removes everything of container `id`: processes, cgroup, state; runs its `poststop`
/// hooks; unmounts the root file system below `bundle`. Nothing there is fine.
///
/// # Errors
/// The first thing that could not be done; the rest is still attempted.
pub fn force(root: &Path, namespace: &str, id: &str, bundle: &Path) -> Result<Report> {
    let directory = Directory::new(root, namespace, id)?;
    let state = directory.load()?;
    let mut report = Report::default();
    let cgroup;
    let mut removal = None;
    let mut first_error = None;
    let mut note = |result: Result<()>| {
        if let Err(e) = result {
            first_error.get_or_insert(e);
        }
    };
    if let Some(state) = &state {
        report.pid = state.init_process_pid;
        let killed = kill_processes(state);
        note(unmount_host_root(state));
        match killed {
            Ok(killed) => {
                cgroup = killed;
                removal = Some(cgroup.begin_removal(UNIT_LIMIT));
            }
            Err(e) => note(Err(e)),
        }
        if let Some(group) = &state.intel_rdt {
            note(group.remove());
        }
    }
    note(directory.remove());
    if let Some(state) = &state {
        // Once: the next call finds no state. The root file system is still mounted, as for runc's.
        Lifecycle::from_state(state).run_poststop();
    }
    note(
        unmount_or(&bundle.join("rootfs"), WhenBusy::Detach)
            .map_err(|e| Error::NotPossible(e.to_string())),
    );
    // Last: systemd takes its time when it is busy, and whoever called us does not wait for ever.
    if let Some(removal) = removal {
        note(removal.finish(UNIT_LIMIT).map_err(cgroup_failed));
    }
    match first_error {
        None => Ok(report),
        Some(e) => Err(e),
    }
}

/// Ends whatever is in the container's cgroup, its init wherever that is, and removes the cgroup;
/// unmounts what a container without a mount namespace has mounted.
pub(crate) fn end_processes(state: &State) -> Result<()> {
    let killed = kill_processes(state);
    let unmounted = unmount_host_root(state);
    killed?.remove().map_err(cgroup_failed)?;
    unmounted
}

fn unmount_host_root(state: &State) -> Result<()> {
    state.host_root.as_ref().map_or(Ok(()), HostRoot::undo)
}

fn cgroup_failed(source: cgroups::Error) -> Error {
    Error::Cgroup {
        attempt: "clean up cgroup",
        source,
    }
}

fn kill_processes(state: &State) -> Result<Cgroup> {
    let layout = Layout::detect().map_err(cgroup_failed)?;
    let killed = Cgroup::open(&layout, &state.cgroup_paths).and_then(|cgroup| {
        if cgroup.populated().unwrap_or(true) {
            cgroup.kill()?;
        }
        Ok(cgroup)
    });
    // A process that left its cgroup (moved by systemd, say) is still ours to end.
    end_init(state);
    killed.map_err(cgroup_failed)
}

/// Kills the init named by the state, if it is still the same process, and waits for its end.
fn end_init(state: &State) {
    let Some(pid) = Pid::from_raw(state.init_process_pid) else {
        return;
    };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    // The pidfd pins the process; its start time says whether it is the one we mean.
    if state::start_time(state.init_process_pid) != Some(state.init_process_start) {
        return;
    }
    // ESRCH: it is dying already.
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut fds = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        let timeout = rustix::event::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}
