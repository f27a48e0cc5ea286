// SPDX-License-Identifier: Apache-2.0
//! What is measured: per container and per shim.
//!
//! Labels are ids and names that containerd bounds, and operations of a fixed number; containers
//! beyond a limit are left out and counted.

use std::collections::BTreeMap;

use diagnostics::v1::{
    Container, ContainerStats, DescriptorsRequest, Event, EventsRequest, Poll, Pressure, Span,
    SpansRequest, StatsRequest,
};

use super::text::{Exposition, Histogram, Kind, Labels};
use crate::args::Global;
use crate::client::{Client, Silence};
use crate::discover::{self, Shim};
use crate::fleet::{self, Answer, Overview, label};

/// So many different operations are told apart; the others are `other`.
const OPERATIONS: usize = 32;

/// What one shim said.
struct Said {
    overview: Overview,
    stats: Vec<ContainerStats>,
    spans: Vec<Span>,
    span_next: u64,
    events: Vec<Event>,
    event_next: u64,
    /// Open files by kind.
    files: BTreeMap<String, u32>,
}

/// What is kept of a shim between scrapes.
#[derive(Debug, Default)]
struct Kept {
    span_next: u64,
    event_next: u64,
    took: BTreeMap<String, Histogram>,
    events: BTreeMap<String, u64>,
    seen: bool,
}

/// Asks all shims, again and again.
#[derive(Debug)]
pub(crate) struct Gatherer {
    most: usize,
    kept: BTreeMap<(String, String, i32), Kept>,
    silent: usize,
}

impl Gatherer {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            kept: BTreeMap::new(),
            silent: 0,
        }
    }

    /// How many shims did not answer the last time.
    pub(crate) fn silent(&self) -> usize {
        self.silent
    }

    /// Asks, and writes the text.
    pub(crate) fn scrape(&mut self, global: &Global) -> String {
        let shims = discover::shims(global.namespace.as_deref());
        let kept = &self.kept;
        let answers = fleet::ask(shims, global.timeout, |shim, client| {
            let kept = kept.get(&key(shim));
            let (span, event) = kept.map_or((0, 0), |kept| (kept.span_next, kept.event_next));
            ask(client, span, event)
        });
        self.write(&answers)
    }

    fn write(&mut self, answers: &[Answer<Said>]) -> String {
        let mut out = Exposition::default();
        for kept in self.kept.values_mut() {
            kept.seen = false;
        }
        self.silent = answers.iter().filter(|answer| answer.said.is_err()).count();
        let mut left = self.most;
        let mut omitted = 0;
        for Answer { shim, said } in answers {
            let labels = [
                ("namespace", shim.namespace.as_str()),
                ("shim", shim.id.as_str()),
            ];
            let up = f64::from(u8::from(said.is_ok()));
            out.add(
                Kind::Gauge,
                ("shim_up", "", "Whether the shim answers."),
                &labels,
                up,
            );
            let kept = self.kept.entry(key(shim)).or_default();
            kept.seen = true;
            let Ok(said) = said else { continue };
            kept.take(said);
            of_shim(&mut out, &labels, said, kept);
            for container in &said.overview.containers {
                if left == 0 {
                    omitted += 1;
                    continue;
                }
                left -= 1;
                let stats = said
                    .stats
                    .iter()
                    .find(|stats| stats.container == container.id);
                of_container(&mut out, shim, container, stats);
            }
        }
        self.kept.retain(|_, kept| kept.seen);
        let family = (
            "shimctl_containers_omitted",
            "",
            "Containers beyond --max-containers.",
        );
        out.add(Kind::Gauge, family, &[], f64::from(omitted));
        out.finish()
    }
}

fn key(shim: &Shim) -> (String, String, i32) {
    (shim.namespace.clone(), shim.id.clone(), shim.pid)
}

fn ask(client: &mut Client, span: u64, event: u64) -> Result<Said, Silence> {
    let mut said = Said {
        overview: fleet::look(client)?,
        stats: Vec::new(),
        spans: Vec::new(),
        span_next: span,
        events: Vec::new(),
        event_next: event,
        files: BTreeMap::new(),
    };
    if let Some(response) = known(client.call(&DescriptorsRequest::new()))? {
        for descriptor in response.descriptors {
            *said.files.entry(descriptor.kind).or_default() += 1;
        }
    }
    said.stats = known(client.call(&StatsRequest::new()))?.map_or(Vec::new(), |r| r.stats);
    let poll = |since| Poll {
        since,
        ..Poll::new()
    };
    let mut request = SpansRequest::new();
    request.poll = Some(poll(span)).into();
    if let Some(response) = known(client.call(&request))? {
        said.span_next = response.polled.as_ref().map_or(span, |polled| polled.next);
        said.spans = response.spans;
    }
    let mut request = EventsRequest::new();
    request.poll = Some(poll(event)).into();
    if let Some(response) = known(client.call(&request))? {
        said.event_next = response.polled.as_ref().map_or(event, |polled| polled.next);
        said.events = response.events;
    }
    Ok(said)
}

