// SPDX-License-Identifier: Apache-2.0
//! Everything containerd announces about tasks, in the order in which it comes.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use containerd_client::events;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::tonic::Response;
use prost::Message;
use prost_types::{Any, Timestamp};

use crate::client::Client;
use crate::failure::{Outcome, SOON, failed, wait_until};

/// One event of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// What happened: the topic's last word, as `exec-started`.
    pub what: String,
    /// To which container.
    pub container: String,
    /// To which exec, if it was one.
    pub exec: Option<String>,
    /// The process, where the event names it.
    pub pid: u32,
    /// The exit status, where the event has one.
    pub status: u32,
    /// When the process exited, where the event says it.
    pub exited_at: Option<Timestamp>,
}

/// Short, for comparing orders: `exit`, or `exit:execid`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.exec {
            Some(exec) => write!(f, "{}:{exec}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl Event {
    fn decode(topic: &str, event: &Any) -> Option<Self> {
        let what = topic.strip_prefix("/tasks/")?;
        let mut decoded = Self {
            what: what.to_owned(),
            ..Self::default()
        };
        match what {
            "create" => {
                let event = read::<events::TaskCreate>(event)?;
                (decoded.container, decoded.pid) = (event.container_id, event.pid);
            }
            "start" => {
                let event = read::<events::TaskStart>(event)?;
                (decoded.container, decoded.pid) = (event.container_id, event.pid);
            }
            "exit" => {
                let event = read::<events::TaskExit>(event)?;
                decoded.exec = Some(event.id).filter(|id| *id != event.container_id);
                (decoded.container, decoded.pid) = (event.container_id, event.pid);
                (decoded.status, decoded.exited_at) = (event.exit_status, event.exited_at);
            }
            "delete" => {
                let event = read::<events::TaskDelete>(event)?;
                decoded.exec = Some(event.id).filter(|id| !id.is_empty());
                (decoded.container, decoded.pid) = (event.container_id, event.pid);
                (decoded.status, decoded.exited_at) = (event.exit_status, event.exited_at);
            }
            "exec-added" => {
                let event = read::<events::TaskExecAdded>(event)?;
                (decoded.container, decoded.exec) = (event.container_id, Some(event.exec_id));
            }
            "exec-started" => {
                let event = read::<events::TaskExecStarted>(event)?;
                (decoded.container, decoded.exec) = (event.container_id, Some(event.exec_id));
                decoded.pid = event.pid;
            }
            // oom, paused, resumed, checkpointed: the first field is the container's id.
            _ => decoded.container = read::<events::TaskOom>(event)?.container_id,
        }
        Some(decoded)
    }
}

/// Decodes whatever type the envelope says: the topic decides.
fn read<T: Message + Default>(event: &Any) -> Option<T> {
    T::decode(event.value.as_slice()).ok()
}

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
}

impl Shared {
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records the events of a namespace from now on.
pub struct Recorder {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    /// Subscribes, and returns when the subscription is proved to work.
    ///
    /// # Errors
    /// When containerd does not send events.
    pub fn start(client: &Client) -> Outcome<Self> {
        let shared = Arc::new(Shared::default());
        let mut service = EventsClient::new(client.channel());
        let request = client.request(SubscribeRequest {
            filters: vec![format!("namespace=={}", client.namespace())],
        });
        let theirs = shared.clone();
        let task = client.runtime().spawn(async move {
            // The stream ends with the daemon; a test that restarts it starts a new recorder.
            let Ok(mut stream) = service.subscribe(request).await.map(Response::into_inner) else {
                return;
            };
            while let Ok(Some(envelope)) = stream.message().await {
                let Some(event) = envelope.event else {
                    continue;
                };
                if let Some(event) = Event::decode(&envelope.topic, &event) {
                    theirs.events().push(event);
                    theirs.changed.notify_all();
                }
            }
        });
        let recorder = Self { shared, task };
        recorder.probe(client)?;
        Ok(recorder)
    }

    /// Publishes events of its own until one arrives: the server says nothing before the first.
    fn probe(&self, client: &Client) -> Outcome {
        let mut service = EventsClient::new(client.channel());
        wait_until(SOON, "a first event", || {
            let event = containerd_client::to_any(&events::TaskOom {
                container_id: "probe".to_owned(),
            });
            let request = PublishRequest {
                topic: "/tasks/probe".to_owned(),
                event: Some(event),
            };
            // A failure shows as no event.
            let _ = client.call(service.publish(client.request(request)));
            (!self.shared.events().is_empty()).then_some(())
        })
    }

    /// The events of a container so far.
    #[must_use]
    pub fn of(&self, container: &str) -> Vec<Event> {
        let events = self.shared.events();
        let of_it = events.iter().filter(|event| event.container == container);
        of_it.cloned().collect()
    }

    /// The same, each as its short form.
    #[must_use]
    pub fn names(&self, container: &str) -> Vec<String> {
        self.of(container).iter().map(Event::to_string).collect()
    }

    /// Waits for the event with the short form `name`.
    ///
    /// # Errors
    /// When it does not come soon.
    pub fn wait_for(&self, container: &str, name: &str) -> Outcome<Event> {
        self.wait_for_within(container, name, SOON)
    }

    /// Waits for the event with the short form `name`, no longer than `limit`.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for_within(&self, container: &str, name: &str, limit: Duration) -> Outcome<Event> {
        let end = Instant::now() + limit;
        let mut events = self.shared.events();
        loop {
            let found = events
                .iter()
                .find(|event| event.container == container && event.to_string() == name);
            if let Some(event) = found {
                return Ok(event.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(events);
                let seen = self.names(container);
                return Err(failed(format!(
                    "waited {limit:?} for event {name} of {container}; seen: {seen:?}"
                )));
            }
            let waited = self.shared.changed.wait_timeout(events, left);
            events = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
