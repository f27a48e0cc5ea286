// SPDX-License-Identifier: Apache-2.0
//! Limits that few ask for, as a process feels them. What a machine lacks is said: v1 alone knows
//! real-time and network marks, huge pages want hardware that has them, RDMA a device (the VM of
//! `scripts/test-vm` makes one in software, and has the network's controllers on v1 for a while).

use std::io::Write as _;

use rustix::pipe::PipeFlags;

use super::limits::{HugePages, Restored, cpu, file};
use super::*;
use crate::limits::{Cpu, Network, RdmaLimit};

const BUSY: &str = "while :; do :; done";

/// Processor time that the cgroup has used.
fn used(cgroup: &Cgroup) -> Duration {
    Duration::from_nanos(cgroup.stats().cpu.total)
}

fn wait_used(cgroup: &Cgroup, time: Duration) {
    eventually("processor time", || used(cgroup) >= time);
}

/// Works for 30 ms of processor time for each line that it gets.
const WORKER: &str = "\
import sys, time
for line in sys.stdin:
    end = time.process_time() + 0.03
    while time.process_time() < end:
        pass
";

/// A worker in a cgroup that may use 20 ms of 200.
struct Worker {
    cgroup: Cgroup,
    input: fs::File,
    _process: Process,
}

impl Worker {
    fn new(top: &Top, name: &str, burst: u64) -> Self {
        let cgroup = top.create(name);
        let (input, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let script = format!("exec python3 -c '{WORKER}'");
        let process = Process::joining_with(&cgroup, &script, input.into());
        let worker = Self {
            cgroup,
            input: end.into(),
            _process: process,
        };
        // Starting has cost what it may.
        worker.work();
        worker.rest();
        let limits = cpu(Cpu {
            quota: Some(20_000),
            period: Some(200_000),
            burst: Some(burst),
            ..Cpu::default()
        });
        worker.cgroup.set_limits(&limits).unwrap();
        worker
    }

    fn work(&self) {
        let before = used(&self.cgroup);
        (&self.input).write_all(b"\n").unwrap();
        wait_used(&self.cgroup, before + Duration::from_millis(30));
    }

    /// For longer than two periods.
    fn rest(&self) {
        let begun = Instant::now();
        let mut last = (used(&self.cgroup), begun);
        eventually("rest", || {
            let now = used(&self.cgroup);
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(500)
        });
    }
}

/// After a rest 30 ms of work are more than a quota of 20 ms, and less than what was saved up besides. On
/// a machine that is so busy that they take longer than a period it shows nothing, and is done again.
#[test]
fn who_has_saved_up_time_is_not_held_back_in_a_burst() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    let top = Top::new();
    let (strict, saving) = (
        Worker::new(&top, "strict", 0),
        Worker::new(&top, "saving", 20_000),
    );
    let stats = |worker: &Worker| worker.cgroup.stats().cpu;
    eventually("a burst", || {
        for worker in [&strict, &saving] {
            worker.rest();
            worker.work();
        }
        stats(&saving).bursts > 0 && stats(&strict).throttled_periods > 0
    });
    let seen = stats(&saving);
    assert_eq!(seen.throttled_periods, 0, "{seen:?}");
    assert!(seen.burst > 0, "{seen:?}");
    assert_eq!(stats(&strict).bursts, 0);
}

#[test]
fn who_is_idle_runs_when_nobody_else_wants_to() {
    let top = Top::new();
    let cgroup = |name: &str, idle| {
        let cgroup = top.create(name);
        let limits = cpu(Cpu {
            idle: Some(idle),
            cpus: Some("0".to_owned()),
            mems: Some("0".to_owned()),
            ..Cpu::default()
        });
        cgroup.set_limits(&limits).unwrap();
        cgroup
    };
    let (idle, other) = (cgroup("idle", 1), cgroup("other", 0));
    // Alone it has the processor.
    let _first = Process::joining(&idle, BUSY);
    wait_used(&idle, Duration::from_millis(100));
    let _second = Process::joining(&other, BUSY);
    wait_used(&other, Duration::from_millis(100));
    let share = |time: Duration| {
        let (a, b) = (used(&idle), used(&other));
        wait_used(&other, b + time);
        (used(&idle) - a, used(&other) - b)
    };
    let (a, b) = share(Duration::from_millis(500));
    assert!(a < b / 10, "idle {a:?}, beside {b:?}");
    // Equals again.
    let equal = cpu(Cpu {
        idle: Some(0),
        ..Cpu::default()
    });
    idle.set_limits(&equal).unwrap();
    let (a, b) = share(Duration::from_millis(500));
    assert!(a > b / 4, "no longer idle {a:?}, beside {b:?}");
}

