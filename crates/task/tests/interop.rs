// SPDX-License-Identifier: Apache-2.0
//! Our ends of the protocol against those of the `ttrpc` crate, an independent implementation.
#![allow(clippy::unwrap_used)] // Clippy takes the helpers here for product code.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api::{
    CreateTaskRequest, CreateTaskResponse, Empty, ForwardRequest, KillRequest, StateRequest,
    StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::{Events, Task, TaskClient, create_events, create_task};
use protobuf::Message;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use task::events;
use task::publisher::Publisher;
use task::status::{Code, Status};
use task::ttrpc::client::{CallError, Client};
use task::ttrpc::{Connection, Incoming, Input, Method, NAMESPACE, TaskRequest, accept};
use ttrpc::TtrpcContext;
use ttrpc::context::{self, Context};

const LIMIT: Duration = Duration::from_secs(20);
const LISTENER: u64 = 0;

/// A reactor as the shim's, small: answers on one thread, a `Wait` when the `Kill` comes.
struct Server {
    dir: tempfile::TempDir,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let thread = Some(std::thread::spawn(move || Reactor::new().run(&listener)));
        Self { dir, thread }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("s").display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut client = Client::connect(&self.address(), LIMIT).unwrap();
        client.call("test", "Stop", &[], LIMIT).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Reactor {
    epoll: rustix::fd::OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    waits: Vec<(u64, u32)>,
    stopped: bool,
}

impl Reactor {
    fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        Self {
            epoll,
            connections: HashMap::new(),
            next: 1,
            waits: Vec::new(),
            stopped: false,
        }
    }

    fn run(mut self, listener: &UnixListener) {
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&self.epoll, listener, data, epoll::EventFlags::IN).unwrap();
        while !self.stopped {
            let mut events = Vec::with_capacity(16);
            epoll::wait(&self.epoll, spare_capacity(&mut events), None).unwrap();
            for event in events {
                match event.data.u64() {
                    LISTENER => self.accept(listener),
                    token => self.ready(token, event.flags),
                }
            }
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Some(mut connection) = accept(listener).unwrap() {
            connection.watch(self.epoll.as_fd(), self.next).unwrap();
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
    }

    fn ready(&mut self, token: u64, flags: epoll::EventFlags) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let (mut requests, mut alive) = (Vec::new(), true);
        if flags.contains(epoll::EventFlags::OUT) {
            alive &= connection.flush().is_ok();
        }
        loop {
            match connection.read(&mut requests) {
                Ok(Input::More) => {}
                Ok(Input::Drained) => break,
                Ok(Input::Closed) | Err(_) => {
                    alive = false;
                    break;
                }
            }
        }
        for request in requests {
            self.serve(token, request);
        }
        if alive {
            let connection = self.connections.get_mut(&token).unwrap();
            connection.watch(self.epoll.as_fd(), token).unwrap();
        } else {
            self.connections.remove(&token);
            self.waits.retain(|(owner, _)| *owner != token);
        }
    }

    fn serve(&mut self, token: u64, incoming: Incoming) {
        if incoming.service == "test" {
            self.stopped = true;
            return self.reply(token, incoming.stream, Ok(Vec::new()));
        }
        let result = Method::parse(&incoming.service, &incoming.method)
            .and_then(|method| method.decode(&incoming.payload));
        let result = match result {
            Err(status) => Err(status),
            Ok(TaskRequest::Wait(_)) => return self.waits.push((token, incoming.stream)),
            Ok(TaskRequest::Kill(kill)) => {
                let exited = WaitResponse {
                    exit_status: 128 + kill.signal,
                    ..Default::default()
                };
                for (owner, stream) in std::mem::take(&mut self.waits) {
                    self.reply(owner, stream, Ok(exited.write_to_bytes().unwrap()));
                }
                Ok(Vec::new())
            }
            // The bundle comes back as often as the exec id says.
            Ok(TaskRequest::State(state)) => {
                let times = state.exec_id.parse().unwrap_or(1);
                let bundle = state.id.repeat(times);
                let state = StateResponse {
                    bundle,
                    ..Default::default()
                };
                Ok(state.write_to_bytes().unwrap())
            }
            Ok(TaskRequest::Create(create)) => {
                let namespace = incoming.metadata.iter().find(|(key, _)| key == NAMESPACE);
                let deadline = incoming.deadline.map(|at| at - Instant::now());
                assert_eq!(namespace.unwrap().1, "k8s.io");
                assert!(deadline.unwrap() > Duration::from_secs(5));
                let pid = create.rootfs.len() as u32;
                let response = CreateTaskResponse {
                    pid,
                    ..Default::default()
                };
                Ok(response.write_to_bytes().unwrap())
            }
            Ok(_) => Err(Status::container_not_created()),
        };
        self.reply(token, incoming.stream, result);
    }

