// SPDX-License-Identifier: Apache-2.0
//! Calls that wait for what is still to come: long polls of the rings.
//!
//! A held call costs its request. It is looked at when the reactor has done something, and on a timer,
//! because workers add to the rings too; the timer runs only while a call is held.

use std::time::{Duration, Instant};

use diagnostics::{Method, WAIT_MAX, v1};
use telemetry::ring::Position;

use super::{decode, rings};
use crate::container::ReplyTo;
use crate::server::{Server, Timer};
use crate::service::{Answer, message};
use crate::timers::TimerId;

/// How often held calls are looked at, at least.
const LOOK: Duration = Duration::from_millis(100);
/// Calls held at once; a further one is answered at once, with nothing.
const MOST: usize = 64;

/// A request of any of the rings.
enum Request {
    Events(v1::EventsRequest),
    Spans(v1::SpansRequest),
    SyncMessages(v1::SyncMessagesRequest),
    Log(v1::LogRequest),
}

impl Request {
    fn poll_mut(&mut self) -> &mut v1::Poll {
        match self {
            Request::Events(request) => request.poll.mut_or_insert_default(),
            Request::Spans(request) => request.poll.mut_or_insert_default(),
            Request::SyncMessages(request) => request.poll.mut_or_insert_default(),
            Request::Log(request) => request.poll.mut_or_insert_default(),
        }
    }
}

struct Held {
    to: ReplyTo,
    until: Instant,
    request: Request,
    /// The newest number when it was looked at last.
    seen: u64,
}

/// The calls that are held.
#[derive(Default)]
pub(crate) struct Polls {
    held: Vec<Held>,
    timer: Option<TimerId>,
}

impl Polls {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

impl Server {
    /// Answers a poll now, or holds it.
    pub(super) fn poll(&mut self, to: ReplyTo, method: Method, payload: &[u8]) {
        let request = match method {
            Method::Spans => decode(payload).map(Request::Spans),
            Method::SyncMessages => decode(payload).map(Request::SyncMessages),
            Method::Log => decode(payload).map(Request::Log),
            _ => decode(payload).map(Request::Events),
        };
        let mut request = match request {
            Ok(request) => request,
            Err(status) => return self.reply(to, Err(status)),
        };
        if let Request::Log(log) = &request {
            if !log.level.is_empty() {
                if let Err(status) = rings::level(&log.level) {
                    return self.reply(to, Err(status));
                }
            }
        }
        let total = self.total(&request);
        let poll = request.poll_mut();
        if poll.from_now {
            poll.since = total;
        }
        let wait = Duration::from_millis(u64::from(poll.wait_ms)).min(WAIT_MAX);
        let (answer, found, position) = self.look(&request);
        if found || position.lost > 0 || wait.is_zero() || self.observed.polls.len() >= MOST {
            return self.reply(to, answer);
        }
        // What has been looked at and is not wanted need not be looked at again.
        request.poll_mut().since = position.next;
        self.observed.polls.held.push(Held {
            to,
            until: Instant::now() + wait,
            request,
            seen: total,
        });
        self.set_poll_timer();
    }

    fn set_poll_timer(&mut self) {
        if self.observed.polls.timer.is_none() && !self.observed.polls.held.is_empty() {
            let timer = self.timers.set(Instant::now() + LOOK, Timer::Polls);
            self.observed.polls.timer = Some(timer);
        }
    }

    /// The timer's part.
    pub(crate) fn look_at_polls(&mut self) {
        self.observed.polls.timer = None;
        self.wake_polls();
        self.set_poll_timer();
    }

    /// Answers held calls for which there is something now, or whose time is over.
    pub(crate) fn wake_polls(&mut self) {
        if self.observed.polls.held.is_empty() {
            return;
        }
        let now = Instant::now();
        for mut held in std::mem::take(&mut self.observed.polls.held) {
            let total = self.total(&held.request);
            let over = held.until <= now;
            if total == held.seen && !over {
                self.observed.polls.held.push(held);
                continue;
            }
            let (answer, found, position) = self.look(&held.request);
            if found || over || position.lost > 0 {
                self.reply(held.to, answer);
            } else {
                held.request.poll_mut().since = position.next;
                held.seen = total;
                self.observed.polls.held.push(held);
            }
        }
    }

    /// A connection is gone, and with it who waited.
    pub(crate) fn forget_polls(&mut self, connection: u64) {
        let held = &mut self.observed.polls.held;
        held.retain(|held| held.to.connection != connection);
    }

    /// The newest number of the ring that is asked for.
    fn total(&self, request: &Request) -> u64 {
        match request {
            Request::Events(_) => self.observed.events.total(),
            Request::Spans(_) => telemetry::recorder::recorded().0,
            Request::SyncMessages(_) => runtime::sync::record::counts().0,
            Request::Log(_) => telemetry::tail::logged().0,
        }
    }

    /// The answer as of now, whether there is anything in it, and where it stopped.
    fn look(&self, request: &Request) -> (Answer, bool, Position) {
        match request {
            Request::Events(request) => {
                let (response, position) = self.describe_events(request);
                (message(&response), !response.events.is_empty(), position)
            }
            Request::Spans(request) => {
                let (response, position) = rings::spans(request);
                (message(&response), !response.spans.is_empty(), position)
            }
            Request::SyncMessages(request) => {
                let (response, position) = rings::sync_messages(request);
                (message(&response), !response.messages.is_empty(), position)
            }
            Request::Log(request) => {
                let (response, position) = rings::log_lines(request);
                (message(&response), !response.lines.is_empty(), position)
            }
        }
    }
}
