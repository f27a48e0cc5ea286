// SPDX-License-Identifier: Apache-2.0
//! Where a server listens.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sys::Call;

/// The address of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file.
    Path(PathBuf),
    /// A name in the abstract namespace (without the NUL in front).
    Abstract(String),
}

impl Address {
    /// Reads `/run/x.sock`, `unix:///run/x.sock`, `@name` or `unix://@name`; `None` for an empty one.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix("unix://").unwrap_or(text);
        match name.strip_prefix(['@', '\0']) {
            _ if name.is_empty() => None,
            Some(name) => Some(Address::Abstract(name.to_owned())),
            None => Some(Address::Path(name.into())),
        }
    }

    /// Connects without waiting: a unix socket connects at once or not at all.
    ///
    /// # Errors
    /// Nobody listens there, or (EAGAIN) the listener's queue is full.
    pub fn connect(&self) -> sys::Result<OwnedFd> {
        let call = || self.to_string();
        let address = match self {
            Address::Path(path) => SocketAddrUnix::new(path),
            Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        }
        .call("connect", call)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .call("socket", || "AF_UNIX, SOCK_STREAM")?;
        rustix::net::connect(&socket, &address).call("connect", call)?;
        Ok(socket)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Path(path) => write!(f, "{}", path.display()),
            Address::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme() {
        let path = Some(Address::Path("/run/a.sock".into()));
        assert_eq!(Address::parse("/run/a.sock"), path);
        assert_eq!(Address::parse("unix:///run/a.sock"), path);
        let name = Some(Address::Abstract("a".into()));
        assert_eq!(Address::parse("@a"), name);
        assert_eq!(Address::parse("unix://@a"), name);
        assert_eq!(Address::parse("\0a"), name);
        assert_eq!(Address::parse(""), None);
        assert_eq!(Address::parse("unix://"), None);
    }
}
