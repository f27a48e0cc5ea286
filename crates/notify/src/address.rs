// SPDX-License-Identifier: Apache-2.0
//! The host's socket: `/path` of any length, or `@name` for an abstract one.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::SocketAddrUnix;
use sys::Call;

use crate::Error;

/// `sun_path` without its final NUL.
const LONGEST: usize = 107;

/// Where datagrams go.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddrUnix,
    /// Keeps the path of `socket` valid if it leads through a descriptor.
    _directory: Option<OwnedFd>,
}

impl Address {
    /// Understands the value of `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// It is no path and no abstract name, is longer than the system allows, or its directory
    /// cannot be opened.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fail = |reason| Error::Address {
            address: text.to_owned(),
            reason,
        };
        if let Some(name) = text.strip_prefix('@') {
            let socket = SocketAddrUnix::new_abstract_name(name.as_bytes())
                .map_err(|_| fail("an abstract name has at most 107 bytes"))?;
            return Ok(Self {
                socket,
                _directory: None,
            });
        }
        if !text.starts_with('/') {
            return Err(fail("neither an absolute path nor an abstract name"));
        }
        at(Path::new(text), fail)
    }

    /// The address of a path of any length.
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        at(path, |reason| Error::Address {
            address: path.display().to_string(),
            reason,
        })
    }
}

/// A path that is too long for an address is reached through a descriptor of its directory.
fn at(path: &Path, fail: impl Fn(&'static str) -> Error) -> Result<Address, Error> {
    if path.as_os_str().len() <= LONGEST {
        let socket = SocketAddrUnix::new(path).map_err(|_| fail("a NUL byte in it"))?;
        return Ok(Address {
            socket,
            _directory: None,
        });
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail("no file"));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(parent, flags, Mode::empty()).call("open", || format!("{parent:?}"))?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    let socket =
        SocketAddrUnix::new(&short).map_err(|_| fail("the name of the file is too long"))?;
    Ok(Address {
        socket,
        _directory: Some(directory),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names_are_addresses_and_nothing_else_is() {
        let path = Address::parse("/run/systemd/notify").unwrap();
        assert_eq!(path.socket.path_bytes(), Some(&b"/run/systemd/notify"[..]));
        let name = Address::parse("@some/name").unwrap();
        assert_eq!(name.socket.abstract_name(), Some(&b"some/name"[..]));
        for refused in ["", "relative", "vsock:2:1234", "/a\0b"] {
            assert!(Address::parse(refused).is_err(), "{refused:?}");
        }
        assert!(Address::parse(&format!("@{}", "x".repeat(200))).is_err());
    }

    #[test]
    fn a_long_path_leads_through_its_directory() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let address = Address::parse(deep.join("socket").to_str().unwrap()).unwrap();
        let path = address.socket.path_bytes().unwrap();
        assert!(path.starts_with(b"/proc/self/fd/") && path.ends_with(b"/socket"));
        assert!(Address::parse(&format!("/{}/no/such", "x".repeat(200))).is_err());
    }
}