#[test]
fn real_time_processes_get_the_time_that_they_are_given() {
    let top = Top::new();
    let cgroup = top.create("x");
    if file(&cgroup, "cpu", "cpu.rt_runtime_us", "none").is_none() {
        eprintln!("SKIPPED: no limits for real-time processes (v1 with CONFIG_RT_GROUP_SCHED)");
        return;
    }
    let real_time = |runtime, period| {
        cpu(Cpu {
            realtime_runtime: Some(runtime),
            realtime_period: Some(period),
            ..Cpu::default()
        })
    };
    let fifo = ["--fifo", "1", "true"];
    let possible = Command::new("chrt").args(fifo).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no real-time processes here");
        return;
    }
    // Without time of its own nobody is a real-time process there.
    let refused = Process::joining(&cgroup, "exec chrt --fifo 1 true 2>/dev/null");
    assert_ne!(refused.code(), Some(0));
    let parent = Cgroup::create(&top.layout, &top.plan("")).unwrap();
    parent.set_limits(&real_time(100_000, 500_000)).unwrap();
    cgroup.set_limits(&real_time(10_000, 100_000)).unwrap();
    let allowed = Process::joining(&cgroup, "exec chrt --fifo 1 true");
    assert_eq!(allowed.code(), Some(0));
    let script = format!("exec chrt --fifo 1 bash -c '{BUSY}'");
    let _child = Process::joining(&cgroup, &script);
    wait_used(&cgroup, Duration::from_millis(20));
    let (begun, before) = (Instant::now(), used(&cgroup));
    std::thread::sleep(Duration::from_millis(500));
    let (got, time) = (used(&cgroup) - before, begun.elapsed());
    // A tenth, and the like of one period more at either end.
    assert!(got < time / 5, "{got:?} in {time:?}");
}

/// Reserved and never touched: what is in use is not limited by that.
#[test]
fn who_has_reserved_as_many_huge_pages_as_it_may_reserves_no_more() {
    let Some(huge) = HugePages::new() else { return };
    let cgroup = &huge.cgroup;
    let (v1, v2) = ("hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.2MB.rsvd.max");
    if file(cgroup, "hugetlb", v1, v2).is_none() {
        eprintln!("SKIPPED: no limit of reserved huge pages (Linux 5.7)");
        return;
    }
    let reserve = |pages: u32| {
        // MAP_HUGETLB.
        let flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000";
        let script = format!("import mmap; mmap.mmap(-1, {pages} << 21, flags={flags})");
        python(cgroup, &script) == Some(0)
    };
    assert!(reserve(1));
    assert!(!reserve(2));
    cgroup.set_limits(&HugePages::limits(2)).unwrap();
    assert!(reserve(2));
}

/// Runs a program in the cgroup; returns what it does.
fn python(cgroup: &Cgroup, script: &str) -> Option<i32> {
    let script = format!("exec python3 -c '{script}' 2>/dev/null");
    Process::joining(cgroup, &script).code()
}

/// Counts packets by their marks, as the host's firewall sees them.
struct Firewall(String);

impl Firewall {
    const PORT: u16 = 9;
    const CLASS: u32 = 0x10_0001;
    const PRIORITY: u32 = 3;

    /// `None`: no nftables here.
    fn new(top: &Top) -> Option<Self> {
        let table = top.name.replace('-', "_");
        let (port, class, priority) = (Self::PORT, Self::CLASS, Self::PRIORITY);
        let rules = format!(
            "table ip {table} {{\n\
             chain out {{ type filter hook output priority 0;\n\
             udp dport {port} meta cgroup {class} counter comment \"by-class\"\n}}\n\
             chain in {{ type filter hook input priority 0;\n\
             udp dport {port} meta priority 0:{priority} counter comment \"by-priority\"\n}}\n}}\n"
        );
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(rules.as_bytes()).ok()?;
        child.wait().ok()?.success().then_some(Self(table))
    }

