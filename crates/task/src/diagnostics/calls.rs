// SPDX-License-Identifier: Apache-2.0
//! Spans of the calls that the shim serves.

use telemetry::{Call, Context, Outcome, TRACEPARENT, Trace};

use crate::container::ReplyTo;
use crate::server::Server;
use crate::status::Status;
use crate::ttrpc::{Incoming, Method, TaskRequest};

/// A call that only reads and took less is not kept: there are too many of them.
const QUICK: u64 = 1_000_000;

impl Server {
    /// A call begins. What is returned is for what is done in its course.
    pub(crate) fn call_begins(
        &mut self,
        to: ReplyTo,
        request: &TaskRequest,
        incoming: &Incoming,
    ) -> Context {
        let trace = incoming
            .metadata
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(TRACEPARENT))
            .and_then(|(_, value)| Trace::parse(value));
        let method = request.method();
        let (container, exec) = (request.container_id(), exec_id(request));
        // A Wait is held for as long as a process lives: no operation that takes time, and Containers
        // tells who waits.
        let call = match method {
            Method::Wait => Call::unrecorded(container, exec),
            _ => Call::begin(method.name(), container, exec, trace),
        };
        let context = call.context();
        self.calls.insert(to, (method, call));
        context
    }

    /// A call is answered, or nobody waits for its answer any more.
    pub(crate) fn call_ended(&mut self, to: ReplyTo, error: Option<&Status>) {
        let Some((method, call)) = self.calls.remove(&to) else {
            return;
        };
        let outcome = match error {
            Some(status) => Outcome::Failed(status.code.number() as i32),
            None => Outcome::Done,
        };
        let reads = matches!(
            method,
            Method::State | Method::Pids | Method::Connect | Method::Stats
        );
        let least = if reads && error.is_none() { QUICK } else { 0 };
        call.end_if_longer(outcome, least);
    }
}

fn exec_id(request: &TaskRequest) -> &str {
    match request {
        TaskRequest::State(request) => &request.exec_id,
        TaskRequest::Start(request) => &request.exec_id,
        TaskRequest::Delete(request) => &request.exec_id,
        TaskRequest::Kill(request) => &request.exec_id,
        TaskRequest::Exec(request) => &request.exec_id,
        TaskRequest::ResizePty(request) => &request.exec_id,
        TaskRequest::CloseIo(request) => &request.exec_id,
        TaskRequest::Wait(request) => &request.exec_id,
        _ => "",
    }
}
