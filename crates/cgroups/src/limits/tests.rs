// SPDX-License-Identifier: Apache-2.0
//! Which files are written, with what, in which order; on a machine made up of strings.

use super::*;

/// Reads from a list of files; all others are missing.
fn having(files: &'static [(&str, &str)]) -> impl Fn(&str) -> Result<Option<String>> {
    move |name| {
        let file = files.iter().find(|(file, _)| *file == name);
        Ok(file.map(|(_, content)| (*content).to_owned()))
    }
}

/// `file=value` of each step; `?` where the file may be missing, `~` where it may be too early.
fn written(steps: Vec<Step>) -> Vec<String> {
    let text = |step: Step| {
        let mark = match step.tolerance {
            Tolerance::Nothing => "",
            Tolerance::Missing => "?",
            Tolerance::TooEarly => "~",
        };
        format!("{}{mark}={}", step.file, step.value)
    };
    steps.into_iter().map(text).collect()
}

#[track_caller]
fn refused(steps: Result<Vec<Step>>, part: &str) {
    let text = steps.unwrap_err().to_string();
    assert!(text.contains(part), "{text}");
}

const NO_FILES: &[(&str, &str)] = &[];

#[test]
fn nothing_given_is_nothing_written() {
    let read = having(&[("memory.memsw.limit_in_bytes", "1"), ("io.bfq.weight", "1")]);
    for limits in [Limits::default(), zeros()] {
        assert_eq!(memory::v1(&limits.memory, &read).unwrap(), []);
        assert_eq!(memory::v2(&limits.memory, &read).unwrap(), []);
        assert_eq!(cpu::v1(&limits.cpu).unwrap(), []);
        assert_eq!(cpu::v2(&limits.cpu, &read).unwrap(), []);
        assert_eq!(cpu::cpuset(&limits.cpu), []);
        assert_eq!(other::pids(limits.pids), []);
        assert_eq!(block_io::v1(&limits.block_io, &read).unwrap(), []);
        assert_eq!(block_io::v2(&limits.block_io, &read).unwrap(), []);
        for version in [Version::V1, Version::V2] {
            assert_eq!(other::hugepages(&limits.hugepages, version).unwrap(), []);
            assert_eq!(other::class_id(&limits.network, version).unwrap(), []);
            assert_eq!(other::priorities(&limits.network, version).unwrap(), []);
        }
        assert_eq!(other::rdma(&limits.rdma), []);
    }
}

/// As Docker writes what nobody asked for.
fn zeros() -> Limits {
    Limits {
        memory: Memory {
            limit: Some(0),
            reservation: Some(0),
            swap: Some(0),
            ..Memory::default()
        },
        cpu: Cpu {
            shares: Some(0),
            quota: Some(0),
            period: Some(0),
            realtime_runtime: Some(0),
            realtime_period: Some(0),
            cpus: Some(String::new()),
            mems: Some(String::new()),
            ..Cpu::default()
        },
        block_io: BlockIo {
            weight: Some(0),
            leaf_weight: Some(0),
            ..BlockIo::default()
        },
        network: Network {
            class_id: Some(0),
            ..Network::default()
        },
        ..Limits::default()
    }
}

fn memory(limit: i64, swap: i64) -> Memory {
    Memory {
        limit: Some(limit),
        swap: Some(swap),
        ..Memory::default()
    }
}

