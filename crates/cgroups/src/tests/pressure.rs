// SPDX-License-Identifier: Apache-2.0
//! Memory pressure on the machine's real hierarchies, of processes that really have too little.

use super::*;
use crate::oom::Interest;
use crate::pressure::{Level, Setting};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A cgroup with little memory.
fn short_of_memory(top: &Top) -> Cgroup {
    let cgroup = top.create("x");
    let mut limits = Limits::default();
    limits.memory.limit = Some(8 << 20);
    cgroup.set_limits(&limits).unwrap();
    cgroup
}

/// Writes more to a file than there is memory for, over and over.
fn writer(cgroup: &Cgroup, folder: &Path) -> Process {
    let file = folder.join("x").display().to_string();
    let write = format!("dd if=/dev/zero of={file} bs=1M count=24 conv=notrunc 2>/dev/null");
    Process::joining(cgroup, &format!("while {write}; do :; done"))
}

/// Whether the kernel signals any level in time.
fn signalled(watch: &Pressure) -> bool {
    let mut polls: Vec<_> = watch
        .polls()
        .map(|(_, fd, interest)| match interest {
            Interest::Readable => PollFd::from_borrowed_fd(fd, PollFlags::IN),
            Interest::Priority => PollFd::from_borrowed_fd(fd, PollFlags::PRI),
        })
        .collect();
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let ready = poll(&mut polls, Some(&limit)).unwrap();
    ready > 0 && !polls.iter().any(|p| p.revents().contains(PollFlags::ERR))
}

#[test]
fn a_process_without_enough_memory_is_signalled_by_v1() {
    let (top, folder) = (Top::new(), tempfile::tempdir().unwrap());
    let cgroup = short_of_memory(&top);
    if cgroup.v1_place("memory").is_none() {
        eprintln!("SKIPPED: the memory controller is not on v1");
        return;
    }
    let watch = Pressure::watch(&cgroup, Setting::Auto).unwrap().unwrap();
    assert_eq!(watch.polls().count(), 3);
    assert!(!watch.blocks_at_end() && watch.source() == "memory.pressure_level");
    assert_eq!(watch.take_signals(), [0; 3]);
    let writer = writer(&cgroup, folder.path());
    assert!(signalled(&watch));
    let mut counted = watch.take_signals();
    eventually("more than one signal", || {
        for (sum, more) in counted.iter_mut().zip(watch.take_signals()) {
            *sum += more;
        }
        counted.iter().sum::<u64>() > 1
    });
    drop(writer);
}

/// Stalls are accounted to the v2 cgroup, whoever has the memory controller.
#[test]
fn a_process_that_waits_for_memory_is_signalled_by_psi() {
    let (top, folder) = (Top::new(), tempfile::tempdir().unwrap());
    let cgroup = short_of_memory(&top);
    // The least there is: whatever it waits is enough.
    let least = Setting::decide(Some("low=some 1 2000000")).unwrap();
    let Some(watch) = Pressure::watch(&cgroup, least).unwrap() else {
        eprintln!("SKIPPED: no pressure stall information, or no cgroup v2");
        return;
    };
    assert!(watch.blocks_at_end() && watch.source() == "psi");
    let levels: Vec<_> = watch.polls().map(|(level, ..)| level).collect();
    assert_eq!(levels, [Level::Low]);
    let writer = writer(&cgroup, folder.path());
    assert!(signalled(&watch));
    drop(writer);
    // The capability that is laid down for a moment is back.
    let sets = rustix::thread::capabilities(None).unwrap();
    assert_eq!(sets.effective, sets.permitted);
}

#[test]
fn nothing_is_watched_where_that_is_not_wanted_or_not_possible() {
    let top = Top::new();
    let cgroup = top.create("x");
    assert!(Pressure::watch(&cgroup, Setting::Off).unwrap().is_none());
    cgroup.remove().unwrap();
    assert!(Pressure::watch(&cgroup, Setting::On).unwrap().is_none());
    let few = top.create_in("few", |key| key == "pids");
    if let Some(few) = few {
        assert!(Pressure::watch(&few, Setting::On).unwrap().is_none());
    }
}
