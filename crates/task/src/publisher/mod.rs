// SPDX-License-Identifier: Apache-2.0
//! Delivers events to containerd, in order, however long it takes.
//!
//! Job: one queue, one event under way at a time, tried until containerd has taken it. Driven by
//! the reactor: [`Publisher::drive`] does what can be done now and says when to come back.
//! Nothing here blocks.
//!
//! Invariants
//! - Events arrive in the order they were published. Containerd being away loses none.
//! - An event is dropped in three cases only, each logged: containerd refuses it for good (it would
//!   refuse it again, and it must not hold up the others); it is a TaskOOM and [`OOM_MAX`] events
//!   wait already; there is no address to send to. No other kind of event can be produced
//!   without end by a container while containerd, which starts everything, is away; so the queue
//!   needs no other bound. An event takes about 300 bytes.
//! - A containerd that hangs (stopped, swapping, in a debugger) gets an event once. When an answer
//!   takes longer than [`TRY`], a second connection asks whether anybody is there, with a call
//!   that changes nothing. While that too stays unanswered there is no sense in sending the event
//!   again: it lies in the socket, and would be delivered once more for each time it was sent. Only
//!   if containerd answers the second connection but still not the first is the first given up and
//!   the event sent again. A closed connection is given up at once.
//! - So an event arrives twice only if containerd took it and the connection broke before
//!   the answer, while containerd lived on. (A restarted containerd has forgotten the first.)

mod link;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

use self::link::{Answer, Link};
use crate::events::{Event, timestamp};
use crate::status::{Code, Status};
use crate::ttrpc::{Address, Error};

/// How long an answer may take before it is asked whether anybody is there.
pub const TRY: Duration = Duration::from_secs(5);
/// The pause after a first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between tries.
const RETRY_LAST: Duration = Duration::from_secs(1);
/// How long a question on the second connection may stay unanswered before it is asked anew.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// The queue length from which on further TaskOOM events are dropped.
pub const OOM_MAX: usize = 4096;

/// What the reactor is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Call [`Publisher::drive`] at this time, if nothing calls for it before.
    pub wake_at: Option<Instant>,
}

/// The queue of events and the connection they leave by.
#[derive(Debug)]
pub struct Publisher {
    address: Option<Address>,
    namespace: String,
    queue: VecDeque<Queued>,
    link: State,
    retry: Retry,
    outage: Option<Outage>,
    oom_dropped: u64,
    counts: Counts,
}

/// What has become of events so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Put into the queue.
    pub published: u64,
    /// Taken by containerd.
    pub delivered: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Never to be taken.
    pub refused: u64,
    /// TaskOOM events for which there was no room.
    pub oom_dropped: u64,
    /// Why the last try failed.
    pub last_failure: String,
}

/// An event that waits: its topic for the log, its encoded `ForwardRequest`.
#[derive(Debug)]
struct Queued {
    topic: &'static str,
    payload: Vec<u8>,
    context: telemetry::Context,
    /// CLOCK_MONOTONIC, nanoseconds.
    queued: u64,
}

/// The way to containerd, and where the first event of the queue is on it.
#[derive(Debug)]
enum State {
    /// No connection.
    Down,
    /// Connected; nothing under way.
    Ready(Link),
    /// The first event was sent.
    Sent { link: Link, late_at: Instant },
    /// The first event was sent and the answer is late.
    Late { link: Link, probe: Probe },
}

/// The second connection, which finds out whether containerd answers anything at all.
#[derive(Debug)]
enum Probe {
    /// None yet, or it failed.
    Down,
    /// The question was sent.
    Asked { link: Link, again_at: Instant },
    /// Answered: the first connection has until then, and no longer.
    Alive { link: Link, give_up_at: Instant },
}

/// The pause between failing tries.
#[derive(Debug)]
struct Retry {
    pause: Duration,
    not_before: Option<Instant>,
}

/// Since when events do not get through.
#[derive(Debug)]
struct Outage {
    since: Instant,
}

