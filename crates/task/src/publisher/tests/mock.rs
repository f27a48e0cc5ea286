// SPDX-License-Identifier: Apache-2.0
//! An events service on a thread of its own that behaves as it is told.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::shim::events::ForwardRequest;
use protobuf::Message;

use crate::publisher::TRY;
use crate::status::{Code, Status};
use crate::ttrpc::{Connection, Incoming, Input, accept};

/// What the mock does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Takes events.
    Serve,
    /// Neither accepts nor reads, like a stopped process. What is in the sockets stays there.
    Hang,
    /// Serves every connection but the first.
    FirstHangs,
    /// Refuses events.
    Refuse(Code),
    /// Refuses the events of this pid, takes others.
    RefusePid(u32),
    /// Takes an event and hangs up instead of answering.
    TakeAndHangUp,
    /// Hangs up on every connection.
    HangUp,
    /// Answers each event a few rounds late.
    Slow,
    /// Ends.
    Stop,
}

/// An event as containerd sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) connection: usize,
    pub(super) topic: String,
    pub(super) pid: u32,
}

/// What the test and the mock share; a restarted mock goes on with it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) mode: Mode,
    pub(super) seen: Vec<Seen>,
    /// Calls of a method that does not exist.
    pub(super) asked: usize,
    pub(super) accepted: usize,
    pub(super) open: usize,
}

/// An events service on a thread of its own.
pub(super) struct Mock {
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Mock {
    pub(super) fn new(dir: &Path) -> Self {
        let shared = Shared {
            mode: Mode::Serve,
            seen: Vec::new(),
            asked: 0,
            accepted: 0,
            open: 0,
        };
        let path = dir.join("events.sock");
        Self {
            shared: Arc::new(Mutex::new(shared)),
            path,
            thread: None,
        }
    }

    pub(super) fn start(&mut self, mode: Mode) {
        self.set(mode);
        // Also what containerd does: an old socket of the same name is removed.
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&self.shared);
        self.thread = Some(std::thread::spawn(move || serve(&listener, &shared)));
    }

    /// Ends the mock as a crash would: connections break, the socket's file stays.
    pub(super) fn stop(&mut self) {
        self.set(Mode::Stop);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(super) fn set(&self, mode: Mode) {
        self.shared.lock().unwrap().mode = mode;
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.shared
            .lock()
            .unwrap()
            .seen
            .iter()
            .map(|seen| seen.pid)
            .collect()
    }

    pub(super) fn get<T>(&self, what: impl Fn(&Shared) -> T) -> T {
        what(&self.shared.lock().unwrap())
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(listener: &UnixListener, shared: &Mutex<Shared>) {
    let mut connections: Vec<(usize, Connection)> = Vec::new();
    let mut late: Vec<(usize, Incoming, u32)> = Vec::new();
    loop {
        // Tells the test that what it set is in force: the mode is read under the lock that covers
        // a whole round.
        let mut state = shared.lock().unwrap();
        match state.mode {
            Mode::Stop => return,
            Mode::Hang => {}
            _ => {
                while let Some(connection) = accept(listener).unwrap() {
                    connections.push((state.accepted, connection));
                    state.accepted += 1;
                }
                if state.mode == Mode::HangUp {
                    connections.clear();
                }
                connections.retain_mut(|(n, c)| round(*n, c, &mut state, &mut late));
                answer_late(&mut connections, &mut late);
            }
        }
        state.open = connections.len();
        drop(state);
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Reads a connection and treats its requests; whether to keep it.
fn round(
    number: usize,
    connection: &mut Connection,
    state: &mut Shared,
    late: &mut Vec<(usize, Incoming, u32)>,
) -> bool {
    if state.mode == Mode::FirstHangs && number == 0 {
        return true;
    }
    let mut requests = Vec::new();
    let input = connection.read(&mut requests).unwrap();
    for request in requests {
        if request.method != "Forward" {
            state.asked += 1;
            let status = Status::new(Code::Unimplemented, format!("method {}", request.method));
            let _ = connection.reply(request.stream, Err(status));
            continue;
        }
        let seen = read_event(number, &request);
        let result = match state.mode {
            Mode::Refuse(code) => Err(Status::new(code, "no")),
            Mode::RefusePid(pid) if seen.pid == pid => {
                Err(Status::new(Code::InvalidArgument, "no"))
            }
            _ => {
                state.seen.push(seen);
                Ok(Vec::new())
            }
        };
        match state.mode {
            Mode::TakeAndHangUp => return false,
            Mode::Slow => late.push((number, request, 20)),
            // The publisher may be gone by now: that is the test's business.
            _ => drop(connection.reply(request.stream, result)),
        }
    }
    input != Input::Closed
}

fn answer_late(connections: &mut [(usize, Connection)], late: &mut Vec<(usize, Incoming, u32)>) {
    late.retain_mut(|(number, request, rounds)| {
        *rounds -= 1;
        if *rounds == 0 {
            if let Some((_, connection)) = connections.iter_mut().find(|(n, _)| n == number) {
                connection.reply(request.stream, Ok(Vec::new())).unwrap();
            }
        }
        *rounds > 0
    });
}

fn read_event(connection: usize, request: &Incoming) -> Seen {
    assert_eq!(
        request.service,
        "containerd.services.events.ttrpc.v1.Events"
    );
    assert_eq!(
        request.metadata,
        [(
            "containerd-namespace-ttrpc".to_owned(),
            "test-ns".to_owned()
        )]
    );
    let left = request.deadline.unwrap() - Instant::now();
    assert!(left <= TRY && left > TRY / 2, "{left:?}");
    let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
    let envelope = forward.envelope;
    assert_eq!(envelope.namespace, "test-ns");
    assert_eq!(
        (envelope.timestamp.seconds, envelope.timestamp.nanos),
        (1000, 5)
    );
    let type_url = &envelope.event.type_url;
    let pid = match type_url.as_str() {
        "containerd.events.TaskExit" => {
            TaskExit::parse_from_bytes(&envelope.event.value)
                .unwrap()
                .pid
        }
        _ => 0,
    };
    Seen {
        connection,
        topic: envelope.topic.clone(),
        pid,
    }
}