/// An older shim has less to tell.
fn known<T>(said: Result<T, Silence>) -> Result<Option<T>, Silence> {
    match said {
        Err(Silence::Old) => Ok(None),
        other => other.map(Some),
    }
}

impl Kept {
    fn take(&mut self, said: &Said) {
        (self.span_next, self.event_next) = (said.span_next, said.event_next);
        for span in said.spans.iter().filter(|span| span.parent == 0) {
            let known = self.took.len() < OPERATIONS || self.took.contains_key(&span.name);
            let name = if known { span.name.as_str() } else { "other" };
            // An exec is started by the same call as an init, and is another thing.
            let name = match (name, span.exec.as_str()) {
                (name, "") => name.to_owned(),
                (name, _) if name.contains("exec") => name.to_owned(),
                (name, _) => format!("exec-{name}"),
            };
            self.took.entry(name).or_default().add(span.duration_ns);
        }
        for event in &said.events {
            let known = self.events.len() < OPERATIONS || self.events.contains_key(&event.kind);
            let kind = if known { event.kind.as_str() } else { "other" };
            *self.events.entry(kind.to_owned()).or_default() += 1;
        }
    }
}

fn of_shim(out: &mut Exposition, labels: &Labels<'_>, said: &Said, kept: &Kept) {
    let info = &said.overview.info;
    let uptime = info.uptime_ns as f64 / 1e9;
    let family = (
        "shim_uptime_seconds",
        "seconds",
        "How long the shim has been running.",
    );
    out.add(Kind::Gauge, family, labels, uptime);
    let containers = said.overview.containers.len() as f64;
    out.add(
        Kind::Gauge,
        ("shim_containers", "", "Containers of the shim."),
        labels,
        containers,
    );
    of_publisher(out, labels, said);
    if let Some(workers) = said.overview.queues.workers.as_ref() {
        let threads = ("shim_worker_threads", "", "Threads for what blocks.");
        out.add(Kind::Gauge, threads, labels, f64::from(workers.threads));
        let waiting = ("shim_jobs_waiting", "", "Jobs that wait for a thread.");
        out.add(Kind::Gauge, waiting, labels, f64::from(workers.waiting));
    }
    let files = ("shim_open_files", "", "Open files by kind.");
    for (kind, count) in said.files.iter().take(OPERATIONS) {
        let with = [labels, &[("kind", kind.as_str())]].concat();
        out.add(Kind::Gauge, files, &with, f64::from(*count));
    }
    let events = (
        "shim_events_seen",
        "",
        "Events by kind, as far as this program has seen them.",
    );
    for (kind, count) in &kept.events {
        let with = [labels, &[("kind", kind.as_str())]].concat();
        out.add(Kind::Counter, events, &with, *count as f64);
    }
    let took = ("shim_operation_seconds", "seconds", "How long calls took.");
    for (name, histogram) in &kept.took {
        let with = [labels, &[("operation", name.as_str())]].concat();
        out.add_histogram(took, &with, histogram);
    }
}

/// Events on their way to containerd.
fn of_publisher(out: &mut Exposition, labels: &Labels<'_>, said: &Said) {
    let Some(publisher) = said.overview.queues.publisher.as_ref() else {
        return;
    };
    let pending = (
        "shim_events_pending",
        "",
        "Events that containerd has not taken yet.",
    );
    out.add(Kind::Gauge, pending, labels, publisher.pending as f64);
    let outage = (
        "shim_events_outage_seconds",
        "seconds",
        "Since when containerd takes none.",
    );
    out.add(
        Kind::Gauge,
        outage,
        labels,
        publisher.outage_ns as f64 / 1e9,
    );
    for (family, value) in [
        (
            ("shim_events_published", "", "Events for containerd."),
            publisher.published,
        ),
        (
            ("shim_events_delivered", "", "Events that containerd took."),
            publisher.delivered,
        ),
        (
            ("shim_events_retries", "", "Tries to publish that failed."),
            publisher.failures,
        ),
        (
            (
                "shim_events_refused",
                "",
                "Events that containerd will never take.",
            ),
            publisher.refused,
        ),
    ] {
        out.add(Kind::Counter, family, labels, value as f64);
    }
}

