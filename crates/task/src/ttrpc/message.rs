// SPDX-License-Identifier: Apache-2.0
//! The bodies of frames: `Request` and `Response`, written and read field by field.
//!
//! ```text
//! Request  { service = 1, method = 2, payload = 3, timeout_nano = 4, metadata = 5 { key = 1, value = 2 } }
//! Response { status = 1 { code = 1, message = 2 }, payload = 2 }
//! ```
//!
//! By hand, because a reply is then encoded straight into its frame, and because the messages
//! are on the path of every call. The `ttrpc` crate's own types check this in the tests.

use std::time::Duration;

use protobuf::rt::WireType;
use protobuf::{CodedInputStream, CodedOutputStream};

use super::wire::{self, REQUEST, RESPONSE};
use crate::status::{Code, Status};

/// A status text longer than this is cut: no client shows more, and a reply has to fit a frame.
const TEXT_MAX: usize = 64 << 10;

/// A call as it is on the wire.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) service: String,
    pub(crate) method: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) timeout_nano: i64,
    pub(crate) metadata: Vec<(String, String)>,
}

/// An answer as it is on the wire; a missing status means success.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: Option<Status>,
    pub(crate) payload: Vec<u8>,
}

impl Response {
    /// The payload of a success, the status of a failure.
    pub(crate) fn into_result(self) -> Result<Vec<u8>, Status> {
        match self.status {
            Some(status) if status.code != Code::Ok => Err(status),
            _ => Ok(self.payload),
        }
    }
}

/// Field number and wire type of the next field; `None` at the end.
fn next_field(input: &mut CodedInputStream<'_>) -> protobuf::Result<Option<(u32, WireType)>> {
    let Some(tag) = input.read_raw_tag_or_eof()? else {
        return Ok(None);
    };
    match (tag >> 3, WireType::new(tag & 7)) {
        // An unknown wire type cannot be skipped, so the rest of the message has no meaning. Groups
        // are gone since proto3, which is older than this protocol.
        (0, _) | (_, None | Some(WireType::StartGroup | WireType::EndGroup)) => {
            Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into())
        }
        (field, Some(wire_type)) => Ok(Some((field, wire_type))),
    }
}

impl Request {
    pub(crate) fn decode(body: &[u8]) -> protobuf::Result<Self> {
        let mut request = Request::default();
        let input = &mut CodedInputStream::from_bytes(body);
        while let Some((field, wire_type)) = next_field(input)? {
            match (field, wire_type) {
                (1, WireType::LengthDelimited) => input.read_string_into(&mut request.service)?,
                (2, WireType::LengthDelimited) => input.read_string_into(&mut request.method)?,
                (3, WireType::LengthDelimited) => request.payload = input.read_bytes()?,
                (4, WireType::Varint) => request.timeout_nano = input.read_int64()?,
                (5, WireType::LengthDelimited) => request.metadata.push(decode_pair(input)?),
                _ => input.skip_field(wire_type)?,
            }
        }
        Ok(request)
    }
}

/// A call to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) service: &'a str,
    pub(crate) method: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) timeout: Duration,
    pub(crate) metadata: &'a [(&'a str, &'a str)],
}

impl Call<'_> {
    /// The frame of this call. The error is the length of one that no frame holds.
    pub(crate) fn encode(&self, stream: u32) -> Result<Vec<u8>, usize> {
        let strings: usize = self
            .metadata
            .iter()
            .map(|(k, v)| k.len() + v.len() + 18)
            .sum();
        let size = self.service.len() + self.method.len() + self.payload.len() + strings + 32;
        wire::encode(stream, REQUEST, size, |frame| {
            write_all(frame, |out| self.write(out))
        })
    }

    fn write(&self, out: &mut CodedOutputStream<'_>) -> protobuf::Result<()> {
        write_string(out, 1, self.service)?;
        write_string(out, 2, self.method)?;
        if !self.payload.is_empty() {
            out.write_bytes(3, self.payload)?;
        }
        if !self.timeout.is_zero() {
            out.write_int64(
                4,
                i64::try_from(self.timeout.as_nanos()).unwrap_or(i64::MAX),
            )?;
        }
        for (key, value) in self.metadata {
            out.write_tag(5, WireType::LengthDelimited)?;
            out.write_raw_varint64((string_size(key) + string_size(value)) as u64)?;
            write_string(out, 1, key)?;
            write_string(out, 2, value)?;
        }
        Ok(())
    }
}

