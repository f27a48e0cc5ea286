// SPDX-License-Identifier: Apache-2.0
//! Connections over real sockets.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use protobuf::Message;
use rustix::event::epoll;
use ttrpc::proto as oracle;

use super::client::{CallError, Client};
use super::message::{Call, Response};
use super::stream::{BACKLOG_MAX, Stream};
use super::wire::{self, BODY_MAX, HEADER_LEN, Header};
use super::*;
use crate::status::{Code, Status};

const LIMIT: Duration = Duration::from_secs(20);

fn pair() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(LIMIT)).unwrap();
    (Connection::new(OwnedFd::from(ours)), theirs)
}

fn request(stream: u32, payload: &[u8]) -> Vec<u8> {
    let call = Call {
        service: "s",
        method: "m",
        payload,
        timeout: Duration::ZERO,
        metadata: &[],
    };
    call.encode(stream).unwrap()
}

fn raw(stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let header = Header {
        length: body.len() as u32,
        stream,
        kind,
        flags: 0,
    };
    [&header.to_bytes()[..], body].concat()
}

fn read_reply(peer: &mut UnixStream) -> (u32, Result<Vec<u8>, Status>) {
    let mut head = [0; HEADER_LEN];
    peer.read_exact(&mut head).unwrap();
    let header = Header::parse(&head);
    let mut body = vec![0; header.length as usize];
    peer.read_exact(&mut body).unwrap();
    (
        header.stream,
        Response::decode(&body).unwrap().into_result(),
    )
}

/// Reads until everything is read, and asserts that the connection lives.
fn read_all(connection: &mut Connection) -> Vec<Incoming> {
    let mut requests = Vec::new();
    while connection.read(&mut requests).unwrap() == Input::More {}
    requests
}

/// Reads until `count` requests have come from a peer that writes meanwhile.
fn read_until(connection: &mut Connection, count: usize) -> Vec<Incoming> {
    let mut requests = Vec::new();
    let end = Instant::now() + LIMIT;
    while requests.len() < count {
        assert!(
            Instant::now() < end,
            "{} of {count} requests",
            requests.len()
        );
        connection.read(&mut requests).unwrap();
    }
    requests
}

#[test]
fn requests_in_one_read_are_all_delivered_and_answered_in_any_order() {
    let (mut connection, mut peer) = pair();
    let stream = [request(1, b"a"), request(3, b"bb"), request(5, b"")].concat();
    peer.write_all(&stream).unwrap();
    let requests = read_all(&mut connection);
    let seen: Vec<_> = requests
        .iter()
        .map(|r| (r.stream, &r.payload[..]))
        .collect();
    assert_eq!(seen, [(1, &b"a"[..]), (3, b"bb"), (5, b"")]);
    assert_eq!(
        (requests[0].service.as_str(), requests[0].method.as_str()),
        ("s", "m")
    );
    assert_eq!(connection.held(), 0);

    connection.reply(5, Ok(b"five".to_vec())).unwrap();
    connection
        .reply(1, Err(Status::container_not_created()))
        .unwrap();
    assert_eq!(read_reply(&mut peer), (5, Ok(b"five".to_vec())));
    assert_eq!(
        read_reply(&mut peer),
        (1, Err(Status::container_not_created()))
    );
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let (mut connection, mut peer) = pair();
    let (last, stream) = request(1, b"slow")
        .split_last()
        .map(|(l, s)| (*l, s.to_vec()))
        .unwrap();
    for byte in stream {
        peer.write_all(&[byte]).unwrap();
        assert_eq!(read_all(&mut connection), []);
    }
    peer.write_all(&[last]).unwrap();
    assert_eq!(read_all(&mut connection)[0].payload, b"slow");
    assert_eq!(connection.held(), 0);
}

