// SPDX-License-Identifier: Apache-2.0
//! Statistics, OOM and the freezer on the machine's real hierarchies.

use super::*;
use crate::oom::{Interest, Look};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What this process has on the heap and elsewhere, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    words.and_then(|number| number.parse().ok()).unwrap()
}

#[test]
fn stats_are_those_of_the_processes_in_it() {
    let top = Top::new();
    let cgroup = top.create("x");
    let process = Process::spawn("exec sleep 1000");
    cgroup.add_process(process.pid()).unwrap();
    let stats = cgroup.stats();
    assert_eq!(stats.pids.unwrap().current, 1);
    assert!(
        stats
            .memory
            .is_some_and(|memory| memory.stat().count() > 20)
    );
    // Removed, it tells nothing, and nothing fails.
    let empty = top.create("y");
    empty.remove().unwrap();
    let stats = empty.stats();
    assert!(stats.memory.is_none() && stats.pids.is_none());
}

/// `E2E_SCALE=full` makes it a million.
#[test]
fn reading_stats_again_and_again_takes_no_more_memory() {
    let full = std::env::var("E2E_SCALE").is_ok_and(|scale| scale == "full");
    let rounds = if full { 1_000_000 } else { 2_000 };
    let top = Top::new();
    let cgroup = top.create("x");
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    for _ in 0..200 {
        cgroup.stats();
    }
    let (before, begun) = (resident(), Instant::now());
    for _ in 0..rounds {
        cgroup.stats();
    }
    let each = begun.elapsed() / rounds;
    let (after, open) = (resident(), descriptors());
    // Other tests of this process run at the same time.
    assert!(after < before + 16 * 1024, "{before} kB, then {after} kB");
    assert!(open < 500, "{open} descriptors");
    // 0.3 ms on a machine that does nothing else.
    assert!(each < Duration::from_millis(10), "{each:?} each");
}

#[test]
fn a_kill_for_memory_is_counted_and_wakes() {
    let top = Top::new();
    let cgroup = top.create("x");
    let mut limits = Limits::default();
    limits.memory.limit = Some(8 << 20);
    cgroup.set_limits(&limits).unwrap();
    let mut oom = Oom::since(cgroup.oom_kills());
    oom.watch(&cgroup).unwrap();
    assert_eq!(oom.look(&cgroup), Look::Quiet);
    let tasks = "echo $$ > \"$1/cgroup.procs\" && exec tail /dev/zero";
    let (place, _) = cgroup.memory_place().unwrap();
    let folder = place.hierarchy(cgroup.layout()).absolute(&place.path);
    let mut child = Command::new("sh")
        .args(["-c", tasks, "sh", &folder])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (fd, interest) = oom.poll().unwrap();
    let flags = match interest {
        Interest::Readable => PollFlags::IN,
        Interest::Priority => PollFlags::PRI,
    };
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    assert_eq!(
        poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&limit)),
        Ok(1)
    );
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(oom.look(&cgroup), Look::Killed);
    assert_eq!(oom.last().oom_kill, 1);
    assert_eq!(oom.look(&cgroup), Look::Quiet);
    // Its removal is none.
    cgroup.remove().unwrap();
    assert_eq!(oom.look(&cgroup), Look::Gone);
}

#[test]
fn frozen_processes_stand_still_until_thawed() {
    let top = Top::new();
    let cgroup = top.create("x");
    let process = Process::spawn("exec sleep 1000");
    cgroup.add_process(process.pid()).unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    // Nobody in it: it freezes at once.
    let empty = top.create("y");
    empty.freeze().unwrap();
    empty.thaw().unwrap();
    empty.remove().unwrap();
    assert!(empty.freeze().is_err());
}

#[test]
fn a_change_that_fails_is_taken_back() {
    let top = Top::new();
    let cgroup = top.create("x");
    let mut limits = Limits {
        pids: Some(7),
        ..Limits::default()
    };
    limits.memory.limit = Some(64 << 20);
    cgroup.set_limits(&limits).unwrap();
    let mut update = Limits {
        pids: Some(9),
        ..Limits::default()
    };
    update.memory.limit = Some(32 << 20);
    // Impossible on v1, and on v2.
    update.memory.swap = Some(16 << 20);
    assert!(cgroup.change_limits(&update, &limits).is_err());
    let stats = cgroup.stats();
    assert_eq!(stats.pids.unwrap().limit, 7);
    assert_eq!(stats.memory.unwrap().usage.limit, 64 << 20);
    update.memory.swap = None;
    let change = cgroup.change_limits(&update, &limits).unwrap();
    assert_eq!(cgroup.stats().pids.unwrap().limit, 9);
    assert!(change.undo().is_empty());
    let stats = cgroup.stats();
    assert_eq!(stats.pids.unwrap().limit, 7);
    assert_eq!(stats.memory.unwrap().usage.limit, 64 << 20);
}
