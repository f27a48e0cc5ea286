// SPDX-License-Identifier: Apache-2.0
//! The sync protocol between the shim and a container's init.
//!
//! One `SOCK_SEQPACKET` pair for each init or exec process. A message is one packet with its
//! descriptors; a body over 48 KiB travels in a sealed memfd that goes along as the last
//! descriptor.
//!
//! ```text
//!   shim                                   init
//!    | Plan, descriptors  ──────────────►   |
//!    |   ◄───────────────────── Unmapped    |  only with a new user namespace
//!    | Mapped  ─────────────────────────►   |
//!    |   ◄───────────────── Born, pidfd     |  only if a new process takes init's place
//!    | Adopted  ────────────────────────►   |  to the new process: it goes on from here
//!    |   ◄─────────────────────── Placed    |  only if mounts need sources from the shim
//!    | Sources, descriptors  ───────────►   |  as many packets as it takes
//!    |   ◄────────────────── NetDevices     |  only with devices for the network namespace
//!    | NetDevicesMoved  ────────────────►   |
//!    |   ◄──────────── IdMap, a mount       |  for each id-mapped mount of something in the
//!    | IdMapped  ───────────────────────►   |  container's own root
//!    |   ◄──────────────────────── Hooks    |  mounted, not entered: only with hooks of the host
//!    | HooksDone  ──────────────────────►   |  they have been run
//!    |   ◄──────────────── Console, ptmx    |  only with a terminal
//!    |   ◄───────────── Seccomp, a number    |  only if the filter has a listener
//!    | SeccompDone  ────────────────────►   |
//!    |   ◄──────────────────────── Ready    |  everything is done but execve   (init only)
//!    | Run  ────────────────────────────►   |                                  (init only)
//!    |   ◄──────────────────── Executing    |  the last word before execve
//!    |   ◄ ─ ─ ─ ─ ─ ─ ─ end of stream ─    |  close-on-exec: execve has succeeded
//! ```
//!
//! With a gate in the file system ([`crate::gate`]) Run ends the conversation: the container's state
//! is saved, and init waits at the gate.
//!
//! At any point init may send Failed instead, and nothing after it. Any other order ends the
//! process. The end of the stream before Executing means that init has died; the end of the stream
//! on init's side means that the shim has, and init ends itself.

pub mod order;
pub mod record;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sys::Call;

use self::order::{Direction, Order};
use self::record::{Entry, FdKind};
use crate::error::{Error, Failure, Result};
use crate::init::timings;

/// Bodies up to this size travel in the packet itself.
const INLINE: usize = 48 * 1024;
/// No body is larger: `ARG_MAX` and the largest sensible config.json fit in.
const LARGEST: usize = 64 * 1024 * 1024;
const HEADER: usize = 8;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To init: all it needs, and the descriptors that belong to it.
    Plan = 1,
    /// To init: execute the user's program.
    Run = 2,
    /// To init: the listener has been taken out of it.
    SeccompDone = 12,
    /// To init: its user namespace has its mappings.
    Mapped = 8,
    /// To init: opened sources of mounts, in the plan's order.
    Sources = 9,
    /// To the process in init's place: it is known.
    Adopted = 10,
    /// From init: it is in a new user namespace, which has no mappings yet.
    Unmapped = 32,
    /// From init: the pidfd of the process that takes its place, a child of the shim's as well.
    Born = 33,
    /// From init: it is in its mount namespace, where the sources are wanted.
    Placed = 34,
    /// To init: the hooks of the host have been run.
    HooksDone = 3,
    /// To init: the devices that are in its network namespace now.
    NetDevicesMoved = 4,
    /// To init: the mount that it has sent is an id-mapped one.
    IdMapped = 5,
    /// From init: a mount, attached nowhere, that is to be an id-mapped one; they come in the plan's order.
    IdMap = 22,
    /// From init: its network namespace is there for devices to come.
    NetDevices = 21,
    /// From init: the terminal's master.
    Console = 16,
    /// From init: the number of its seccomp listener's descriptor.
    Seccomp = 40,
    /// From init: everything is done but execve.
    Ready = 17,
    /// From init: the last word before execve.
    Executing = 18,
    /// From init: a step failed; the body is a [`Failure`].
    Failed = 19,
    /// From init: the file system is ready for the hooks of the host.
    Hooks = 20,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Kind::Plan,
            Kind::Run,
            Kind::SeccompDone,
            Kind::Seccomp,
            Kind::Mapped,
            Kind::Sources,
            Kind::Adopted,
            Kind::Unmapped,
            Kind::Born,
            Kind::Placed,
            Kind::HooksDone,
            Kind::NetDevicesMoved,
            Kind::NetDevices,
            Kind::IdMap,
            Kind::IdMapped,
            Kind::Console,
            Kind::Ready,
            Kind::Executing,
            Kind::Failed,
            Kind::Hooks,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A message as it arrived.
