// SPDX-License-Identifier: Apache-2.0
//! The host seen from outside: processes, mounts, cgroups and sockets that a container may leave.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use crate::failure::{Outcome, SOON, wait_until};

/// Where shims put their sockets, whatever containerd's state folder is.
const SOCKETS: &str = "/run/containerd/s";

/// A process of the host.
#[derive(Debug, Clone)]
pub struct HostProcess {
    /// Its id.
    pub pid: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
}

impl HostProcess {
    /// Sends SIGKILL. A process that has gone meanwhile is fine.
    pub fn kill(&self) {
        signal(self.pid, Signal::KILL);
    }
}

/// Sends a signal to a process that may have gone.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Fails only if there is no such process any more.
        let _ = kill_process(pid, signal);
    }
}

/// Is this process there, and not a zombie?
#[must_use]
pub fn alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
}

/// All processes of the host.
#[must_use]
pub fn processes() -> Vec<HostProcess> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().parse::<u32>().ok()
    });
    let with_command = pids.filter_map(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(HostProcess { pid, command })
    });
    with_command.collect()
}

/// Processes whose command line contains `text`, ourselves excepted.
#[must_use]
pub fn processes_with(text: &str) -> Vec<HostProcess> {
    let mut all = processes();
    all.retain(|process| process.command.contains(text) && process.pid != std::process::id());
    all
}

/// The arguments of a process, joined by spaces; empty if there is none.
#[must_use]
pub fn command(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).replace('\0', " ")
}

/// Waits until a process has become the program that it was started for: a runtime may answer a
/// moment before that.
///
/// # Errors
/// When it does not.
pub fn wait_for_program(pid: u32, name: &str) -> Outcome {
    wait_until(SOON, format!("process {pid} to be {name}"), || {
        command(pid).contains(name).then_some(())
    })
}

/// The shims of containers: processes with both `-address ADDRESS` and `-id ID` in the arguments.
#[must_use]
pub fn shims(address: &Path, id: &str) -> Vec<HostProcess> {
    let mut all = processes_with(&format!("-address {}", address.display()));
    let mark = format!("-id {id} ");
    all.retain(|process| format!("{} ", process.command).contains(&mark));
    all
}

/// Mount points at or below `folder`, in the order in which they were mounted.
#[must_use]
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(|point| PathBuf::from(point.replace("\\040", " ")));
    points.filter(|point| point.starts_with(folder)).collect()
}

/// The mount points of all cgroup hierarchies.
#[must_use]
pub fn cgroup_roots() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_cgroups = table.lines().filter(|line| {
        let kind = line.split(" - ").nth(1).unwrap_or_default();
        kind.starts_with("cgroup ") || kind.starts_with("cgroup2 ")
    });
    let mut roots: Vec<_> = of_cgroups
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect();
    roots.sort();
    roots.dedup();
    roots
}

/// Folders that a cgroup path has in the hierarchies.
#[must_use]
pub fn cgroup_folders(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    let folders = cgroup_roots().into_iter().map(|root| root.join(relative));
    folders.filter(|folder| folder.exists()).collect()
}

/// Makes a cgroup in all hierarchies. One of cpuset takes processes only when it has been given
/// processors and memory.
///
/// # Errors
/// What the kernel says.
pub fn make_cgroup(cgroup: &str) -> io::Result<()> {
    for root in cgroup_roots() {
        let mut folder = root;
        for name in cgroup.split('/').filter(|name| !name.is_empty()) {
            let parent = folder.clone();
            folder.push(name);
            if !folder.exists() {
                fs::create_dir(&folder)?;
            }
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read_to_string(folder.join(file)).unwrap_or_default();
                let first_version = folder.join("tasks").exists();
                if first_version && value.trim().is_empty() && folder.join(file).exists() {
                    fs::write(folder.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes cgroups and those below, as far as they are empty.
pub fn remove_cgroups(cgroup: &str) {
    for folder in cgroup_folders(cgroup) {
        for below in folders_below(&folder).iter().rev() {
            // A cgroup that is in use stays; the tests' checks see it.
            let _ = fs::remove_dir(below);
        }
    }
}

/// A folder and all folders below, parents first.
fn folders_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    let mut next = 0;
    while next < all.len() {
        let entries = fs::read_dir(&all[next]).into_iter().flatten().flatten();
        let folders: Vec<_> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        all.extend(folders);
        next += 1;
    }
    all
}

/// Processes in the cgroups of a path and below, in any hierarchy.
#[must_use]
pub fn processes_in_cgroup(cgroup: &str) -> Vec<u32> {
    let folders = cgroup_folders(cgroup);
    let mut pids: Vec<u32> = folders
        .iter()
        .flat_map(|folder| folders_below(folder))
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The sockets that a shim has for a container or a pod: its own, and the one for debugging.
#[must_use]
pub fn shim_sockets(address: &Path, namespace: &str, group: &str) -> [PathBuf; 2] {
    let own = address.join(namespace).join(group);
    let debug = own.join("debug");
    [own, debug].map(|name| {
        let digest = Sha256::digest(name.to_string_lossy().as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Path::new(SOCKETS).join(digest)
    })
}

/// Number of open descriptors of a process.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A field of `/proc/PID/status` that is a number, as `VmRSS` or `Threads`.
#[must_use]
pub fn status_number(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}
