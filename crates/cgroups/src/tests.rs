// SPDX-License-Identifier: Apache-2.0
//! On the machine's real hierarchies, below a directory of the test's own.
//!
//! Requires root and a writable cgroup file system, of whichever mode.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::FdFlags;

use super::*;
use crate::record::Place;

mod devices;
mod felt;
mod limits;
mod pressure;
mod stats;

/// A top directory that only this test uses, in all hierarchies; gone when dropped.
pub(crate) struct Top {
    layout: Layout,
    name: String,
}

impl Top {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            layout: Layout::detect().unwrap(),
            name: format!("shim-test-{}-{number}", std::process::id()),
        }
    }

    fn plan(&self, name: &str) -> Record {
        let path = format!("/{}/{name}", self.name);
        Cgroup::plan(&self.layout, Driver::Cgroupfs, Some(&path), "id").unwrap()
    }

    pub(crate) fn create(&self, name: &str) -> Cgroup {
        Cgroup::create(&self.layout, &self.plan(name)).unwrap()
    }

    /// A cgroup in some of the hierarchies, by their keys in a record.
    fn create_in(&self, name: &str, wanted: impl Fn(&str) -> bool) -> Option<Cgroup> {
        let mut paths = self.plan(name).paths().clone();
        paths.retain(|key, _| wanted(key));
        if paths.is_empty() {
            return None;
        }
        let record = serde_json::from_value(serde_json::json!({ "cgroup_paths": paths })).unwrap();
        Some(Cgroup::create(&self.layout, &record).unwrap())
    }

    /// A directory made in one hierarchy.
    pub(crate) fn any_place(&self) -> (Layout, Place) {
        let cgroup = self.create("any");
        let place = cgroup.places().last().unwrap().clone();
        (self.layout.clone(), place)
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let cgroup = Cgroup::open(&self.layout, &self.plan("")).unwrap();
        cgroup.kill().unwrap();
        cgroup.remove().unwrap();
        for path in cgroup.record().paths().values() {
            assert!(!Path::new(path).exists(), "{path} is left");
        }
    }
}