#[derive(Debug)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    body: Vec<u8>,
}

impl Message {
    /// Decodes the body.
    ///
    /// # Errors
    /// The body is not of type `T`.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T> {
        postcard::from_bytes(&self.body)
            .map_err(|e| Error::Protocol(format!("decode {:?}: {e}", self.kind)))
    }

    /// Makes spans of the times that init tells in its last words, behind the body.
    fn report_timings(&self) {
        match self.kind {
            Kind::Ready | Kind::Executing => timings::report(&self.body, false),
            Kind::Failed => {
                // A body that is none is an error elsewhere.
                if let Ok((_, told)) = postcard::take_from_bytes::<Failure>(&self.body) {
                    timings::report(told, true);
                }
            }
            _ => {}
        }
    }
}

/// One end of the socket.
#[derive(Debug)]
pub struct Channel(OwnedFd, End);

/// Which end, and how far the conversation is.
#[derive(Debug)]
struct End {
    is_shims: bool,
    order: Cell<Order>,
    /// The process at the other end, if it is known.
    peer: Cell<i32>,
}

impl End {
    fn new(is_shims: bool) -> Self {
        Self {
            is_shims,
            order: Cell::new(Order::default()),
            peer: Cell::new(0),
        }
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket, End::new(false))
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Both ends of a new channel: the shim's and init's.
    ///
    /// # Errors
    /// `socketpair(2)`.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) = sys::packet::pair().map_err(|source| Error::System {
            attempt: "make sync socket".into(),
            source,
        })?;
        Ok((Self(a, End::new(true)), Self(b, End::new(false))))
    }

    /// Says which process is at the other end.
    pub(crate) fn set_peer(&self, pid: i32) {
        self.1.peer.set(pid);
    }

    /// The process at the other end, 0 if it is not known.
    pub(crate) fn peer(&self) -> i32 {
        self.1.peer.get()
    }

    /// Sends a message without a body.
    ///
    /// # Errors
    /// The peer is gone (`EPIPE`), or `sendmsg(2)` failed otherwise.
    pub fn signal(&self, kind: Kind, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_bytes(kind, &timings::take(kind), fds, &[])
    }

    /// Sends a message.
    ///
    /// # Errors
    /// As [`Channel::signal`]; also when the body cannot be encoded or is too large.
    pub fn send<T: Serialize>(&self, kind: Kind, body: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_labelled(kind, body, fds, &[])
    }

    /// Sends a message; the record says what its descriptors are.
    pub(crate) fn send_labelled<T: Serialize>(
        &self,
        kind: Kind,
        body: &T,
        fds: &[BorrowedFd<'_>],
        labels: &[FdKind],
    ) -> Result<()> {
        let mut bytes = postcard::to_stdvec(body)
            .map_err(|e| Error::Protocol(format!("encode {kind:?}: {e}")))?;
        bytes.extend(timings::take(kind));
        self.send_bytes(kind, &bytes, fds, labels)
    }

    fn send_bytes(
        &self,
        kind: Kind,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        labels: &[FdKind],
    ) -> Result<()> {
        let sent = self.send_packet(kind, body, fds);
        if self.1.is_shims {
            let labels = labels
                .iter()
                .copied()
                .chain(std::iter::repeat(FdKind::Other));
            let large = (body.len() > INLINE).then_some(FdKind::Body);
            let mut entry = Entry::new(Direction::ToInit, Some(kind), body.len(), self.peer())
                .with(labels.take(fds.len()).chain(large));
            entry.refused = self.note(Direction::ToInit, kind).is_err();
            entry.errno = sent.as_ref().err().map_or(0, errno_of);
            record::keep(entry);
        }
        sent
    }

    /// Moves the conversation on.
    fn note(&self, direction: Direction, kind: Kind) -> Result<()> {
        let mut order = self.1.order.get();
        let fits = order.next(direction, kind);
        self.1.order.set(order);
        fits.map_err(|violation| Error::Protocol(violation.to_string()))
    }

    fn send_packet(&self, kind: Kind, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let failed = |source| Error::System {
            attempt: format!("send {kind:?}"),
            source,
        };
        let length = u32::try_from(body.len())
            .ok()
            .filter(|n| *n as usize <= LARGEST)
            .ok_or_else(|| Error::Protocol(format!("{kind:?} of {} bytes", body.len())))?;
        let large = body.len() > INLINE;
        let mut packet = Vec::with_capacity(HEADER + if large { 0 } else { body.len() });
        packet.extend_from_slice(&[kind as u8, u8::from(large), fds.len() as u8, 0]);
        packet.extend_from_slice(&length.to_le_bytes());
        if !large {
            packet.extend_from_slice(body);
            if fds.is_empty() {
                return self.write(&packet).map_err(failed);
            }
            return sys::packet::send(&self.0, &packet, fds).map_err(failed);
        }
        let memfd = sealed(body).map_err(failed)?;
        let mut all = fds.to_vec();
        all.push(memfd.as_fd());
        sys::packet::send(&self.0, &packet, &all).map_err(failed)
    }

    /// A packet by `write(2)`: the one call that a seccomp filter cannot make wait for an agent, and
    /// hardly ever forbids.
    fn write(&self, packet: &[u8]) -> sys::Result<()> {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, packet))
            .call("write", || format!("{} bytes", packet.len()))?;
        if written != packet.len() {
            let describe = format!("{} bytes", packet.len());
            return Err(sys::Error::new("write", describe, sys::Errno::MSGSIZE));
        }
        Ok(())
    }

    /// Receives a message without body and descriptors by `read(2)`, under a seccomp filter; `None`
    /// at the end of the stream.
    ///
    /// # Errors
    /// `read(2)`, or another kind of packet.
    pub fn receive_signal(&self) -> Result<Option<Kind>> {
        let mut packet = [0u8; HEADER + 1];
        let size = match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut packet)) {
            Err(sys::Errno::CONNRESET) => 0,
            other => other
                .call("read", || "sync socket")
                .map_err(|source| Error::System {
                    attempt: "receive sync message".into(),
                    source,
                })?,
        };
        let signal = match packet[..size] {
            [] => return Ok(None),
            [kind, 0, 0, _, 0, 0, 0, 0] => Kind::from_byte(kind),
            _ => None,
        };
        signal
            .map(Some)
            .ok_or_else(|| Error::Protocol(format!("malformed packet of {size} bytes")))
    }

    /// Receives a message of at most `max_fds` descriptors; `None` at the end of the stream.
    ///
    /// # Errors
    /// `recvmsg(2)`, or a packet whose sizes do not fit its header.
    pub fn receive(&self, max_fds: usize) -> Result<Option<Message>> {
        let received = self.receive_packet(max_fds);
        if self.1.is_shims {
            let mut entry = Entry::new(Direction::FromInit, None, 0, self.peer());
            match &received {
                Ok(Some(message)) => {
                    let fds = message.fds.iter().map(|_| match message.kind {
                        Kind::Console => FdKind::Terminal,
                        _ => FdKind::Other,
                    });
                    let (kind, size) = (message.kind, message.body.len());
                    entry =
                        Entry::new(Direction::FromInit, Some(kind), size, self.peer()).with(fds);
                    let noted = self.note(Direction::FromInit, kind);
                    entry.refused = noted.is_err();
                    record::keep(entry);
                    return noted.and(received);
                }
                Ok(None) => {}
                Err(error) => entry.errno = errno_of(error),
            }
            record::keep(entry);
        }
        received
    }

    fn receive_packet(&self, max_fds: usize) -> Result<Option<Message>> {
        let mut packet = vec![0u8; HEADER + INLINE];
        let (size, mut fds) = match sys::packet::receive(&self.0, &mut packet, max_fds + 1) {
            Ok(received) => received,
            // The peer died with our bytes unread: for a stream that has an end this is the end.
            Err(e) if e.errno() == sys::Errno::CONNRESET => return Ok(None),
            Err(source) => {
                return Err(Error::System {
                    attempt: "receive sync message".into(),
                    source,
                });
            }
        };
        if size == 0 {
            return Ok(None);
        }
        packet.truncate(size);
        let malformed = || Error::Protocol(format!("malformed packet of {size} bytes"));
        let (header, body) = packet.split_at_checked(HEADER).ok_or_else(malformed)?;
        let &[kind, large, count, _, a, b, c, d] = header else {
            return Err(malformed());
        };
        let kind = Kind::from_byte(kind).ok_or_else(malformed)?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let expected = usize::from(count) + usize::from(large != 0);
        if fds.len() != expected || length > LARGEST {
            return Err(malformed());
        }
        let body = if large != 0 {
            let memfd = fds.pop().ok_or_else(malformed)?;
            read_sealed(&memfd, length)?
        } else {
            if body.len() != length {
                return Err(malformed());
            }
            body.to_vec()
        };
        Ok(Some(Message { kind, fds, body }))
    }

    /// Receives from init: a message of one of `allowed` kinds, or its [`Failure`] as an error.
    ///
    /// # Errors
    /// [`Error::Init`] if init reported one, [`Error::Protocol`] for anything out of order.
    pub fn expect(&self, allowed: &[Kind]) -> Result<Option<Message>> {
        let received = self.receive(1)?;
        if let Some(message) = &received {
            message.report_timings();
        }
        match received {
            Some(message) if message.kind == Kind::Failed => {
                let failure = message.body::<Failure>()?;
                failure.log();
                Err(Error::Init(failure))
            }
            Some(message) if !allowed.contains(&message.kind) => Err(Error::Protocol(format!(
                "received {:?}, expected one of {allowed:?}",
                message.kind
            ))),
            other => Ok(other),
        }
    }
}

