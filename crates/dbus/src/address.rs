// SPDX-License-Identifier: Apache-2.0
//! Where a bus listens: `unix:path=/run/dbus/system_bus_socket;unix:abstract=name,guid=...`.

use std::fmt;
use std::path::PathBuf;

use rustix::net::SocketAddrUnix;

use crate::error::{Error, Result};

/// An address of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Path(PathBuf),
    /// An abstract socket: its name.
    Abstract(Vec<u8>),
}

impl Address {
    /// The addresses of a list that are of a kind we can use, in their order.
    ///
    /// # Errors
    /// There is none, or the list is not one.
    pub fn parse_list(list: &str) -> Result<Vec<Self>> {
        let failed = |reason| Error::Address {
            address: list.to_owned(),
            reason,
        };
        let mut addresses = Vec::new();
        for one in list.split(';').filter(|one| !one.is_empty()) {
            let (transport, options) = one.split_once(':').ok_or(failed("has no transport"))?;
            if transport != "unix" {
                continue;
            }
            for option in options.split(',') {
                let (key, value) = option.split_once('=').ok_or(failed("has a bad option"))?;
                let value = unescape(value).ok_or(failed("has a bad escape"))?;
                match key {
                    "path" => {
                        let path = String::from_utf8(value).map_err(|_| failed("is not UTF-8"))?;
                        addresses.push(Self::Path(PathBuf::from(path)));
                    }
                    "abstract" => addresses.push(Self::Abstract(value)),
                    _ => {}
                }
            }
        }
        match addresses.is_empty() {
            true => Err(failed("names no Unix socket")),
            false => Ok(addresses),
        }
    }

    pub(crate) fn socket(&self) -> rustix::io::Result<SocketAddrUnix> {
        match self {
            Self::Path(path) => SocketAddrUnix::new(path),
            Self::Abstract(name) => SocketAddrUnix::new_abstract_name(name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// Undoes `%2f` and the like.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digit = |at: usize| char::from(*tail.get(at)?).to_digit(16);
        // Two digits of 4 bits.
        bytes.push((digit(0)? * 16 + digit(1)?) as u8);
        rest = &tail[2..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_sockets_of_a_list_are_found() {
        let path = |path: &str| Address::Path(PathBuf::from(path));
        let found = Address::parse_list(
            "tcp:host=x,port=1;unix:path=/run/a%20b,guid=0;unix:abstract=/tmp/x",
        );
        let expected = vec![path("/run/a b"), Address::Abstract(b"/tmp/x".to_vec())];
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "unix",
            "tcp:host=x",
            "unix:path",
            "unix:path=%2",
            "unix:path=%zz",
            ";",
        ] {
            assert!(Address::parse_list(bad).is_err(), "{bad}");
        }
    }
}
