// SPDX-License-Identifier: Apache-2.0
//! What the kernel tells of a shim without its help: also of one that hangs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diagnostics::v1::Descriptor;
use task::diagnostics::sockets::Asker;

use crate::style::clean;

/// The longest value of a file that is printed.
const LONGEST: usize = 2000;

/// Status, limits and memory of a process.
pub(crate) fn process(pid: i32) -> String {
    let wanted = [
        "Name",
        "State",
        "PPid",
        "NSpid",
        "Uid",
        "Threads",
        "VmRSS",
        "RssAnon",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapEff",
        "NoNewPrivs",
        "Seccomp",
        "voluntary_ctxt_switches",
    ];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = status.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        wanted.contains(&name)
    });
    let mut text: String = lines
        .map(|line| format!("{}\n", line.replacen(":\t", ": ", 1).replace('\t', " ")))
        .collect();
    for name in ["cgroup", "oom_score_adj"] {
        let value = fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        for line in value.lines() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {}", clean(line));
        }
    }
    text
}

/// Threads, and where in the kernel they are.
pub(crate) fn threads(pid: i32) -> String {
    let mut text = String::new();
    for tid in numbers(&format!("/proc/{pid}/task")) {
        let read = |name: &str| {
            let value = fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
            clean(value.unwrap_or_default().trim())
        };
        let stat = read("stat");
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .unwrap_or("?");
        let wchan = match read("wchan").as_str() {
            "" | "0" => "-".to_owned(),
            wchan => wchan.to_owned(),
        };
        let call = read("syscall");
        let call = call.split_whitespace().next().unwrap_or("-").to_owned();
        let _ = writeln!(
            text,
            "{tid:>8}  {state}  {:<16} wchan {wchan}, syscall {call}",
            read("comm")
        );
    }
    text
}