    fn reply(&mut self, token: u64, stream: u32, result: Result<Vec<u8>, Status>) {
        if let Some(connection) = self.connections.get_mut(&token) {
            // A connection that fails here is found closed by its next event.
            let _ = connection.reply(stream, result);
            let _ = connection.watch(self.epoll.as_fd(), token);
        }
    }
}

fn timeout() -> Context {
    context::with_duration(LIMIT)
}

fn client(server: &Server) -> TaskClient {
    TaskClient::new(ttrpc::Client::connect(&server.address()).unwrap())
}

fn state(id: &str, times: usize) -> StateRequest {
    StateRequest {
        id: id.into(),
        exec_id: times.to_string(),
        ..Default::default()
    }
}

#[track_caller]
fn status(error: ttrpc::Error) -> (ttrpc::Code, String) {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        error => panic!("{error:?}"),
    }
}

#[test]
fn the_ttrpc_crates_client_is_served() {
    let server = Server::start();
    let client = client(&server);
    assert_eq!(
        client.state(timeout(), &state("abc", 1)).unwrap().bundle,
        "abc"
    );
    assert_eq!(client.state(timeout(), &state("", 1)).unwrap().bundle, "");

    let mut context = context::with_duration(LIMIT);
    context.add(NAMESPACE.into(), "k8s.io".into());
    let rootfs = vec![Default::default(); 3];
    let create = CreateTaskRequest {
        id: "c".into(),
        rootfs,
        ..Default::default()
    };
    assert_eq!(client.create(context, &create).unwrap().pid, 3);

    let error = client.delete(timeout(), &Default::default()).unwrap_err();
    let expected = (
        ttrpc::Code::NOT_FOUND,
        "container not created: not found".to_owned(),
    );
    assert_eq!(status(error), expected);
}

#[test]
fn the_ttrpc_crates_client_gets_large_replies_and_an_error_for_too_large_ones() {
    let server = Server::start();
    let client = client(&server);
    let long = client
        .state(timeout(), &state("0123456789", 400_000))
        .unwrap()
        .bundle;
    assert!(long == "0123456789".repeat(400_000));
    let error = client
        .state(timeout(), &state("0123456789", 420_000))
        .unwrap_err();
    assert_eq!(status(error).0, ttrpc::Code::RESOURCE_EXHAUSTED);
    assert_eq!(
        client.state(timeout(), &state("a", 2)).unwrap().bundle,
        "aa"
    );
}

#[test]
fn calls_of_many_threads_and_connections_overtake_a_wait() {
    let server = Server::start();
    let (shared, waiting) = (client(&server), client(&server));
    let wait = |client: TaskClient| {
        std::thread::spawn(move || client.wait(timeout(), &WaitRequest::default()).unwrap())
    };
    let waits = [wait(waiting.clone()), wait(waiting), wait(shared.clone())];
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = if thread % 2 == 0 {
                shared.clone()
            } else {
                client(&server)
            };
            scope.spawn(move || {
                for n in 0..100 {
                    let id = format!("{thread}-{n}");
                    let times = if n % 10 == 0 { 20_000 } else { 1 };
                    let bundle = client.state(timeout(), &state(&id, times)).unwrap().bundle;
                    assert!(bundle == id.repeat(times));
                }
            });
        }
    });
    // A wait that is not yet registered would be missed: kill until all have answered.
    while waits.iter().any(|wait| !wait.is_finished()) {
        let kill = KillRequest {
            signal: 9,
            ..Default::default()
        };
        shared.kill(timeout(), &kill).unwrap();
    }
    for wait in waits {
        assert_eq!(wait.join().unwrap().exit_status, 137);
    }
}

#[test]
fn a_client_that_vanishes_during_a_wait_harms_nobody() {
    let server = Server::start();
    for _ in 0..20 {
        let mut vanishing = Client::connect(&server.address(), LIMIT).unwrap();
        vanishing
            .send("containerd.task.v2.Task", "Wait", &[], LIMIT)
            .unwrap();
    }
    let client = client(&server);
    let kill = KillRequest {
        signal: 9,
        ..Default::default()
    };
    client.kill(timeout(), &kill).unwrap();
    assert_eq!(client.state(timeout(), &state("x", 1)).unwrap().bundle, "x");
}