fn of_container(
    out: &mut Exposition,
    shim: &Shim,
    container: &Container,
    stats: Option<&ContainerStats>,
) {
    let labels = [
        ("namespace", shim.namespace.as_str()),
        ("container", container.id.as_str()),
        ("pod", label(container, fleet::POD)),
        ("pod_namespace", label(container, fleet::POD_NAMESPACE)),
        ("name", label(container, fleet::NAME)),
    ];
    let init = container.init.clone().unwrap_or_default();
    let running = f64::from(u8::from(init.state == "running"));
    out.add(
        Kind::Gauge,
        ("container_running", "", "Whether its init runs."),
        &labels,
        running,
    );
    let execs = container
        .execs
        .iter()
        .filter(|exec| exec.state == "running")
        .count();
    out.add(
        Kind::Gauge,
        ("container_execs", "", "Execs that run."),
        &labels,
        execs as f64,
    );
    let kills = ("container_oom_kills", "", "Processes killed for memory.");
    out.add(Kind::Counter, kills, &labels, container.oom_kills as f64);
    let restarts = (
        "container_restarts",
        "",
        "Containers of the same name in its pod before it.",
    );
    out.add(
        Kind::Gauge,
        restarts,
        &labels,
        f64::from(container.restarts),
    );
    of_memory_pressure(out, &labels, container);
    if let Some(notify) = container.notify.as_ref() {
        let ready = ("container_notify_ready", "", "Whether it has said READY=1.");
        out.add(
            Kind::Gauge,
            ready,
            &labels,
            f64::from(u8::from(notify.ready)),
        );
    }
    if let Some(stats) = stats.filter(|stats| stats.error.is_empty()) {
        of_use(out, &labels, stats);
        of_traffic(out, &labels, stats);
    }
}

/// Processor, memory, processes.
fn of_use(out: &mut Exposition, labels: &Labels<'_>, stats: &ContainerStats) {
    if let Some(cpu) = stats.cpu.as_ref() {
        for (family, ns) in [
            (
                ("container_cpu_seconds", "seconds", "Processor time."),
                cpu.usage_ns,
            ),
            (
                (
                    "container_cpu_user_seconds",
                    "seconds",
                    "Of it in user mode.",
                ),
                cpu.user_ns,
            ),
            (
                (
                    "container_cpu_throttled_seconds",
                    "seconds",
                    "Held back by a quota.",
                ),
                cpu.throttled_ns,
            ),
        ] {
            out.add(Kind::Counter, family, labels, ns as f64 / 1e9);
        }
    }
    if let Some(memory) = stats.memory.as_ref() {
        for (family, bytes) in [
            (
                ("container_memory_bytes", "bytes", "Memory in use."),
                memory.usage,
            ),
            (
                (
                    "container_memory_working_set_bytes",
                    "bytes",
                    "Without inactive files.",
                ),
                memory.working_set,
            ),
            (
                (
                    "container_memory_limit_bytes",
                    "bytes",
                    "Limit of memory; 0: none.",
                ),
                memory.limit,
            ),
            (
                ("container_swap_bytes", "bytes", "Swap in use."),
                memory.swap_usage,
            ),
        ] {
            out.add(Kind::Gauge, family, labels, bytes as f64);
        }
        let hits = (
            "container_memory_limit_hits",
            "",
            "How often the limit was hit.",
        );
        out.add(Kind::Counter, hits, labels, memory.max_events as f64);
    }
    if let Some(pids) = stats.pids.as_ref() {
        let family = ("container_pids", "", "Processes and threads.");
        out.add(Kind::Gauge, family, labels, pids.current as f64);
    }
    for (resource, pressure) in [
        ("cpu", stats.cpu_pressure.as_ref()),
        ("memory", stats.memory_pressure.as_ref()),
        ("io", stats.io_pressure.as_ref()),
    ] {
        if let Some(pressure) = pressure {
            of_pressure(out, labels, resource, pressure);
        }
    }
}

/// Block devices and the network.
fn of_traffic(out: &mut Exposition, labels: &Labels<'_>, stats: &ContainerStats) {
    for io in &stats.io {
        let device = format!("{}:{}", io.major, io.minor);
        let with = [labels, &[("device", device.as_str())]].concat();
        let read = (
            "container_io_read_bytes",
            "bytes",
            "Read from a block device.",
        );
        out.add(Kind::Counter, read, &with, io.read_bytes as f64);
        let written = (
            "container_io_written_bytes",
            "bytes",
            "Written to a block device.",
        );
        out.add(Kind::Counter, written, &with, io.written_bytes as f64);
    }
    let (received, sent) = crate::show::stats::network(stats);
    let family = (
        "container_network_received_bytes",
        "bytes",
        "Received from the network.",
    );
    out.add(Kind::Counter, family, labels, received as f64);
    let family = (
        "container_network_sent_bytes",
        "bytes",
        "Sent to the network.",
    );
    out.add(Kind::Counter, family, labels, sent as f64);
}