    /// How many packets the rule has seen.
    fn count(&self, rule: &str) -> u32 {
        let list = ["list", "table", "ip", &self.0];
        let output = Command::new("nft").args(list).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains(rule));
        let mut words = line.unwrap().split(' ').skip_while(|w| *w != "packets");
        words.nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        let _ = Command::new("nft")
            .args(["delete", "table", "ip", &self.0])
            .status();
    }
}

/// Nothing mounts these controllers for the test; see `network_marks_are_set_where_v1_has_them`.
#[test]
fn packets_bear_the_marks_of_their_cgroup() {
    let top = Top::new();
    let (cgroup, other) = (top.create("x"), top.create("y"));
    if cgroup.v1_place("net_cls").is_none() || cgroup.v1_place("net_prio").is_none() {
        eprintln!("SKIPPED: no net_cls and net_prio on v1");
        return;
    }
    let Some(firewall) = Firewall::new(&top) else {
        eprintln!("SKIPPED: no nftables");
        return;
    };
    let limits = Limits {
        network: Network {
            class_id: Some(Firewall::CLASS),
            priorities: vec![("lo".to_owned(), Firewall::PRIORITY)],
        },
        ..Limits::default()
    };
    cgroup.set_limits(&limits).unwrap();
    let script = format!("echo x >/dev/udp/127.0.0.1/{}", Firewall::PORT);
    let counts = || (firewall.count("by-class"), firewall.count("by-priority"));
    assert_eq!(Process::joining(&other, &script).code(), Some(0));
    assert_eq!(counts(), (0, 0));
    assert_eq!(Process::joining(&cgroup, &script).code(), Some(0));
    eventually("the marks", || counts() == (1, 1));
}

/// The first RDMA device, and its file for programs.
fn rdma_device() -> Option<(String, String)> {
    let class = Path::new("/sys/class/infiniband_verbs");
    let mut files = fs::read_dir(class).ok()?.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let device = fs::read_to_string(class.join(&name).join("ibdev")).ok()?;
        Some((device.trim().to_owned(), format!("/dev/infiniband/{name}")))
    });
    files.next()
}

/// Opens a device for use, as `ibv_open_device(3)` does: by the command `GET_CONTEXT`.
const OPEN_RDMA: &str = "\
import ctypes, os, struct, sys
answer = ctypes.create_string_buffer(256)
call = struct.pack(\"=IHHQ\", 0, 4, 64, ctypes.addressof(answer))
handle = os.open(\"FILE\", os.O_RDWR)
try:
    os.write(handle, call)
except OSError as error:
    sys.exit(error.errno)
";

#[test]
fn who_has_as_many_rdma_handles_as_it_may_opens_no_device() {
    let top = Top::new();
    let _restored = Restored::new(&top);
    let top = top;
    let cgroup = top.create("a/x");
    let Some((device, path)) = rdma_device() else {
        eprintln!("SKIPPED: no RDMA device");
        return;
    };
    let limits = |handles| Limits {
        rdma: vec![RdmaLimit {
            device: device.clone(),
            handles: Some(handles),
            objects: Some(10),
        }],
        ..Limits::default()
    };
    if let Err(Error::NoController { .. }) = cgroup.set_limits(&limits(0)) {
        eprintln!("SKIPPED: no rdma controller");
        return;
    }
    let open = || python(&cgroup, &OPEN_RDMA.replace("FILE", &path));
    let again = rustix::io::Errno::AGAIN.raw_os_error();
    assert_eq!(open(), Some(again));
    cgroup.set_limits(&limits(1)).unwrap();
    assert_eq!(open(), Some(0));
    let stats = cgroup.stats().rdma;
    assert_eq!(stats[0].device, device);
    assert_eq!((stats[0].handle_limit, stats[0].object_limit), (1, 10));
}
