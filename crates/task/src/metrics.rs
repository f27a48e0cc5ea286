// SPDX-License-Identifier: Apache-2.0
//! Statistics as containerd's clients read them: `io.containerd.cgroups.v1.Metrics` where
//! controllers are on v1 (hybrids included), `io.containerd.cgroups.v2.Metrics` on pure v2.
//!
//! Encoded by hand: the generated messages would take a hundred allocations for each call, lack the
//! newest fields, and their reflection tables stay in memory once used. Tests decode with them.

use containerd_shim_protos::api::StatsResponse;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use runtime::Interface;
use runtime::cgroups::stats::{Memory, Rdma};
use runtime::cgroups::{MemoryEvents, Mode, Stats};

use crate::metrics::encoder::Encoder;

mod encoder;
mod v1;
mod v2;

/// The answer to Stats.
pub(crate) fn response(stats: &Stats, network: &[Interface]) -> StatsResponse {
    let mut encoder = Encoder::default();
    let type_url = match stats.mode {
        Mode::V2 => {
            v2::encode(&mut encoder, stats, network);
            "io.containerd.cgroups.v2.Metrics"
        }
        Mode::V1 | Mode::Hybrid => {
            v1::encode(&mut encoder, stats, network);
            "io.containerd.cgroups.v1.Metrics"
        }
    };
    StatsResponse {
        stats: MessageField::some(Any {
            type_url: type_url.to_owned(),
            value: encoder.finish(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What a container uses. `last` is what is known of its OOM counters.
pub(crate) fn read(container: &runtime::Container, last: Option<&MemoryEvents>) -> Stats {
    let mut stats = container.stats();
    if let Some(last) = last {
        remember(&mut stats, last);
    }
    stats
}

/// Keeps what limits of memory led to when the cgroup is gone, as it is with systemd once the last
/// process has ended: then CRI asks whether it was killed for memory.
fn remember(stats: &mut Stats, last: &MemoryEvents) {
    if stats.memory.is_none() && *last != MemoryEvents::default() {
        let mut memory = Memory::default();
        memory.events = *last;
        stats.memory = Some(memory);
    }
}

/// `NetworkStat`, the same in both messages.
fn interface(encoder: &mut Encoder, interface: &Interface) {
    encoder.string(1, &interface.name);
    let (received, sent) = (&interface.received, &interface.sent);
    for (field, value) in [
        (2, received.bytes),
        (3, received.packets),
        (4, received.errors),
        (5, received.dropped),
        (6, sent.bytes),
        (7, sent.packets),
        (8, sent.errors),
        (9, sent.dropped),
    ] {
        encoder.number(field, value);
    }
}

/// `RdmaEntry` of each device, the same in both messages: what is in use, or what may be.
fn rdma_entries(
    encoder: &mut Encoder,
    field: u32,
    devices: &[Rdma],
    numbers: fn(&Rdma) -> (u32, u32),
) {
    for device in devices {
        encoder.message(field, |encoder| {
            let (handles, objects) = numbers(device);
            encoder.string(1, &device.device);
            encoder.number(2, u64::from(handles));
            encoder.number(3, u64::from(objects));
        });
    }
}

#[cfg(test)]
mod tests;