#[test]
fn deadline_and_metadata_reach_the_server() {
    let (mut connection, mut peer) = pair();
    let metadata = &[(NAMESPACE, "k8s.io")];
    let timeout = Duration::from_secs(7);
    let call = Call {
        service: "s",
        method: "m",
        payload: &[],
        timeout,
        metadata,
    };
    peer.write_all(&call.encode(1).unwrap()).unwrap();
    let mut past = oracle::Request::new();
    past.timeout_nano = -5;
    peer.write_all(&raw(3, wire::REQUEST, &past.write_to_bytes().unwrap()))
        .unwrap();
    peer.write_all(&request(5, b"")).unwrap();
    let requests = read_all(&mut connection);
    let left = requests[0].deadline.unwrap() - Instant::now();
    assert!(left <= timeout && left > Duration::from_secs(6), "{left:?}");
    assert_eq!(
        requests[0].metadata,
        [(NAMESPACE.to_owned(), "k8s.io".to_owned())]
    );
    assert!(requests[1].deadline.unwrap() <= Instant::now());
    assert_eq!(requests[2].deadline, None);
}

#[test]
fn protocol_errors_are_answered_as_go_does_and_the_connection_goes_on() {
    let (mut connection, mut peer) = pair();
    let stream = [
        request(2, b""),
        request(5, b""),
        request(5, b""),
        request(3, b""),
        raw(5, wire::DATA, b"x"),
        raw(7, wire::RESPONSE, b"ignored"),
        raw(7, 99, b"ignored"),
        raw(7, wire::REQUEST, &[0x0a, 9]),
        request(9, b"good"),
    ]
    .concat();
    peer.write_all(&stream).unwrap();
    let requests = read_all(&mut connection);
    assert_eq!(
        requests.iter().map(|r| r.stream).collect::<Vec<_>>(),
        [5, 9]
    );
    let expected = [
        (2, "StreamID must be odd for client initiated streams"),
        (5, "StreamID cannot be re-used and must increment"),
        (3, "StreamID cannot be re-used and must increment"),
        (5, "StreamID is no longer active"),
        (7, "unmarshal request error: "),
    ];
    for (number, text) in expected {
        let (stream, status) = read_reply(&mut peer);
        let status = status.unwrap_err();
        assert_eq!((stream, status.code), (number, Code::InvalidArgument));
        assert!(status.message.starts_with(text), "{status}");
    }
}

#[test]
fn an_oversize_request_is_refused_and_the_next_one_served() {
    let (mut connection, mut peer) = pair();
    let mut writer = peer.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        writer
            .write_all(&raw(1, wire::REQUEST, &vec![0; BODY_MAX + 1]))
            .unwrap();
        writer.write_all(&request(3, b"after")).unwrap();
    });
    let requests = read_until(&mut connection, 1);
    thread.join().unwrap();
    assert_eq!(
        (requests[0].stream, &requests[0].payload[..]),
        (3, &b"after"[..])
    );
    let (stream, status) = read_reply(&mut peer);
    let status = status.unwrap_err();
    assert_eq!((stream, status.code), (1, Code::ResourceExhausted));
    let text = "message length 4194305 exceed maximum message size of 4194304";
    assert_eq!(status.message, text);
}

#[test]
fn the_largest_request_arrives_in_fair_shares_and_leaves_no_memory_behind() {
    let (mut connection, mut peer) = pair();
    let payload: Vec<u8> = (0..BODY_MAX - 64).map(|n| (n % 251) as u8).collect();
    let frame = request(1, &payload);
    let thread = std::thread::spawn(move || {
        peer.write_all(&frame).unwrap();
        peer
    });
    let requests = read_until(&mut connection, 1);
    assert!(requests[0].payload == payload);
    assert_eq!(connection.held(), 0);
    drop(thread.join().unwrap());
}