/// A child of the test, ended and reaped when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// A shell that joins by itself, single-threaded, as init does; and does then as told.
    pub(crate) fn joining(cgroup: &Cgroup, script: &str) -> Self {
        Self::joining_with(cgroup, script, Stdio::null())
    }

    fn joining_with(cgroup: &Cgroup, script: &str, input: Stdio) -> Self {
        let files = cgroup.join_files().unwrap();
        let mut join = String::new();
        for file in &files {
            rustix::io::fcntl_setfd(file, FdFlags::empty()).unwrap();
            let fd = file.as_raw_fd();
            join.push_str(&format!("echo 0 >&{fd} && exec {fd}>&- || exit 9; "));
        }
        // A shell is not born into the v2 directory as init is.
        if let Some(path) = cgroup.record().paths().get("") {
            join.push_str(&format!("echo 0 >{path}/cgroup.procs || exit 9; "));
        }
        Self::spawn_with(&format!("{join} {script}"), input)
    }

    fn spawn(script: &str) -> Self {
        Self::spawn_with(script, Stdio::null())
    }

    fn spawn_with(script: &str, input: Stdio) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", script]).stdin(input);
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// The signal that ended it.
    fn signal(mut self) -> Option<i32> {
        self.0.wait().unwrap().signal()
    }

    /// What it returned.
    fn code(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Usually dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_member(cgroup: &Cgroup, pid: i32) -> bool {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let ends: Vec<&str> = own
        .lines()
        .filter_map(|l| l.splitn(3, ':').nth(2))
        .collect();
    cgroup.places().iter().all(|place| {
        let path = format!("/{}", place.path);
        ends.iter().any(|end| end.ends_with(&path))
    }) && ends.iter().filter(|e| e.contains("shim-test-")).count() == cgroup.places().len()
}

fn exists_anywhere(record: &Record) -> bool {
    record.paths().values().any(|path| Path::new(path).exists())
}

#[test]
fn a_cgroup_is_made_in_every_hierarchy_and_removed_from_every_one() {
    let top = Top::new();
    let record = top.plan("a/b/c");
    let cgroup = Cgroup::create(&top.layout, &record).unwrap();
    for path in record.paths().values() {
        assert!(Path::new(path).is_dir(), "{path}");
    }
    assert!(cgroup.pids().unwrap().is_empty());
    assert!(!cgroup.populated().unwrap());
    assert_eq!(
        cgroup.clone_target().is_some(),
        top.layout.mode() != Mode::V1
    );
    cgroup.remove().unwrap();
    assert!(!exists_anywhere(&record));
    // Gone is empty, dead and removed.
    assert!(cgroup.pids().unwrap().is_empty());
    assert!(!cgroup.populated().unwrap());
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn on_v2_the_controllers_of_the_root_reach_the_container() {
    let top = Top::new();
    let cgroup = top.create("a/b/c");
    let (Mode::V2, Some(target)) = (top.layout.mode(), cgroup.clone_target()) else {
        return;
    };
    let all = top.layout.hierarchies()[0].available();
    let got = access::read(target, "cgroup.controllers").unwrap();
    assert_eq!(got.split_whitespace().collect::<Vec<_>>(), all);
    assert_eq!(access::read(target, "cgroup.subtree_control").unwrap(), "");
}

#[test]
fn a_child_joins_by_itself_and_its_children_are_seen() {
    let top = Top::new();
    let cgroup = top.create("x");
    let child = Process::joining(&cgroup, "sleep 1000 & wait");
    eventually("shell and sleep", || cgroup.pids().unwrap().len() == 2);
    assert!(cgroup.pids().unwrap().contains(&child.pid()));
    assert!(is_member(&cgroup, child.pid()));
    assert!(cgroup.populated().unwrap());
    cgroup.kill().unwrap();
    assert_eq!(child.signal(), Some(9));
    eventually("empty", || !cgroup.populated().unwrap());
    cgroup.remove().unwrap();
}

#[test]
fn a_child_is_born_into_the_v2_directory() {
    let top = Top::new();
    let cgroup = top.create("x");
    let Some(target) = cgroup.clone_target() else {
        assert_eq!(top.layout.mode(), Mode::V1);
        return;
    };
    let open = |path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, FileMode::empty());
    let (exe, null): (OwnedFd, OwnedFd) = (open("/bin/sleep").unwrap(), open("/dev/null").unwrap());
    let args = [
        CString::new("sleep").unwrap(),
        CString::new("1000").unwrap(),
    ];
    let child = sys::spawn::Spawn {
        exe: exe.as_fd(),
        args: &[&args[0], &args[1]],
        env: &[],
        namespaces: 0,
        cgroup: Some(target),
        channel: null.as_fd(),
    }
    .run()
    .unwrap();
    assert_eq!(cgroup.pids().unwrap(), [child.pid.as_raw_nonzero().get()]);
    assert!(cgroup.populated().unwrap());
    cgroup.kill().unwrap();
    let pidfd = rustix::process::WaitId::PidFd(child.pidfd.as_fd());
    let exit = rustix::process::waitid(pidfd, rustix::process::WaitIdOptions::EXITED).unwrap();
    assert_eq!(exit.unwrap().terminating_signal(), Some(9));
    cgroup.remove().unwrap();
}

#[test]
fn a_process_is_moved_from_outside() {
    let top = Top::new();
    let cgroup = top.create("x");
    let child = Process::spawn("sleep 1000");
    cgroup.add_process(child.pid()).unwrap();
    assert!(is_member(&cgroup, child.pid()));
    // Removal waits for who is dying, and gives up on who is not.
    let error = cgroup.remove().unwrap_err();
    assert_eq!(error.errno(), Some(sys::Errno::BUSY), "{error}");
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(child.signal(), Some(9));
}

/// 10 shells that fork without pause, 40 that sleep.
const BROOD: &str = "for i in {1..10}; do (while :; do /bin/true; done) & done; \
                     for i in {1..40}; do sleep 1000 & done; wait";

#[test]
fn a_tree_that_keeps_forking_is_killed() {
    let top = Top::new();
    let cgroup = top.create("x");
    let child = Process::joining(&cgroup, BROOD);
    eventually("brood", || cgroup.pids().unwrap().len() > 50);
    cgroup.kill().unwrap();
    eventually("empty", || cgroup.pids().unwrap().is_empty());
    assert_eq!(child.signal(), Some(9));
    cgroup.remove().unwrap();
}

#[test]
fn a_tree_that_keeps_forking_is_killed_without_cgroup_kill() {
    let top = Top::new();
    let cgroup = top.create("x");
    let child = Process::joining(&cgroup, BROOD);
    eventually("brood", || cgroup.pids().unwrap().len() > 50);
    cgroup.kill_one_by_one().unwrap();
    assert!(cgroup.pids().unwrap().is_empty());
    assert_eq!(child.signal(), Some(9));
    cgroup.remove().unwrap();
}

#[test]
fn a_tree_that_keeps_forking_is_killed_without_any_freezer() {
    let top = Top::new();
    // As on a v1 machine that has not mounted one.
    let Some(cgroup) = top.create_in("x", |key| !["", "freezer"].contains(&key)) else {
        assert_eq!(top.layout.mode(), Mode::V2);
        return;
    };
    assert!(cgroup.clone_target().is_none());
    let child = Process::joining(&cgroup, BROOD);
    eventually("brood", || cgroup.pids().unwrap().len() > 50);
    cgroup.kill().unwrap();
    assert!(cgroup.pids().unwrap().is_empty());
    assert_eq!(child.signal(), Some(9));
    cgroup.remove().unwrap();
}

#[test]
fn what_is_frozen_is_killed_even_where_it_froze_itself() {
    let top = Top::new();
    for kill in [Cgroup::kill, Cgroup::kill_one_by_one] {
        let cgroup = top.create("x");
        let inner = top.create("x/inner");
        let child = Process::joining(&top.create("x/other"), "sleep 1000 & wait");
        let nested = Process::joining(&inner, "sleep 1000 & wait");
        eventually("all", || cgroup.pids().unwrap().len() == 4);
        set_frozen(&cgroup, true);
        set_frozen(&inner, true);
        kill(&cgroup).unwrap();
        eventually("empty", || !cgroup.populated().unwrap());
        assert_eq!((child.signal(), nested.signal()), (Some(9), Some(9)));
        cgroup.remove().unwrap();
    }
}

fn set_frozen(cgroup: &Cgroup, frozen: bool) {
    let (path, value) = match (cgroup.v1_place("freezer"), cgroup.unified_place()) {
        (Some(_), _) => {
            let path = &cgroup.record().paths()["freezer"];
            let value = if frozen { "FROZEN" } else { "THAWED" };
            (format!("{path}/freezer.state"), value)
        }
        (None, Some(_)) => {
            let path = &cgroup.record().paths()[""];
            (
                format!("{path}/cgroup.freeze"),
                if frozen { "1" } else { "0" },
            )
        }
        (None, None) => return,
    };
    fs::write(path, value).unwrap();
}

#[test]
fn a_cgroup_in_use_is_refused_and_left_alone() {
    let top = Top::new();
    let cgroup = top.create("x");
    let child = Process::joining(&cgroup, "sleep 1000 & wait");
    eventually("both", || cgroup.pids().unwrap().len() == 2);
    let error = Cgroup::create(&top.layout, cgroup.record()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "container's cgroup is not empty: 2 process(es) found"
    );
    // Also when they are further down.
    let error = Cgroup::create(&top.layout, &top.plan("")).unwrap_err();
    assert!(matches!(error, Error::NotEmpty { count: 2 }), "{error}");
    assert!(is_member(&cgroup, child.pid()));
}

#[test]
fn a_frozen_cgroup_is_refused_new_or_old() {
    let top = Top::new();
    let cgroup = top.create("x");
    set_frozen(&cgroup, true);
    let inner = top.plan("x/inner");
    for record in [cgroup.record(), &inner] {
        let error = Cgroup::create(&top.layout, record).unwrap_err();
        assert!(matches!(error, Error::Frozen), "{error}");
    }
    assert!(!exists_anywhere(&inner));
    set_frozen(&cgroup, false);
    // Empty and thawed, it is taken over.
    Cgroup::create(&top.layout, cgroup.record()).unwrap();
}

#[test]
fn a_failed_creation_takes_back_what_it_made() {
    let top = Top::new();
    let parent = top.create("stays");
    // A file is in the way of an ancestor.
    let record = top.plan("new/deep/cgroup.procs/x");
    let error = Cgroup::create(&top.layout, &record).unwrap_err();
    assert_eq!(error.errno(), Some(sys::Errno::NOTDIR), "{error}");
    assert!(!exists_anywhere(&top.plan("new")));
    // A file of one hierarchy is in the way of the last directory.
    let file = match parent.v1_place("freezer") {
        Some(_) => "freezer.state",
        None => "cgroup.procs",
    };
    let record = top.plan(&format!("stays/{file}"));
    let error = Cgroup::create(&top.layout, &record).unwrap_err();
    assert_eq!(error.errno(), Some(sys::Errno::NOTDIR), "{error}");
    for path in record.paths().values() {
        assert!(!Path::new(path).is_dir(), "{path}");
        assert!(Path::new(path).parent().unwrap().is_dir(), "{path}");
    }
}

#[test]
fn cgroups_made_by_the_container_are_removed_however_deep() {
    let top = Top::new();
    let cgroup = top.create("x");
    let place = cgroup.unified_place().or(cgroup.v1_witness()).unwrap();
    let root = place.hierarchy(&top.layout).root();
    let start = access::open_directory(root, &place.path).unwrap();
    // Longer than any path may be.
    let name = "n".repeat(100);
    let mut directory = start.try_clone().unwrap();
    for _ in 0..50 {
        assert!(access::make_directory(&directory, "side").unwrap());
        assert!(access::make_directory(&directory, &name).unwrap());
        directory = access::open_directory(&directory, &name).unwrap();
    }
    let child = Process::spawn("sleep 1000");
    access::write(&directory, "cgroup.procs", &child.pid().to_string()).unwrap();
    assert_eq!(cgroup.pids().unwrap(), [child.pid()]);
    cgroup.kill_one_by_one().unwrap();
    assert_eq!(child.signal(), Some(9));
    cgroup.remove().unwrap();
    assert!(!exists_anywhere(cgroup.record()));
}

#[test]
fn a_saved_record_is_enough_to_clean_up() {
    let top = Top::new();
    let cgroup = top.create("x");
    let child = Process::joining(&cgroup, "sleep 1000 & wait");
    eventually("both", || cgroup.pids().unwrap().len() == 2);
    let saved = serde_json::to_string(cgroup.record()).unwrap();
    drop(cgroup);

    let record: Record = serde_json::from_str(&saved).unwrap();
    let cgroup = Cgroup::open(&Layout::detect().unwrap(), &record).unwrap();
    assert!(cgroup.pids().unwrap().contains(&child.pid()));
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(child.signal(), Some(9));
    // And once more when nothing is left.
    let cgroup = Cgroup::open(&Layout::detect().unwrap(), &record).unwrap();
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn containers_created_at_once_share_a_new_parent() {
    for _ in 0..20 {
        let top = Top::new();
        std::thread::scope(|scope| {
            for i in 0..4 {
                let top = &top;
                scope.spawn(move || {
                    let cgroup = top.create(&format!("new/pod/{i}"));
                    // A cpuset without CPUs would refuse it.
                    let child = Process::spawn("sleep 1000");
                    cgroup.add_process(child.pid()).unwrap();
                    cgroup.kill().unwrap();
                    cgroup.remove().unwrap();
                });
            }
        });
    }
}

#[test]
fn the_shim_is_moved_to_the_cgroup_of_its_option() {
    let top = Top::new();
    let path = format!("/{}/shim", top.name);
    let child = Process::spawn("sleep 1000");
    if top.layout.mode() == Mode::V2 {
        let error = join_shim(&top.layout, &path, child.pid()).unwrap_err();
        assert_eq!(error.errno(), Some(sys::Errno::NOENT), "{error}");
    }
    let cgroup = top.create("shim");
    join_shim(&top.layout, &path, child.pid()).unwrap();
    assert!(is_member(&cgroup, child.pid()));
    if top.layout.mode() == Mode::Hybrid {
        // Made on v1 only.
        join_shim(&top.layout, &format!("{path}-new"), child.pid()).unwrap();
        let made = top.plan("shim-new");
        for (key, path) in made.paths() {
            assert_eq!(Path::new(path).is_dir(), !key.is_empty(), "{path}");
        }
    }
    assert!(join_shim(&top.layout, "a\0b", child.pid()).is_err());
}