/// How often the kernel has said that memory gets short.
fn of_memory_pressure(out: &mut Exposition, labels: &Labels<'_>, container: &Container) {
    let Some(pressure) = container.memory_pressure.as_ref() else {
        return;
    };
    for (level, signals) in [
        ("low", pressure.low),
        ("medium", pressure.medium),
        ("critical", pressure.critical),
    ] {
        let mut with = labels.to_vec();
        with.push(("level", level));
        let family = (
            "container_memory_pressure_signals",
            "",
            "Signals of the kernel that memory gets short.",
        );
        out.add(Kind::Counter, family, &with, signals as f64);
    }
}

fn of_pressure(out: &mut Exposition, labels: &Labels<'_>, resource: &str, pressure: &Pressure) {
    for (kind, line) in [
        ("some", pressure.some.as_ref()),
        ("full", pressure.full.as_ref()),
    ] {
        let Some(line) = line else { continue };
        let with = [labels, &[("resource", resource), ("kind", kind)]].concat();
        let stalled = (
            "container_pressure_seconds",
            "seconds",
            "Time spent waiting (PSI).",
        );
        out.add(Kind::Counter, stalled, &with, line.total_ns as f64 / 1e9);
        let share = (
            "container_pressure_ratio",
            "ratio",
            "The same, of the last ten seconds.",
        );
        out.add(Kind::Gauge, share, &with, line.avg10 / 100.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diagnostics::v1::MemoryPressure;

    use crate::show::ps::tests::{answers, shim};
    use crate::show::stats::tests::usage;
    use crate::trace::tree_tests::life;

    fn said(containers: usize) -> Said {
        let mut overview = Overview::default();
        for index in 0..containers {
            overview.containers.push(Container {
                id: format!("c{index}"),
                oom_kills: 3,
                memory_pressure: Some(MemoryPressure {
                    medium: 4,
                    ..MemoryPressure::new()
                })
                .into(),
                ..Container::new()
            });
        }
        Said {
            overview,
            stats: vec![usage("c0", 8).stats],
            spans: life(),
            span_next: 8,
            events: vec![],
            event_next: 0,
            files: [("socket".to_owned(), 3)].into(),
        }
    }

    fn answer(said: Said) -> Vec<Answer<Said>> {
        vec![Answer {
            shim: shim("pod", 7),
            said: Ok(said),
        }]
    }

    #[test]
    fn containers_shims_and_operations_are_measured() {
        let mut gatherer = Gatherer::new(10);
        let text = gatherer.write(&answer(said(1)));
        for line in [
            "shim_up{namespace=\"k8s.io\",shim=\"pod\"} 1",
            "shim_open_files{namespace=\"k8s.io\",shim=\"pod\",kind=\"socket\"} 3",
            "container_oom_kills_total{namespace=\"k8s.io\",container=\"c0\"} 3",
            "container_memory_pressure_signals_total{namespace=\"k8s.io\",container=\"c0\",level=\"medium\"} 4",
            "container_cpu_seconds_total{namespace=\"k8s.io\",container=\"c0\"} 2",
            "container_pressure_ratio{namespace=\"k8s.io\",container=\"c0\",resource=\"cpu\",kind=\"some\"} 0.124",
            "shim_operation_seconds_count{namespace=\"k8s.io\",shim=\"pod\",operation=\"create\"} 1",
            "shim_operation_seconds_bucket{namespace=\"k8s.io\",shim=\"pod\",operation=\"create\",le=\"0.005\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
        let again = gatherer.write(&answer(said(1)));
        assert!(
            again.contains("operation=\"create\"} 2\n"),
            "histograms grow"
        );
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let mut gatherer = Gatherer::new(5);
        let text = gatherer.write(&answer(said(50)));
        assert_eq!(text.matches("container_running{").count(), 5);
        assert!(text.contains("shimctl_containers_omitted 45\n"));
        let mut said = said(0);
        said.spans = (0..500)
            .map(|n| crate::trace::tree_tests::span(n + 1, 0, &format!("op{n}"), n, 1))
            .collect();
        let text = gatherer.write(&answer(said));
        assert!(text.matches("shim_operation_seconds_count{").count() <= OPERATIONS + 1);
    }

    #[test]
    fn a_silent_shim_is_down() {
        let silent = answers().into_iter().filter(|a| a.said.is_err());
        let answers: Vec<Answer<Said>> = silent
            .map(|Answer { shim, said }| Answer {
                shim,
                said: Err(said.err().unwrap_or(Silence::Dead)),
            })
            .collect();
        let mut gatherer = Gatherer::new(5);
        let text = gatherer.write(&answers);
        assert!(text.contains("shim_up{namespace=\"k8s.io\",shim=\"pod-b\"} 0\n"));
        assert_eq!(gatherer.silent(), 1);
    }
}
