// SPDX-License-Identifier: Apache-2.0
//! Memory.

use super::Pressure;
use crate::memory_events::MemoryEvents;
use crate::reader::{Reader, pairs, value};

/// Memory in use.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Memory.
    pub usage: Counter,
    /// v1: memory and swap together; v2: swap alone.
    pub swap: Counter,
    /// v1: memory of the kernel.
    pub kernel: Counter,
    /// v1: of it for TCP.
    pub kernel_tcp: Counter,
    /// What the limits led to.
    pub events: MemoryEvents,
    /// v2: waiting for memory.
    pub pressure: Option<Pressure>,
    /// The content of `memory.stat`.
    stat: String,
}

/// One kind of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// In use.
    pub usage: u64,
    /// The most that was in use.
    pub peak: u64,
    /// What may be in use; v2: `u64::MAX` is any amount.
    pub limit: u64,
    /// v1: how often the limit was hit.
    pub failures: u64,
}

impl Memory {
    /// Everything in `memory.stat`, by the kernel's names.
    pub fn stat(&self) -> impl Iterator<Item = (&str, u64)> {
        pairs(&self.stat)
    }

    /// One value of `memory.stat`; 0 if this kernel does not have it.
    pub fn stat_of(&self, name: &str) -> u64 {
        value(&self.stat, name).unwrap_or_default()
    }

    /// Nothing but a `memory.stat`.
    pub fn with_stat(stat: &str) -> Self {
        Self {
            stat: stat.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn read_v1(reader: &mut Reader) -> Option<Self> {
        let stat = reader.text("memory.stat")?.to_owned();
        let mut counter = |name: &str| {
            let mut read = |what| reader.number(&format!("memory.{name}{what}"));
            // Without swap, or memory of the kernel, being counted there is none of the files.
            let Some(usage) = read("usage_in_bytes") else {
                return Counter::default();
            };
            Counter {
                usage,
                peak: read("max_usage_in_bytes").unwrap_or_default(),
                limit: read("limit_in_bytes").unwrap_or_default(),
                failures: read("failcnt").unwrap_or_default(),
            }
        };
        Some(Self {
            usage: counter(""),
            swap: counter("memsw."),
            kernel: counter("kmem."),
            kernel_tcp: counter("kmem.tcp."),
            events: MemoryEvents::read_v1(reader).unwrap_or_default(),
            pressure: None,
            stat,
        })
    }

    pub(super) fn read_v2(reader: &mut Reader) -> Option<Self> {
        let stat = reader.text("memory.stat")?.to_owned();
        let mut counter = |name: &str| {
            // `peak` came with Linux 5.19, that of swap with 6.5.
            let mut read = |what| reader.number(&format!("memory.{name}{what}"));
            Counter {
                usage: read("current").unwrap_or_default(),
                peak: read("peak").unwrap_or_default(),
                limit: read("max").unwrap_or_default(),
                failures: 0,
            }
        };
        Some(Self {
            usage: counter(""),
            swap: counter("swap."),
            events: MemoryEvents::read_v2(reader).unwrap_or_default(),
            stat,
            ..Self::default()
        })
    }
}
