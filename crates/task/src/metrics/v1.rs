// SPDX-License-Identifier: Apache-2.0
//! `io.containerd.cgroups.v1.Metrics`.

use std::collections::BTreeMap;

use runtime::Interface;
use runtime::cgroups::Stats;
use runtime::cgroups::stats::{BlockIo, Counter, Cpu, Hugepages, Io, Memory, Rdma};

use super::encoder::Encoder;

/// Fields of `MemoryStat` by the names in `memory.stat`. Field `n + 17` is the one of the subtree,
/// `total_<name>`, for the first sixteen fields but for the limits, which are 16 and 17.
pub(super) const MEMORY_STAT: [(&str, u32); 15] = [
    ("cache", 1),
    ("rss", 2),
    ("rss_huge", 3),
    ("mapped_file", 4),
    ("dirty", 5),
    ("writeback", 6),
    ("pgpgin", 7),
    ("pgpgout", 8),
    ("pgfault", 9),
    ("pgmajfault", 10),
    ("inactive_anon", 11),
    ("active_anon", 12),
    ("inactive_file", 13),
    ("active_file", 14),
    ("unevictable", 15),
];
const TOTAL: u32 = 17;

/// v1 knows no "no limit": in the message it is 0.
fn or_none(limit: u64) -> u64 {
    match limit {
        u64::MAX => 0,
        limit => limit,
    }
}

pub(super) fn encode(encoder: &mut Encoder, stats: &Stats, network: &[Interface]) {
    for pages in &stats.hugepages {
        encoder.message(1, |encoder| hugepages(encoder, pages));
    }
    if let Some(pids) = stats.pids {
        encoder.message(2, |encoder| {
            encoder.number(1, pids.current);
            encoder.number(2, or_none(pids.limit));
        });
    }
    encoder.message(3, |encoder| cpu(encoder, &stats.cpu));
    if let Some(memory) = &stats.memory {
        encoder.message(4, |encoder| self::memory(encoder, memory));
    }
    encoder.message(5, |encoder| block_io(encoder, &stats.io));
    if !stats.rdma.is_empty() {
        encoder.message(6, |encoder| rdma(encoder, &stats.rdma));
    }
    for interface in network {
        encoder.message(7, |encoder| super::interface(encoder, interface));
    }
    if let Some(memory) = &stats.memory {
        encoder.message(9, |encoder| {
            encoder.number(1, u64::from(memory.events.oom_kill_disabled));
            encoder.number(2, u64::from(memory.events.under_oom));
            encoder.number(3, memory.events.oom_kill);
        });
    }
}

fn hugepages(encoder: &mut Encoder, pages: &Hugepages) {
    encoder.number(1, pages.usage);
    encoder.number(2, pages.peak);
    encoder.number(3, pages.failures);
    encoder.string(4, &pages.page_size);
}

fn cpu(encoder: &mut Encoder, cpu: &Cpu) {
    encoder.message(1, |encoder| {
        encoder.number(1, cpu.total);
        encoder.number(2, cpu.kernel);
        encoder.number(3, cpu.user);
        encoder.numbers(4, &cpu.per_cpu);
    });
    encoder.message(2, |encoder| {
        encoder.number(1, cpu.periods);
        encoder.number(2, cpu.throttled_periods);
        encoder.number(3, cpu.throttled);
    });
}

fn memory(encoder: &mut Encoder, memory: &Memory) {
    let mut fields = [0; 33];
    for (name, value) in memory.stat() {
        let (name, offset) = match name.strip_prefix("total_") {
            Some(name) => (name, TOTAL),
            None => (name, 0),
        };
        match (name, offset) {
            ("hierarchical_memory_limit", 0) => fields[16] = value,
            ("hierarchical_memsw_limit", 0) => fields[17] = value,
            (name, offset) => {
                if let Some((_, field)) = MEMORY_STAT.iter().find(|(n, _)| *n == name) {
                    fields[(field + offset) as usize] = value;
                }
            }
        }
    }
    for (field, value) in (0..).zip(fields) {
        encoder.number(field, value);
    }
    let counters = [
        (33, &memory.usage),
        (34, &memory.swap),
        (35, &memory.kernel),
        (36, &memory.kernel_tcp),
    ];
    for (field, counter) in counters {
        encoder.message(field, |encoder| self::counter(encoder, counter));
    }
}

fn counter(encoder: &mut Encoder, counter: &Counter) {
    encoder.number(1, or_none(counter.limit));
    encoder.number(2, counter.usage);
    encoder.number(3, counter.peak);
    encoder.number(4, counter.failures);
}

fn block_io(encoder: &mut Encoder, io: &BlockIo) {
    let names = match io.entries.is_empty() {
        true => BTreeMap::new(),
        false => device_names(),
    };
    let mut list = |field, value: fn(&Io) -> u64| {
        for entry in &io.entries {
            encoder.message(field, |encoder| {
                let (major, minor) = (entry.major, entry.minor);
                encoder.string(1, entry.operation.name());
                let name = names.get(&(major, minor));
                encoder.string(2, name.map_or("", String::as_str));
                encoder.number(3, u64::from(major));
                encoder.number(4, u64::from(minor));
                encoder.number(5, value(entry));
            });
        }
    };
    list(1, |entry| entry.bytes);
    list(2, |entry| entry.count);
}

/// Paths of block devices, as far as the kernel lists them.
fn device_names() -> BTreeMap<(u32, u32), String> {
    let list = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let mut names = BTreeMap::new();
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let (major, minor) = (words.next(), words.next());
        if let (Some(Ok(major)), Some(Ok(minor)), Some(name)) =
            (major.map(str::parse), minor.map(str::parse), words.nth(1))
        {
            names
                .entry((major, minor))
                .or_insert_with(|| format!("/dev/{name}"));
        }
    }
    names
}

fn rdma(encoder: &mut Encoder, devices: &[Rdma]) {
    super::rdma_entries(encoder, 1, devices, |d| (d.handles, d.objects));
    super::rdma_entries(encoder, 2, devices, |d| (d.handle_limit, d.object_limit));
}
