// SPDX-License-Identifier: Apache-2.0
//! What a container has used: the counters of its cgroup, at one moment.
//!
//! One form for v1, v2 and hybrids, in which each controller's part comes from wherever that
//! controller is. A controller that is not there, or a cgroup that is gone, leaves its part empty:
//! statistics never fail. Nothing here blocks; it is some thirty small files.

use std::sync::OnceLock;

use crate::cgroup::Cgroup;
use crate::layout::Mode;
use crate::reader::{Reader, number, pairs, value};

mod block_io;
mod memory;
mod pressure;

pub use block_io::{BlockIo, Io, Operation};
pub use memory::{Counter, Memory};
pub use pressure::{Averages, Pressure};

/// Counters of a container's cgroup.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// How the machine uses cgroups.
    pub mode: Mode,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory, where its controller is.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<Pids>,
    /// Block devices.
    pub io: BlockIo,
    /// Huge pages by size, where their controller is.
    pub hugepages: Vec<Hugepages>,
    /// RDMA devices, where their controller is.
    pub rdma: Vec<Rdma>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// Time used, in nanoseconds.
    pub total: u64,
    /// Of it in user mode, in nanoseconds.
    pub user: u64,
    /// Of it in the kernel, in nanoseconds.
    pub kernel: u64,
    /// v1: time used on each processor, in nanoseconds.
    pub per_cpu: Vec<u64>,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Of these, how many in which it was used up.
    pub throttled_periods: u64,
    /// For how long, all threads together, in nanoseconds.
    pub throttled: u64,
    /// Periods in which saved time was used.
    pub bursts: u64,
    /// How much of it, in nanoseconds.
    pub burst: u64,
    /// v2: waiting for a processor.
    pub pressure: Option<Pressure>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; `u64::MAX` is any number.
    pub limit: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hugepages {
    /// As in the file names: `2MB`, `1GB`.
    pub page_size: String,
    /// In use, in bytes.
    pub usage: u64,
    /// v1: the most that was in use, in bytes.
    pub peak: u64,
    /// In bytes; `u64::MAX` is no limit.
    pub limit: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// One RDMA device; `u32::MAX` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rdma {
    /// Its name.
    pub device: String,
    /// Handles in use.
    pub handles: u32,
    /// Objects in use.
    pub objects: u32,
    /// Handles allowed.
    pub handle_limit: u32,
    /// Objects allowed.
    pub object_limit: u32,
}

impl Cgroup {
    /// Reads the counters.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            mode: self.layout().mode(),
            cpu: Cpu::default(),
            memory: None,
            pids: None,
            io: BlockIo::default(),
            hugepages: Vec::new(),
            rdma: Vec::new(),
        };
        let Some(first) = self.places().first() else {
            return stats;
        };
        let mut reader = Reader::new(self, first);
        for place in self.places() {
            let hierarchy = place.hierarchy(self.layout());
            if hierarchy.keys().iter().any(|key| key == "name=systemd") {
                continue;
            }
            reader.go_to(self, place);
            if hierarchy.is_unified() {
                stats.read_v2(&mut reader, |name| hierarchy.offers(name));
            } else {
                stats.read_v1(&mut reader, |name| hierarchy.has(name));
            }
        }
        stats
    }
}

impl Stats {
    fn read_v1(&mut self, reader: &mut Reader, has: impl Fn(&str) -> bool) {
        if has("cpuacct") {
            self.cpu.read_v1_accounting(reader);
        }
        if has("cpu") {
            if let Some(text) = reader.text("cpu.stat") {
                self.cpu
                    .read_throttling(text, ["throttled_time", "burst_time"], 1);
            }
        }
        if has("memory") {
            self.memory = Memory::read_v1(reader);
        }
        if has("pids") {
            self.pids = Pids::read(reader);
        }
        if has("blkio") {
            self.io.read_v1(reader);
        }
        if has("hugetlb") {
            self.hugepages = page_sizes()
                .iter()
                .filter_map(|size| Hugepages::read_v1(reader, size))
                .collect();
        }
        if has("rdma") {
            self.rdma = rdma(reader);
        }
    }

    /// On a hybrid the v2 hierarchy tells of processor time and pressure what v1 does not.
    fn read_v2(&mut self, reader: &mut Reader, has: impl Fn(&str) -> bool) {
        if self.mode == Mode::V2 {
            if let Some(text) = reader.text("cpu.stat") {
                self.cpu.read_v2(text);
            }
        }
        self.cpu.pressure = Pressure::read(reader, "cpu.pressure");
        if has("memory") {
            self.memory = Memory::read_v2(reader);
        }
        if let Some(memory) = &mut self.memory {
            memory.pressure = Pressure::read(reader, "memory.pressure");
        }
        if has("pids") {
            self.pids = Pids::read(reader);
        }
        if has("io") {
            self.io.read_v2(reader);
        }
        self.io.pressure = Pressure::read(reader, "io.pressure");
        if has("hugetlb") {
            self.hugepages = page_sizes()
                .iter()
                .filter_map(|size| Hugepages::read_v2(reader, size))
                .collect();
        }
        if has("rdma") {
            self.rdma = rdma(reader);
        }
    }
}