#[test]
fn on_v1_memory_and_swap_grow_swap_first_and_shrink_memory_first() {
    const LOW: &[(&str, &str)] = &[
        ("memory.limit_in_bytes", "4096"),
        ("memory.memsw.limit_in_bytes", "4096"),
    ];
    const HIGH: &[(&str, &str)] = &[
        ("memory.limit_in_bytes", "9223372036854771712"),
        ("memory.memsw.limit_in_bytes", "9223372036854771712"),
    ];
    let limit = "memory.limit_in_bytes";
    let swap = "memory.memsw.limit_in_bytes";
    let v1 = |m: Memory, files| written(memory::v1(&m, &having(files)).unwrap());
    assert_eq!(
        v1(memory(8192, 8192), LOW),
        [format!("{swap}=8192"), format!("{limit}=8192")]
    );
    assert_eq!(
        v1(memory(8192, 8192), HIGH),
        [format!("{limit}=8192"), format!("{swap}=8192")]
    );
    assert_eq!(
        v1(memory(8192, -1), HIGH),
        [format!("{swap}?=-1"), format!("{limit}=8192")]
    );
    // No limit of memory is none of swap either, where swap is counted.
    assert_eq!(
        v1(memory(-1, 0), LOW),
        [format!("{swap}?=-1"), format!("{limit}=-1")]
    );
    assert_eq!(v1(memory(-1, 0), NO_FILES), [format!("{limit}=-1")]);
    assert_eq!(v1(memory(0, 8192), LOW), [format!("{swap}=8192")]);
    let rest = Memory {
        reservation: Some(4096),
        swappiness: Some(0),
        disable_oom_killer: true,
        ..Memory::default()
    };
    assert_eq!(
        v1(rest, LOW),
        [
            "memory.soft_limit_in_bytes=4096",
            "memory.oom_control=1",
            "memory.swappiness=0"
        ]
    );
    let swappy = Memory {
        swappiness: Some(101),
        ..Memory::default()
    };
    refused(memory::v1(&swappy, &having(LOW)), "101");
}

#[test]
fn on_v2_swap_is_without_memory_and_comes_first() {
    let v2 = |m: Memory| written(memory::v2(&m, &having(NO_FILES)).unwrap());
    assert_eq!(
        v2(memory(4096, 8192)),
        ["memory.swap.max=4096", "memory.max=4096"]
    );
    assert_eq!(
        v2(memory(4096, 4096)),
        ["memory.swap.max?=0", "memory.max=4096"]
    );
    assert_eq!(v2(memory(4096, 0)), ["memory.max=4096"]);
    assert_eq!(
        v2(memory(4096, -1)),
        ["memory.swap.max?=max", "memory.max=4096"]
    );
    assert_eq!(
        v2(memory(-1, 0)),
        ["memory.swap.max?=max", "memory.max=max"]
    );
    assert_eq!(
        v2(memory(-1, 8192)),
        ["memory.swap.max=8192", "memory.max=max"]
    );
    assert_eq!(v2(memory(0, -1)), ["memory.swap.max?=max"]);
    let rest = Memory {
        reservation: Some(-1),
        swappiness: Some(60),
        disable_oom_killer: true,
        ..Memory::default()
    };
    assert_eq!(v2(rest), ["memory.low=max"]);
    let v2 = |limit, swap| memory::v2(&memory(limit, swap), &having(NO_FILES));
    refused(
        v2(8192, 4096),
        "memory+swap limit should be >= memory limit",
    );
    refused(v2(0, 4096), "without memory limit");
    refused(v2(-2, 4096), "negative");
}

#[test]
fn on_v2_a_limit_below_the_use_can_be_refused() {
    const USED: &[(&str, &str)] = &[("memory.current", "8192")];
    let check = |limit, swap, files| {
        let memory = Memory {
            check_before_update: true,
            ..memory(limit, swap)
        };
        memory::v2(&memory, &having(files))
    };
    refused(
        check(8192, -1, USED),
        "rejecting memory limit 8192 <= usage 8192",
    );
    refused(check(4096, 8000, USED), "rejecting memory+swap limit 8000");
    assert_eq!(check(8193, -1, USED).unwrap().len(), 2);
    assert_eq!(check(1, -1, NO_FILES).unwrap().len(), 2);
    // v1 looks after this itself.
    let memory = Memory {
        check_before_update: true,
        ..memory(1, 0)
    };
    assert_eq!(memory::v1(&memory, &having(USED)).unwrap().len(), 1);
}

