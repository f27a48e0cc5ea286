// SPDX-License-Identifier: Apache-2.0
//! The server's end of a connection.
//!
//! Protocol errors of a request are answered here, in go-ttrpc's codes and words, and the
//! connection goes on; the reactor sees only requests it can route. A peer that leaves in the
//! middle of a call is nothing special: its connection ends, the call runs on, its reply is dropped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use sys::Call;

use super::Error;
use super::message::{self, Request};
use super::stream::{Sender, Stream};
use super::wire::{self, Body, Header, Input};
use crate::status::{Code, Status};

/// A request to be answered with [`Connection::reply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The call's number on its connection.
    pub stream: u32,
    /// Full name of the service.
    pub service: String,
    /// Name of the method.
    pub method: String,
    /// The encoded request message.
    pub payload: Vec<u8>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// Keys and values that accompany the call.
    pub metadata: Vec<(String, String)>,
}

/// Accepts the next connection from our own user; `None` when no more are waiting.
///
/// The server answers requests as root, so a peer of another user or group is turned away,
/// whatever the mode of the socket (an abstract one has none).
///
/// # Errors
/// `accept4` failed for another reason than a peer that left meanwhile. With EMFILE the peer
/// stays in the queue: pause the listener for a moment instead of trying again at once.
pub fn accept(listener: impl AsFd) -> Result<Option<Connection>, Error> {
    let listener = listener.as_fd();
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(errno) => {
                return Err(Error::System(sys::Error::new(
                    "accept4",
                    format!("{listener:?}"),
                    errno,
                )));
            }
        };
        let peer = rustix::net::sockopt::socket_peercred(&socket)
            .call("getsockopt", || format!("{socket:?}, SO_PEERCRED"))?;
        if peer.uid == rustix::process::geteuid() && peer.gid == rustix::process::getegid() {
            return Ok(Some(Connection {
                stream: Stream::new(socket),
                last: 0,
            }));
        }
        log::warn!(
            "refused a connection of uid {}, gid {}",
            peer.uid.as_raw(),
            peer.gid.as_raw()
        );
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// The highest call number seen: they must rise.
    last: u32,
}

impl Connection {
    /// Serves a connected non-blocking socket whose peer is known to be trusted.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            stream: Stream::new(socket),
            last: 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.stream.held()
    }

    /// Reads a fair share of what there is and adds the requests to `out`.
    ///
    /// # Errors
    /// The connection is of no more use and is to be dropped.
    pub fn read(&mut self, out: &mut Vec<Incoming>) -> Result<Input, Error> {
        let last = &mut self.last;
        self.stream
            .read(|sender, header, body| receive(sender, header, body, last, out))
    }

    /// Answers the call `stream`, at once as far as the peer takes it.
    ///
    /// Call [`Connection::watch`] afterwards.
    ///
    /// # Errors
    /// The connection is of no more use and is to be dropped.
    pub fn reply(&mut self, stream: u32, result: Result<Vec<u8>, Status>) -> Result<(), Error> {
        self.stream
            .send(message::encode_reply(stream, result.as_deref()))
    }

    /// Sends what earlier replies left; for when the socket is writable again.
    ///
    /// # Errors
    /// The connection is of no more use and is to be dropped.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.stream.flush()
    }

    /// Whether replies wait for the peer to read.
    pub fn has_backlog(&self) -> bool {
        self.stream.has_backlog()
    }

    /// Registers the connection in `epoll` under `token`, edge-triggered: for reading always, for
    /// writing while replies wait. Costs a system call only when that changed.
    ///
    /// # Errors
    /// `epoll_ctl` failed.
    pub fn watch(&mut self, epoll: BorrowedFd<'_>, token: u64) -> Result<(), Error> {
        self.stream.watch(epoll, token)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// One frame: a request for `out`, an answer to a broken one, or nothing.
fn receive(
    sender: &mut Sender<'_>,
    header: Header,
    body: Body<'_>,
    last: &mut u32,
    out: &mut Vec<Incoming>,
) -> Result<(), Error> {
    match decode(header, body, last) {
        Ok(Some(request)) => out.push(request),
        Ok(None) => {}
        // The bad number goes back as it came, so that the client can tell which it was.
        Err(status) => sender.send(message::encode_reply(header.stream, Err(&status)))?,
    }
    Ok(())
}

fn decode(header: Header, body: Body<'_>, last: &mut u32) -> Result<Option<Incoming>, Status> {
    let Body::Whole(body) = body else {
        return Err(message::oversize(header.length as usize));
    };
    let refuse = |text: &str| Err(Status::new(Code::InvalidArgument, text));
    if header.stream % 2 != 1 {
        return refuse("StreamID must be odd for client initiated streams");
    }
    match header.kind {
        wire::REQUEST => {}
        // None of our methods streams.
        wire::DATA => return refuse("StreamID is no longer active"),
        // Reserved for later versions of the protocol.
        _ => return Ok(None),
    }
    if header.stream <= *last {
        return refuse("StreamID cannot be re-used and must increment");
    }
    *last = header.stream;
    let request = Request::decode(body).map_err(|error| {
        Status::new(
            Code::InvalidArgument,
            format!("unmarshal request error: {error}"),
        )
    })?;
    Ok(Some(Incoming {
        stream: header.stream,
        service: request.service,
        method: request.method,
        payload: request.payload,
        deadline: deadline(request.timeout_nano),
        metadata: request.metadata,
    }))
}

/// The end of a call's time. Zero means none; a negative time is over already, as in Go.
fn deadline(timeout_nano: i64) -> Option<Instant> {
    match timeout_nano {
        0 => None,
        nanos => {
            Instant::now().checked_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
        }
    }
}
