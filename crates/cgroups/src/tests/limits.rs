// SPDX-License-Identifier: Apache-2.0
//! Limits as a process feels them, on whichever version has the controller.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::pipe::PipeFlags;

use super::*;
use crate::limits::{BlockIo, Cpu, Device, HugepageLimit, Memory, Network, Rate, Throttle};

/// The file of a limit, by its name on v1 or on v2; `None` where the controller is missing.
pub(super) fn file(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str) -> Option<String> {
    let paths = cgroup.record().paths();
    let path = match (paths.get(controller), paths.get("")) {
        (Some(path), _) => format!("{path}/{v1}"),
        (None, path) => format!("{}/{v2}", path?),
    };
    let content = fs::read_to_string(path).ok()?;
    Some(content.trim().to_owned())
}

fn memory(limit: i64, swap: i64) -> Limits {
    Limits {
        memory: Memory {
            limit: Some(limit),
            swap: Some(swap),
            ..Memory::default()
        },
        ..Limits::default()
    }
}

pub(super) fn cpu(cpu: Cpu) -> Limits {
    Limits {
        cpu,
        ..Limits::default()
    }
}

#[test]
fn who_wants_more_memory_than_there_is_is_killed() {
    let top = Top::new();
    let cgroup = top.create("x");
    cgroup.set_limits(&memory(8 << 20, 8 << 20)).unwrap();
    let limit = file(&cgroup, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit, Some((8 << 20).to_string()));
    let child = Process::joining(&cgroup, "printf -v x '%100000000s'; echo alive");
    assert_eq!(child.signal(), Some(9));
    // More, and less again; as much as anybody wants.
    for limit in [64 << 20, 16 << 20, -1, 8 << 20] {
        cgroup.set_limits(&memory(limit, limit)).unwrap();
    }
    cgroup.set_limits(&memory(-1, 0)).unwrap();
    let child = Process::joining(&cgroup, "printf -v x '%100000000s'");
    assert_eq!(child.code(), Some(0));
}

#[test]
fn a_limit_of_memory_below_the_use_is_refused() {
    let top = Top::new();
    let cgroup = top.create("x");
    let ready = std::env::temp_dir().join(&top.name);
    let script = format!("printf -v x '%50000000s'; : >{}; read", ready.display());
    // Holds it until the end of its input.
    let (input, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let child = Process::joining_with(&cgroup, &script, input.into());
    eventually("allocated", || ready.exists());
    let mut limits = memory(1 << 20, 1 << 20);
    limits.memory.check_before_update = true;
    let error = cgroup.set_limits(&limits).unwrap_err().to_string();
    match cgroup.v1_place("memory") {
        Some(_) => assert!(
            error.starts_with("unable to set memory limit to 1048576 (current usage: "),
            "{error}"
        ),
        None => assert!(error.starts_with("rejecting memory"), "{error}"),
    }
    drop(end);
    assert_eq!(child.signal(), None);
    fs::remove_file(ready).unwrap();
}

#[test]
fn the_smallest_limits_run_true() {
    let top = Top::new();
    let cgroup = top.create("x");
    let limits = Limits {
        pids: Some(1),
        ..memory(512 << 10, 512 << 10)
    };
    cgroup.set_limits(&limits).unwrap();
    let child = Process::joining(&cgroup, "exec /bin/true");
    assert_eq!(child.code(), Some(0));
}

#[test]
fn who_has_as_many_processes_as_it_may_cannot_fork() {
    let top = Top::new();
    let cgroup = top.create("x");
    let limit = |pids| {
        let pids = Some(pids);
        cgroup.set_limits(&Limits {
            pids,
            ..Limits::default()
        })
    };
    let forking = || Process::joining(&cgroup, "exec sh -c '/bin/true; exit $?' 2>&-").code();
    for (pids, forks) in [(1, false), (0, false), (2, true), (-1, true)] {
        limit(pids).unwrap();
        assert_eq!(forking() == Some(0), forks, "{pids}");
    }
}

#[test]
fn a_process_runs_on_the_processors_that_it_is_given() {
    let top = Top::new();
    let cgroup = top.create("x");
    let child = Process::joining(&cgroup, "sleep 1000");
    eventually("member", || is_member(&cgroup, child.pid()));
    let cpus = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list"));
        line.unwrap().rsplit('\t').next().unwrap().to_owned()
    };
    let limits = |cpus: &str| {
        cpu(Cpu {
            cpus: Some(cpus.to_owned()),
            mems: Some("0".to_owned()),
            ..Cpu::default()
        })
    };
    cgroup.set_limits(&limits("0")).unwrap();
    assert_eq!(cpus(), "0");
    let error = cgroup.set_limits(&limits("0,9999")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/cpuset.cpus to \"0,9999\""), "{text}");
    assert!(error.errno().is_some(), "{text}");
    assert_eq!(cpus(), "0");
}

