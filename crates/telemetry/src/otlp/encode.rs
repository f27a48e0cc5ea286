// SPDX-License-Identifier: Apache-2.0
//! Spans as an `ExportTraceServiceRequest`, in protobuf or JSON.
//!
//! By hand: seven messages, of which we fill a few fields. Field numbers are those of
//! `opentelemetry/proto/trace/v1/trace.proto`.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;

use crate::recorder::{Outcome, Record};

const SCOPE: &str = "containerd-shim-rust";
/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`.
const KINDS: [u64; 2] = [1, 2];
/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u64 = 2;

/// What of a record is exported.
struct Span<'a> {
    record: &'a Record,
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    kind: u64,
    start: u64,
    end: u64,
}

impl<'a> Span<'a> {
    fn of(record: &'a Record, offset: u64) -> Option<Self> {
        let trace = record.trace.as_ref()?;
        let (parent, kind) = match record.parent {
            0 => (
                Some(trace.parent).filter(|parent| *parent != [0; 8]),
                KINDS[1],
            ),
            parent => (Some(span_id(parent)), KINDS[0]),
        };
        Some(Self {
            record,
            trace: trace.id,
            id: span_id(record.id),
            parent,
            kind,
            start: record.start + offset,
            end: record.start + record.duration + offset,
        })
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut list = Vec::new();
        if let Some(scope) = &self.record.scope {
            list.push(("container.id", scope.container.to_string()));
            if !scope.exec.is_empty() {
                list.push(("container.exec.id", scope.exec.to_string()));
            }
        }
        if let Outcome::Failed(code @ 1..) = self.record.outcome {
            list.push(("error.code", code.to_string()));
        }
        list
    }

    fn failed(&self) -> bool {
        matches!(self.record.outcome, Outcome::Failed(_))
    }
}

/// Eight bytes that no other span of any process is likely to have.
fn span_id(id: u64) -> [u8; 8] {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    // Zero means "none": one in 2^64.
    let hash = KEYS.get_or_init(RandomState::new).hash_one(id);
    hash.max(1).to_be_bytes()
}

/// The id of a trace of our own.
pub(super) fn new_trace_id() -> [u8; 16] {
    // Each has keys of its own, so two numbers that nobody else has.
    let (a, b) = (RandomState::new(), RandomState::new());
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.hash_one(0u64).max(1).to_be_bytes());
    bytes[8..].copy_from_slice(&b.hash_one(1u64).to_be_bytes());
    bytes
}

/// A message of protobuf that is being written.
#[derive(Default)]
struct Proto(Vec<u8>);

impl Proto {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn fixed64(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Proto)) {
        let mut inner = Proto::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn attribute(&mut self, field: u64, key: &str, value: &str) {
        self.message(field, |pair| {
            pair.bytes(1, key.as_bytes());
            pair.message(2, |any| any.bytes(1, value.as_bytes()));
        });
    }
}

/// The request in protobuf. `offset` turns the records' clock into the wall clock.
pub(super) fn protobuf(records: &[Record], resource: &[(String, String)], offset: u64) -> Vec<u8> {
    let mut request = Proto::default();
    request.message(1, |resource_spans| {
        resource_spans.message(1, |message| {
            for (key, value) in resource {
                message.attribute(1, key, value);
            }
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| {
                scope.bytes(1, SCOPE.as_bytes());
                scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            for span in records.iter().filter_map(|record| Span::of(record, offset)) {
                scope_spans.message(2, |message| span_proto(message, &span));
            }
        });
    });
    request.0
}

fn span_proto(message: &mut Proto, span: &Span<'_>) {
    message.bytes(1, &span.trace);
    message.bytes(2, &span.id);
    if let Some(parent) = span.parent {
        message.bytes(4, &parent);
    }
    message.bytes(5, span.record.name.as_bytes());
    message.number(6, span.kind);
    message.fixed64(7, span.start);
    message.fixed64(8, span.end);
    for (key, value) in span.attributes() {
        message.attribute(9, key, &value);
    }
    if span.failed() {
        message.message(15, |status| status.number(3, STATUS_ERROR));
    }
}

/// The request in JSON (OTLP's mapping: identifiers in hex, 64-bit numbers as strings).
pub(super) fn json(records: &[Record], resource: &[(String, String)], offset: u64) -> Vec<u8> {
    let mut text = String::from("{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
    let pairs = resource.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    json_attributes(&mut text, pairs);
    text.push_str("]},\"scopeSpans\":[{\"scope\":{\"name\":");
    json_string(&mut text, SCOPE);
    text.push_str(",\"version\":");
    json_string(&mut text, env!("CARGO_PKG_VERSION"));
    text.push_str("},\"spans\":[");
    let spans = records.iter().filter_map(|record| Span::of(record, offset));
    for (index, span) in spans.enumerate() {
        if index > 0 {
            text.push(',');
        }
        span_json(&mut text, &span);
    }
    text.push_str("]}]}]}");
    text.into_bytes()
}

fn span_json(text: &mut String, span: &Span<'_>) {
    text.push_str("{\"traceId\":\"");
    json_hex(text, &span.trace);
    text.push_str("\",\"spanId\":\"");
    json_hex(text, &span.id);
    if let Some(parent) = span.parent {
        text.push_str("\",\"parentSpanId\":\"");
        json_hex(text, &parent);
    }
    text.push_str("\",\"name\":");
    json_string(text, span.record.name);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        ",\"kind\":{},\"startTimeUnixNano\":\"{}\",\"endTimeUnixNano\":\"{}\",\"attributes\":[",
        span.kind, span.start, span.end
    );
    let attributes = span.attributes();
    json_attributes(text, attributes.iter().map(|(k, v)| (*k, v.as_str())));
    text.push(']');
    if span.failed() {
        let _ = write!(text, ",\"status\":{{\"code\":{STATUS_ERROR}}}");
    }
    text.push('}');
}

fn json_attributes<'a>(text: &mut String, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (index, (key, value)) in pairs.enumerate() {
        text.push_str(if index > 0 { ",{\"key\":" } else { "{\"key\":" });
        json_string(text, key);
        text.push_str(",\"value\":{\"stringValue\":");
        json_string(text, value);
        text.push_str("}}");
    }
}

fn json_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

fn json_string(text: &mut String, value: &str) {
    text.push('"');
    crate::logfmt::push_json(text, value, usize::MAX);
    text.push('"');
}
