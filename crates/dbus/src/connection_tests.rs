// SPDX-License-Identifier: Apache-2.0
//! Against a server of the test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::*;
use crate::value::Value;

const LATER: Duration = Duration::from_secs(10);

/// Runs a server for one client, and a client.
fn with_server<T>(
    server: impl FnOnce(&mut Server) + Send + 'static,
    peer: Peer,
    client: impl FnOnce(&mut Connection) -> T,
) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let thread =
        thread::spawn(move || server(&mut Server(BufReader::new(listener.accept().unwrap().0))));
    let mut connection =
        Connection::open(&Address::Path(path), peer, Instant::now() + LATER).unwrap();
    let result = client(&mut connection);
    drop(connection);
    thread.join().unwrap();
    result
}

struct Server(BufReader<UnixStream>);

impl Server {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn welcome(&mut self) {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        assert_eq!(self.line(), format!("\0AUTH EXTERNAL {hex}"));
        assert_eq!(self.line(), "BEGIN");
        self.write(b"OK 0123456789abcdef\r\n");
    }

    fn receive(&mut self) -> Message {
        let mut bytes = vec![0; PREFIX];
        self.0.read_exact(&mut bytes).unwrap();
        let length = Message::length(bytes.first_chunk().unwrap()).unwrap();
        bytes.resize(length, 0);
        self.0.read_exact(&mut bytes[PREFIX..]).unwrap();
        Message::decode(&bytes).unwrap()
    }

    fn send(&mut self, message: Message) {
        let mut bytes = Vec::new();
        Message {
            serial: 77,
            ..message
        }
        .encode(&mut bytes)
        .unwrap();
        self.write(&bytes);
    }

    fn answer(&mut self, call: &Message, body: Vec<Value>) {
        self.send(Message {
            reply_to: call.serial,
            body,
            ..Message::empty(Kind::Return)
        });
    }

    fn fail(&mut self, call: &Message, error: &str) {
        let message = Message {
            reply_to: call.serial,
            error: error.to_owned(),
            ..Message::empty(Kind::Error)
        };
        self.send(message.with(Value::str("because")));
    }
}

fn ping() -> Message {
    Message::call("org.example", "/", "org.example.I", "Ping")
}

fn soon() -> Instant {
    Instant::now() + LATER
}

#[test]
fn a_bus_is_greeted_and_the_first_call_is_sent_along() {
    let reply = with_server(
        |server| {
            server.welcome();
            let hello = server.receive();
            assert_eq!(hello.member, "Hello");
            // Before any answer.
            let call = server.receive();
            server.answer(&hello, vec![Value::str(":1.1")]);
            server.answer(&call, vec![Value::U32(7)]);
        },
        Peer::Bus,
        |client| client.call(&mut ping(), soon()),
    );
    assert_eq!(reply.unwrap().body, [Value::U32(7)]);
}

#[test]
fn a_service_is_not_greeted() {
    let reply = with_server(
        |server| {
            server.welcome();
            let call = server.receive();
            server.answer(&call, Vec::new());
        },
        Peer::Service,
        |client| client.call(&mut ping(), soon()),
    );
    assert_eq!(reply.unwrap().body, []);
}

#[test]
fn who_is_refused_is_told_so() {
    let error = with_server(
        |server| {
            server.line();
            server.write(b"REJECTED EXTERNAL\r\n");
            // Until the client leaves.
            let _ = server.0.read_to_end(&mut Vec::new());
        },
        Peer::Bus,
        |client| client.call(&mut ping(), soon()),
    );
    assert!(matches!(error, Err(Error::Rejected(line)) if line == "REJECTED EXTERNAL"));
}

#[test]
fn a_full_bus_refuses_by_the_greeting() {
    let error = with_server(
        |server| {
            server.welcome();
            let hello = server.receive();
            server.fail(&hello, "org.freedesktop.DBus.Error.LimitsExceeded");
        },
        Peer::Bus,
        |client| client.call(&mut ping(), soon()),
    );
    let error = error.unwrap_err();
    assert_eq!(
        error.remote(),
        Some("org.freedesktop.DBus.Error.LimitsExceeded")
    );
}

