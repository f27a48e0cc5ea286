// SPDX-License-Identifier: Apache-2.0
//! The Diagnostics service: what the shim knows, for people and their tools.
//!
//! | module        | what                                                        |
//! |---------------|-------------------------------------------------------------|
//! | `calls`       | spans of the calls that the shim serves                     |
//! | `containers`  | containers and their processes                              |
//! | `descriptors` | the shim's open files, and who is at their other end        |
//! | `events`      | what has happened, numbered                                 |
//! | `labels`      | what a container is called                                  |
//! | `log_json`    | errors in the bundle, as runc leaves them                   |
//! | `polls`       | calls that wait for what is still to come                   |
//! | `queues`      | what waits                                                  |
//! | `rings`       | spans, sync messages and log lines, as messages             |
//! | `sockets`     | the kernel's view of Unix sockets                           |
//! | `stats`       | what containers use                                         |
//! | `sync_record` | record mode of the sync socket                              |
//! | `threads`     | the shim's threads                                          |
//! | `watchdog`    | what the kernel says, compared with what was told           |
//!
//! Everything but Stats is answered by the reactor from what it has in memory or in its own `/proc`, so
//! that a stuck worker or a containerd that is gone delays nothing. Of `/proc` only such files are read
//! as wait for nobody: of this process itself, and no file system is asked (see `descriptors` and
//! `threads`). Stats are read by a worker, in the lane that hanging operations cannot fill.

mod calls;
mod containers;
mod descriptors;
mod events;
pub(crate) mod labels;
pub(crate) mod log_json;
mod polls;
mod queues;
mod rings;
pub mod sockets;
mod stats;
pub(crate) mod sync_record;
mod threads;
mod watchdog;

use std::time::{SystemTime, UNIX_EPOCH};

use diagnostics::{Call, Method, v1};
use telemetry::ring::Ring;

use self::events::Happened;
use self::labels::{Labels, Made};
use self::polls::Polls;
use self::watchdog::Watchdog;
use crate::container::ReplyTo;
use crate::server::Server;
use crate::service::{Answer, message};
use crate::status::{Code, Status};
use crate::ttrpc::Incoming;

/// Events that are kept. About 150 bytes each.
const EVENTS: usize = 96;
/// Items in one answer, at most.
const LIMIT: usize = 512;

/// What the server keeps for those who ask.
pub(crate) struct Observed {
    events: Ring<Happened>,
    polls: Polls,
    watchdog: Watchdog,
    made: Made,
}

impl Observed {
    /// A container was made; returns how many of its name there were before.
    pub(crate) fn made(&mut self, labels: &Labels) -> u32 {
        self.made.count(labels)
    }

    pub(crate) fn new() -> Self {
        Self {
            events: Ring::new(EVENTS),
            polls: Polls::default(),
            watchdog: Watchdog::default(),
            made: Made::default(),
        }
    }
}

/// A wall clock time as the messages have it; 0 is "never".
fn unix_ns(time: Option<SystemTime>) -> i64 {
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos() as i64)
}

/// How many items an answer may have.
fn limit(poll: &v1::Poll) -> usize {
    match poll.limit as usize {
        0 => LIMIT,
        asked => asked.min(LIMIT),
    }
}

/// Where a poll stopped, as a message.
fn polled(position: telemetry::ring::Position) -> protobuf::MessageField<v1::Polled> {
    let mut message = v1::Polled::new();
    message.next = position.next;
    message.lost = position.lost;
    protobuf::MessageField::some(message)
}

fn decode<C: Call>(payload: &[u8]) -> Result<C, Status> {
    C::parse_from_bytes(payload).map_err(|error| {
        Status::invalid_argument(format_args!("ttrpc: error unmarshalling payload: {error}"))
    })
}

/// Decodes a request and encodes what answers it.
fn answer<C: Call>(payload: &[u8], serve: impl FnOnce(C) -> Result<C::Response, Status>) -> Answer {
    message(&serve(decode(payload)?)?)
}

impl Server {
    /// Serves one call of the Diagnostics service.
    pub(crate) fn diagnose(&mut self, to: ReplyTo, incoming: &Incoming) {
        let payload = &incoming.payload;
        let Some(method) = Method::by_name(&incoming.method) else {
            let text = format!("method {}", incoming.method);
            return self.reply(to, Err(Status::new(Code::Unimplemented, text)));
        };
        let result = match method {
            Method::Info => answer(payload, |_: v1::InfoRequest| Ok(self.info())),
            Method::Containers => answer(payload, |request: v1::ContainersRequest| {
                self.describe_containers(&request.container)
            }),
            Method::Events | Method::Spans | Method::SyncMessages | Method::Log => {
                return self.poll(to, method, payload);
            }
            Method::Stats => return self.describe_stats(to, payload),
            Method::Descriptors => answer(payload, |_: v1::DescriptorsRequest| {
                Ok(self.describe_descriptors())
            }),
            Method::Threads => answer(payload, |_: v1::ThreadsRequest| Ok(threads::describe())),
            Method::Queues => answer(payload, |_: v1::QueuesRequest| Ok(self.describe_queues())),
            Method::LogLevel => answer(payload, |_: v1::LogLevelRequest| {
                let mut response = v1::LogLevelResponse::new();
                response.level = rings::level_name(log::max_level()).to_owned();
                Ok(response)
            }),
            Method::SetLogLevel => answer(payload, |request: v1::SetLogLevelRequest| {
                let level = rings::level(&request.level)?;
                let mut response = v1::SetLogLevelResponse::new();
                response.previous = rings::level_name(log::max_level()).to_owned();
                telemetry::set_level(level);
                Ok(response)
            }),
        };
        self.reply(to, result);
    }

    fn info(&self) -> v1::InfoResponse {
        let mut info = v1::InfoResponse::new();
        info.version = self.config.version.to_owned();
        info.revision = self.config.revision.to_owned();
        info.runtime = "io.containerd.rust.v2".to_owned();
        info.pid = std::process::id() as i32;
        info.namespace.clone_from(&self.config.namespace);
        info.id.clone_from(&self.config.id);
        let now = SystemTime::now();
        info.now_mono_ns = telemetry::recorder::now();
        info.now_unix_ns = unix_ns(Some(now));
        let uptime = self.started.elapsed();
        info.uptime_ns = uptime.as_nanos() as u64;
        info.started_unix_ns = unix_ns(now.checked_sub(uptime));
        info.methods = Method::ALL.iter().map(|m| m.name().to_owned()).collect();
        info.log_level = rings::level_name(log::max_level()).to_owned();
        info.recording = telemetry::recorder::is_recording();
        info.containerd_address
            .clone_from(&self.config.containerd_ttrpc_address);
        info
    }
}