impl Queued {
    /// Its way to containerd is over.
    fn record(&self, outcome: telemetry::Outcome) {
        let took = telemetry::recorder::now().saturating_sub(self.queued);
        let name = crate::events::publishing(self.topic);
        self.context.add(name, self.queued, took, outcome);
    }
}

impl Publisher {
    /// A publisher for the events service at `address` (a path, `unix://<path>` or `@<abstract name>`).
    ///
    /// Connects when there is something to send. Without an address events are dropped.
    pub fn new(address: &str, namespace: &str) -> Self {
        let address = Address::parse(address);
        if address.is_none() {
            log::warn!("no address to publish events to: they are dropped");
        }
        Self {
            address,
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            link: State::Down,
            retry: Retry::new(),
            outage: None,
            oom_dropped: 0,
            counts: Counts::default(),
        }
    }

    /// Puts an event, which happened `now`, at the end of the queue. Call [`Publisher::drive`] afterwards.
    pub fn publish(&mut self, event: Event, now: SystemTime) {
        if self.address.is_none() || self.drops(&event) {
            return;
        }
        let topic = event.topic;
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(Some(now))),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(Any {
                type_url: event.type_url.to_owned(),
                value: event.value,
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = ForwardRequest {
            envelope: MessageField::some(envelope),
            ..Default::default()
        };
        // Memory takes every byte, and the messages have no required fields.
        let payload = request.write_to_bytes().unwrap_or_default();
        self.counts.published += 1;
        self.queue.push_back(Queued {
            topic,
            payload,
            context: telemetry::Context::current(),
            queued: telemetry::recorder::now(),
        });
    }

    /// Whether there are too many events for another TaskOOM.
    fn drops(&mut self, event: &Event) -> bool {
        let drops = event.is_oom() && self.queue.len() >= OOM_MAX;
        if drops {
            self.oom_dropped += 1;
            self.counts.oom_dropped += 1;
            // Once until the queue is empty: the container decides how often this happens.
            if self.oom_dropped == 1 {
                log::warn!("{OOM_MAX} events wait for containerd: further TaskOOM are dropped");
            }
        }
        drops
    }

    /// What has become of events so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How the connection to containerd is: down, ready, sent or late.
    pub fn link_state(&self) -> &'static str {
        match self.link {
            State::Down => "down",
            State::Ready(_) => "ready",
            State::Sent { .. } => "sent",
            State::Late { .. } => "late",
        }
    }

    /// For how long nothing has got through.
    pub fn outage(&self, now: Instant) -> Option<Duration> {
        let since = self.outage.as_ref()?.since;
        Some(now.saturating_duration_since(since))
    }