#[test]
fn shares_become_weights_as_with_other_runtimes() {
    for (shares, weight) in [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
        (10, 4),
        (100, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (4096, 303),
        (262_143, 10_000),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(cpu::weight(shares), weight, "{shares}");
    }
    let weights: Vec<u64> = (2..=262_144).map(cpu::weight).collect();
    assert!(weights.is_sorted());
}

#[test]
fn processor_time_is_written_in_an_order_that_the_kernel_takes() {
    let all = Cpu {
        shares: Some(2),
        quota: Some(5000),
        period: Some(10_000),
        burst: Some(0),
        idle: Some(1),
        realtime_runtime: Some(100),
        realtime_period: Some(1000),
        ..Cpu::default()
    };
    assert_eq!(
        written(cpu::v1(&all).unwrap()),
        [
            "cpu.shares=2",
            "cpu.cfs_period_us~=10000",
            "cpu.cfs_burst_us~=0",
            "cpu.cfs_quota_us=5000",
            "cpu.rt_period_us~=1000",
            "cpu.rt_runtime_us=100",
            "cpu.idle=1",
        ]
    );
    let normal = Cpu {
        idle: Some(0),
        quota: None,
        realtime_runtime: None,
        realtime_period: None,
        ..all.clone()
    };
    assert_eq!(
        written(cpu::v1(&normal).unwrap()),
        [
            "cpu.idle=0",
            "cpu.shares=2",
            "cpu.cfs_period_us=10000",
            "cpu.cfs_burst_us=0"
        ]
    );
    const SET: &[(&str, &str)] = &[("cpu.max", "7000 100000")];
    let v2 = |cpu: &Cpu, files| written(cpu::v2(cpu, &having(files)).unwrap());
    assert_eq!(
        v2(&normal, SET),
        [
            "cpu.idle=0",
            "cpu.weight=1",
            "cpu.max.burst=0",
            "cpu.max=7000 10000"
        ]
    );
    assert_eq!(v2(&normal, NO_FILES)[3], "cpu.max=max 10000");
    let quota = |quota, period| Cpu {
        quota: Some(quota),
        period,
        burst: Some(7),
        ..Cpu::default()
    };
    assert_eq!(
        v2(&quota(5000, Some(10_000)), SET),
        ["cpu.max.burst~=7", "cpu.max=5000 10000"]
    );
    assert_eq!(
        v2(&quota(-1, None), SET),
        ["cpu.max.burst~=7", "cpu.max=max"]
    );
    refused(cpu::v2(&all, &having(SET)), "real-time");
}

#[test]
fn shares_that_the_kernel_would_change_are_refused_on_v1() {
    for shares in [1, 262_145] {
        let cpu = Cpu {
            shares: Some(shares),
            ..Cpu::default()
        };
        refused(cpu::v1(&cpu), "between 2 and 262144");
    }
}

#[test]
fn processes_are_counted_from_one() {
    for (limit, value) in [(5, "5"), (1, "1"), (0, "1"), (-1, "max"), (i64::MIN, "max")] {
        assert_eq!(
            written(other::pids(Some(limit))),
            [format!("pids.max={value}")]
        );
    }
}

#[test]
fn block_devices_have_weights_and_rates() {
    let device = Device {
        major: 8,
        minor: 16,
    };
    let throttle = |rate, limit| Throttle {
        device,
        rate,
        limit,
    };
    let io = BlockIo {
        weight: Some(10),
        leaf_weight: None,
        weight_devices: vec![WeightDevice {
            device,
            weight: Some(1000),
            leaf_weight: None,
        }],
        throttles: vec![
            throttle(Rate::ReadBytes, 4096),
            throttle(Rate::WriteBytes, 0),
            throttle(Rate::ReadOperations, 7),
            throttle(Rate::WriteOperations, u64::MAX),
        ],
    };
    let v1 = |files| written(block_io::v1(&io, &having(files)).unwrap());
    assert_eq!(
        v1(NO_FILES),
        [
            "blkio.bfq.weight=10",
            "blkio.bfq.weight_device=8:16 1000",
            "blkio.throttle.read_bps_device=8:16 4096",
            "blkio.throttle.write_bps_device=8:16 0",
            "blkio.throttle.read_iops_device=8:16 7",
            "blkio.throttle.write_iops_device=8:16 18446744073709551615",
        ]
    );
    let cfq = v1(&[("blkio.weight", "500")]);
    assert_eq!(
        cfq[..2],
        ["blkio.weight=10", "blkio.weight_device=8:16 1000"]
    );
    let v2 = |files| written(block_io::v2(&io, &having(files)).unwrap());
    assert_eq!(
        v2(NO_FILES),
        [
            "io.weight=1",
            "io.weight=8:16 10000",
            "io.max=8:16 rbps=4096",
            "io.max=8:16 wbps=max",
            "io.max=8:16 riops=7",
            "io.max=8:16 wiops=18446744073709551615",
        ]
    );
    let bfq = v2(&[("io.bfq.weight", "default 100")]);
    assert_eq!(bfq[..2], ["io.bfq.weight=10", "io.bfq.weight=8:16 1000"]);
    let odd = BlockIo {
        weight: Some(9),
        ..BlockIo::default()
    };
    refused(block_io::v2(&odd, &having(NO_FILES)), "between 10 and 1000");
    let leaf = BlockIo {
        leaf_weight: Some(10),
        ..BlockIo::default()
    };
    refused(block_io::v2(&leaf, &having(NO_FILES)), "leaf");
    assert_eq!(
        written(block_io::v1(&leaf, &having(NO_FILES)).unwrap()),
        ["blkio.leaf_weight=10"]
    );
}

#[test]
fn huge_pages_are_limited_in_use_and_in_reserve() {
    let limit = |page_size: &str| {
        let page_size = page_size.to_owned();
        [HugepageLimit {
            page_size,
            limit: 4096,
        }]
    };
    assert_eq!(
        written(other::hugepages(&limit("2MB"), Version::V1).unwrap()),
        [
            "hugetlb.2MB.limit_in_bytes=4096",
            "hugetlb.2MB.rsvd.limit_in_bytes?=4096"
        ]
    );
    assert_eq!(
        written(other::hugepages(&limit("1GB"), Version::V2).unwrap()),
        ["hugetlb.1GB.max=4096", "hugetlb.1GB.rsvd.max?=4096"]
    );
    for bad in ["", "../../x", "2MB.", "a\0"] {
        refused(other::hugepages(&limit(bad), Version::V2), "no page size");
    }
}

#[test]
fn network_marks_are_for_v1_and_rdma_for_both() {
    let network = Network {
        class_id: Some(0x10_0001),
        priorities: vec![("lo".to_owned(), 3), ("eth0".to_owned(), 0)],
    };
    assert_eq!(
        written(other::class_id(&network, Version::V1).unwrap()),
        ["net_cls.classid=1048577"]
    );
    assert_eq!(
        written(other::priorities(&network, Version::V1).unwrap()),
        ["net_prio.ifpriomap=lo 3", "net_prio.ifpriomap=eth0 0"]
    );
    refused(other::class_id(&network, Version::V2), "v2");
    refused(other::priorities(&network, Version::V2), "v2");
    let limit = |handles, objects| RdmaLimit {
        device: "mlx4_0".to_owned(),
        handles,
        objects,
    };
    assert_eq!(
        written(other::rdma(&[
            limit(Some(2), Some(2000)),
            limit(None, None),
            limit(None, Some(1))
        ])),
        [
            "rdma.max=mlx4_0 hca_handle=2 hca_object=2000",
            "rdma.max=mlx4_0 hca_object=1"
        ]
    );
}