#[test]
fn a_claimed_length_costs_no_memory() {
    let (mut connection, mut peer) = pair();
    let claim = Header {
        length: BODY_MAX as u32,
        stream: 1,
        kind: wire::REQUEST,
        flags: 0,
    };
    peer.write_all(&claim.to_bytes()).unwrap();
    peer.write_all(&[0; 100]).unwrap();
    assert_eq!(read_all(&mut connection), []);
    assert!(connection.held() <= 300 << 10, "{}", connection.held());
}

#[test]
fn one_call_of_read_takes_a_share_only() {
    let (mut connection, mut peer) = pair();
    peer.set_nonblocking(true).unwrap();
    let frame = request(1, &[0; 4000]);
    let mut written = 0;
    while let Ok(count) = peer.write(&frame) {
        written += count;
    }
    assert!(written > 150 << 10, "the socket holds {written}");
    let mut requests = Vec::new();
    assert_eq!(connection.read(&mut requests).unwrap(), Input::More);
    assert_eq!(connection.read(&mut requests).unwrap(), Input::Drained);
}

#[test]
fn a_peer_that_leaves_in_the_middle_of_a_call_ends_its_connection_only() {
    let (mut connection, mut peer) = pair();
    peer.write_all(&request(1, b"a")).unwrap();
    peer.write_all(&request(3, b"b")[..7]).unwrap();
    drop(peer);
    let mut requests = Vec::new();
    assert_eq!(connection.read(&mut requests).unwrap(), Input::Closed);
    assert_eq!(requests.len(), 1);
    let result = connection.reply(1, Ok(Vec::new()));
    assert!(matches!(result, Err(Error::Disconnected)), "{result:?}");

    // With unread answers the socket is reset instead of closed.
    let (mut connection, peer) = pair();
    connection.reply(1, Ok(Vec::new())).unwrap();
    drop(peer);
    assert_eq!(connection.read(&mut requests).unwrap(), Input::Closed);
}

#[test]
fn what_a_slow_peer_leaves_is_kept_watched_and_sent_when_it_reads() {
    let (mut connection, mut peer) = pair();
    let queue = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let payload = |n: u32| vec![n as u8; 1 << 20];
    for n in 0..6 {
        connection.reply(n * 2 + 1, Ok(payload(n))).unwrap();
    }
    assert!(connection.has_backlog());
    connection.watch(queue.as_fd(), 42).unwrap();
    let reader = std::thread::spawn(move || {
        for n in 0..6 {
            assert!(read_reply(&mut peer) == (n * 2 + 1, Ok(payload(n))));
        }
        peer
    });
    while connection.has_backlog() {
        let mut events = Vec::with_capacity(4);
        let limit = rustix::event::Timespec::try_from(LIMIT).unwrap();
        let spare = rustix::buffer::spare_capacity(&mut events);
        let count = epoll::wait(&queue, spare, Some(&limit)).unwrap();
        assert_eq!(count, 1, "the socket becomes writable");
        assert_eq!(events[0].data.u64(), 42);
        connection.flush().unwrap();
    }
    assert_eq!(connection.held(), 0);
    drop(reader.join().unwrap());
}

#[test]
fn a_peer_that_never_reads_is_given_up() {
    let (mut connection, _peer) = pair();
    let mut queued = 0;
    let error = loop {
        match connection.reply(1, Ok(vec![0; 1 << 20])) {
            Ok(()) => queued += 1 << 20,
            Err(error) => break error,
        }
        assert!(queued <= 2 * BACKLOG_MAX, "no limit");
    };
    assert!(
        matches!(error, Error::Backlog(left) if left > BACKLOG_MAX),
        "{error}"
    );
}

#[test]
fn garbage_never_breaks_more_than_its_connection() {
    let mut state: u64 = 88_172_645_463_325_252;
    for _ in 0..300 {
        let (mut connection, mut peer) = pair();
        peer.set_nonblocking(true).unwrap();
        for _ in 0..20 {
            let mut bytes = request(1, &[1; 40]);
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // The high bytes of the length stay: skipping gigabytes shows nothing new.
                let at = 2 + state as usize % (bytes.len() - 2);
                bytes[at] = (state >> 32) as u8;
            }
            if peer.write_all(&bytes).is_err() || connection.read(&mut Vec::new()).is_err() {
                break;
            }
        }
        assert!(connection.held() <= 600 << 10, "{}", connection.held());
    }
}

