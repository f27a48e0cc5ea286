// SPDX-License-Identifier: Apache-2.0
//! `linux.netDevices`: devices of the host that become the container's.
//!
//! The shim moves a device, and has it renamed by the same request: where its old name is taken
//! does not matter then. The kernel takes a device's addresses away when it goes, so they are noted before;
//! init, which is in the namespace, adds them again and sets the device up. When the namespace
//! ends, the kernel gives physical devices back to the host.

mod netlink;

use std::os::fd::{AsRawFd, BorrowedFd};

use oci_spec::runtime::Spec;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use self::netlink::{
    CREATE, DUMP, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK, Request, Socket, attributes,
    number,
};
use crate::error::{Attempt, Error, Result};
use crate::namespaces::{Kind, Namespaces};

/// With its NUL.
const IFNAMSIZ: usize = 16;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
/// Sizes of `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// A device to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name on the host.
    pub name: String,
    /// Its name in the container.
    pub new_name: String,
}

/// A device that has been moved: what is left to do in its new namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its name there.
    name: String,
    addresses: Vec<Address>,
}

/// An address that was configured for good and is valid everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    family: u8,
    prefix: u8,
    /// Attributes of `rtnetlink(7)`: the address, its peer, the broadcast address.
    parts: Vec<(u16, Vec<u8>)>,
}

/// The network namespace that a device is moved to.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    /// This one.
    Namespace(BorrowedFd<'a>),
    /// That of a child of ours that nobody has waited for.
    Process(Pid),
}

/// The devices that a specification asks for, by name.
///
/// # Errors
/// An impossible name, or a container that has no network namespace to put a device in.
pub fn plan(spec: &Spec, namespaces: &Namespaces) -> Result<Vec<Device>> {
    const FIELD: &str = "linux.netDevices";
    let linux = spec.linux().as_ref();
    let Some(devices) = linux.and_then(|linux| linux.net_devices().as_ref()) else {
        return Ok(Vec::new());
    };
    if !devices.is_empty() && !namespaces.is_private(Kind::Network) {
        let reason = "unable to move network devices without a NET namespace";
        return Err(Error::spec(FIELD, reason));
    }
    let mut planned = Vec::with_capacity(devices.len());
    for (name, device) in devices {
        let new_name = device.name().clone().filter(|name| !name.is_empty());
        let new_name = new_name.unwrap_or_else(|| name.clone());
        for (field, name) in [
            (format!("{FIELD}[{name:?}]"), name),
            (format!("{FIELD}[{name:?}].name"), &new_name),
        ] {
            if !valid(name) {
                let reason = format!("invalid network device name {name:?}");
                return Err(Error::spec(field, reason));
            }
        }
        planned.push(Device {
            name: name.clone(),
            new_name,
        });
    }
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(planned)
}

/// The kernel's rule, `dev_valid_name`.
fn valid(name: &str) -> bool {
    let odd = |c: char| matches!(c, '/' | ':' | '\0') || c.is_ascii_whitespace();
    !name.is_empty() && name.len() < IFNAMSIZ && name != "." && name != ".." && !name.contains(odd)
}

/// Moves a device of the calling thread's network namespace to another one. It is down then.
///
/// # Errors
/// There is no such device, its new name is taken there, or the kernel lets it not go. A device
/// that has been moved stays moved, if only its new name is refused, too: the kernel gives it back
/// at the end of the namespace, as the specification says.
pub fn move_to(device: &Device, destination: Destination<'_>) -> Result<Moved> {
    let Device { name, new_name } = device;
    let moved = (|| {
        let mut socket = Socket::open()?;
        let index = index(&mut socket, name)?;
        // Before it is set down: an IPv6 address does not survive that.
        let addresses = addresses(&mut socket, index)?;
        socket.ask(&set_flags(index, 0), &format!("set link {name} down"))?;
        let request = Request::new(RTM_NEWLINK, 0, &link(index, 0, 0))
            .with(IFLA_IFNAME, &terminated(new_name));
        let request = match destination {
            Destination::Namespace(fd) => {
                request.with(IFLA_NET_NS_FD, &fd.as_raw_fd().to_ne_bytes())
            }
            Destination::Process(pid) => {
                let pid = pid.as_raw_nonzero().get();
                request.with(IFLA_NET_NS_PID, &pid.to_ne_bytes())
            }
        };
        socket.ask(&request, &format!("move link {name} as {new_name}"))?;
        Ok(addresses)
    })();
    let attempt = || format!("error moving network device {name} into the network namespace");
    Ok(Moved {
        name: new_name.clone(),
        addresses: moved.attempt(attempt)?,
    })
}

