// SPDX-License-Identifier: Apache-2.0
//! Against a collector that is a listening socket.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use super::*;
use crate::recorder::{Outcome, Scope};
use crate::trace::Trace;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn config(listener: &TcpListener, protocol: Protocol) -> Config {
    Config {
        authority: listener.local_addr().unwrap().to_string(),
        path: "/v1/traces".to_owned(),
        protocol,
        headers: vec![("x-key".to_owned(), "secret".to_owned())],
        timeout: Duration::from_secs(10),
        resource: vec![("service.name".to_owned(), "shim \"a\"".to_owned())],
        sample_roots: true,
    }
}

fn records() -> Vec<Record> {
    let scope = Some(Arc::new(Scope {
        container: "c1".into(),
        exec: "".into(),
    }));
    let trace = Trace::parse(TRACE).map(Arc::new);
    let root = Record {
        id: 1,
        parent: 0,
        name: "Create",
        start: 1_000,
        duration: 500,
        scope,
        trace,
        outcome: Outcome::Failed(2),
    };
    let part = Record {
        id: 2,
        parent: 1,
        name: "plan",
        outcome: Outcome::Done,
        ..root.clone()
    };
    vec![part, root]
}

/// Takes one request, answers with `status`; returns head and body.
fn take(listener: &TcpListener, status: &str) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    let head = loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).unwrap();
        assert_ne!(read, 0, "closed early");
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            break String::from_utf8(std::mem::replace(&mut bytes, rest)).unwrap();
        }
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .and_then(|text| text.parse::<usize>().ok())
        .unwrap();
    let mut rest = vec![0; length - bytes.len()];
    stream.read_exact(&mut rest).unwrap();
    bytes.extend(rest);
    answer(&mut stream, status);
    (head, bytes)
}

fn answer(stream: &mut TcpStream, status: &str) {
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
}

fn post(protocol: Protocol, status: &'static str) -> (std::io::Result<()>, String, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(&listener, protocol);
    let body = match protocol {
        Protocol::Protobuf => encode::protobuf(&records(), &config.resource, 7),
        Protocol::Json => encode::json(&records(), &config.resource, 7),
    };
    let collector = std::thread::spawn(move || take(&listener, status));
    let result = http::post(&config, &body, Instant::now() + config.timeout);
    let (head, body) = collector.join().unwrap();
    (result, head, body)
}

#[test]
fn json_is_otlps() {
    let (result, head, body) = post(Protocol::Json, "200 OK");
    result.unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/json\r\n"));
    assert!(head.contains("\r\nx-key: secret\r\n"));
    let text = String::from_utf8(body).unwrap();
    let part = "\"name\":\"plan\",\"kind\":1,\"startTimeUnixNano\":\"1007\",\
                \"endTimeUnixNano\":\"1507\",\"attributes\":[{\"key\":\"container.id\",\
                \"value\":{\"stringValue\":\"c1\"}}]}";
    assert!(text.contains(part), "{text}");
    assert!(
        text.contains("{\"stringValue\":\"shim \\\"a\\\"\"}"),
        "{text}"
    );
    assert!(text.contains("\"traceId\":\"0af7651916cd43dd8448eb211c80319c\""));
    let root = "\"parentSpanId\":\"b7ad6b7169203331\",\"name\":\"Create\",\"kind\":2,";
    assert!(text.contains(root), "{text}");
    assert!(text.ends_with("\"status\":{\"code\":2}}]}]}]}"), "{text}");
    let opened = text.matches(['{', '[']).count();
    assert_eq!(opened, text.matches(['}', ']']).count());
}

/// Cuts a message into its fields: number and content.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let length = match tag & 7 {
            0 => {
                found.push((tag >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            other => panic!("wire type {other}"),
        };
        let (content, rest) = bytes.split_at(length);
        found.push((tag >> 3, content.to_vec()));
        bytes = rest;
    }
    found
}

fn field(message: &[u8], number: u64) -> Vec<u8> {
    let mut found = fields(message).into_iter().filter(|(n, _)| *n == number);
    found
        .next()
        .unwrap_or_else(|| panic!("no field {number}"))
        .1
}

#[test]
fn protobuf_is_otlps() {
    let (result, head, body) = post(Protocol::Protobuf, "202 Accepted");
    result.unwrap();
    assert!(head.contains("Content-Type: application/x-protobuf\r\n"));
    let resource_spans = field(&body, 1);
    let attribute = field(&field(&resource_spans, 1), 1);
    assert_eq!(field(&attribute, 1), b"service.name");
    assert_eq!(field(&field(&attribute, 2), 1), b"shim \"a\"");
    let scope_spans = field(&resource_spans, 2);
    let spans: Vec<_> = fields(&scope_spans)
        .into_iter()
        .filter_map(|(number, content)| (number == 2).then_some(content))
        .collect();
    let [part, root] = &spans[..] else {
        panic!("{} spans", spans.len())
    };
    assert_eq!(field(part, 5), b"plan");
    assert_eq!(
        field(part, 4),
        field(root, 2),
        "the part's parent is the call"
    );
    assert_eq!(field(root, 1)[0], 0x0a);
    assert_eq!(field(root, 4)[0], 0xb7, "the call's parent is the caller's");
    assert_eq!(field(root, 7), 1007u64.to_le_bytes());
    assert_eq!(field(root, 8), 1507u64.to_le_bytes());
    assert_eq!(field(&field(root, 15), 3)[0], 2);
}

#[test]
fn a_collector_that_refuses_or_is_not_there_is_an_error() {
    let (result, ..) = post(Protocol::Json, "503 Busy");
    assert_eq!(
        result.unwrap_err().to_string(),
        "the collector answered 503"
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(&listener, Protocol::Json);
    drop(listener);
    assert!(http::post(&config, b"{}", Instant::now() + config.timeout).is_err());
}
