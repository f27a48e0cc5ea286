// SPDX-License-Identifier: Apache-2.0
//! Sending to the host's service manager.
//!
//! Every datagram names its destination anew: a service manager that was started again listens on a
//! new socket of the same name.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    UCred, sendmsg_addr,
};
use rustix::process::{Gid, Pid, Uid, getgid, getuid};
use sys::{Call, Errno};

use crate::Error;
use crate::address::Address;

/// In whose name datagrams are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Our own.
    Ourselves,
    /// That of the container's init, as with `sd_pid_notify(3)`.
    Init,
}

/// A datagram on its way to the host.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) data: Vec<u8>,
    /// Of a barrier.
    pub(crate) fd: Option<OwnedFd>,
}

/// The way to the host's socket.
#[derive(Debug)]
pub(crate) struct Host {
    socket: OwnedFd,
    address: Address,
    sender: Sender,
}

impl Host {
    /// Prepares to send to `address`; nobody need listen there yet.
    pub(crate) fn new(address: &str, sender: Sender) -> Result<Self, Error> {
        let address = Address::parse(address)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .call("socket", || "AF_UNIX, SOCK_DGRAM")?;
        Ok(Self {
            socket,
            address,
            sender,
        })
    }

    /// Sends a datagram; `EAGAIN` if the host's queue is full.
    pub(crate) fn send(&self, datagram: &Outgoing, init: Option<Pid>) -> sys::Result<()> {
        let name = init.filter(|_| self.sender == Sender::Init);
        match self.send_as(datagram, name) {
            // Without the privilege to speak for others, or when init is gone: as ourselves.
            Err(e) if name.is_some() && matches!(e.errno(), Errno::PERM | Errno::SRCH) => {
                self.send_as(datagram, None)
            }
            other => other,
        }
    }

    fn send_as(&self, datagram: &Outgoing, name: Option<Pid>) -> sys::Result<()> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = datagram.fd.as_ref().map(|fd| [fd.as_fd()]);
        let mut fits = true;
        if let Some(fds) = &fds {
            fits &= control.push(SendAncillaryMessage::ScmRights(fds));
        }
        if let Some(pid) = name {
            fits &= control.push(SendAncillaryMessage::ScmCredentials(credentials(pid)));
        }
        let describe = || format!("{} bytes, {}", datagram.data.len(), self.describe());
        if !fits {
            return Err(sys::Error::new("sendmsg", describe(), Errno::NOBUFS));
        }
        let parts = [IoSlice::new(&datagram.data)];
        rustix::io::retry_on_intr(|| {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            sendmsg_addr(
                &self.socket,
                &self.address.socket,
                &parts,
                &mut control,
                flags,
            )
        })
        .map(drop)
        .call("sendmsg", describe)
    }

    fn describe(&self) -> String {
        let address = &self.address.socket;
        match (address.path_bytes(), address.abstract_name()) {
            (Some(path), _) => String::from_utf8_lossy(path).into_owned(),
            (_, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
            _ => "?".to_owned(),
        }
    }
}

fn credentials(pid: Pid) -> UCred {
    let (uid, gid): (Uid, Gid) = (getuid(), getgid());
    UCred { pid, uid, gid }
}
