// SPDX-License-Identifier: Apache-2.0
//! What is known of one container over time: spans, messages, events, samples of its use.

use std::time::{Duration, Instant};

use diagnostics::v1::{
    ContainerStats, ContainersRequest, Event, EventsRequest, InfoRequest, Poll, Span, SpansRequest,
    StatsRequest, SyncMessage,
};

use super::clock::Clock;
use crate::args::Global;
use crate::client::{Client, Silence};
use crate::error::Error;
use crate::fleet::{self, Target, display_name};
use crate::show::stats::{io, network};
use crate::show::sync;

/// How often the use is looked at.
const SAMPLE: Duration = Duration::from_millis(100);
/// How often it is looked whether a container has come.
const LOOK: Duration = Duration::from_millis(10);

/// Everything about one container. All times are nanoseconds of the shim's monotonic clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// `namespace/id`.
    pub(crate) name: String,
    /// What people call it.
    pub(crate) title: String,
    /// The shim's version and process.
    pub(crate) shim: String,
    pub(crate) clock: Clock,
    /// Parents before children, in the order of their beginnings.
    pub(crate) spans: Vec<Span>,
    pub(crate) messages: Vec<SyncMessage>,
    pub(crate) events: Vec<Event>,
    pub(crate) samples: Vec<Sample>,
    /// Spans and events that were overwritten before they were asked for.
    pub(crate) lost: u64,
}

/// What a container used at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sample {
    pub(crate) mono_ns: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) memory: u64,
    pub(crate) io: u64,
    pub(crate) network: u64,
    /// The worst pressure, in percent of ten seconds.
    pub(crate) pressure: f64,
}

impl Sample {
    fn of(stats: &ContainerStats, mono_ns: u64) -> Self {
        let (read, written) = io(stats);
        let (received, sent) = network(stats);
        let pressures = [
            stats.cpu_pressure.as_ref(),
            stats.memory_pressure.as_ref(),
            stats.io_pressure.as_ref(),
        ];
        let worst = pressures
            .iter()
            .filter_map(crate::show::stats::some10)
            .fold(0.0, f64::max);
        Self {
            mono_ns,
            cpu_ns: stats.cpu.as_ref().map_or(0, |cpu| cpu.usage_ns),
            memory: stats.memory.as_ref().map_or(0, |memory| memory.usage),
            io: read + written,
            network: received + sent,
            pressure: worst,
        }
    }
}

/// Gathers what is known; watches for `watch` first, also for a container that is still to come.
pub(crate) fn gather(global: &Global, id: &str, watch: Option<Duration>) -> Result<Record, Error> {
    let deadline = watch.map(|watch| Instant::now() + watch);
    let target = loop {
        match fleet::find(global, id) {
            Err(Error::NoSuch { .. }) if deadline.is_some_and(|at| Instant::now() < at) => {
                std::thread::sleep(LOOK);
            }
            found => break found?,
        }
    };
    let mut client = target.connect(global.timeout)?;
    let mut record = Record::default();
    read(&mut client, &target, &mut record).map_err(|e| target.silent(e))?;
    if let Some(deadline) = deadline {
        match watch_until(deadline, &mut client, &target, &mut record) {
            // A shim that has ended has told what it knew.
            Ok(()) | Err(Silence::Unreachable(_)) => {}
            Err(silence) => return Err(target.silent(silence)),
        }
    } else if let Ok(sample) = sample(&mut client, &target, &record.clock) {
        record.samples.extend(sample);
    }
    Ok(record)
}

fn watch_until(
    deadline: Instant,
    client: &mut Client,
    target: &Target,
    record: &mut Record,
) -> Result<(), Silence> {
    let mut next = Instant::now();
    while Instant::now() < deadline {
        if Instant::now() >= next {
            record
                .samples
                .extend(sample(client, target, &record.clock)?);
            next = Instant::now() + SAMPLE;
        }
        read(client, target, record)?;
        await_span(client, target, record)?;
    }
    Ok(())
}

/// Waits a moment, or until a span ends: a Delete's is the last that a shim tells before it is gone.
fn await_span(client: &mut Client, target: &Target, record: &mut Record) -> Result<(), Silence> {
    let mut request = SpansRequest::new();
    let since = record.spans.iter().map(|span| span.number).max();
    let mut poll = poll(since.unwrap_or(0), target.container_id());
    poll.wait_ms = SAMPLE.as_millis() as u32;
    request.poll = Some(poll).into();
    let spans = client.patient(&request, SAMPLE)?.spans;
    record.spans.retain(|span| span.number != 0);
    record.spans = merge(std::mem::take(&mut record.spans), spans, |span| span.id);
    record
        .spans
        .sort_by_key(|span| (span.start_mono_ns, span.id));
    Ok(())
}