#[test]
fn the_probe_for_the_services_version_is_answered_as_go_answers_it() {
    let server = Server::start();
    let mut client = Client::connect(&server.address(), LIMIT).unwrap();
    let mut call = |service, method| client.call(service, method, &[], LIMIT);
    assert!(call("containerd.task.v2.Task", "State").is_ok());
    assert!(call("containerd.task.v3.Task", "State").is_ok());
    let unimplemented = |result: Result<Vec<u8>, CallError>| match result.unwrap_err() {
        CallError::Status(status) if status.code == Code::Unimplemented => status.message,
        error => panic!("{error:?}"),
    };
    let sandbox = "containerd.runtime.sandbox.v1.Sandbox";
    assert_eq!(
        unimplemented(call(sandbox, "Ping")),
        format!("service {sandbox}")
    );
    assert_eq!(
        unimplemented(call("containerd.task.v3.Task", "Nope")),
        "method Nope"
    );
}

/// What the `ttrpc` crate's server saw.
type Seen = Arc<Mutex<Vec<(String, String, u32)>>>;

struct TheirEvents(Seen);

impl Events for TheirEvents {
    fn forward(&self, context: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let namespace = context.metadata[NAMESPACE][0].clone();
        let envelope = request.envelope;
        assert_eq!(envelope.namespace, namespace);
        assert_eq!(context.timeout_nano, 5_000_000_000);
        assert!(envelope.timestamp.seconds > 1_500_000_000);
        let pid = TaskExit::parse_from_bytes(&envelope.event.value)
            .unwrap()
            .pid;
        self.0
            .lock()
            .unwrap()
            .push((namespace, envelope.topic.clone(), pid));
        Ok(Empty::new())
    }
}

#[test]
fn the_publisher_delivers_to_the_ttrpc_crates_server() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix://{}", dir.path().join("events").display());
    let seen = Seen::default();
    let mut server = ttrpc::Server::new()
        .bind(&address)
        .unwrap()
        .register_service(create_events(Arc::new(TheirEvents(Arc::clone(&seen)))));
    server.start().unwrap();

    let mut publisher = Publisher::new(&address, "moby");
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    for pid in 0..100 {
        publisher.publish(
            events::task_exit("c", "e", pid, 0, UNIX_EPOCH),
            SystemTime::now(),
        );
    }
    let end = Instant::now() + LIMIT;
    while !publisher.is_idle() {
        assert!(Instant::now() < end);
        publisher.drive(epoll.as_fd(), 1, Instant::now());
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut events = Vec::with_capacity(1);
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&tick)).unwrap();
    }
    let want: Vec<_> = (0..100)
        .map(|pid| ("moby".to_owned(), "/tasks/exit".to_owned(), pid))
        .collect();
    assert!(*seen.lock().unwrap() == want);
    server.shutdown();
}

struct TheirTask;

impl Task for TheirTask {
    fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        Ok(StateResponse {
            id: request.id,
            pid: 5,
            ..Default::default()
        })
    }

    fn kill(&self, _: &TtrpcContext, _: KillRequest) -> ttrpc::Result<Empty> {
        let status = ttrpc::get_status(ttrpc::Code::FAILED_PRECONDITION, "not now");
        Err(ttrpc::Error::RpcStatus(status))
    }

    fn wait(&self, _: &TtrpcContext, _: WaitRequest) -> ttrpc::Result<WaitResponse> {
        std::thread::sleep(Duration::from_millis(300));
        Ok(WaitResponse {
            exit_status: 3,
            ..Default::default()
        })
    }
}

#[test]
fn our_client_is_served_by_the_ttrpc_crates_server() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix://{}", dir.path().join("task").display());
    let mut server = ttrpc::Server::new()
        .bind(&address)
        .unwrap()
        .register_service(create_task(Arc::new(TheirTask)));
    server.start().unwrap();

    let service = "containerd.task.v3.Task";
    let mut client = Client::connect(&address, LIMIT).unwrap();
    let wait = client.send(service, "Wait", &[], LIMIT).unwrap();
    let request = StateRequest {
        id: "x".repeat(3 << 20),
        ..Default::default()
    };
    let state = client
        .call(service, "State", &request.write_to_bytes().unwrap(), LIMIT)
        .unwrap();
    let state = StateResponse::parse_from_bytes(&state).unwrap();
    assert!(state.id == request.id && state.pid == 5);
    let error = client.call(service, "Kill", &[], LIMIT).unwrap_err();
    let expected = Status::new(Code::FailedPrecondition, "not now");
    assert!(
        matches!(&error, CallError::Status(status) if *status == expected),
        "{error:?}"
    );
    let waited = client.receive(wait, LIMIT).unwrap();
    assert_eq!(
        WaitResponse::parse_from_bytes(&waited).unwrap().exit_status,
        3
    );
    server.shutdown();
}
