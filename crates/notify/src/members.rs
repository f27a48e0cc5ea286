// SPDX-License-Identifier: Apache-2.0
//! Who is in a container, and which process of the host a container's pid means.

use std::path::{Path, PathBuf};

/// What the relay asks about a container's processes. All pids are ours, unless said otherwise.
pub trait Members {
    /// Whether a process is in the container's cgroup.
    fn contains(&self, pid: i32) -> bool;

    /// The process that a member, `sender`, knows as `pid`; itself a member.
    fn translate(&self, sender: i32, pid: i32) -> Option<i32>;

    /// How far the container's `CLOCK_MONOTONIC` is ahead of ours, in microseconds.
    fn clock_offset_usec(&self) -> i128;
}

/// The members of a cgroup, as `/proc` knows them.
#[derive(Debug)]
pub struct Processes {
    /// All of them.
    pub pids: Vec<i32>,
    /// The container's init.
    pub init: i32,
}

impl Members for Processes {
    fn contains(&self, pid: i32) -> bool {
        self.pids.contains(&pid)
    }

    fn translate(&self, sender: i32, pid: i32) -> Option<i32> {
        let own = pids_by_depth(sender)?;
        // Usually a process speaks of itself.
        if own.last() == Some(&pid) && self.contains(sender) {
            return Some(sender);
        }
        // Else the pid must be of the container's own PID namespace. All of the cgroup's processes
        // are in that namespace or in one below it, so the pid at its depth is unique.
        if !same_namespace(sender, self.init) {
            return None;
        }
        let depth = own.len() - 1;
        let is_meant = |member: &&i32| {
            pids_by_depth(**member).is_some_and(|pids| pids.get(depth) == Some(&pid))
        };
        self.pids.iter().find(is_meant).copied()
    }

    fn clock_offset_usec(&self) -> i128 {
        let path = of(self.init, "timens_offsets");
        std::fs::read_to_string(path).map_or(0, |text| monotonic_offset(&text))
    }
}

fn of(pid: i32, file: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(file)
}

/// A process's pids, in our PID namespace first, in its own last.
fn pids_by_depth(pid: i32) -> Option<Vec<i32>> {
    parse_pids(&std::fs::read_to_string(of(pid, "status")).ok()?)
}

fn parse_pids(status: &str) -> Option<Vec<i32>> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let pids: Result<Vec<i32>, _> = line.split_whitespace().map(str::parse).collect();
    pids.ok().filter(|pids| !pids.is_empty())
}

fn same_namespace(one: i32, other: i32) -> bool {
    let namespace = |pid| std::fs::read_link(of(pid, "ns/pid")).ok();
    namespace(one).is_some_and(|one| namespace(other) == Some(one))
}

/// The first clock of `/proc/<pid>/timens_offsets`: seconds and nanoseconds.
fn monotonic_offset(text: &str) -> i128 {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("monotonic")) else {
        return 0;
    };
    let mut fields = line.split_whitespace().map(str::parse::<i128>);
    match (fields.next(), fields.next()) {
        (Some(Ok(seconds)), Some(Ok(nanoseconds))) => seconds * 1_000_000 + nanoseconds / 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_and_offsets_are_read_from_what_the_kernel_writes() {
        let status = "Name:\tsh\nNStgid:\t4711\t12\nNSpid:\t4711\t12\t1\nNSpgid:\t1\n";
        assert_eq!(parse_pids(status), Some(vec![4711, 12, 1]));
        assert_eq!(parse_pids("Name:\tsh\n"), None);
        let offsets = "monotonic           86400         0\nboottime       0   0\n";
        assert_eq!(monotonic_offset(offsets), 86_400_000_000);
        assert_eq!(monotonic_offset("monotonic -1 500000000\n"), -500_000);
        assert_eq!(monotonic_offset(""), 0);
    }

    #[test]
    fn a_process_that_speaks_of_itself_or_of_a_neighbour_is_found() {
        let own = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let other = child.id() as i32;
        let members = Processes {
            pids: vec![own, other],
            init: own,
        };
        let in_namespace = |pid| *pids_by_depth(pid).unwrap().last().unwrap();
        assert_eq!(members.translate(own, in_namespace(own)), Some(own));
        assert_eq!(members.translate(own, in_namespace(other)), Some(other));
        assert_eq!(members.clock_offset_usec(), 0);
        let alone = Processes {
            pids: vec![own],
            init: own,
        };
        assert_eq!(alone.translate(own, in_namespace(other)), None);
        assert!(!alone.contains(other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(members.translate(own, in_namespace(own) + 1_000_000), None);
    }
}
