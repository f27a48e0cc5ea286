// SPDX-License-Identifier: Apache-2.0
//! Device rules as a process feels them.

use super::*;
use crate::devices::Verdict::{Allow, Deny};
use crate::devices::tests::{all, rule};
use crate::devices::{DeviceRules, Rule};

/// The cgroups in which rules can be tested: with the v1 controller, and with a v2 directory only.
fn cgroups(top: &Top) -> Vec<Cgroup> {
    let v1 = top.create_in("v1", |key| key == "devices");
    let v2 = top.create_in("v2", |key| key.is_empty());
    let all: Vec<Cgroup> = v1.into_iter().chain(v2).collect();
    assert!(!all.is_empty());
    all
}

/// Device nodes made before any rule; removed when dropped.
struct Nodes(std::path::PathBuf);

impl Nodes {
    /// null, zero, kmsg, and a block device that need not exist.
    const ALL: [(&str, &str); 4] = [
        ("null", "c 1 3"),
        ("zero", "c 1 5"),
        ("kmsg", "c 1 11"),
        ("disk", "b 259 4095"),
    ];

    fn new(top: &Top) -> Self {
        // Device nodes work there; often they do not where temporary files are.
        let directory = Path::new("/dev").join(&top.name);
        fs::create_dir(&directory).unwrap();
        let nodes = Self(directory);
        for (name, numbers) in Self::ALL {
            let path = nodes.0.join(name);
            let mut mknod = Command::new("mknod");
            mknod.arg(path).args(numbers.split(' '));
            assert!(mknod.status().unwrap().success());
        }
        nodes
    }

    /// What opening or making a node gives in the cgroup: `Ok`, or the text of the error.
    fn attempt(&self, cgroup: &Cgroup, action: &str) -> std::result::Result<(), String> {
        let output = self.0.join("output");
        let (dir, out) = (self.0.display(), output.display());
        let script = format!("cd {dir}; exec 2>{out}; {action}");
        let code = Process::joining(cgroup, &script).code();
        match code {
            Some(0) => Ok(()),
            _ => Err(fs::read_to_string(output).unwrap()),
        }
    }

