// SPDX-License-Identifier: Apache-2.0
//! Raw ttrpc frames over a socket, one thread, no background work.
//!
//! For requests that a proper client would not send (too big, unknown, abandoned), for the
//! events server, and for the bench, where a client with threads of its own would be noise.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use protobuf::Message;
use ttrpc::proto::{
    Code, KeyValue, MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE, Request,
    Response,
};

use super::error::CallError;

/// Longer frames are refused by containerd's implementation.
const FRAME_MAX: usize = 4 << 20;

/// The first ten bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Bytes that follow.
    pub(crate) length: u32,
    /// Which call it belongs to.
    pub(crate) stream: u32,
    /// Request, response or data.
    pub(crate) kind: u8,
}

/// Reads one frame.
pub(crate) fn read_frame(mut from: &UnixStream) -> io::Result<(Header, Vec<u8>)> {
    let mut head = [0; MESSAGE_HEADER_LENGTH];
    from.read_exact(&mut head)?;
    let [a, b, c, d, e, f, g, h, kind, _flags] = head;
    let header = Header {
        length: u32::from_be_bytes([a, b, c, d]),
        stream: u32::from_be_bytes([e, f, g, h]),
        kind,
    };
    if header.length as usize > FRAME_MAX {
        return Err(io::Error::other(format!(
            "frame of {} bytes",
            header.length
        )));
    }
    let mut body = vec![0; header.length as usize];
    from.read_exact(&mut body)?;
    Ok((header, body))
}

/// Writes one frame, with one call.
pub(crate) fn write_frame(
    mut to: &UnixStream,
    stream: u32,
    kind: u8,
    body: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(MESSAGE_HEADER_LENGTH + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, 0]);
    frame.extend_from_slice(body);
    to.write_all(&frame)
}

/// Connects to an address as `start` prints it.
pub(crate) fn dial(address: &str) -> io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;
    match address.strip_prefix("unix://") {
        Some(path) => UnixStream::connect(Path::new(path)),
        None => {
            let name = address.trim_start_matches('@').trim_start_matches('\0');
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
        }
    }
}

/// Builds a request.
pub(crate) fn request(
    service: &str,
    method: &str,
    payload: Vec<u8>,
    namespace: &str,
    timeout: Duration,
) -> Request {
    let mut entry = KeyValue::new();
    entry.key = "containerd-namespace-ttrpc".to_owned();
    entry.value = namespace.to_owned();
    let mut request = Request::new();
    request.service = service.to_owned();
    request.method = method.to_owned();
    request.payload = payload;
    request.timeout_nano = i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
    request.metadata.push(entry);
    request
}

/// What a response says.
pub(crate) fn outcome(response: Response) -> Result<Vec<u8>, CallError> {
    if let Some(status) = response.status.as_ref() {
        let code = status.code.enum_value_or(Code::UNKNOWN);
        if code != Code::OK {
            return Err(CallError::Status {
                code,
                message: status.message.clone(),
            });
        }
    }
    Ok(response.payload)
}

/// A connection to a shim. Calls can be begun and finished in any order.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    next: u32,
    early: HashMap<u32, Response>,
    metadata: Vec<KeyValue>,
}

impl Connection {
    /// Connects.
    pub fn open(address: &str) -> Result<Self, CallError> {
        let stream = dial(address).map_err(|error| CallError::Closed(error.to_string()))?;
        Ok(Self {
            stream,
            next: 1,
            early: HashMap::new(),
            metadata: Vec::new(),
        })
    }

    /// Sends this with every further request of [`Connection::begin`].
    pub fn add_metadata(&mut self, key: &str, value: &str) {
        let mut entry = KeyValue::new();
        entry.key = key.to_owned();
        entry.value = value.to_owned();
        self.metadata.push(entry);
    }

    /// Sends a request and returns the stream on which its answer will come. The server is told
    /// of the timeout (zero: none); nothing here keeps it.
    pub fn begin(
        &mut self,
        service: &str,
        method: &str,
        message: &impl Message,
        namespace: &str,
        timeout: Duration,
    ) -> Result<u32, CallError> {
        let payload = encode(message)?;
        let mut request = request(service, method, payload, namespace, timeout);
        request.metadata.extend(self.metadata.iter().cloned());
        let body = encode(&request)?;
        self.send_frame(&body)
    }

    /// Sends a request frame with any body.
    pub fn send_frame(&mut self, body: &[u8]) -> Result<u32, CallError> {
        let stream = self.next;
        self.next += 2;
        write_frame(&self.stream, stream, MESSAGE_TYPE_REQUEST, body).map_err(closed)?;
        Ok(stream)
    }

    /// Waits for the answer on this stream.
    pub fn finish<R: Message>(&mut self, stream: u32, limit: Duration) -> Result<R, CallError> {
        decode(&self.finish_bytes(stream, limit)?)
    }

    /// The same, undecoded.
    pub fn finish_bytes(&mut self, stream: u32, limit: Duration) -> Result<Vec<u8>, CallError> {
        outcome(self.response(stream, limit)?)
    }

    fn response(&mut self, stream: u32, limit: Duration) -> Result<Response, CallError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(response) = self.early.remove(&stream) {
                return Ok(response);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CallError::Late(limit));
            }
            self.stream.set_read_timeout(Some(left)).map_err(closed)?;
            match read_frame(&self.stream) {
                Ok((header, body)) if header.kind == MESSAGE_TYPE_RESPONSE => {
                    self.early.insert(header.stream, decode(&body)?)
                }
                Ok((header, _)) => {
                    return Err(CallError::Malformed(format!(
                        "frame of type {}",
                        header.kind
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(CallError::Late(limit));
                }
                Err(error) => return Err(closed(error)),
            };
        }
    }
}

fn closed(error: io::Error) -> CallError {
    CallError::Closed(error.to_string())
}

pub(crate) fn encode(message: &impl Message) -> Result<Vec<u8>, CallError> {
    message
        .write_to_bytes()
        .map_err(|error| CallError::Malformed(error.to_string()))
}

pub(crate) fn decode<M: Message>(bytes: &[u8]) -> Result<M, CallError> {
    M::parse_from_bytes(bytes).map_err(|error| CallError::Malformed(error.to_string()))
}