impl Moved {
    /// Gives the device its addresses again and sets it up; for who is in its new namespace.
    ///
    /// # Errors
    /// The kernel's, for one of the requests.
    pub fn configure(&self) -> sys::Result<()> {
        let mut socket = Socket::open()?;
        let index = index(&mut socket, &self.name)?;
        for address in &self.addresses {
            let what = format!("add address to link {}", self.name);
            socket.ask(&address.request(index), &what)?;
        }
        let what = format!("set link {} up", self.name);
        socket.ask(&set_flags(index, IFF_UP), &what)?;
        Ok(())
    }
}

impl Address {
    /// Of a message of the kernel, if it is one to keep.
    fn keep(answer: &[u8], index: u32) -> Option<Self> {
        let &[family, prefix, flags, scope, ..] = answer else {
            return None;
        };
        let attributes = attributes(answer, ADDRESS);
        let long = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS);
        let flags = long.map_or(u32::from(flags), |(_, value)| number(value, 0));
        let wanted = number(answer, 4) == index
            && flags & IFA_F_PERMANENT != 0
            && scope == RT_SCOPE_UNIVERSE;
        let parts = attributes
            .into_iter()
            .filter(|(kind, _)| matches!(*kind, IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST))
            .map(|(kind, value)| (kind, value.to_vec()));
        wanted.then(|| Self {
            family,
            prefix,
            parts: parts.collect(),
        })
    }

    fn request(&self, index: u32) -> Request {
        let mut fixed = vec![self.family, self.prefix, 0, RT_SCOPE_UNIVERSE];
        fixed.extend_from_slice(&index.to_ne_bytes());
        let request = Request::new(RTM_NEWADDR, CREATE, &fixed);
        self.parts
            .iter()
            .fold(request, |request, (kind, value)| request.with(*kind, value))
    }
}

fn index(socket: &mut Socket, name: &str) -> sys::Result<u32> {
    let what = format!("find link {name}");
    let request = Request::new(RTM_GETLINK, 0, &link(0, 0, 0)).with(IFLA_IFNAME, &terminated(name));
    let answers = socket.ask(&request, &what)?;
    match answers.first().map(|answer| number(answer, 4)) {
        Some(index) if index != 0 => Ok(index),
        _ => Err(sys::Error::new("netlink", what, sys::Errno::NODEV)),
    }
}

fn addresses(socket: &mut Socket, index: u32) -> sys::Result<Vec<Address>> {
    let request = Request::new(RTM_GETADDR, DUMP, &[0; ADDRESS]);
    let answers = socket.ask(&request, "list addresses")?;
    let kept = answers
        .iter()
        .filter_map(|answer| Address::keep(answer, index));
    Ok(kept.collect())
}

/// `struct ifinfomsg`: only the flags in `change` are set.
fn link(index: u32, flags: u32, change: u32) -> [u8; LINK] {
    let mut fixed = [0u8; LINK];
    for (at, value) in [(4, index), (8, flags), (12, change)] {
        for (place, byte) in fixed.iter_mut().skip(at).zip(value.to_ne_bytes()) {
            *place = byte;
        }
    }
    fixed
}

fn set_flags(index: u32, flags: u32) -> Request {
    Request::new(RTM_NEWLINK, 0, &link(index, flags, IFF_UP))
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests;
