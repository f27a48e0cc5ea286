// SPDX-License-Identifier: Apache-2.0
//! What has happened: everything that is published to containerd, and what is told only here.

use std::time::SystemTime;

use containerd_shim_protos::events::task as published;
use diagnostics::v1;
use protobuf::Message;
use telemetry::ring::Position;

use super::{limit, unix_ns};
use crate::events::{Event, topic};
use crate::server::Server;

/// One event.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    at: SystemTime,
    mono: u64,
    kind: &'static str,
    container: Box<str>,
    exec: Box<str>,
    pid: u32,
    exit_status: u32,
    text: Box<str>,
}

impl Happened {
    fn new(kind: &'static str, container: &str, at: SystemTime) -> Self {
        Self {
            at,
            mono: telemetry::recorder::now(),
            kind,
            container: container.into(),
            exec: Box::default(),
            pid: 0,
            exit_status: 0,
            text: Box::default(),
        }
    }

    fn with(self, exec: &str, pid: u32, exit_status: u32) -> Self {
        // The init's exit bears the container's id.
        let exec = if *self.container == *exec { "" } else { exec };
        Self {
            exec: exec.into(),
            pid,
            exit_status,
            ..self
        }
    }

    fn to_message(&self, number: u64) -> v1::Event {
        let mut message = v1::Event::new();
        message.number = number;
        message.time_unix_ns = unix_ns(Some(self.at));
        message.time_mono_ns = self.mono;
        message.kind = self.kind.to_owned();
        message.container = self.container.to_string();
        message.exec = self.exec.to_string();
        message.pid = self.pid as i32;
        message.exit_status = self.exit_status;
        message.text = self.text.to_string();
        message
    }
}

/// Reads back what is about to be published.
fn of_published(event: &Event, at: SystemTime) -> Option<Happened> {
    let new = |kind, container: &str| Happened::new(kind, container, at);
    macro_rules! decoded {
        ($message:ident) => {
            published::$message::parse_from_bytes(&event.value).ok()?
        };
    }
    Some(match event.topic {
        topic::CREATE => {
            let m = decoded!(TaskCreate);
            new("create", &m.container_id).with("", m.pid, 0)
        }
        topic::START => {
            let m = decoded!(TaskStart);
            new("start", &m.container_id).with("", m.pid, 0)
        }
        topic::EXIT => {
            let m = decoded!(TaskExit);
            new("exit", &m.container_id).with(&m.id, m.pid, m.exit_status)
        }
        topic::DELETE => {
            let m = decoded!(TaskDelete);
            new("delete", &m.container_id).with("", m.pid, m.exit_status)
        }
        topic::EXEC_ADDED => {
            let m = decoded!(TaskExecAdded);
            new("exec-added", &m.container_id).with(&m.exec_id, 0, 0)
        }
        topic::EXEC_STARTED => {
            let m = decoded!(TaskExecStarted);
            new("exec-started", &m.container_id).with(&m.exec_id, m.pid, 0)
        }
        topic::OOM => new("oom", &decoded!(TaskOOM).container_id),
        topic::PAUSED => new("paused", &decoded!(TaskPaused).container_id),
        topic::RESUMED => new("resumed", &decoded!(TaskResumed).container_id),
        topic::CHECKPOINTED => new("checkpointed", &decoded!(TaskCheckpointed).container_id),
        _ => return None,
    })
}

impl Server {
    /// Keeps an event that is about to be published.
    pub(crate) fn observe(&mut self, event: &Event, at: SystemTime) {
        if !telemetry::recorder::is_recording() {
            return;
        }
        if let Some(happened) = of_published(event, at) {
            if happened.kind == "create" {
                self.begin_watchdog();
            }
            self.observed
                .watchdog
                .told(happened.kind, &happened.container);
            self.observed.events.push(happened);
        }
    }

    /// Keeps an event that is told only here.
    pub(crate) fn note(&mut self, kind: &'static str, container: &str, text: &str) {
        let mut happened = Happened::new(kind, container, SystemTime::now());
        happened.text = text.into();
        self.observed.events.push(happened);
    }

    pub(super) fn describe_events(
        &self,
        request: &v1::EventsRequest,
    ) -> (v1::EventsResponse, Position) {
        let poll = &request.poll;
        let wanted = |number: u64, event: &Happened| {
            let of_container = poll.container.is_empty() || poll.container == *event.container;
            let of_kind = request.kinds.is_empty() || request.kinds.iter().any(|k| k == event.kind);
            (of_container && of_kind).then(|| event.to_message(number))
        };
        let (events, position) = self.observed.events.read(poll.since, limit(poll), wanted);
        let mut response = v1::EventsResponse::new();
        response.events = events;
        response.polled = super::polled(position);
        (response, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_back() {
        let at = SystemTime::now();
        let exit = |id| {
            let event = crate::events::task_exit("c", id, 5, 137, at);
            of_published(&event, at).unwrap().to_message(3)
        };
        let init = exit("c");
        assert_eq!((init.kind.as_str(), init.exec.as_str()), ("exit", ""));
        assert_eq!((init.pid, init.exit_status, init.number), (5, 137, 3));
        assert_eq!(exit("e").exec, "e");
        let oom = of_published(&crate::events::task_oom("c"), at).unwrap();
        assert_eq!((oom.kind, &*oom.container), ("oom", "c"));
        let garbage = Event {
            topic: topic::EXIT,
            type_url: "",
            value: vec![0x0a, 0xff],
        };
        assert!(of_published(&garbage, at).is_none());
    }
}