/// Open files, with the other ends of sockets and pipes. What the shim has each for, it says itself, if it
/// says anything.
pub(crate) fn descriptors(pid: i32, said: &[Descriptor]) -> String {
    let peers = Peers::look();
    let mut text = String::new();
    for fd in numbers(&format!("/proc/{pid}/fd")) {
        let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else {
            continue;
        };
        let target = clean(&target.display().to_string());
        let mut parts = purpose(said.iter().find(|said| said.fd == fd));
        parts.extend(peers.of(&target, pid));
        let line = format!("{fd:>5}  {target}  {}", parts.join("; "));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if peers.is_cut {
        text.push_str("(there are too many processes to look for all other ends)\n");
    }
    text
}

/// What the shim says of a descriptor.
fn purpose(said: Option<&Descriptor>) -> Vec<String> {
    let Some(said) = said.filter(|said| !said.purpose.is_empty()) else {
        return Vec::new();
    };
    let mut text = clean(&said.purpose);
    for name in [&said.container, &said.exec] {
        if !name.is_empty() {
            text.push_str(&format!(" {}", clean(name)));
        }
    }
    vec![text]
}

/// So long it is looked for other ends: a node may have very many processes.
const LOOK: Duration = Duration::from_millis(40);

/// Who holds which socket, pipe and FIFO.
struct Peers {
    holders: BTreeMap<String, Vec<i32>>,
    sockets: Option<Asker>,
    /// Not all processes were looked at.
    is_cut: bool,
}

impl Peers {
    fn look() -> Self {
        let end = Instant::now() + LOOK;
        let mut peers = Self {
            holders: BTreeMap::new(),
            sockets: Asker::new(),
            is_cut: false,
        };
        // The newest first: those that have to do with containers, more often than not.
        for pid in numbers("/proc").into_iter().rev() {
            if Instant::now() > end {
                peers.is_cut = true;
                break;
            }
            for fd in numbers(&format!("/proc/{pid}/fd")) {
                let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else {
                    continue;
                };
                let target = target.display().to_string();
                let ends = ["socket:", "pipe:", "/run/"];
                if !ends.iter().any(|begin| target.starts_with(begin)) {
                    continue;
                }
                let all = peers.holders.entry(target).or_default();
                if all.last() != Some(&pid) {
                    all.push(pid);
                }
            }
        }
        peers
    }

    /// What is known of the other ends of this file.
    fn of(&self, target: &str, own: i32) -> Vec<String> {
        let mut parts = Vec::new();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .and_then(|inode| inode.parse().ok());
        let socket = inode.and_then(|inode| self.sockets.as_ref()?.ask(inode));
        if let Some(socket) = socket {
            if !socket.path.is_empty() {
                parts.push(clean(&socket.path));
            }
            let peer = self.holders(&format!("socket:[{}]", socket.peer), own);
            if !peer.is_empty() {
                parts.push(format!("peer {peer}"));
            }
        }
        let others = self.holders(target, own);
        if !others.is_empty() {
            parts.push(format!("also held by {others}"));
        }
        parts
    }

    fn holders(&self, target: &str, own: i32) -> String {
        let holders = self.holders.get(target).into_iter().flatten();
        let names = holders
            .filter(|pid| **pid != own)
            .take(8)
            .map(|pid| format!("{} ({pid})", comm(*pid)));
        names.collect::<Vec<_>>().join(", ")
    }
}

fn comm(pid: i32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    clean(comm.trim())
}

fn numbers(path: &str) -> Vec<i32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut all: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

/// The files of a container's cgroups that say something.
pub(crate) fn cgroups(paths: &[String]) -> String {
    let mut text = String::new();
    for directory in directories(paths) {
        let _ = writeln!(text, "{}", directory.display());
        for name in [
            "cgroup.procs",
            "cgroup.events",
            "cgroup.freeze",
            "freezer.state",
            "cpu.max",
            "cpu.stat",
            "cpu.pressure",
            "cpu.weight",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpuset.cpus",
            "memory.current",
            "memory.max",
            "memory.high",
            "memory.events",
            "memory.pressure",
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            "memory.oom_control",
            "memory.failcnt",
            "io.stat",
            "io.pressure",
            "pids.current",
            "pids.max",
        ] {
            let Ok(value) = fs::read_to_string(directory.join(name)) else {
                continue;
            };
            let mut value = value.trim().replace('\n', " | ");
            if value.len() > LONGEST {
                value.truncate(LONGEST);
                value.push('…');
            }
            if !value.is_empty() {
                let _ = writeln!(text, "  {name}: {}", clean(&value));
            }
        }
    }
    text
}

/// The directories of cgroup paths in all hierarchies.
fn directories(paths: &[String]) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let roots = table
        .lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "));
    let roots: Vec<&Path> = roots
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
        .collect();
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| path.len() > 1) {
        // The shim tells directories, the kernel paths below each hierarchy's root.
        let is_whole = roots.iter().any(|root| Path::new(path).starts_with(root));
        let places: Vec<PathBuf> = match is_whole {
            true => vec![PathBuf::from(path)],
            false => roots
                .iter()
                .map(|root| root.join(path.trim_start_matches('/')))
                .collect(),
        };
        for directory in places {
            if directory.is_dir() && !found.contains(&directory) {
                found.push(directory);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_from_outside() {
        let own = std::process::id() as i32;
        assert!(process(own).contains("State: "));
        assert!(threads(own).contains("wchan"));
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let said = Descriptor {
            fd: std::os::fd::AsRawFd::as_raw_fd(&reader),
            purpose: "log pipe".into(),
            container: "c1".into(),
            ..Descriptor::new()
        };
        let text = descriptors(own, &[said]);
        let line = text.lines().find(|line| line.contains("log pipe c1"));
        assert!(line.is_some_and(|line| line.contains("pipe:[")), "{text}");
        drop((reader, writer));
        assert!(process(-1).is_empty());
    }
}
