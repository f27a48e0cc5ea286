// SPDX-License-Identifier: Apache-2.0
//! Packets with descriptors over a `SOCK_SEQPACKET` Unix socket.
//!
//! One message is one packet, and its descriptors travel in the same packet. What arrives is
//! complete or an error: a cut payload (`MSG_TRUNC`) or a cut descriptor list (`MSG_CTRUNC`) is
//! never handed on, and descriptors are close-on-exec from their first moment.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

use crate::error::{Call, Error, Result};

/// `SCM_MAX_FD` of the kernel: more descriptors in one packet are refused.
pub const MAX_DESCRIPTORS: usize = 253;

/// A connected pair of packet sockets, close-on-exec.
///
/// # Errors
/// `socketpair(2)`.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .call("socketpair", || "AF_UNIX, SOCK_SEQPACKET")
}

/// Sends one packet. An empty one is refused: it would look like the end of the stream.
///
/// # Errors
/// `sendmsg(2)`; `EPIPE` when the peer is gone (no signal is raised).
pub fn send(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let describe = || format!("{} bytes, {} descriptors", data.len(), fds.len());
    if data.is_empty() || fds.len() > MAX_DESCRIPTORS {
        return Err(Error::new("sendmsg", describe(), Errno::INVAL));
    }
    let mut space = vec![MaybeUninit::uninit(); space_for(fds.len())];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new("sendmsg", describe(), Errno::NOBUFS));
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(
            &socket,
            &[IoSlice::new(data)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })
    .call("sendmsg", describe)?;
    if sent != data.len() {
        return Err(Error::new("sendmsg", describe(), Errno::MSGSIZE));
    }
    Ok(())
}

/// Receives one packet into `data`, at most `max_fds` descriptors with it.
///
/// Returns the number of bytes and the descriptors; zero bytes mean that the peer has closed.
///
/// # Errors
/// `recvmsg(2)`; `EMSGSIZE` if the packet was longer than `data` or carried more descriptors than
/// allowed (those that came are closed).
pub fn receive(
    socket: impl AsFd,
    data: &mut [u8],
    max_fds: usize,
) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); space_for(max_fds)];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(data)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other.call("recvmsg", || format!("{} bytes", parts[0].len()))?,
        }
    };
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        || fds.len() > max_fds
    {
        return Err(Error::new(
            "recvmsg",
            format!(
                "packet larger than {} bytes or {max_fds} descriptors",
                data.len()
            ),
            Errno::MSGSIZE,
        ));
    }
    Ok((received.bytes, fds))
}

/// The size of the packet that waits, without taking it (0: the peer has closed).
///
/// # Errors
/// `recv(2)`.
pub fn peek_size(socket: impl AsFd) -> Result<usize> {
    let mut byte = [0u8; 1];
    rustix::io::retry_on_intr(|| {
        rustix::net::recv(&socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::TRUNC)
    })
    .map(|(_, size)| size)
    .call("recv", || "MSG_PEEK|MSG_TRUNC")
}

/// `CMSG_SPACE` for `count` descriptors.
fn space_for(count: usize) -> usize {
    if count == 0 {
        0
    } else {
        rustix::cmsg_space!(ScmRights(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_travel_in_the_packet_and_are_close_on_exec() {
        let (a, b) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        send(&a, b"hello", &[null.as_fd(), null.as_fd()]).unwrap();
        assert_eq!(peek_size(&b).unwrap(), 5);
        let mut data = [0; 16];
        let (size, fds) = receive(&b, &mut data, 2).unwrap();
        assert_eq!((&data[..size], fds.len()), (&b"hello"[..], 2));
        for fd in fds {
            assert!(
                rustix::io::fcntl_getfd(&fd)
                    .unwrap()
                    .contains(rustix::io::FdFlags::CLOEXEC)
            );
        }
    }

    #[test]
    fn a_packet_larger_than_the_buffer_is_an_error_and_not_a_cut_message() {
        let (a, b) = pair().unwrap();
        send(&a, &[7; 100], &[]).unwrap();
        let error = receive(&b, &mut [0; 10], 0).unwrap_err();
        assert_eq!(error.errno(), Errno::MSGSIZE);
    }

    #[test]
    fn more_descriptors_than_allowed_are_an_error_and_leak_none() {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let (a, b) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let before = count();
        send(&a, b"x", &[null.as_fd(); 20]).unwrap();
        assert!(receive(&b, &mut [0; 10], 1).is_err());
        // Other tests of this process open descriptors too: wait for a quiet moment.
        assert!((0..1000).any(|_| {
            std::thread::yield_now();
            count() <= before + 2
        }));
    }

    #[test]
    fn a_closed_peer_is_zero_bytes_and_an_empty_packet_is_refused() {
        let (a, b) = pair().unwrap();
        assert_eq!(send(&a, b"", &[]).unwrap_err().errno(), Errno::INVAL);
        drop(a);
        assert_eq!(receive(&b, &mut [0; 4], 0).unwrap().0, 0);
        assert_eq!(send(&b, b"x", &[]).unwrap_err().errno(), Errno::PIPE);
    }
}
