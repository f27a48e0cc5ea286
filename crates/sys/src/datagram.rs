// SPDX-License-Identifier: Apache-2.0
//! Datagrams of a Unix socket, with who sent them and the descriptors that came along.
//!
//! `rustix` reads credentials too, but takes the sender's pid for one that is not 0: the kernel says
//! 0 for a process that our PID namespace does not show.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

use crate::error::{Errno, Error, Result};

/// `SCM_MAX_FD` of the kernel.
const MAX_DESCRIPTORS: usize = 253;
/// `CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(253 * sizeof(int))`, and some more.
const CONTROL: usize = 1280;

/// Whoever sent a datagram, as the kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its pid in our PID namespace; `None` if it has none there.
    pub pid: Option<Pid>,
    /// Its user in our user namespace.
    pub uid: u32,
    /// Its group in our user namespace.
    pub gid: u32,
}

/// A datagram that has been received.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it fills.
    pub size: usize,
    /// It was longer than the buffer.
    pub truncated: bool,
    /// Whoever sent it; only where `SO_PASSCRED` is set on the socket.
    pub sender: Option<Sender>,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Room for control messages, aligned as they must be.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; CONTROL]);

/// Receives one datagram without waiting. Descriptors are close-on-exec from their first moment.
///
/// # Errors
/// `recvmsg(2)`; `EAGAIN` when there is none.
pub fn receive(socket: impl AsFd, data: &mut [u8]) -> Result<Received> {
    let mut control = Control([MaybeUninit::uninit(); CONTROL]);
    let mut part = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    // SAFETY: `msghdr` is plain data for which all zeroes is a value: no name, no buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let size = loop {
        // SAFETY: the descriptor is borrowed for the call; `message` points at `part`, which points
        // at `data`, and at `control`, each with its true length, all of which outlive the call.
        let size = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
        match (usize::try_from(size), last_error()) {
            (Ok(size), _) => break size,
            (Err(_), Errno::INTR) => {}
            (Err(_), errno) => {
                let args = format!("{} bytes", data.len());
                return Err(Error::new("recvmsg", args, errno));
            }
        }
    };
    let mut received = Received {
        size,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        sender: None,
        fds: Vec::new(),
    };
    // SAFETY: `message` is as the kernel has filled it in: `control` holds well-formed messages up
    // to `msg_controllen`, and nothing has taken their descriptors yet.
    unsafe { take_control(&message, &mut received) };
    Ok(received)
}

/// Takes credentials and descriptors out of the control messages.
///
/// # Safety
/// `message` must have been filled in by `recvmsg(2)`, its control buffer must be alive, and its
/// descriptors must not have been taken before.
unsafe fn take_control(message: &libc::msghdr, received: &mut Received) {
    // SAFETY: the caller vouches for the buffer; the first header lies in it whole, or is null.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so a whole header in the buffer.
        let (header, payload) = unsafe { (&*next, libc::CMSG_DATA(next)) };
        // SAFETY: arithmetic on a constant.
        let length = header.cmsg_len - unsafe { libc::CMSG_LEN(0) as usize };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: the payload is at least as long as the value; it may be unaligned.
                let cred = unsafe { payload.cast::<libc::ucred>().read_unaligned() };
                received.sender = Some(Sender {
                    pid: Pid::from_raw(cred.pid),
                    uid: cred.uid,
                    gid: cred.gid,
                });
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for index in 0..(length / size_of::<i32>()).min(MAX_DESCRIPTORS) {
                    // SAFETY: within the payload; the kernel has just installed this descriptor for
                    // us and nobody else owns it.
                    let fd = unsafe {
                        let raw = payload.cast::<i32>().add(index).read_unaligned();
                        OwnedFd::from_raw_fd(raw)
                    };
                    received.fds.push(fd);
                }
            }
            _ => {}
        }
        // SAFETY: `next` is a header in the buffer.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType, sendmsg, socketpair, sockopt,
    };
    use std::io::IoSlice;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        sockopt::set_socket_passcred(&b, true).unwrap();
        (a, b)
    }

    #[test]
    fn a_datagram_comes_with_its_sender_and_its_descriptors() {
        let (a, b) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        let fds = [null.as_fd(); 200];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(
            &a,
            &[IoSlice::new(b"hello")],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        let mut data = [0; 16];
        let received = receive(&b, &mut data).unwrap();
        assert_eq!(&data[..received.size], b"hello");
        assert!(!received.truncated);
        assert_eq!(
            received.sender.unwrap().pid,
            Some(rustix::process::getpid())
        );
        assert_eq!(received.fds.len(), 200);
        for fd in &received.fds {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert_eq!(receive(&b, &mut data).unwrap_err().errno(), Errno::AGAIN);
    }

    #[test]
    fn a_datagram_that_is_too_long_says_so() {
        let (a, b) = pair();
        rustix::io::write(&a, &[b'x'; 100]).unwrap();
        let received = receive(&b, &mut [0; 10]).unwrap();
        assert!(received.truncated);
        assert_eq!(received.size, 10);
    }
}