    /// Topic of the event that is to go next.
    pub fn next_topic(&self) -> Option<&'static str> {
        self.queue.front().map(|event| event.topic)
    }

    /// Events not yet taken by containerd, the one under way included.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Whether containerd has taken every event.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Does what can be done now: reads answers, connects, sends the next event.
    ///
    /// To be called after [`Publisher::publish`], when `token` is ready in `epoll`, and at the
    /// time it last returned; calls at other times do no harm. Connections register themselves
    /// in `epoll` (edge-triggered, one `token` for all) and leave it by being closed.
    pub fn drive(&mut self, epoll: BorrowedFd<'_>, token: u64, now: Instant) -> Next {
        let watch = link::Watch { epoll, token };
        let mut state = std::mem::replace(&mut self.link, State::Down);
        // Each round ends one wait or begins one. The bound keeps the reactor's other work going
        // if containerd answers as fast as we send.
        for _ in 0..16 {
            let (next, moved) = self.step(state, watch, now);
            state = next;
            if !moved {
                self.link = state;
                return Next {
                    wake_at: self.wake_at(now),
                };
            }
        }
        self.link = state;
        Next { wake_at: Some(now) }
    }

    /// One transition, and whether there was any.
    fn step(&mut self, state: State, watch: link::Watch<'_>, now: Instant) -> (State, bool) {
        match state {
            State::Down => match self.connect(watch, now) {
                Some(link) => (State::Ready(link), true),
                None => (State::Down, false),
            },
            State::Ready(link) => self.ready(link, watch, now),
            State::Sent { link, late_at } => self.sent(link, late_at, watch, now),
            State::Late { link, probe } => self.late(link, probe, watch, now),
        }
    }

    /// Connects if there is something to send and the pause is over.
    fn connect(&mut self, watch: link::Watch<'_>, now: Instant) -> Option<Link> {
        if self.queue.is_empty() || self.retry.pauses(now) {
            return None;
        }
        match Link::connect(self.address.as_ref()?, watch) {
            Ok(link) => Some(link),
            Err(error) => {
                self.failed(&error, now);
                None
            }
        }
    }

    fn ready(&mut self, mut link: Link, watch: link::Watch<'_>, now: Instant) -> (State, bool) {
        match link.answer(watch) {
            Ok(_) => {}
            Err(error) => return (self.closed(&link, &error, now), true),
        }
        let Some(event) = self.queue.front() else {
            return (State::Ready(link), false);
        };
        if self.retry.pauses(now) {
            return (State::Ready(link), false);
        }
        match link.forward(&event.payload, &self.namespace, watch) {
            Ok(()) => (
                State::Sent {
                    link,
                    late_at: now + TRY,
                },
                true,
            ),
            Err(link::SendError::TooLong(status)) => {
                self.refused(&status);
                (State::Ready(link), true)
            }
            Err(link::SendError::Connection(error)) => (self.closed(&link, &error, now), true),
        }
    }

    fn sent(
        &mut self,
        mut link: Link,
        late_at: Instant,
        watch: link::Watch<'_>,
        now: Instant,
    ) -> (State, bool) {
        match link.answer(watch) {
            Err(error) => (self.closed(&link, &error, now), true),
            Ok(Some(answer)) => {
                self.answered(answer, now);
                (State::Ready(link), true)
            }
            Ok(None) if now < late_at => (State::Sent { link, late_at }, false),
            Ok(None) => {
                self.begin_outage(&"no answer from containerd", now);
                self.retry = Retry::new();
                (
                    State::Late {
                        link,
                        probe: Probe::Down,
                    },
                    true,
                )
            }
        }
    }

    fn late(
        &mut self,
        mut link: Link,
        probe: Probe,
        watch: link::Watch<'_>,
        now: Instant,
    ) -> (State, bool) {
        match link.answer(watch) {
            Err(error) => return (self.closed(&link, &error, now), true),
            Ok(Some(answer)) => {
                self.answered(answer, now);
                return (State::Ready(link), true);
            }
            Ok(None) => {}
        }
        match self.probe(probe, watch, now) {
            (
                Probe::Alive {
                    link: second,
                    give_up_at,
                },
                _,
            ) if give_up_at <= now => {
                log::warn!(
                    "containerd answers, but not on this connection: sending the event again"
                );
                (State::Ready(second), true)
            }
            (probe, moved) => (State::Late { link, probe }, moved),
        }
    }

    /// Moves the second connection on.
    fn probe(&mut self, probe: Probe, watch: link::Watch<'_>, now: Instant) -> (Probe, bool) {
        match probe {
            Probe::Down => match self.connect(watch, now) {
                None => (Probe::Down, false),
                Some(mut link) => match link.ask(watch) {
                    Ok(()) => (
                        Probe::Asked {
                            link,
                            again_at: now + ASK_AGAIN,
                        },
                        true,
                    ),
                    Err(error) => self.probe_failed(&error, now),
                },
            },
            Probe::Asked { mut link, again_at } => match link.answer(watch) {
                // Any answer will do; the method does not exist.
                Ok(Some(_)) => (
                    Probe::Alive {
                        link,
                        give_up_at: now + TRY,
                    },
                    true,
                ),
                Ok(None) if now < again_at => (Probe::Asked { link, again_at }, false),
                Ok(None) => (Probe::Down, true),
                Err(error) => self.probe_failed(&error, now),
            },
            Probe::Alive {
                mut link,
                give_up_at,
            } => match link.answer(watch) {
                Ok(_) => (Probe::Alive { link, give_up_at }, false),
                Err(error) => self.probe_failed(&error, now),
            },
        }
    }

    fn probe_failed(&mut self, error: &Error, now: Instant) -> (Probe, bool) {
        self.failed(error, now);
        (Probe::Down, true)
    }

    /// The first event has its answer: it is done with, or has to be sent again later.
    fn answered(&mut self, answer: Answer, now: Instant) {
        match answer {
            Ok(()) => {
                if let Some(event) = self.queue.pop_front() {
                    event.record(telemetry::Outcome::Done);
                }
                self.counts.delivered += 1;
                self.retry = Retry::new();
                self.end_outage(now);
            }
            Err(status) if is_final(&status) => self.refused(&status),
            Err(status) => self.failed(&status, now),
        }
        if self.queue.is_empty() {
            // Gives back what an outage made it grow to.
            self.queue = VecDeque::new();
            if self.oom_dropped > 0 {
                log::warn!("{} TaskOOM events were dropped", self.oom_dropped);
                self.oom_dropped = 0;
            }
        }
    }

    /// Drops the first event because it will never be taken.
    fn refused(&mut self, status: &Status) {
        self.counts.refused += 1;
        if let Some(event) = self.queue.pop_front() {
            event.record(telemetry::Outcome::Failed(status.code.number() as i32));
            log::error!("containerd refuses the event {}: {status}", event.topic);
        }
        self.retry = Retry::new();
    }

    /// The connection is gone. One that has worked is replaced at once: containerd was restarted.
    fn closed(&mut self, link: &Link, error: &Error, now: Instant) -> State {
        if !link.has_worked() && !self.queue.is_empty() {
            self.failed(error, now);
        }
        State::Down
    }

    /// A try failed: the next one has to wait.
    fn failed(&mut self, cause: &dyn std::fmt::Display, now: Instant) {
        self.counts.failures += 1;
        self.counts.last_failure = cause.to_string();
        self.retry.pause_from(now);
        self.begin_outage(cause, now);
    }

    fn begin_outage(&mut self, cause: &dyn std::fmt::Display, now: Instant) {
        if self.outage.is_none() {
            self.outage = Some(Outage { since: now });
            log::warn!("cannot publish events, keeping them: {cause}");
        }
    }

    fn end_outage(&mut self, now: Instant) {
        if let Some(outage) = self.outage.take() {
            let seconds = now.saturating_duration_since(outage.since).as_secs_f32();
            let waiting = self.queue.len();
            log::info!("publishing events again after {seconds:.1} s, {waiting} to go");
        }
    }

    fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() {
            return None;
        }
        match &self.link {
            State::Down
            | State::Ready(_)
            | State::Late {
                probe: Probe::Down, ..
            } => Some(self.retry.not_before.unwrap_or(now)),
            State::Sent { late_at, .. } => Some(*late_at),
            State::Late {
                probe: Probe::Asked { again_at, .. },
                ..
            } => Some(*again_at),
            State::Late {
                probe: Probe::Alive { give_up_at, .. },
                ..
            } => Some(*give_up_at),
        }
    }
}

/// Whether containerd would answer the same event the same way the next time.
///
/// It says InvalidArgument of an event that it cannot read or that lacks something, and its ttrpc
/// server says Internal or ResourceExhausted of a message it cannot decode or that is too long.
/// What else it says (it is starting, or shutting down) is a state that passes.
fn is_final(status: &Status) -> bool {
    match status.code {
        Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted | Code::Internal => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

impl Retry {
    fn new() -> Self {
        Self {
            pause: RETRY_FIRST,
            not_before: None,
        }
    }

    fn pauses(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|at| now < at)
    }

    fn pause_from(&mut self, now: Instant) {
        self.not_before = Some(now + self.pause);
        self.pause = (self.pause * 2).min(RETRY_LAST);
    }
}

#[cfg(test)]
mod tests;