impl Cpu {
    fn read_v1_accounting(&mut self, reader: &mut Reader) {
        /// `USER_HZ`: what the kernel shows as ticks is in hundredths of a second everywhere.
        const TICK: u64 = 10_000_000;
        self.total = reader.number("cpuacct.usage").unwrap_or_default();
        if let Some(text) = reader.text("cpuacct.stat") {
            let ticks = |name| value(text, name).unwrap_or_default();
            self.user = ticks("user").saturating_mul(TICK);
            self.kernel = ticks("system").saturating_mul(TICK);
        }
        if let Some(text) = reader.text("cpuacct.usage_percpu") {
            self.per_cpu = text.split_whitespace().filter_map(number).collect();
        }
    }

    fn read_v2(&mut self, text: &str) {
        const MICROSECOND: u64 = 1000;
        for (name, value) in pairs(text) {
            let time = value.saturating_mul(MICROSECOND);
            match name {
                "usage_usec" => self.total = time,
                "user_usec" => self.user = time,
                "system_usec" => self.kernel = time,
                _ => {}
            }
        }
        self.read_throttling(text, ["throttled_usec", "burst_usec"], MICROSECOND);
    }

    fn read_throttling(&mut self, text: &str, times: [&str; 2], unit: u64) {
        for (name, value) in pairs(text) {
            match name {
                "nr_periods" => self.periods = value,
                "nr_throttled" => self.throttled_periods = value,
                "nr_bursts" => self.bursts = value,
                name if name == times[0] => self.throttled = value.saturating_mul(unit),
                name if name == times[1] => self.burst = value.saturating_mul(unit),
                _ => {}
            }
        }
    }
}

impl Pids {
    fn read(reader: &mut Reader) -> Option<Self> {
        Some(Self {
            current: reader.number("pids.current")?,
            limit: reader.number("pids.max")?,
        })
    }
}

impl Hugepages {
    fn read_v1(reader: &mut Reader, page_size: &str) -> Option<Self> {
        let mut read = |name| reader.number(&format!("hugetlb.{page_size}.{name}"));
        Some(Self {
            page_size: page_size.to_owned(),
            usage: read("usage_in_bytes")?,
            peak: read("max_usage_in_bytes").unwrap_or_default(),
            limit: read("limit_in_bytes").unwrap_or(u64::MAX),
            failures: read("failcnt").unwrap_or_default(),
        })
    }

    fn read_v2(reader: &mut Reader, page_size: &str) -> Option<Self> {
        let file = |name| format!("hugetlb.{page_size}.{name}");
        let usage = reader.number(&file("current"))?;
        let events = reader.text(&file("events"));
        let failures = events.and_then(|text| value(text, "max"));
        Some(Self {
            page_size: page_size.to_owned(),
            usage,
            peak: 0,
            limit: reader.number(&file("max")).unwrap_or(u64::MAX),
            failures: failures.unwrap_or_default(),
        })
    }
}

/// The sizes of huge pages that the machine has, as in the file names. They do not change.
fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        // None: a kernel without huge pages.
        let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
        let names = entries.into_iter().flatten().flatten();
        let mut sizes: Vec<u64> = names
            .filter_map(|entry| {
                let name = entry.file_name();
                let size = name.to_str()?.strip_prefix("hugepages-")?;
                size.strip_suffix("kB")?.parse().ok()
            })
            .collect();
        sizes.sort_unstable();
        sizes.into_iter().map(page_size_name).collect()
    })
}

/// As the kernel names a size, given in KiB, in its files.
fn page_size_name(size: u64) -> String {
    match size {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    }
}

fn rdma(reader: &mut Reader) -> Vec<Rdma> {
    let mut devices = Vec::new();
    let lines = |text: &str, fill: &mut dyn FnMut(&str, u32, u32)| {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(device) = words.next() else { continue };
            let (mut handles, mut objects) = (0, 0);
            for (name, value) in words.filter_map(|word| word.split_once('=')) {
                let value = number(value).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                match name {
                    "hca_handle" => handles = value.unwrap_or_default(),
                    "hca_object" => objects = value.unwrap_or_default(),
                    _ => {}
                }
            }
            fill(device, handles, objects);
        }
    };
    if let Some(text) = reader.text("rdma.current") {
        lines(text, &mut |device, handles, objects| {
            devices.push(Rdma {
                device: device.to_owned(),
                handles,
                objects,
                ..Rdma::default()
            });
        });
    }
    if let Some(text) = reader.text("rdma.max") {
        lines(text, &mut |device, handles, objects| {
            let known: Option<&mut Rdma> = devices.iter_mut().find(|d| d.device == device);
            if let Some(known) = known {
                (known.handle_limit, known.object_limit) = (handles, objects);
            }
        });
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_of_v2_is_turned_into_nanoseconds() {
        let mut cpu = Cpu::default();
        cpu.read_v2(
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\nnr_periods 5\n\
             nr_throttled 2\nthrottled_usec 7\nnr_bursts 1\nburst_usec 3\n",
        );
        let expected = Cpu {
            total: 30_000,
            user: 20_000,
            kernel: 10_000,
            periods: 5,
            throttled_periods: 2,
            throttled: 7_000,
            bursts: 1,
            burst: 3_000,
            ..Cpu::default()
        };
        assert_eq!(cpu, expected);
    }

    #[test]
    fn page_sizes_have_the_kernels_names() {
        let names = [64, 2048, 32_768, 1_048_576, 16_777_216].map(page_size_name);
        assert_eq!(names, ["64KB", "2MB", "32MB", "1GB", "16GB"]);
    }
}