fn quota(quota: i64, period: u64, burst: u64) -> Limits {
    cpu(Cpu {
        quota: Some(quota),
        period: Some(period),
        burst: Some(burst),
        ..Cpu::default()
    })
}

#[test]
fn quota_period_and_burst_change_in_any_direction() {
    let top = Top::new();
    let parent = top.create("x");
    let cgroup = top.create("x/y");
    // Half of a processor for both: no child may have a greater part.
    parent.set_limits(&quota(50_000, 100_000, 0)).unwrap();
    let is = |quota: &str, period: &str| match cgroup.v1_place("cpu") {
        Some(_) => {
            let read = |name: &str| file(&cgroup, "cpu", name, "").unwrap();
            assert_eq!(read("cpu.cfs_quota_us"), quota);
            assert_eq!(read("cpu.cfs_period_us"), period);
        }
        None => {
            let both = format!("{quota} {period}").replace("-1", "max");
            assert_eq!(file(&cgroup, "cpu", "", "cpu.max"), Some(both));
        }
    };
    for (q, period, burst) in [
        (5000, 10_000, 5000),
        // The new period does not fit the old quota, and the new burst neither.
        (2000, 5000, 1000),
        (50_000, 100_000, 20_000),
        (1000, 100_000, 0),
    ] {
        cgroup.set_limits(&quota(q, period, burst)).unwrap();
        is(&q.to_string(), &period.to_string());
    }
    let period = cpu(Cpu {
        period: Some(50_000),
        ..Cpu::default()
    });
    cgroup.set_limits(&period).unwrap();
    is("1000", "50000");
    cgroup.set_limits(&quota(-1, 100_000, 0)).unwrap();
    is("-1", "100000");
    // Beyond the parent's: on v2 the smaller counts.
    let result = cgroup.set_limits(&quota(90_000, 100_000, 0));
    if cgroup.v1_place("cpu").is_some() {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("90000"), "{error}");
    } else {
        result.unwrap();
    }
}

#[test]
fn an_idle_cgroup_takes_new_shares_when_it_stops_being_idle() {
    let top = Top::new();
    let cgroup = top.create("x");
    for (shares, idle) in [(2048, 1), (1024, 0), (4096, 0), (512, 1)] {
        let limits = cpu(Cpu {
            shares: Some(shares),
            idle: Some(idle),
            ..Cpu::default()
        });
        cgroup.set_limits(&limits).unwrap();
        let now = file(&cgroup, "cpu", "cpu.idle", "cpu.idle");
        assert_eq!(now, Some(idle.to_string()));
        if idle == 0 && cgroup.v1_place("cpu").is_some() {
            let now = file(&cgroup, "cpu", "cpu.shares", "");
            assert_eq!(now, Some(shares.to_string()));
        }
    }
}

