// SPDX-License-Identifier: Apache-2.0
//! The kernel's view of a Unix socket: who is at its other end, what it is bound to.
//!
//! `sock_diag(7)`, asked for one socket at a time: a listing of all would grow with the host.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER`.
const SHOW: u32 = 1 | 4;
/// `UNIX_DIAG_NAME` and `UNIX_DIAG_PEER`.
const NAME: u16 = 0;
const PEER: u16 = 2;
const HEADER: usize = 16;

/// What the kernel knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// Inode of the peer, 0 if there is none.
    pub peer: u32,
    /// The path it is bound to; abstract names begin with `@`.
    pub path: String,
}

/// A connection to the kernel's socket diagnostics.
#[derive(Debug)]
pub struct Asker(OwnedFd);

impl Asker {
    /// `None` where the kernel has none.
    pub fn new() -> Option<Self> {
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(netlink::SOCK_DIAG);
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .ok()
            .map(Self)
    }

    /// Asks for the socket of this inode. `None`: it is no Unix socket, or gone.
    pub fn ask(&self, inode: u32) -> Option<Socket> {
        let request = request(inode);
        rustix::net::send(self.0.as_fd(), &request, SendFlags::empty()).ok()?;
        let mut answer = [0u8; 1024];
        // The kernel answers before send returns.
        let flags = RecvFlags::DONTWAIT;
        let (_, size) = rustix::net::recv(self.0.as_fd(), &mut answer[..], flags).ok()?;
        parse(answer.get(..size)?, inode)
    }
}

/// `nlmsghdr` and `unix_diag_req`.
fn request(inode: u32) -> [u8; HEADER + 24] {
    let mut bytes = [0u8; HEADER + 24];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    put(&((HEADER + 24) as u32).to_ne_bytes());
    put(&BY_FAMILY.to_ne_bytes());
    put(&REQUEST.to_ne_bytes());
    put(&[0; 8]);
    put(&[libc::AF_UNIX as u8, 0, 0, 0]);
    put(&u32::MAX.to_ne_bytes());
    put(&inode.to_ne_bytes());
    put(&SHOW.to_ne_bytes());
    // No cookie.
    put(&[0xff; 8]);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn parse(answer: &[u8], inode: u32) -> Option<Socket> {
    let length = u32_at(answer, 0)? as usize;
    let message = answer.get(..length)?;
    if u16_at(message, 4)? != BY_FAMILY || u32_at(message, HEADER + 4)? != inode {
        return None;
    }
    let mut socket = Socket::default();
    let mut attributes = message.get(HEADER + 16..)?;
    while attributes.len() >= 4 {
        let (length, kind) = (u16_at(attributes, 0)? as usize, u16_at(attributes, 2)?);
        let value = attributes.get(4..length)?;
        match kind {
            PEER => socket.peer = u32_at(value, 0)?,
            NAME => socket.path = name(value),
            _ => {}
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Some(socket)
}

fn name(bytes: &[u8]) -> String {
    match bytes.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => {
            let end = bytes.iter().position(|byte| *byte == 0);
            String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(fd: &impl std::os::fd::AsRawFd) -> u32 {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::metadata(path).unwrap().ino() as u32
    }

    #[test]
    fn peers_and_paths_are_the_kernels() {
        let Some(asker) = Asker::new() else {
            println!("skipped: no sock_diag");
            return;
        };
        let (a, b) = UnixStream::pair().unwrap();
        let (inode_a, inode_b) = (inode(&a), inode(&b));
        if asker.ask(inode_a).is_none() {
            println!("skipped: no unix_diag");
            return;
        }
        assert_eq!(asker.ask(inode_a).unwrap().peer, inode_b);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let found = asker.ask(inode(&listener)).unwrap();
        assert_eq!(
            (found.path.as_str(), found.peer),
            (path.to_str().unwrap(), 0)
        );
        assert_eq!(asker.ask(1), None);
    }

    #[test]
    fn garbage_is_no_socket() {
        for length in 0..64 {
            assert_eq!(parse(&vec![0xff; length], 7), None);
            assert_eq!(parse(&vec![0; length], 7), None);
        }
    }
}
