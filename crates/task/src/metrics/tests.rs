// SPDX-License-Identifier: Apache-2.0
//! What is encoded here is decoded by the generated messages.

use containerd_shim_protos::cgroups::metrics as generated_v1;
use containerd_shim_protos::cgroups_v2::metrics as generated_v2;
use protobuf::{MessageDyn, MessageFull, UnknownValueRef};
use runtime::cgroups::stats::{
    Averages, BlockIo, Counter, Cpu, Hugepages, Io, Memory, Operation, Pids, Pressure,
};
use runtime::{Interface, Traffic};

use super::*;

fn io(operation: Operation, bytes: u64, count: u64) -> Io {
    Io {
        major: 7,
        minor: 4711,
        operation,
        bytes,
        count,
    }
}

fn sample(mode: Mode, stat: &str) -> Stats {
    let pressure = Pressure {
        some: Some(Averages {
            avg10: 1.5,
            avg60: 2.5,
            avg300: 3.5,
            total: 4,
        }),
        full: Some(Averages::default()),
    };
    let counter = |usage| Counter {
        usage,
        peak: usage + 1,
        limit: usage + 2,
        failures: usage + 3,
    };
    let mut memory = Memory::with_stat(stat);
    memory.usage = counter(100);
    memory.swap = counter(200);
    memory.kernel = counter(300);
    memory.kernel_tcp = counter(400);
    memory.pressure = Some(pressure);
    memory.events.low = 1;
    memory.events.high = 2;
    memory.events.max = 3;
    memory.events.oom = 4;
    memory.events.oom_kill = 5;
    memory.events.oom_group_kill = 6;
    memory.events.oom_kill_disabled = true;
    memory.events.under_oom = true;
    Stats {
        mode,
        cpu: Cpu {
            total: 300_000_000_000,
            user: 200_000,
            kernel: 100_000,
            per_cpu: vec![0, 1, 300_000_000_000],
            periods: 7,
            throttled_periods: 8,
            throttled: 9_000,
            bursts: 10,
            burst: 11_000,
            pressure: Some(pressure),
        },
        memory: Some(memory),
        pids: Some(Pids {
            current: 3,
            limit: u64::MAX,
        }),
        io: BlockIo {
            entries: vec![io(Operation::Read, 4096, 1), io(Operation::Write, 512, 2)],
            pressure: Some(pressure),
        },
        hugepages: vec![Hugepages {
            page_size: "2MB".to_owned(),
            usage: 1,
            peak: 2,
            limit: 3,
            failures: 4,
        }],
        rdma: vec![Rdma {
            device: "mlx".to_owned(),
            handles: 1,
            objects: 2,
            handle_limit: u32::MAX,
            object_limit: 4,
        }],
    }
}

fn network() -> Interface {
    let traffic = |bytes| Traffic {
        bytes,
        packets: bytes + 1,
        errors: bytes + 2,
        dropped: bytes + 3,
    };
    Interface {
        name: "eth0".to_owned(),
        received: traffic(2),
        sent: traffic(6),
    }
}

/// The message that was encoded, and its type.
fn encoded<M: MessageFull>(stats: &Stats) -> M {
    let response = response(stats, &[network()]);
    assert_eq!(response.stats.type_url, M::descriptor().full_name());
    M::parse_from_bytes(&response.stats.value).unwrap()
}

/// Sets every number of a message to its field number and says how `memory.stat` would be.
fn stat_with(names: &[(&str, u32)]) -> String {
    let line = |(name, field): &(&str, u32)| format!("{name} {field}\n");
    names.iter().map(line).collect()
}