#[test]
fn real_time_needs_a_parent_that_has_some() {
    let top = Top::new();
    let cgroup = top.create("x");
    if file(&cgroup, "cpu", "cpu.rt_runtime_us", "none").is_none() {
        return;
    }
    let limits = cpu(Cpu {
        realtime_runtime: Some(2000),
        realtime_period: Some(500_000),
        ..Cpu::default()
    });
    let error = cgroup.set_limits(&limits).unwrap_err().to_string();
    assert!(error.contains("/cpu.rt_runtime_us to \"2000\""), "{error}");
    let parent = Cgroup::create(&top.layout, &top.plan("")).unwrap();
    let some = cpu(Cpu {
        realtime_runtime: Some(5000),
        ..Cpu::default()
    });
    parent.set_limits(&some).unwrap();
    cgroup.set_limits(&limits).unwrap();
    let now = file(&cgroup, "cpu", "cpu.rt_runtime_us", "");
    assert_eq!(now.as_deref(), Some("2000"));
}

/// A disk of this machine.
fn disk() -> Option<Device> {
    let disks = fs::read_dir("/sys/block").ok()?;
    let mut numbers = disks.filter_map(|disk| {
        let path = disk.ok()?.path();
        // Not a loop device or the like.
        path.join("device").exists().then_some(())?;
        fs::read_to_string(path.join("dev")).ok()
    });
    let numbers = numbers.next()?;
    let (major, minor) = numbers.trim().split_once(':')?;
    Some(Device {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[test]
fn disks_get_rates_that_can_be_lifted() {
    let top = Top::new();
    let cgroup = top.create("x");
    let Some(device) = disk() else {
        return;
    };
    let throttled = |limit| {
        let throttle = |rate| Throttle {
            device,
            rate,
            limit,
        };
        Limits {
            block_io: BlockIo {
                weight: Some(500),
                throttles: vec![throttle(Rate::ReadBytes), throttle(Rate::WriteOperations)],
                ..BlockIo::default()
            },
            ..Limits::default()
        }
    };
    let rates = || {
        let v1 = |name| file(&cgroup, "blkio", name, "io.max").unwrap();
        let read = v1("blkio.throttle.read_bps_device");
        format!("{read} {}", v1("blkio.throttle.write_iops_device"))
    };
    cgroup.set_limits(&throttled(1_234_567)).unwrap();
    assert!(rates().contains(&device.to_string()), "{}", rates());
    assert!(rates().matches("1234567").count() >= 2, "{}", rates());
    cgroup.set_limits(&throttled(0)).unwrap();
    assert_eq!(rates().trim(), "");
}

/// One test at a time changes what is the whole machine's.
static MACHINE: Mutex<()> = Mutex::new(());

/// The root's v2 controllers as they were, when dropped. No other test changes the machine meanwhile.
pub(super) struct Restored {
    /// The file, and what was in it.
    before: Option<(String, Vec<String>)>,
    _alone: MutexGuard<'static, ()>,
}

impl Restored {
    pub(super) fn new(top: &Top) -> Self {
        // A test that failed has restored what it changed all the same.
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let unified = top.layout.hierarchies().iter().find(|h| h.is_unified());
        let before = unified.map(|unified| {
            let file = format!("{}/cgroup.subtree_control", unified.mount_point());
            let controllers = fs::read_to_string(&file).unwrap();
            let controllers = controllers.split_whitespace().map(str::to_owned).collect();
            (file, controllers)
        });
        Self {
            before,
            _alone: alone,
        }
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let Some((file, before)) = &self.before else {
            return;
        };
        let now = fs::read_to_string(file).unwrap();
        for name in now
            .split_whitespace()
            .filter(|name| !before.iter().any(|had| had == name))
        {
            // Somebody else may have come to use it.
            let _ = fs::write(file, format!("-{name}"));
        }
    }
}

#[test]
fn huge_pages_are_limited_also_where_only_v2_has_them() {
    let top = Top::new();
    // Dropped in reverse: the root can be restored when nobody below it uses the controller.
    let _restored = Restored::new(&top);
    let top = top;
    let cgroup = top.create("a/x");
    let limits = Limits {
        hugepages: vec![HugepageLimit {
            page_size: "2MB".to_owned(),
            limit: 4 << 20,
        }],
        ..Limits::default()
    };
    match cgroup.set_limits(&limits) {
        Ok(()) => {
            for suffix in ["", "rsvd."] {
                let now = file(
                    &cgroup,
                    "hugetlb",
                    &format!("hugetlb.2MB.{suffix}limit_in_bytes"),
                    &format!("hugetlb.2MB.{suffix}max"),
                );
                assert_eq!(now, Some((4 << 20).to_string()));
            }
        }
        Err(error) => {
            assert!(matches!(error, Error::NoController { .. }), "{error}");
            let all = fs::read_to_string("/proc/cgroups").unwrap_or_default();
            let hugetlb = all.lines().find(|line| line.starts_with("hugetlb\t"));
            assert!(hugetlb.is_none_or(|l| l.ends_with('0')), "{error}");
        }
    }
}

/// The machine's pool of huge pages, larger by some until dropped.
struct MoreHugepages(u64);

impl MoreHugepages {
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn size() -> Option<u64> {
        fs::read_to_string(Self::POOL).ok()?.trim().parse().ok()
    }

    /// `None`: this machine has no such pages, or no memory for them at present.
    fn new(count: u64) -> Option<Self> {
        let before = Self::size()?;
        fs::write(Self::POOL, (before + count).to_string()).ok()?;
        let more = Self(before);
        (Self::size()? >= before + count).then_some(more)
    }
}

impl Drop for MoreHugepages {
    fn drop(&mut self) {
        // The machine's own value; nothing else of the test depends on it.
        let _ = fs::write(Self::POOL, self.0.to_string());
    }
}

/// A cgroup that may have one huge page, and a machine that has some.
pub(super) struct HugePages {
    // In the order in which they go.
    _pages: MoreHugepages,
    pub(super) cgroup: Cgroup,
    _top: Top,
    _restored: Restored,
}

impl HugePages {
    /// `None`, and why: there are none here, or they cannot be limited.
    pub(super) fn new() -> Option<Self> {
        let top = Top::new();
        let restored = Restored::new(&top);
        let top = top;
        let cgroup = top.create("a/x");
        let Some(pages) = MoreHugepages::new(3) else {
            eprintln!("SKIPPED: no huge pages to be had");
            return None;
        };
        if let Err(Error::NoController { .. }) = cgroup.set_limits(&Self::limits(1)) {
            eprintln!("SKIPPED: no hugetlb controller");
            return None;
        }
        Some(Self {
            _pages: pages,
            cgroup,
            _top: top,
            _restored: restored,
        })
    }

    pub(super) fn limits(pages: u64) -> Limits {
        Limits {
            hugepages: vec![HugepageLimit {
                page_size: "2MB".to_owned(),
                limit: pages << 21,
            }],
            ..Limits::default()
        }
    }
}

#[test]
fn who_has_as_many_huge_pages_as_it_may_gets_no_more() {
    let Some(huge) = HugePages::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display();
    // One is enough, two are not; until they may be.
    let take = |size: &str| {
        let script = format!(
            "exec unshare -m sh -c 'mount -t hugetlbfs none {folder} && \
             fallocate -l {size} {folder}/x 2>/dev/null'"
        );
        Process::joining(&huge.cgroup, &script).code()
    };
    assert_eq!(take("2M"), Some(0));
    assert_ne!(take("4M"), Some(0));
    huge.cgroup.set_limits(&HugePages::limits(2)).unwrap();
    assert_eq!(take("4M"), Some(0));
}

#[test]
fn without_an_oom_killer_who_wants_more_memory_waits() {
    let top = Top::new();
    let cgroup = top.create("x");
    if cgroup.v1_place("memory").is_none() {
        eprintln!("SKIPPED: v2 has no such switch");
        return;
    }
    let mut limits = memory(8 << 20, 8 << 20);
    limits.memory.disable_oom_killer = true;
    limits.memory.swappiness = Some(10);
    cgroup.set_limits(&limits).unwrap();
    let swappiness = file(&cgroup, "memory", "memory.swappiness", "");
    assert_eq!(swappiness.as_deref(), Some("10"));
    let child = Process::joining(&cgroup, "printf -v x '%100000000s'; exit 3");
    let waits = || {
        cgroup
            .memory_events()
            .is_some_and(|events| events.under_oom)
    };
    eventually("it to wait", waits);
    assert_eq!(cgroup.oom_kills(), 0);
    // Room lets it go on.
    cgroup.set_limits(&memory(-1, -1)).unwrap();
    assert_eq!(child.code(), Some(3));
}

/// Nothing mounts these controllers for the test: a v1 hierarchy shows in everybody's
/// `/proc/<pid>/cgroup`, and outlives its last mount as long as a removed cgroup of it does.
#[test]
fn network_marks_are_set_where_v1_has_them() {
    let top = Top::new();
    let cgroup = top.create("x");
    if cgroup.v1_place("net_cls").is_none() || cgroup.v1_place("net_prio").is_none() {
        eprintln!("SKIPPED: no net_cls and net_prio on v1");
        return;
    }
    let limits = Limits {
        network: Network {
            class_id: Some(0x10_0001),
            priorities: vec![("lo".to_owned(), 3)],
        },
        ..Limits::default()
    };
    cgroup.set_limits(&limits).unwrap();
    let class = file(&cgroup, "net_cls", "net_cls.classid", "");
    assert_eq!(class.as_deref(), Some("1048577"));
    let priorities = file(&cgroup, "net_prio", "net_prio.ifpriomap", "").unwrap();
    assert!(
        priorities.lines().any(|line| line == "lo 3"),
        "{priorities}"
    );
    let unknown = Limits {
        network: Network {
            priorities: vec![("nothing0".to_owned(), 3)],
            ..Network::default()
        },
        ..Limits::default()
    };
    let error = cgroup.set_limits(&unknown).unwrap_err().to_string();
    assert!(
        error.contains("net_prio.ifpriomap to \"nothing0 3\""),
        "{error}"
    );
}

#[test]
fn single_files_of_v2_can_be_set_and_nothing_else() {
    let top = Top::new();
    let cgroup = top.create("x");
    let set = |file: &str, value: &str| {
        let unified = BTreeMap::from([(file.to_owned(), value.to_owned())]);
        cgroup.set_limits(&Limits {
            unified,
            ..Limits::default()
        })
    };
    let refused = |file: &str, part: &str| {
        let text = set(file, "1").unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    };
    refused("../x/cgroup.max.depth", "must be a file name");
    refused("nonsense", "controller.parameter");
    if top.layout.mode() == Mode::V1 {
        refused("cgroup.max.depth", "needs cgroup v2");
        return;
    }
    set("cgroup.max.depth", "3\n4").unwrap();
    let path = &cgroup.record().paths()[""];
    let depth = fs::read_to_string(format!("{path}/cgroup.max.depth")).unwrap();
    assert_eq!(depth.trim(), "4");
    refused("bogus.max", "controller \"bogus\" is not available");
    refused("cgroup.bogus", "/cgroup.bogus to \"1\"");
    if top.layout.mode() == Mode::Hybrid && cgroup.v1_place("memory").is_some() {
        refused("memory.max", "controller \"memory\" is not available");
    }
}

#[test]
fn a_limit_without_its_controller_is_an_error() {
    let top = Top::new();
    let Some(cgroup) = top.create_in("x", |key| key == "freezer") else {
        return;
    };
    cgroup.set_limits(&Limits::default()).unwrap();
    for limits in [memory(1 << 20, 0), quota(1000, 10_000, 0)] {
        let error = cgroup.set_limits(&limits).unwrap_err();
        assert!(matches!(error, Error::NoController { .. }), "{error}");
    }
}
