// SPDX-License-Identifier: Apache-2.0
//! What the kernel tells of a shim without its help: also of one that hangs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Open files, with the other ends of sockets and pipes.
pub(crate) fn descriptors(pid: i32) -> String {
    let peers = Peers::look();
    let mut text = String::new();
    for fd in numbers(&format!("/proc/{pid}/fd")) {
        let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else {
            continue;
        };
        let target = clean(&target.display().to_string());
        let other = peers.of(&target, pid);
        let _ = writeln!(text, "{fd:>5}  {target}{other}");
    }
    text
}

/// Who holds which socket and pipe.
struct Peers {
    holders: BTreeMap<String, Vec<i32>>,
    /// Paths of Unix sockets by inode.
    paths: BTreeMap<String, String>,
}

impl Peers {
    fn look() -> Self {
        let mut holders: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for pid in numbers("/proc") {
            for fd in numbers(&format!("/proc/{pid}/fd")) {
                let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else {
                    continue;
                };
                let target = target.display().to_string();
                if !target.starts_with("socket:")
                    && !target.starts_with("pipe:")
                    && !target.starts_with("/run/")
                {
                    continue;
                }
                let all = holders.entry(target).or_default();
                if all.last() != Some(&pid) {
                    all.push(pid);
                }
            }
        }
        let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let paths = table.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_whitespace();
            let inode = fields.nth(6)?;
            Some((format!("socket:[{inode}]"), fields.next()?.to_owned()))
        });
        Self {
            holders,
            paths: paths.collect(),
        }
    }

    fn of(&self, target: &str, own: i32) -> String {
        let mut parts = Vec::new();
        if let Some(path) = self.paths.get(target) {
            parts.push(clean(path));
        }
        let others = self.holders.get(target).into_iter().flatten();
        let others: Vec<String> = others
            .filter(|pid| **pid != own)
            .take(8)
            .map(|pid| format!("{} ({pid})", comm(*pid)))
            .collect();
        if !others.is_empty() {
            parts.push(format!("also held by {}", others.join(", ")));
        }
        match parts.is_empty() {
            true => String::new(),
            false => format!("  {}", parts.join("; ")),
        }
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
    for path in paths {
        for root in &roots {
            let directory = root.join(path.trim_start_matches('/'));
            if path.len() > 1 && directory.is_dir() && !found.contains(&directory) {
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
        let text = descriptors(own);
        assert!(text.contains("pipe:["), "{text}");
        drop((reader, writer));
        assert!(process(-1).is_empty());
    }
}
