// SPDX-License-Identifier: Apache-2.0
//! What waits in the shim, and how full its rings are.

use std::time::Instant;

use diagnostics::v1;
use protobuf::MessageField;
use telemetry::{recorder, tail};

use crate::server::Server;
use crate::workers;

impl Server {
    pub(super) fn describe_queues(&self) -> v1::QueuesResponse {
        let mut response = v1::QueuesResponse::new();
        response.publisher = MessageField::some(self.describe_publisher());
        let (threads, waiting) = self.workers.load();
        let mut workers = v1::Workers::new();
        workers.threads = threads as u32;
        workers.idle = self.workers.idle() as u32;
        workers.waiting = waiting as u32;
        workers.most = workers::MOST as u32;
        response.workers = MessageField::some(workers);
        response.connections = self.connection_count() as u32;
        response.calls = (self.calls.len() + self.observed.polls.len()) as u32;
        response.timers = self.timer_count() as u32;
        response.ending = self.is_ending();
        let (spans, spans_kept) = recorder::recorded();
        let (messages, messages_kept, messages_most) = runtime::sync::record::counts();
        let (lines, lines_kept) = tail::logged();
        let events = &self.observed.events;
        response.rings = [
            ("events", events.len(), events.capacity(), events.total()),
            ("spans", spans_kept, recorder::KEPT, spans),
            ("sync-messages", messages_kept, messages_most, messages),
            ("log", lines_kept, tail::LINES, lines),
        ]
        .into_iter()
        .map(|(name, items, capacity, total)| {
            let mut ring = v1::Ring::new();
            ring.name = name.to_owned();
            ring.items = items as u64;
            ring.capacity = capacity as u64;
            ring.total = total;
            ring
        })
        .collect();
        response
    }

    fn describe_publisher(&self) -> v1::Publisher {
        let (publisher, counts) = (&self.publisher, self.publisher.counts());
        let mut message = v1::Publisher::new();
        message.pending = publisher.pending() as u64;
        message.state = publisher.link_state().to_owned();
        message.published = counts.published;
        message.delivered = counts.delivered;
        message.failures = counts.failures;
        message.refused = counts.refused;
        message.oom_dropped = counts.oom_dropped;
        let outage = publisher.outage(Instant::now());
        message.outage_ns = outage.map_or(0, |outage| outage.as_nanos() as u64);
        message.last_failure.clone_from(&counts.last_failure);
        message.next_topic = publisher.next_topic().unwrap_or_default().to_owned();
        message
    }
}