fn listener(name: &str) -> (UnixListener, String) {
    let name = format!("ttrpc-test-{name}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    (listener, format!("@{name}"))
}

#[test]
fn our_own_user_is_accepted_and_served_by_the_blocking_client() {
    let (listener, address) = listener("accept");
    assert!(accept(&listener).unwrap().is_none());
    let mut client = Client::connect(&address, LIMIT).unwrap();
    let mut connection = accept(&listener).unwrap().unwrap();
    client.set_namespace("ns");
    let first = client.send("s", "m", b"1", LIMIT).unwrap();
    let second = client.send("s", "m", b"2", LIMIT).unwrap();
    let requests = read_until(&mut connection, 2);
    assert_eq!(
        requests[1].metadata,
        [(NAMESPACE.to_owned(), "ns".to_owned())]
    );
    for request in requests.into_iter().rev() {
        connection
            .reply(request.stream, Ok(request.payload))
            .unwrap();
    }
    assert_eq!(client.receive(first, LIMIT).unwrap(), b"1");
    assert_eq!(client.receive(second, LIMIT).unwrap(), b"2");

    let late = client.call("s", "m", b"3", Duration::from_millis(20));
    assert!(matches!(late, Err(CallError::Timeout)), "{late:?}");
    let dead = client.send("s", "m", b"4", LIMIT).unwrap();
    drop(connection);
    let gone = client.receive(dead, LIMIT);
    assert!(
        matches!(gone, Err(CallError::Connection(Error::Disconnected))),
        "{gone:?}"
    );
}

const CONNECT_TO: &str = "TTRPC_TEST_CONNECT_TO";

/// Not a test of its own: what the next one runs as another user.
#[test]
fn helper_connects_where_it_is_told() {
    if let Ok(address) = std::env::var(CONNECT_TO) {
        let socket = Address::parse(&address).unwrap().connect().unwrap();
        let mut stream = UnixStream::from(socket);
        stream.set_nonblocking(false).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server hangs up");
    }
}

/// Requires root, to become somebody else.
#[test]
fn another_user_or_group_is_turned_away() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test requires root"
    );
    for (uid, gid) in [(65534, 65534), (0, 65534), (65534, 0)] {
        let (listener, address) = listener(&format!("stranger-{uid}-{gid}"));
        // Its path may be closed to others.
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", "ttrpc::tests::helper_connects_where_it_is_told"])
            .env(CONNECT_TO, address)
            .uid(uid)
            .gid(gid)
            .spawn()
            .unwrap();
        let status = loop {
            assert!(
                accept(&listener).unwrap().is_none(),
                "{uid}:{gid} was let in"
            );
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        assert!(status.success(), "{status}");
    }
}

#[test]
fn the_client_waits_for_a_server_that_takes_its_time_to_read() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut client = Client::new(Stream::new(ours.into()));
    let server = std::thread::spawn(move || {
        let mut connection = Connection::new(theirs.into());
        let request = read_until(&mut connection, 1).remove(0);
        connection
            .reply(request.stream, Ok(request.payload))
            .unwrap();
        while connection.has_backlog() {
            connection.flush().unwrap();
            std::thread::yield_now();
        }
        connection
    });
    let payload = vec![3; 3 << 20];
    assert!(client.call("s", "m", &payload, LIMIT).unwrap() == payload);
    drop(server.join().unwrap());
    let long = client.call("s", "m", &vec![0; 5 << 20], LIMIT).unwrap_err();
    assert!(matches!(long, CallError::Status(s) if s.code == Code::ResourceExhausted));
}
