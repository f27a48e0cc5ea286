// SPDX-License-Identifier: Apache-2.0
//! `io.containerd.cgroups.v2.Metrics`.

use runtime::Interface;
use runtime::cgroups::Stats;
use runtime::cgroups::stats::{Averages, BlockIo, Cpu, Memory, Operation, Pressure};

use super::encoder::Encoder;

/// Fields of `MemoryStat` by the names in `memory.stat`.
pub(super) const MEMORY_STAT: [(&str, u32); 35] = [
    ("anon", 1),
    ("file", 2),
    ("kernel_stack", 3),
    ("slab", 4),
    ("sock", 5),
    ("shmem", 6),
    ("file_mapped", 7),
    ("file_dirty", 8),
    ("file_writeback", 9),
    ("anon_thp", 10),
    ("inactive_anon", 11),
    ("active_anon", 12),
    ("inactive_file", 13),
    ("active_file", 14),
    ("unevictable", 15),
    ("slab_reclaimable", 16),
    ("slab_unreclaimable", 17),
    ("pgfault", 18),
    ("pgmajfault", 19),
    // Until Linux 5.9; then each for anonymous memory and for files.
    ("workingset_refault", 20),
    ("workingset_activate", 21),
    ("workingset_nodereclaim", 22),
    ("pgrefill", 23),
    ("pgscan", 24),
    ("pgsteal", 25),
    ("pgactivate", 26),
    ("pgdeactivate", 27),
    ("pglazyfree", 28),
    ("pglazyfreed", 29),
    ("thp_fault_alloc", 30),
    ("thp_collapse_alloc", 31),
    ("workingset_refault_anon", 39),
    ("workingset_refault_file", 40),
    ("workingset_activate_anon", 41),
    ("workingset_activate_file", 42),
];

pub(super) fn encode(encoder: &mut Encoder, stats: &Stats, network: &[Interface]) {
    encoder.message(1, |encoder| {
        let pids = stats.pids.unwrap_or_default();
        encoder.number(1, pids.current);
        encoder.number(2, pids.limit);
    });
    encoder.message(2, |encoder| cpu(encoder, &stats.cpu));
    encoder.message(4, |encoder| {
        if let Some(memory) = &stats.memory {
            self::memory(encoder, memory);
        }
    });
    encoder.message(5, |encoder| {
        let devices = &stats.rdma;
        super::rdma_entries(encoder, 1, devices, |d| (d.handles, d.objects));
        super::rdma_entries(encoder, 2, devices, |d| (d.handle_limit, d.object_limit));
    });
    encoder.message(6, |encoder| block_io(encoder, &stats.io));
    for pages in &stats.hugepages {
        encoder.message(7, |encoder| {
            encoder.number(1, pages.usage);
            encoder.number(2, pages.limit);
            encoder.string(3, &pages.page_size);
            encoder.number(4, pages.failures);
        });
    }
    if let Some(memory) = &stats.memory {
        let events = &memory.events;
        encoder.message(8, |encoder| {
            for (field, value) in [
                (1, events.low),
                (2, events.high),
                (3, events.max),
                (4, events.oom),
                (5, events.oom_kill),
                (6, events.oom_group_kill),
            ] {
                encoder.number(field, value);
            }
        });
    }
    for interface in network {
        encoder.message(9, |encoder| super::interface(encoder, interface));
    }
}

fn cpu(encoder: &mut Encoder, cpu: &Cpu) {
    const MICROSECOND: u64 = 1000;
    for (field, value) in [
        (1, cpu.total / MICROSECOND),
        (2, cpu.user / MICROSECOND),
        (3, cpu.kernel / MICROSECOND),
        (4, cpu.periods),
        (5, cpu.throttled_periods),
        (6, cpu.throttled / MICROSECOND),
    ] {
        encoder.number(field, value);
    }
    pressure(encoder, 7, cpu.pressure);
    encoder.number(8, cpu.bursts);
    encoder.number(9, cpu.burst / MICROSECOND);
}

fn memory(encoder: &mut Encoder, memory: &Memory) {
    for (name, value) in memory.stat() {
        if let Some((_, field)) = MEMORY_STAT.iter().find(|(n, _)| *n == name) {
            encoder.number(*field, value);
        }
    }
    for (field, value) in [
        (32, memory.usage.usage),
        (33, memory.usage.limit),
        (34, memory.swap.usage),
        (35, memory.swap.limit),
        (36, memory.usage.peak),
        (37, memory.swap.peak),
    ] {
        encoder.number(field, value);
    }
    pressure(encoder, 38, memory.pressure);
}

/// One entry for each device: its counters are next to each other.
fn block_io(encoder: &mut Encoder, io: &BlockIo) {
    let device = |entry: &runtime::cgroups::stats::Io| (entry.major, entry.minor);
    for entries in io.entries.chunk_by(|a, b| device(a) == device(b)) {
        let of = |operation| entries.iter().find(|entry| entry.operation == operation);
        let (read, write) = (of(Operation::Read), of(Operation::Write));
        encoder.message(1, |encoder| {
            let (major, minor) = device(&entries[0]);
            encoder.number(1, u64::from(major));
            encoder.number(2, u64::from(minor));
            encoder.number(3, read.map_or(0, |io| io.bytes));
            encoder.number(4, write.map_or(0, |io| io.bytes));
            encoder.number(5, read.map_or(0, |io| io.count));
            encoder.number(6, write.map_or(0, |io| io.count));
        });
    }
    pressure(encoder, 2, io.pressure);
}

fn pressure(encoder: &mut Encoder, field: u32, pressure: Option<Pressure>) {
    let Some(pressure) = pressure else { return };
    let averages = |encoder: &mut Encoder, field, averages: Option<Averages>| {
        let Some(averages) = averages else { return };
        encoder.message(field, |encoder| {
            encoder.double(1, averages.avg10);
            encoder.double(2, averages.avg60);
            encoder.double(3, averages.avg300);
            encoder.number(4, averages.total);
        });
    };
    encoder.message(field, |encoder| {
        averages(encoder, 1, pressure.some);
        averages(encoder, 2, pressure.full);
    });
}