    #[track_caller]
    fn expect(&self, cgroup: &Cgroup, allowed: &[&str], denied: &[&str]) {
        for action in allowed {
            let result = self.attempt(cgroup, action);
            // Some nodes have no device; the rules come first.
            let denied = |text: &String| text.contains("Operation not permitted");
            assert!(!result.as_ref().is_err_and(denied), "{action}: {result:?}");
        }
        for action in denied {
            let text = self.attempt(cgroup, action).unwrap_err();
            assert!(text.contains("Operation not permitted"), "{action}: {text}");
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

const READ_NULL: &str = "exec <null";
const WRITE_NULL: &str = "exec 3>null";
const BOTH_NULL: &str = "exec 3<>null";
const READ_ZERO: &str = "exec <zero";
const READ_KMSG: &str = "exec <kmsg";
const WRITE_KMSG: &str = "exec 3>kmsg";
const BOTH_KMSG: &str = "exec 3<>kmsg";
const READ_DISK: &str = "exec <disk";
const MAKE_DISK: &str = "mknod new b 8 0 && rm new";

fn set(cgroup: &Cgroup, rules: &[Rule]) {
    let rules = DeviceRules::from_oci(rules).unwrap();
    cgroup.set_devices(&rules).unwrap();
    // Once more is no harm.
    cgroup.set_devices(&rules).unwrap();
}

#[test]
fn a_container_reads_null_but_neither_kmsg_nor_a_disk() {
    let top = Top::new();
    let nodes = Nodes::new(&top);
    for cgroup in cgroups(&top) {
        nodes.expect(&cgroup, &[READ_KMSG, READ_DISK, BOTH_NULL], &[]);
        set(&cgroup, &[all(Deny)]);
        nodes.expect(
            &cgroup,
            &[READ_NULL, WRITE_NULL, BOTH_NULL, READ_ZERO, MAKE_DISK],
            &[READ_KMSG, WRITE_KMSG, BOTH_KMSG, READ_DISK],
        );
        set(&cgroup, &[all(Deny), rule(Allow, "c 1:11 r")]);
        nodes.expect(
            &cgroup,
            &[READ_NULL, READ_KMSG],
            &[WRITE_KMSG, BOTH_KMSG, READ_DISK],
        );
        set(&cgroup, &[rule(Allow, "b 259:* rw")]);
        nodes.expect(&cgroup, &[READ_NULL, READ_DISK], &[READ_KMSG]);
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_privileged_container_reads_everything_but_what_it_is_denied() {
    let top = Top::new();
    let nodes = Nodes::new(&top);
    for cgroup in cgroups(&top) {
        set(&cgroup, &[all(Deny)]);
        nodes.expect(&cgroup, &[], &[READ_KMSG]);
        set(&cgroup, &[all(Allow)]);
        nodes.expect(&cgroup, &[READ_KMSG, READ_DISK, MAKE_DISK], &[]);
        set(&cgroup, &[all(Allow), rule(Deny, "c 1:11 w")]);
        nodes.expect(&cgroup, &[READ_KMSG, READ_DISK], &[WRITE_KMSG, BOTH_KMSG]);
        set(&cgroup, &[all(Deny)]);
        nodes.expect(&cgroup, &[READ_NULL], &[READ_KMSG, READ_DISK]);
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_running_process_never_misses_a_device_that_stays_allowed() {
    let top = Top::new();
    let nodes = Nodes::new(&top);
    for cgroup in cgroups(&top) {
        set(&cgroup, &[]);
        let done = nodes.0.join("done");
        let script = format!(
            "cd {}; while [ ! -e done ]; do : <null || exit 7; done",
            nodes.0.display()
        );
        let reader = Process::joining(&cgroup, &script);
        eventually("reader", || is_running(&cgroup, &reader));
        for _ in 0..100 {
            set(&cgroup, &[rule(Allow, "c 1:11 rw")]);
            set(&cgroup, &[rule(Allow, "c 1:* rw")]);
        }
        fs::write(&done, "").unwrap();
        assert_eq!(reader.code(), Some(0));
        fs::remove_file(&done).unwrap();
    }
}

fn is_running(cgroup: &Cgroup, process: &Process) -> bool {
    cgroup.pids().unwrap().contains(&process.pid())
}

#[test]
fn one_program_replaces_all_that_were_there() {
    let top = Top::new();
    let Some(cgroup) = top.create_in("v2", |key| key.is_empty()) else {
        assert_eq!(top.layout.mode(), Mode::V1);
        return;
    };
    let directory = cgroup.clone_target().unwrap();
    let attached = || sys::bpf::attached_device_programs(directory).unwrap().len();
    // A privileged container needs none.
    set(&cgroup, &[all(Allow)]);
    assert_eq!(attached(), 0);
    set(&cgroup, &[]);
    assert_eq!(attached(), 1);
    let other = sys::bpf::load_device_program(&[
        sys::bpf::Instruction::new(0xb4, 0, 0, 0, 0),
        sys::bpf::Instruction::new(0x95, 0, 0, 0, 0),
    ]);
    sys::bpf::attach_device_program(directory, other.unwrap(), None).unwrap();
    assert_eq!(attached(), 2);
    let nodes = Nodes::new(&top);
    nodes.expect(&cgroup, &[], &[READ_NULL]);
    set(&cgroup, &[]);
    assert_eq!(attached(), 1);
    nodes.expect(&cgroup, &[READ_NULL], &[READ_KMSG]);
    cgroup.remove().unwrap();
    // Gone: an error, and no rules that hold nowhere.
    let error = cgroup
        .set_devices(&DeviceRules::from_oci(&[]).unwrap())
        .unwrap_err();
    assert!(error.errno().is_some(), "{error}");
}
