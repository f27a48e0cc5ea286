// SPDX-License-Identifier: Apache-2.0
//! What containers use, in one form for both versions of cgroups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use diagnostics::v1;
use protobuf::MessageField;
use runtime::Interface;
use runtime::cgroups::stats::{Averages, BlockIo, Cpu, Memory, Operation, Pressure};
use runtime::cgroups::{MemoryEvents, Stats};

use super::{decode, unix_ns};
use crate::container::{Container, ReplyTo};
use crate::metrics;
use crate::server::Server;
use crate::service::message;
use crate::status::Status;

/// A container to read of, on a worker.
type Wanted = (
    String,
    Option<(Arc<runtime::Container>, Option<MemoryEvents>)>,
);

impl Server {
    /// One container, or all. A worker reads: see [`Server::call`]'s Stats.
    pub(super) fn describe_stats(&mut self, to: ReplyTo, payload: &[u8]) {
        let wanted = decode(payload).and_then(|request| self.wanted(&request));
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(status) => return self.reply(to, Err(status)),
        };
        self.workers.read(move || {
            let mut response = v1::StatsResponse::new();
            response.stats = wanted.into_iter().map(of).collect();
            let answer = message(&response);
            Box::new(move |server: &mut Server| server.reply(to, answer))
        });
    }

    fn wanted(&self, request: &v1::StatsRequest) -> Result<Vec<Wanted>, Status> {
        let id = request.container.as_str();
        if !id.is_empty() && !self.containers.contains_key(id) {
            return Err(Status::container_not_created());
        }
        let wanted = self.containers.iter();
        let wanted = wanted.filter(|(known, _)| id.is_empty() || *known == id);
        let source = |container: &Container| {
            let last = container.oom.as_ref().map(|oom| *oom.last());
            Some((container.runtime.clone()?, last))
        };
        Ok(wanted
            .map(|(id, container)| (id.clone(), source(container)))
            .collect())
    }
}

fn of((id, source): Wanted) -> v1::ContainerStats {
    let mut message = v1::ContainerStats::new();
    message.container = id;
    message.time_unix_ns = unix_ns(Some(SystemTime::now()));
    let Some((runtime, last)) = source else {
        message.error = "it is being created".to_owned();
        return message;
    };
    fill(&mut message, &metrics::read(&runtime, last.as_ref()));
    message.interfaces = runtime.network().iter().map(interface).collect();
    message
}

fn fill(message: &mut v1::ContainerStats, stats: &Stats) {
    message.cpu = MessageField::some(cpu(&stats.cpu));
    message.cpu_pressure = pressure(stats.cpu.pressure.as_ref());
    if let Some(memory) = &stats.memory {
        message.memory_pressure = pressure(memory.pressure.as_ref());
        message.memory = MessageField::some(self::memory(memory));
    }
    if let Some(pids) = stats.pids {
        let mut part = v1::Pids::new();
        part.current = pids.current;
        part.limit = limit(pids.limit);
        message.pids = MessageField::some(part);
    }
    message.io = io(&stats.io);
    message.io_pressure = pressure(stats.io.pressure.as_ref());
}

/// The messages have 0 for "none".
fn limit(bytes: u64) -> u64 {
    // v1 has the largest multiple of a page below 2^63.
    if bytes >= i64::MAX as u64 - (1 << 20) {
        0
    } else {
        bytes
    }
}

fn cpu(cpu: &Cpu) -> v1::Cpu {
    let mut message = v1::Cpu::new();
    message.usage_ns = cpu.total;
    message.user_ns = cpu.user;
    message.system_ns = cpu.kernel;
    message.periods = cpu.periods;
    message.throttled_periods = cpu.throttled_periods;
    message.throttled_ns = cpu.throttled;
    message
}

fn memory(memory: &Memory) -> v1::Memory {
    let mut message = v1::Memory::new();
    // v1 has the whole tree under names of their own.
    let either = |v1: &str, v2: &str| match memory.stat_of(v1) {
        0 => memory.stat_of(v2),
        found => found,
    };
    message.usage = memory.usage.usage;
    message.peak = memory.usage.peak;
    message.limit = limit(memory.usage.limit);
    message.swap_usage = memory.swap.usage;
    message.swap_limit = limit(memory.swap.limit);
    let inactive = either("total_inactive_file", "inactive_file");
    message.working_set = memory.usage.usage.saturating_sub(inactive);
    message.cache = either("total_cache", "file");
    message.anonymous = either("total_rss", "anon");
    message.kernel = match memory.kernel.usage {
        0 => memory.stat_of("kernel"),
        found => found,
    };
    message.oom_kills = memory.events.oom_kill;
    message.max_events = memory.events.max.max(memory.usage.failures);
    message.high_events = memory.events.high;
    message.major_faults = either("total_pgmajfault", "pgmajfault");
    message
}

fn io(io: &BlockIo) -> Vec<v1::BlockIo> {
    let mut devices: BTreeMap<(u32, u32), v1::BlockIo> = BTreeMap::new();
    for entry in &io.entries {
        let device = devices.entry((entry.major, entry.minor)).or_default();
        (device.major, device.minor) = (entry.major, entry.minor);
        match entry.operation {
            Operation::Read => {
                device.read_bytes += entry.bytes;
                device.reads += entry.count;
            }
            Operation::Write => {
                device.written_bytes += entry.bytes;
                device.writes += entry.count;
            }
            _ => {}
        }
    }
    devices.into_values().collect()
}

fn pressure(pressure: Option<&Pressure>) -> MessageField<v1::Pressure> {
    let line = |averages: Option<&Averages>| {
        averages.map_or_else(MessageField::none, |averages| {
            let mut line = v1::PressureLine::new();
            line.avg10 = averages.avg10;
            line.avg60 = averages.avg60;
            line.avg300 = averages.avg300;
            // The kernel counts microseconds.
            line.total_ns = averages.total.saturating_mul(1000);
            MessageField::some(line)
        })
    };
    pressure.map_or_else(MessageField::none, |pressure| {
        let mut message = v1::Pressure::new();
        message.some = line(pressure.some.as_ref());
        message.full = line(pressure.full.as_ref());
        MessageField::some(message)
    })
}

fn interface(interface: &Interface) -> v1::Interface {
    let mut message = v1::Interface::new();
    message.name.clone_from(&interface.name);
    let (received, sent) = (&interface.received, &interface.sent);
    message.received_bytes = received.bytes;
    message.received_packets = received.packets;
    message.received_errors = received.errors;
    message.received_dropped = received.dropped;
    message.sent_bytes = sent.bytes;
    message.sent_packets = sent.packets;
    message.sent_errors = sent.errors;
    message.sent_dropped = sent.dropped;
    message
}
