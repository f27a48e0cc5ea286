// SPDX-License-Identifier: Apache-2.0
//! As much of rtnetlink (`rtnetlink(7)`) as moving a device takes.

use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use sys::{Call, Errno, Error, Result};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_GETADDR: u16 = 22;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`: everything.
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`: it must be new.
pub(super) const CREATE: u16 = 0x600;

const HEADER: usize = 16;
/// The kernel's messages are cut to the reader's buffer, at most to this.
const BUFFER: usize = 32 * 1024;

/// A request in the making.
#[derive(Debug)]
pub(super) struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// `fixed` is the structure that messages of this kind begin with.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self {
            kind,
            flags,
            body: fixed.to_vec(),
        }
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn encode(&self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&self.kind.to_ne_bytes());
        let flags = self.flags | NLM_F_REQUEST | NLM_F_ACK;
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(&self.body);
        message
    }
}

/// A socket in the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// In the calling thread's network namespace.
    pub(super) fn open() -> Result<Self> {
        let family = AddressFamily::NETLINK;
        // The protocol 0 is NETLINK_ROUTE.
        let protocol = None;
        let fd = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .call("socket", || "AF_NETLINK, SOCK_RAW, NETLINK_ROUTE")?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a request; returns the bodies of the answers. `what` describes it in errors.
    pub(super) fn ask(&mut self, request: &Request, what: &str) -> Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let message = request.encode(self.sequence);
        send(&self.fd, &message, SendFlags::empty()).call("sendmsg", || what.to_owned())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let (size, whole) =
                rustix::io::retry_on_intr(|| recv(&self.fd, &mut buffer[..], RecvFlags::TRUNC))
                    .call("recvmsg", || what.to_owned())?;
            if whole > buffer.len() {
                return Err(Error::new("recvmsg", what, Errno::MSGSIZE));
            }
            let packet = buffer.get(..size).unwrap_or_default();
            if self.take(packet, what, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Takes the messages of a packet; says whether the answer is complete.
    fn take(&self, mut packet: &[u8], what: &str, answers: &mut Vec<Vec<u8>>) -> Result<bool> {
        while packet.len() >= HEADER {
            let length = number(packet, 0) as usize;
            let kind = (number(packet, 4) & 0xffff) as u16;
            let Some(body) = packet.get(HEADER..length) else {
                return Err(Error::new("netlink", what, Errno::BADMSG));
            };
            // An answer to an earlier request that had failed half-way is nobody's.
            if number(packet, 8) == self.sequence {
                match kind {
                    NLMSG_DONE => return Ok(true),
                    NLMSG_ERROR => {
                        return match number(body, 0) as i32 {
                            0 => Ok(true),
                            negative => {
                                let errno = Errno::from_raw_os_error(negative.wrapping_neg());
                                Err(Error::new("netlink", what, errno))
                            }
                        };
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
            let next = length.next_multiple_of(4).max(HEADER);
            packet = packet.get(next..).unwrap_or_default();
        }
        Ok(false)
    }
}

/// The 32-bit number at `offset`; 0 where the message is too short.
pub(super) fn number(bytes: &[u8], offset: usize) -> u32 {
    let part = bytes
        .get(offset..offset + 4)
        .and_then(|part| part.try_into().ok());
    part.map_or(0, u32::from_ne_bytes)
}

/// The attributes behind the first `fixed` bytes of an answer.
pub(super) fn attributes(answer: &[u8], fixed: usize) -> Vec<(u16, &[u8])> {
    let mut rest = answer.get(fixed..).unwrap_or_default();
    let mut attributes = Vec::new();
    while rest.len() >= 4 {
        let head = number(rest, 0).to_ne_bytes();
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let Some(value) = rest.get(4..length) else {
            break;
        };
        attributes.push((kind, value));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let request = Request::new(RTM_NEWLINK, 0, &[7; 16])
            .with(3, b"eth0\0")
            .with(28, &5u32.to_ne_bytes());
        let wanted: [(u16, &[u8]); 2] = [(3, b"eth0\0"), (28, &5u32.to_ne_bytes())];
        assert_eq!(attributes(&request.body, 16), wanted);
        let message = request.encode(9);
        assert_eq!(number(&message, 0) as usize, message.len());
        assert_eq!(number(&message, 8), 9);
        // What is cut is not read.
        assert_eq!(attributes(&request.body[..25], 16).len(), 1);
        assert!(attributes(&[1, 0, 0, 0], 0).is_empty());
    }

    #[test]
    fn the_loopback_device_is_found_and_another_is_not() {
        let mut socket = Socket::open().unwrap();
        let ask = |name: &[u8]| Request::new(RTM_GETLINK, 0, &[0; 16]).with(3, name);
        let answers = socket.ask(&ask(b"lo\0"), "lo").unwrap();
        assert_eq!(number(&answers[0], 4), 1);
        let error = socket.ask(&ask(b"nope\0"), "nope").unwrap_err();
        assert_eq!(error.errno(), Errno::NODEV);
        let everything = Request::new(RTM_GETADDR, DUMP, &[0; 8]);
        assert!(!socket.ask(&everything, "addresses").unwrap().is_empty());
    }
}