#[test]
fn v1_has_every_field() {
    let mut names: Vec<(String, u32)> = Vec::new();
    for (name, field) in v1::MEMORY_STAT {
        names.push((name.to_owned(), field));
        names.push((format!("total_{name}"), field + 17));
    }
    names.push(("hierarchical_memory_limit".to_owned(), 16));
    names.push(("hierarchical_memsw_limit".to_owned(), 17));
    names.push(("unheard_of".to_owned(), 99));
    let stat: String = names.iter().map(|(n, f)| format!("{n} {f}\n")).collect();
    let metrics: generated_v1::Metrics = encoded(&sample(Mode::Hybrid, &stat));
    assert_complete(&metrics, "memory", 1..=32);
    let memory = &metrics.memory;
    assert_eq!((memory.rss, memory.total_unevictable), (2, 32));
    assert_eq!(memory.hierarchical_swap_limit, 17);
    let usage = &memory.usage;
    assert_eq!(
        (usage.usage, usage.max, usage.limit, usage.failcnt),
        (100, 101, 102, 103)
    );
    assert_eq!((memory.swap.usage, memory.kernel.usage), (200, 300));
    assert_eq!(memory.kernel_tcp.failcnt, 403);
    let cpu = &metrics.cpu.usage;
    assert_eq!(
        (cpu.total, cpu.kernel, cpu.user),
        (300_000_000_000, 100_000, 200_000)
    );
    assert_eq!(cpu.per_cpu, [0, 1, 300_000_000_000]);
    let throttling = &metrics.cpu.throttling;
    assert_eq!(
        (
            throttling.periods,
            throttling.throttled_periods,
            throttling.throttled_time
        ),
        (7, 8, 9_000)
    );
    // Without a limit: 0, as ever.
    assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
    let oom = &metrics.memory_oom_control;
    assert_eq!(
        (oom.oom_kill_disable, oom.under_oom, oom.oom_kill),
        (1, 1, 5)
    );
    let blkio = &metrics.blkio;
    let entry = &blkio.io_service_bytes_recursive[0];
    assert_eq!(
        (entry.op.as_str(), entry.major, entry.minor, entry.value),
        ("Read", 7, 4711, 4096)
    );
    assert_eq!(blkio.io_serviced_recursive[1].value, 2);
    let pages = &metrics.hugetlb[0];
    assert_eq!(
        (
            pages.usage,
            pages.max,
            pages.failcnt,
            pages.pagesize.as_str()
        ),
        (1, 2, 4, "2MB")
    );
    assert_eq!(metrics.rdma.limit[0].hca_handles, u32::MAX);
    let eth = &metrics.network[0];
    assert_eq!(
        (eth.name.as_str(), eth.rx_bytes, eth.rx_dropped),
        ("eth0", 2, 5)
    );
    assert_eq!((eth.tx_bytes, eth.tx_dropped), (6, 9));
}

#[test]
fn v2_has_every_field() {
    let metrics: generated_v2::Metrics = encoded(&sample(Mode::V2, &stat_with(&v2::MEMORY_STAT)));
    assert_complete(&metrics, "memory", 1..=31);
    let memory = &metrics.memory;
    assert_eq!((memory.anon, memory.thp_collapse_alloc), (1, 31));
    assert_eq!(
        (memory.usage, memory.max_usage, memory.usage_limit),
        (100, 101, 102)
    );
    assert_eq!(
        (memory.swap_usage, memory.swap_max_usage, memory.swap_limit),
        (200, 201, 202)
    );
    // Newer than the generated messages.
    let newer = |field| memory.special_fields.unknown_fields().get(field);
    for field in 39..=42 {
        assert_eq!(newer(field), Some(UnknownValueRef::Varint(field.into())));
    }
    let cpu = &metrics.cpu;
    assert_eq!(
        (cpu.usage_usec, cpu.user_usec, cpu.system_usec),
        (300_000_000, 200, 100)
    );
    assert_eq!(
        (cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec),
        (7, 8, 9)
    );
    assert_eq!(metrics.pids.limit, u64::MAX);
    let events = &metrics.memory_events;
    assert_eq!(
        (
            events.low,
            events.high,
            events.max,
            events.oom,
            events.oom_kill
        ),
        (1, 2, 3, 4, 5)
    );
    let [entry] = &metrics.io.usage[..] else {
        panic!("{:?}", metrics.io.usage)
    };
    assert_eq!(
        (entry.rbytes, entry.wbytes, entry.rios, entry.wios),
        (4096, 512, 1, 2)
    );
    let pages = &metrics.hugetlb[0];
    assert_eq!(
        (pages.current, pages.max, pages.pagesize.as_str()),
        (1, 3, "2MB")
    );
    assert_eq!(metrics.rdma.current[0].device, "mlx");
    assert_eq!(metrics.network[0].tx_packets, 7);
}

#[test]
fn what_is_not_there_is_empty_and_does_not_make_clients_stumble() {
    let nothing = Stats {
        memory: None,
        pids: None,
        ..sample(Mode::V2, "")
    };
    let metrics: generated_v2::Metrics = encoded(&nothing);
    assert!(metrics.memory.is_some() && metrics.pids.is_some() && metrics.memory_events.is_none());
    let metrics: generated_v1::Metrics = encoded(&Stats {
        mode: Mode::V1,
        ..nothing
    });
    assert!(metrics.cpu.usage.is_some() && metrics.cpu.throttling.is_some());
    assert!(metrics.memory.is_none() && metrics.pids.is_none());
}

/// In the part of that name, the numbers of these fields are their field numbers.
fn assert_complete(metrics: &dyn MessageDyn, part: &str, fields: std::ops::RangeInclusive<u32>) {
    let descriptor = metrics.descriptor_dyn();
    let part = descriptor.field_by_name(part).unwrap();
    let message = part.get_singular_field_or_default(metrics);
    let message = message.to_message().unwrap();
    for field in fields {
        let descriptor = message.descriptor_dyn();
        let descriptor = descriptor.field_by_number(field).unwrap();
        let value = descriptor.get_singular_field_or_default(&*message).to_u64();
        assert_eq!(value, Some(field.into()), "{}", descriptor.name());
    }
}