/// The errno behind an error, for the record.
fn errno_of(error: &Error) -> i32 {
    match error {
        Error::System { source, .. } => source.errno().raw_os_error(),
        _ => sys::Errno::PROTO.raw_os_error(),
    }
}

fn sealed(body: &[u8]) -> sys::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("sync", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .call("memfd_create", || "sync")?;
    let mut rest = body;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&memfd, rest))
            .call("write", || "memfd")?;
        rest = &rest[written..];
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memfd, seals).call("fcntl", || "F_ADD_SEALS")?;
    Ok(memfd)
}

fn read_sealed(memfd: &OwnedFd, length: usize) -> Result<Vec<u8>> {
    let mut body = vec![0u8; length];
    let mut done = 0;
    while done < length {
        let n =
            rustix::io::retry_on_intr(|| rustix::io::pread(memfd, &mut body[done..], done as u64))
                .call("pread", || "memfd")
                .map_err(|source| Error::System {
                    attempt: "read sync message".into(),
                    source,
                })?;
        if n == 0 {
            return Err(Error::Protocol(format!(
                "memfd of {done} bytes, announced {length}"
            )));
        }
        done += n;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Operation;

    #[test]
    fn small_and_large_bodies_arrive_whole_with_their_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        for size in [0usize, 10, INLINE - 5, INLINE + 1, 5 << 20] {
            let body = vec!["x".repeat(size)];
            a.send(Kind::Plan, &body, &[null.as_fd(), null.as_fd()])
                .unwrap();
            let message = b.receive(2).unwrap().unwrap();
            assert_eq!((message.kind, message.fds.len()), (Kind::Plan, 2));
            assert!(
                message.body::<Vec<String>>().unwrap() == body,
                "size {size}"
            );
        }
    }

    #[test]
    fn a_signal_is_a_packet_without_anything_and_a_closed_peer_none() {
        let (a, b) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        a.signal(Kind::Run, &[]).unwrap();
        assert_eq!(b.receive_signal().unwrap(), Some(Kind::Run));
        a.send(Kind::Run, &1u8, &[]).unwrap();
        assert!(b.receive_signal().is_err());
        a.signal(Kind::Run, &[null.as_fd()]).unwrap();
        assert!(b.receive_signal().is_err());
        a.signal(Kind::Run, &[]).unwrap();
        assert_eq!(b.receive(0).unwrap().unwrap().kind, Kind::Run);
        drop(a);
        assert_eq!(b.receive_signal().unwrap(), None);
        assert!(b.signal(Kind::Run, &[]).is_err());
    }

    #[test]
    fn a_failure_becomes_an_error_and_a_wrong_order_too() {
        let (shim, init) = Channel::pair().unwrap();
        shim.signal(Kind::Plan, &[]).unwrap();
        let failure = Failure {
            step: "x".into(),
            message: "no".into(),
            errno: Some(2),
            operation: Some(Operation {
                call: "openat".into(),
                object: "/x".into(),
            }),
        };
        init.send(Kind::Failed, &failure, &[]).unwrap();
        assert!(matches!(shim.expect(&[Kind::Ready]), Err(Error::Init(f)) if f == failure));
        init.signal(Kind::Executing, &[]).unwrap();
        assert!(matches!(
            shim.expect(&[Kind::Ready]),
            Err(Error::Protocol(_))
        ));
        drop(init);
        assert!(shim.expect(&[Kind::Ready]).unwrap().is_none());
    }

    #[test]
    fn garbage_is_an_error() {
        let (a, b) = Channel::pair().unwrap();
        for garbage in [
            &b"x"[..],
            b"\x01\0\0\0\xff\xff\xff\xff",
            b"\x01\0\x05\0\0\0\0\0",
            b"zzzzzzzzzz",
        ] {
            sys::packet::send(&a, garbage, &[]).unwrap();
            assert!(b.receive(4).is_err());
        }
    }
}
