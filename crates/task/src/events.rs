// SPDX-License-Identifier: Apache-2.0
//! The events of a task: what is published, under which topic and type.
//!
//! The type names are written out here. Asking the messages for them would load their
//! reflection tables, which then stay in memory.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO,
    TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};

/// Go's zero time, 1 January of the year 1: clients test for it, 1970 is another time to them.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

/// An event, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What subscribers filter on: `/tasks/exit`.
    pub topic: &'static str,
    /// The type of the message: `containerd.events.TaskExit`.
    pub type_url: &'static str,
    /// The encoded message.
    pub value: Vec<u8>,
}

impl Event {
    fn new(topic: &'static str, type_url: &'static str, message: &impl Message) -> Self {
        // Memory takes every byte, and the messages have no required fields.
        Self {
            topic,
            type_url,
            value: message.write_to_bytes().unwrap_or_default(),
        }
    }

    /// Whether this is a TaskOOM: the one event that a container can cause any number of.
    pub fn is_oom(&self) -> bool {
        self.topic == topic::OOM
    }
}

/// A time on the wire; `None` is what Go takes for "never".
pub fn timestamp(time: Option<SystemTime>) -> Timestamp {
    let (seconds, nanos) = match time.map(|time| time.duration_since(UNIX_EPOCH)) {
        None => (GO_ZERO_SECONDS, 0),
        Some(Ok(after)) => (after.as_secs() as i64, after.subsec_nanos()),
        Some(Err(before)) => {
            // Nanoseconds count forward, so a part of a second is taken from the second before.
            let before: Duration = before.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanos => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanos),
            }
        }
    };
    Timestamp {
        seconds,
        nanos: nanos as i32,
        ..Default::default()
    }
}

macro_rules! task_events {
    ($($message:ident $name:ident $topic:literal)*) => {
        /// The topics.
        #[allow(missing_docs)] // The names are the events'.
        pub mod topic { $(pub const $name: &str = $topic;)* }

        /// The name of the span in which an event of this topic is published.
        pub(crate) fn publishing(topic: &str) -> &'static str {
            match topic {
                $($topic => concat!("publish ", $topic),)*
                _ => "publish",
            }
        }

        $(impl From<$message> for Event {
            fn from(message: $message) -> Self {
                let type_url = concat!("containerd.events.", stringify!($message));
                Event::new($topic, type_url, &message)
            }
        })*

        #[cfg(test)]
        fn type_urls() -> Vec<(String, Event)> {
            use protobuf::MessageFull;
            vec![$((
                $message::descriptor().full_name().to_owned(),
                Event::from($message::default()),
            ),)*]
        }
    };
}

task_events! {
    TaskCreate CREATE "/tasks/create"
    TaskStart START "/tasks/start"
    TaskOOM OOM "/tasks/oom"
    TaskExit EXIT "/tasks/exit"
    TaskDelete DELETE "/tasks/delete"
    TaskExecAdded EXEC_ADDED "/tasks/exec-added"
    TaskExecStarted EXEC_STARTED "/tasks/exec-started"
    TaskPaused PAUSED "/tasks/paused"
    TaskResumed RESUMED "/tasks/resumed"
    TaskCheckpointed CHECKPOINTED "/tasks/checkpointed"
}

/// A container's init was created.
pub fn task_create(request: &CreateTaskRequest, pid: u32) -> Event {
    let io = TaskIO {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
        ..Default::default()
    };
    TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: MessageField::some(io),
        checkpoint: request.checkpoint.clone(),
        pid,
        ..Default::default()
    }
    .into()
}

/// A container's init was started.
pub fn task_start(container_id: &str, pid: u32) -> Event {
    TaskStart {
        container_id: container_id.to_owned(),
        pid,
        ..Default::default()
    }
    .into()
}

/// The kernel killed a process of the container for memory.
pub fn task_oom(container_id: &str) -> Event {
    TaskOOM {
        container_id: container_id.to_owned(),
        ..Default::default()
    }
    .into()
}

/// A process ended. `id` is the exec's id, or the container's for its init.
pub fn task_exit(
    container_id: &str,
    id: &str,
    pid: u32,
    exit_status: u32,
    exited_at: SystemTime,
) -> Event {
    TaskExit {
        container_id: container_id.to_owned(),
        id: id.to_owned(),
        pid,
        exit_status,
        exited_at: MessageField::some(timestamp(Some(exited_at))),
        ..Default::default()
    }
    .into()
}

