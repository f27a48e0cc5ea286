// SPDX-License-Identifier: Apache-2.0
//! The Diagnostics service: what the shim knows, for people and their tools.
//!
//! | module       | what                                        |
//! |--------------|---------------------------------------------|
//! | `containers` | containers and their processes              |
//!
//! Everything is answered by the reactor from what it has in memory or in its own `/proc`, so that a
//! stuck worker or a containerd that is gone delays nothing.

mod containers;

use std::time::{SystemTime, UNIX_EPOCH};

use diagnostics::{Call, Method, v1};

use crate::container::ReplyTo;
use crate::server::Server;
use crate::service::{Answer, message};
use crate::status::{Code, Status};
use crate::ttrpc::Incoming;

/// Methods that are answered.
const SERVED: &[Method] = &[Method::Info, Method::Containers];

/// A wall clock time as the messages have it; 0 is "never".
fn unix_ns(time: Option<SystemTime>) -> i64 {
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos() as i64)
}

/// Nanoseconds of CLOCK_MONOTONIC.
fn mono_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Decodes a request and encodes what answers it.
fn answer<C: Call>(payload: &[u8], serve: impl FnOnce(C) -> Result<C::Response, Status>) -> Answer {
    let request = C::parse_from_bytes(payload).map_err(|error| {
        Status::invalid_argument(format_args!("ttrpc: error unmarshalling payload: {error}"))
    })?;
    message(&serve(request)?)
}

impl Server {
    /// Serves one call of the Diagnostics service.
    pub(crate) fn diagnose(&mut self, to: ReplyTo, incoming: &Incoming) {
        let payload = &incoming.payload;
        let method = Method::by_name(&incoming.method).filter(|method| SERVED.contains(method));
        let result = match method {
            Some(Method::Info) => answer(payload, |_: v1::InfoRequest| Ok(self.info())),
            Some(Method::Containers) => answer(payload, |request: v1::ContainersRequest| {
                self.describe_containers(&request.container)
            }),
            _ => Err(Status::new(
                Code::Unimplemented,
                format!("method {}", incoming.method),
            )),
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
        info.now_mono_ns = mono_ns();
        info.now_unix_ns = unix_ns(Some(now));
        let uptime = self.started.elapsed();
        info.uptime_ns = uptime.as_nanos() as u64;
        info.started_unix_ns = unix_ns(now.checked_sub(uptime));
        info.methods = SERVED.iter().map(|m| m.name().to_owned()).collect();
        info.log_level = log::max_level().to_string().to_lowercase();
        info.containerd_address
            .clone_from(&self.config.containerd_ttrpc_address);
        info
    }
}
