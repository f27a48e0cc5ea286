// SPDX-License-Identifier: Apache-2.0
//! Against bytes written down by hand from the specification, and against each other.

use super::*;

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).unwrap();
    bytes
}

fn decoded(bytes: &[u8]) -> Result<Message> {
    Message::decode(bytes)
}

/// A message with a value of every type.
fn everything() -> Message {
    let entry = Value::Entry(
        Box::new(Value::str("k")),
        Box::new(Value::Struct(vec![Value::Byte(1)]).variant()),
    );
    let body = vec![
        Value::Byte(1),
        Value::Bool(true),
        Value::I16(-2),
        Value::U16(2),
        Value::I32(-3),
        Value::U32(3),
        Value::I64(-4),
        Value::U64(u64::MAX),
        Value::Double(0.5),
        Value::str("ä"),
        Value::Path("/a".to_owned()),
        Value::Signature("a{sv}".to_owned()),
        Value::Array(
            "a{sv}".to_owned(),
            vec![Value::Array("{sv}".to_owned(), vec![entry])],
        ),
        Value::Array("t".to_owned(), Vec::new()),
        Value::Struct(vec![Value::Byte(7), Value::U64(8)]).variant(),
        Value::strings(["", "x"]),
        Value::bytes([1, 2, 3]),
    ];
    Message {
        serial: 9,
        body,
        ..Message::call("org.example", "/o", "org.example.I", "Method")
    }
}

#[test]
#[cfg(target_endian = "little")]
fn the_greeting_is_what_the_specification_says() {
    let mut hello = Message::call(
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "Hello",
    );
    hello.serial = 1;
    let mut expected = b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x6d\x00\x00\x00".to_vec();
    expected.extend(b"\x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00");
    expected.extend(b"\x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00");
    expected.extend(b"\x03\x01s\x00\x05\x00\x00\x00Hello\x00\x00\x00");
    expected.extend(b"\x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00");
    assert_eq!(encoded(&hello), expected);
    assert_eq!(decoded(&expected).unwrap(), hello);
}

#[test]
#[cfg(target_endian = "little")]
fn an_array_of_structs_is_aligned_and_its_length_is_without_the_padding() {
    let mut encoder = Encoder::default();
    let pair = Value::Struct(vec![Value::str("a"), Value::U64(1).variant()]);
    encoder
        .value(&Value::Array("(sv)".to_owned(), vec![pair]))
        .unwrap();
    let mut expected = b"\x18\x00\x00\x00\x00\x00\x00\x00".to_vec();
    expected.extend(b"\x01\x00\x00\x00a\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x00");
    expected.extend(1u64.to_le_bytes());
    assert_eq!(encoder.0, expected);
}

#[test]
fn every_type_survives() {
    let message = everything();
    let bytes = encoded(&message);
    assert_eq!(
        Message::length(bytes.first_chunk().unwrap()).unwrap(),
        bytes.len()
    );
    assert_eq!(decoded(&bytes).unwrap(), message);
}

#[test]
fn a_message_that_is_cut_or_longer_is_refused() {
    let bytes = encoded(&everything());
    for length in 0..bytes.len() {
        assert!(decoded(&bytes[..length]).is_err(), "{length}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(decoded(&longer).is_err());
}

#[test]
fn a_damaged_message_never_panics() {
    let bytes = encoded(&everything());
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, b'a', b'v', b'('] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            // Another message, or an error.
            let _ = decoded(&damaged);
        }
    }
}

#[test]
fn variants_do_not_nest_without_end() {
    let nested = |depth: usize| {
        let mut value = Value::Byte(0);
        for _ in 0..depth {
            value = value.variant();
        }
        let message = Message {
            serial: 1,
            ..Message::empty(Kind::Signal).with(value)
        };
        decoded(&encoded(&message))
    };
    assert!(nested(16).is_ok());
    assert!(matches!(nested(17), Err(Error::Malformed("too deep"))));
}

#[test]
fn an_array_cannot_claim_more_than_there_is() {
    let mut bytes = encoded(&Message {
        serial: 1,
        ..Message::empty(Kind::Signal).with(Value::bytes([1]))
    });
    let length = bytes.len() - 5;
    bytes[length..length + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(decoded(&bytes).is_err());
}

#[test]
fn what_cannot_be_said_is_refused() {
    let mixed = Value::Array("s".to_owned(), vec![Value::str("a"), Value::U32(1)]);
    for value in [Value::str("a\0b"), mixed, Value::Signature("y".repeat(256))] {
        let message = Message::empty(Kind::Call).with(value);
        assert!(message.encode(&mut Vec::new()).is_err(), "{message:?}");
    }
}