/// A container was deleted; `exited_at` is `None` if its init never ran to an end.
pub fn task_delete(
    container_id: &str,
    pid: u32,
    exit_status: u32,
    exited_at: Option<SystemTime>,
) -> Event {
    TaskDelete {
        container_id: container_id.to_owned(),
        pid,
        exit_status,
        exited_at: MessageField::some(timestamp(exited_at)),
        ..Default::default()
    }
    .into()
}

/// An exec was registered.
pub fn task_exec_added(container_id: &str, exec_id: &str) -> Event {
    TaskExecAdded {
        container_id: container_id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    }
    .into()
}

/// An exec was started.
pub fn task_exec_started(container_id: &str, exec_id: &str, pid: u32) -> Event {
    TaskExecStarted {
        container_id: container_id.to_owned(),
        exec_id: exec_id.to_owned(),
        pid,
        ..Default::default()
    }
    .into()
}

/// A container was frozen.
pub fn task_paused(container_id: &str) -> Event {
    TaskPaused {
        container_id: container_id.to_owned(),
        ..Default::default()
    }
    .into()
}

/// A container was thawed.
pub fn task_resumed(container_id: &str) -> Event {
    TaskResumed {
        container_id: container_id.to_owned(),
        ..Default::default()
    }
    .into()
}

/// A container was checkpointed to `path`.
pub fn task_checkpointed(container_id: &str, path: &str) -> Event {
    TaskCheckpointed {
        container_id: container_id.to_owned(),
        checkpoint: path.to_owned(),
        ..Default::default()
    }
    .into()
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::topics;

    use super::*;

    #[test]
    fn type_names_are_those_of_the_messages() {
        for (name, event) in type_urls() {
            assert_eq!(event.type_url, name);
        }
    }

    #[test]
    fn topics_are_containerds() {
        let ours: Vec<_> = type_urls()
            .into_iter()
            .map(|(_, event)| event.topic)
            .collect();
        let theirs = [
            topics::TASK_CREATE_EVENT_TOPIC,
            topics::TASK_START_EVENT_TOPIC,
            topics::TASK_OOM_EVENT_TOPIC,
            topics::TASK_EXIT_EVENT_TOPIC,
            topics::TASK_DELETE_EVENT_TOPIC,
            topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            topics::TASK_PAUSED_EVENT_TOPIC,
            topics::TASK_RESUMED_EVENT_TOPIC,
            topics::TASK_CHECKPOINTED_EVENT_TOPIC,
        ];
        assert_eq!(ours, theirs);
    }

    #[test]
    fn times_are_gos() {
        let wire = |time| {
            let timestamp = timestamp(time);
            (timestamp.seconds, timestamp.nanos)
        };
        assert_eq!(wire(None), (-62_135_596_800, 0));
        assert_eq!(wire(Some(UNIX_EPOCH)), (0, 0));
        assert_eq!(wire(Some(UNIX_EPOCH + Duration::new(7, 5))), (7, 5));
        assert_eq!(wire(Some(UNIX_EPOCH - Duration::new(7, 0))), (-7, 0));
        assert_eq!(
            wire(Some(UNIX_EPOCH - Duration::new(7, 5))),
            (-8, 999_999_995)
        );
    }

    #[test]
    fn an_exit_carries_all_its_fields() {
        let at = UNIX_EPOCH + Duration::new(9, 1);
        let event = task_exit("c", "e", 5, 137, at);
        assert_eq!(
            (event.topic, event.type_url),
            ("/tasks/exit", "containerd.events.TaskExit")
        );
        let exit = TaskExit::parse_from_bytes(&event.value).unwrap();
        assert_eq!((exit.container_id.as_str(), exit.id.as_str()), ("c", "e"));
        assert_eq!((exit.pid, exit.exit_status), (5, 137));
        assert_eq!((exit.exited_at.seconds, exit.exited_at.nanos), (9, 1));
        assert!(!event.is_oom() && task_oom("c").is_oom());
    }

    #[test]
    fn a_create_repeats_its_request() {
        let request = CreateTaskRequest {
            id: "c".into(),
            bundle: "/b".into(),
            rootfs: vec![Default::default()],
            terminal: true,
            stdout: "/out".into(),
            checkpoint: "/cp".into(),
            ..Default::default()
        };
        let create = TaskCreate::parse_from_bytes(&task_create(&request, 4).value).unwrap();
        assert_eq!(
            (create.container_id.as_str(), create.bundle.as_str()),
            ("c", "/b")
        );
        assert_eq!((create.rootfs.len(), create.pid), (1, 4));
        assert_eq!(
            (create.io.stdout.as_str(), create.io.terminal),
            ("/out", true)
        );
        assert_eq!(create.checkpoint, "/cp");
    }
}