#[test]
fn an_error_has_its_name_and_text() {
    let error = with_server(
        |server| {
            server.welcome();
            let call = server.receive();
            server.fail(&call, "org.example.Bad");
        },
        Peer::Service,
        |client| client.call(&mut ping(), soon()),
    );
    assert_eq!(error.unwrap_err().to_string(), "because (org.example.Bad)");
}

#[test]
fn a_call_that_is_not_answered_ends_at_its_deadline() {
    let begun = Instant::now();
    let error = with_server(
        |server| {
            server.welcome();
            server.receive();
            let _ = server.0.read_to_end(&mut Vec::new());
        },
        Peer::Service,
        |client| client.call(&mut ping(), Instant::now() + Duration::from_millis(50)),
    );
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "no answer to D-Bus call of Ping in time");
    assert!(!error.is_lost() && begun.elapsed() < LATER);
}

#[test]
fn a_server_that_leaves_is_noticed() {
    for before_the_call in [true, false] {
        let error = with_server(
            move |server| {
                server.welcome();
                if !before_the_call {
                    server.receive();
                }
            },
            Peer::Service,
            |client| client.call(&mut ping(), soon()),
        );
        assert!(error.unwrap_err().is_lost());
    }
}

#[test]
fn signals_that_come_with_a_reply_are_kept_and_others_dropped() {
    let signal = |member: &str| Message {
        path: "/".to_owned(),
        interface: "org.example.I".to_owned(),
        member: member.to_owned(),
        ..Message::empty(Kind::Signal)
    };
    with_server(
        move |server| {
            server.welcome();
            let call = server.receive();
            server.send(signal("Other"));
            server.send(signal("Done"));
            server.answer(&call, Vec::new());
            server.send(signal("Done"));
            let _ = server.0.read_to_end(&mut Vec::new());
        },
        Peer::Service,
        |client| {
            client.keep_signals("org.example.I", "Done");
            client.call(&mut ping(), soon()).unwrap();
            assert_eq!(client.signal(soon()).unwrap().unwrap().member, "Done");
            assert_eq!(client.signal(soon()).unwrap().unwrap().member, "Done");
            let none = client.signal(Instant::now() + Duration::from_millis(20));
            assert_eq!(none.unwrap(), None);
        },
    );
}

#[test]
fn garbage_ends_the_connection() {
    let error = with_server(
        |server| {
            server.welcome();
            server.receive();
            server.write(&[0xff; 64]);
        },
        Peer::Service,
        |client| client.call(&mut ping(), soon()),
    );
    assert!(matches!(error, Err(Error::Malformed(_))), "{error:?}");
}

#[test]
fn a_message_that_comes_byte_by_byte_and_a_long_one_arrive() {
    let reply = with_server(
        |server| {
            server.welcome();
            let call = server.receive();
            assert_eq!(call.text(0).map(str::len), Some(1 << 20));
            let mut bytes = Vec::new();
            let answer = Message {
                serial: 1,
                reply_to: call.serial,
                ..Message::empty(Kind::Return)
            };
            answer.with(Value::str("x")).encode(&mut bytes).unwrap();
            for byte in bytes {
                server.write(&[byte]);
            }
        },
        Peer::Service,
        |client| client.call(&mut ping().with(Value::str("y".repeat(1 << 20))), soon()),
    );
    assert_eq!(reply.unwrap().body, [Value::str("x")]);
}

#[test]
fn nobody_there_is_an_error_that_says_where() {
    let address = Address::Path("/nonexistent/bus".into());
    let error = Connection::open(&address, Peer::Bus, soon()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("connect to D-Bus at /nonexistent/bus: "),
        "{text}"
    );
}