fn sample(client: &mut Client, target: &Target, clock: &Clock) -> Result<Option<Sample>, Silence> {
    let mut request = StatsRequest::new();
    target.container_id().clone_into(&mut request.container);
    let stats = match client.again().call(&request) {
        Ok(response) => response.stats,
        // A container that has been deleted.
        Err(Silence::Refused(_)) => return Ok(None),
        Err(other) => return Err(other),
    };
    let own = stats
        .iter()
        .find(|stats| stats.container == target.container_id());
    Ok(own
        .filter(|stats| stats.error.is_empty())
        .map(|stats| Sample::of(stats, clock.mono(stats.time_unix_ns))))
}

/// Reads what has come since the last time.
fn read(client: &mut Client, target: &Target, record: &mut Record) -> Result<(), Silence> {
    let info = client.again().call(&InfoRequest::new())?;
    record.name = target.name();
    if record.title.is_empty() {
        record.title = title(client, target)?;
    }
    record.shim = format!("shim {} of version {}", info.pid, info.version);
    record.clock = Clock::of(&info);
    let container = target.container_id();
    record.messages = merge(
        std::mem::take(&mut record.messages),
        sync::fetch(client, container)?,
        |message| message.number,
    );
    let (events, lost) = events(client, container)?;
    record.events = merge(std::mem::take(&mut record.events), events, |e| e.number);
    record.lost = record.lost.max(lost);
    let (spans, lost) = spans(client, container)?;
    record.lost = record.lost.max(lost);
    // What was under way has an end now, or is longer.
    record.spans.retain(|span| span.number != 0);
    record.spans = merge(std::mem::take(&mut record.spans), spans, |span| span.id);
    record
        .spans
        .sort_by_key(|span| (span.start_mono_ns, span.id));
    Ok(())
}

/// What people call it: known when its Create has read its configuration.
fn title(client: &mut Client, target: &Target) -> Result<String, Silence> {
    let mut request = ContainersRequest::new();
    target.container_id().clone_into(&mut request.container);
    match client.again().call(&request) {
        Ok(response) if !request.container.is_empty() => {
            let names = response.containers.iter().map(display_name);
            Ok(names.last().unwrap_or_default())
        }
        // A shim, or a container that is gone.
        Ok(_) | Err(Silence::Refused(_)) => Ok(String::new()),
        Err(other) => Err(other),
    }
}

fn merge<T>(mut old: Vec<T>, new: Vec<T>, key: impl Fn(&T) -> u64) -> Vec<T> {
    let known: std::collections::HashSet<u64> = old.iter().map(&key).collect();
    old.extend(new.into_iter().filter(|item| !known.contains(&key(item))));
    old
}

fn events(client: &mut Client, container: &str) -> Result<(Vec<Event>, u64), Silence> {
    let (mut all, mut since, mut lost) = (Vec::new(), 0, 0);
    loop {
        let mut request = EventsRequest::new();
        request.poll = Some(poll(since, container)).into();
        let response = client.again().call(&request)?;
        let polled = response.polled.unwrap_or_default();
        lost += polled.lost;
        let done = response.events.is_empty() || polled.next <= since;
        all.extend(response.events);
        if done {
            return Ok((all, lost));
        }
        since = polled.next;
    }
}

fn spans(client: &mut Client, container: &str) -> Result<(Vec<Span>, u64), Silence> {
    let (mut all, mut since, mut lost) = (Vec::new(), 0, 0);
    loop {
        let mut request = SpansRequest::new();
        request.poll = Some(poll(since, container)).into();
        request.active = since == 0;
        let response = client.again().call(&request)?;
        let polled = response.polled.unwrap_or_default();
        lost += polled.lost;
        let done = response.spans.is_empty() || polled.next <= since;
        all.extend(response.spans);
        all.extend(response.active);
        if done {
            return Ok((all, lost));
        }
        since = polled.next;
    }
}

fn poll(since: u64, container: &str) -> Poll {
    Poll {
        since,
        container: container.to_owned(),
        ..Poll::new()
    }
}