fn decode_pair(input: &mut CodedInputStream<'_>) -> protobuf::Result<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    nested(input, |input, field, wire_type| match (field, wire_type) {
        (1, WireType::LengthDelimited) => input.read_string_into(&mut key),
        (2, WireType::LengthDelimited) => input.read_string_into(&mut value),
        _ => input.skip_field(wire_type),
    })?;
    Ok((key, value))
}

fn decode_status(input: &mut CodedInputStream<'_>) -> protobuf::Result<Status> {
    let mut status = Status::new(Code::Ok, "");
    nested(input, |input, field, wire_type| match (field, wire_type) {
        (1, WireType::Varint) => {
            status.code = Code::from_number(input.read_int32()?);
            Ok(())
        }
        (2, WireType::LengthDelimited) => input.read_string_into(&mut status.message),
        _ => input.skip_field(wire_type),
    })?;
    Ok(status)
}

/// Runs `each` for every field of the message that starts here.
fn nested(
    input: &mut CodedInputStream<'_>,
    mut each: impl FnMut(&mut CodedInputStream<'_>, u32, WireType) -> protobuf::Result<()>,
) -> protobuf::Result<()> {
    let length = input.read_raw_varint64()?;
    let outer = input.push_limit(length)?;
    while let Some((field, wire_type)) = next_field(input)? {
        each(input, field, wire_type)?;
    }
    input.pop_limit(outer);
    Ok(())
}

impl Response {
    pub(crate) fn decode(body: &[u8]) -> protobuf::Result<Self> {
        let mut response = Response::default();
        let input = &mut CodedInputStream::from_bytes(body);
        while let Some((field, wire_type)) = next_field(input)? {
            match (field, wire_type) {
                (1, WireType::LengthDelimited) => response.status = Some(decode_status(input)?),
                (2, WireType::LengthDelimited) => response.payload = input.read_bytes()?,
                _ => input.skip_field(wire_type)?,
            }
        }
        Ok(response)
    }
}

/// The frame that answers a call. A payload too long for a frame becomes an error status.
pub(crate) fn encode_reply(stream: u32, result: Result<&[u8], &Status>) -> Vec<u8> {
    let too_long = match result {
        Ok(payload) => match encode_payload(stream, payload) {
            Ok(frame) => return frame,
            Err(length) => oversize(length),
        },
        Err(status) => return encode_status(stream, status),
    };
    encode_status(stream, &too_long)
}

/// The status, in Go's words, for a message of `length` bytes.
pub(crate) fn oversize(length: usize) -> Status {
    let max = wire::BODY_MAX;
    let text = format!("message length {length} exceed maximum message size of {max}");
    Status::new(Code::ResourceExhausted, text)
}

fn encode_payload(stream: u32, payload: &[u8]) -> Result<Vec<u8>, usize> {
    wire::encode(stream, RESPONSE, payload.len() + 6, |frame| {
        write_all(frame, |out| match payload {
            [] => Ok(()),
            payload => out.write_bytes(2, payload),
        });
    })
}

fn encode_status(stream: u32, status: &Status) -> Vec<u8> {
    let text = &status.message[..cut_at(&status.message, TEXT_MAX)];
    let frame = wire::encode(stream, RESPONSE, text.len() + 16, |frame| {
        write_all(frame, |out| {
            let code = status.code.number();
            let code_size = if code == 0 { 0 } else { 2 };
            out.write_tag(1, WireType::LengthDelimited)?;
            out.write_raw_varint64((code_size + string_size(text)) as u64)?;
            if code != 0 {
                out.write_uint32(1, code)?;
            }
            write_string(out, 2, text)
        });
    });
    // The text was cut to far less than a frame holds.
    frame.unwrap_or_default()
}

/// The largest index up to `limit` that cuts no character.
fn cut_at(text: &str, limit: usize) -> usize {
    let limit = limit.min(text.len());
    (0..=limit)
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or(0)
}

/// Writes fields to the end of a frame.
fn write_all(
    frame: &mut Vec<u8>,
    fields: impl FnOnce(&mut CodedOutputStream<'_>) -> protobuf::Result<()>,
) {
    let mut out = CodedOutputStream::vec(frame);
    let result = fields(&mut out).and_then(|()| out.flush());
    // Memory takes every byte: only a fixed-size target or a writer can fail.
    debug_assert!(result.is_ok());
}

fn write_string(out: &mut CodedOutputStream<'_>, field: u32, text: &str) -> protobuf::Result<()> {
    if text.is_empty() {
        Ok(())
    } else {
        out.write_string(field, text)
    }
}

/// Bytes of a string field with a number below 16.
fn string_size(text: &str) -> usize {
    match text.len() {
        0 => 0,
        length => 1 + varint_size(length) + length,
    }
}

fn varint_size(value: usize) -> usize {
    let bits = (usize::BITS - value.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use protobuf::Message;
    use ttrpc::proto as oracle;

    use super::*;
    use crate::ttrpc::wire::HEADER_LEN;

    fn call() -> Call<'static> {
        Call {
            service: "s.Service",
            method: "M",
            payload: &[1, 2, 3],
            timeout: Duration::from_secs(5),
            metadata: &[("key", "value"), ("", ""), ("only", "")],
        }
    }

    #[test]
    fn our_requests_are_read_by_the_ttrpc_crate_and_by_us() {
        let frame = call().encode(9).unwrap();
        let header = oracle::MessageHeader::from(&frame[..HEADER_LEN]);
        assert_eq!(
            header,
            oracle::MessageHeader::new_request(9, frame.len() as u32 - 10)
        );
        let theirs = oracle::Request::parse_from_bytes(&frame[HEADER_LEN..]).unwrap();
        assert_eq!(
            (theirs.service.as_str(), theirs.method.as_str()),
            ("s.Service", "M")
        );
        assert_eq!(
            (&theirs.payload[..], theirs.timeout_nano),
            (&[1, 2, 3][..], 5_000_000_000)
        );
        let pairs: Vec<_> = theirs
            .metadata
            .iter()
            .map(|pair| (pair.key.as_str(), pair.value.as_str()))
            .collect();
        assert_eq!(pairs, call().metadata);
        let ours = Request::decode(&frame[HEADER_LEN..]).unwrap();
        assert_eq!((ours.service, ours.method), (theirs.service, theirs.method));
        assert_eq!(
            (ours.payload, ours.timeout_nano),
            (theirs.payload, theirs.timeout_nano)
        );
        assert_eq!(ours.metadata.len(), 3);
    }

    #[test]
    fn the_ttrpc_crates_requests_are_read_by_us() {
        let mut theirs = oracle::Request::new();
        theirs.service = "s".into();
        theirs.timeout_nano = -1;
        let pair = oracle::KeyValue {
            key: "k".into(),
            value: "v".repeat(300),
            ..Default::default()
        };
        theirs.metadata.push(pair);
        let ours = Request::decode(&theirs.write_to_bytes().unwrap()).unwrap();
        assert_eq!((ours.service.as_str(), ours.timeout_nano), ("s", -1));
        assert_eq!(ours.metadata, [("k".to_owned(), "v".repeat(300))]);
    }

    #[test]
    fn replies_are_read_by_the_ttrpc_crate_and_by_us() {
        for length in [0, 1, 127, 128, 70_000] {
            let payload = vec![5; length];
            let frame = encode_reply(3, Ok(&payload));
            let header = oracle::MessageHeader::from(&frame[..HEADER_LEN]);
            assert_eq!(
                header,
                oracle::MessageHeader::new_response(3, frame.len() as u32 - 10)
            );
            let theirs = oracle::Response::parse_from_bytes(&frame[HEADER_LEN..]).unwrap();
            assert!(theirs.status.is_none() && theirs.payload == payload);
            let ours = Response::decode(&frame[HEADER_LEN..]).unwrap();
            assert_eq!(ours.into_result(), Ok(payload));
        }
        for length in [0, 1, 127, 128, 20_000] {
            let status = Status::new(Code::NotFound, "x".repeat(length));
            let frame = encode_reply(3, Err(&status));
            let theirs = oracle::Response::parse_from_bytes(&frame[HEADER_LEN..]).unwrap();
            assert_eq!(theirs.status.code(), oracle::Code::NOT_FOUND);
            assert_eq!(theirs.status.message, status.message);
            let ours = Response::decode(&frame[HEADER_LEN..]).unwrap();
            assert_eq!(ours.into_result(), Err(status));
        }
    }

    #[test]
    fn a_reply_that_no_frame_holds_becomes_a_failure() {
        let frame = encode_reply(3, Ok(&vec![0; wire::BODY_MAX]));
        let status = Response::decode(&frame[HEADER_LEN..])
            .unwrap()
            .into_result()
            .unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
        let text = "message length 4194309 exceed maximum message size of 4194304";
        assert_eq!(status.message, text);
        let long = Status::unknown("ä".repeat(TEXT_MAX));
        let frame = encode_reply(3, Err(&long));
        let status = Response::decode(&frame[HEADER_LEN..])
            .unwrap()
            .into_result()
            .unwrap_err();
        assert_eq!(status.message, "ä".repeat(TEXT_MAX / 2));
    }

    #[test]
    fn broken_messages_are_errors_and_unknown_fields_are_not() {
        let body = &call().encode(1).unwrap()[HEADER_LEN..];
        for cut in 1..body.len() {
            // A cut between two fields leaves a shorter message; anywhere else it is an error.
            let ours = Request::decode(&body[..cut]).is_ok();
            assert_eq!(
                ours,
                oracle::Request::parse_from_bytes(&body[..cut]).is_ok(),
                "{cut}"
            );
        }
        let mut unknown = body.to_vec();
        unknown.extend([0xfa, 0x01, 2, 0, 0, 0x80, 0x02, 1]);
        assert!(Request::decode(&unknown).is_ok());
        let not_utf8 = [0x0a, 1, 0xff];
        assert!(Request::decode(&not_utf8).is_err());
    }

    #[test]
    fn mutated_messages_are_judged_as_the_ttrpc_crate_judges_them() {
        let body = &call().encode(1).unwrap()[HEADER_LEN..];
        let mut refused = 0;
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..50_000 {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            let mut bytes = body.to_vec();
            for shift in [0, 20] {
                let at = (state >> (shift + 8)) as usize % bytes.len();
                bytes[at] = (state >> shift) as u8;
            }
            let theirs = oracle::Request::parse_from_bytes(&bytes);
            match (Request::decode(&bytes), theirs) {
                (Ok(ours), Ok(theirs)) => {
                    assert_eq!((ours.service, ours.method), (theirs.service, theirs.method));
                    assert_eq!(ours.payload, theirs.payload);
                }
                (Ok(ours), Err(theirs)) => panic!("{bytes:?}: {ours:?} but {theirs:?}"),
                // A group is an error to us alone.
                (Err(_), _) => refused += 1,
            }
            // Whatever it is as an answer, it is no panic.
            let _ = Response::decode(&bytes);
        }
        assert!((1000..49_000).contains(&refused), "{refused} refused");
    }
}
