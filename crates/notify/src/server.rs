// SPDX-License-Identifier: Apache-2.0
//! The container's socket: in a directory of its own, which is what gets mounted.
//!
//! The directory must lie where nobody but root and the container's processes come to: the socket
//! itself is open to every user, for the container's may be any.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use sys::Call;
use sys::datagram::{self, Received};

use crate::address::Address;
use crate::{Error, SOCKET};

/// The bound socket.
#[derive(Debug)]
pub(crate) struct Server {
    socket: OwnedFd,
    place: Place,
}

/// Where the socket is, and what goes with it.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A directory that is made for it.
    Made(PathBuf),
    /// A directory that is there already, perhaps mounted into the container, and stays.
    Found(PathBuf),
}

impl Place {
    fn directory(&self) -> &Path {
        let (Self::Made(directory) | Self::Found(directory)) = self;
        directory
    }

    /// Makes it ready for a new socket: what an earlier one left is gone.
    fn prepare(&self) -> std::io::Result<()> {
        self.clear()?;
        match self {
            Self::Made(directory) => make(directory),
            Self::Found(_) => Ok(()),
        }
    }

    fn clear(&self) -> std::io::Result<()> {
        let cleared = match self {
            Self::Made(directory) => fs::remove_dir_all(directory),
            Self::Found(directory) => fs::remove_file(directory.join(SOCKET)),
        };
        match cleared {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Server {
    /// Makes the socket, instead of what was there.
    pub(crate) fn bind(place: Place) -> Result<Self, Error> {
        let directory = place.directory();
        place.prepare().map_err(|source| Error::Directory {
            path: directory.to_owned(),
            source,
        })?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .call("socket", || "AF_UNIX, SOCK_DGRAM")?;
        // Before anybody can send: the kernel attaches credentials when a datagram is sent.
        sockopt::set_socket_passcred(&socket, true).call("setsockopt", || "SO_PASSCRED")?;
        let path = directory.join(SOCKET);
        let address = Address::of(&path)?;
        rustix::net::bind(&socket, &address.socket).call("bind", || format!("{path:?}"))?;
        let server = Self { socket, place };
        // The directory is ours alone so far: nothing else can be in the socket's place.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(|source| {
            Error::Directory {
                path: path.clone(),
                source,
            }
        })?;
        Ok(server)
    }

    /// Takes the next datagram; `EAGAIN` if there is none.
    pub(crate) fn receive(&self, data: &mut [u8]) -> sys::Result<Received> {
        datagram::receive(&self.socket, data)
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever is left goes with the bundle.
        let _ = self.place.clear();
    }
}

fn make(directory: &Path) -> std::io::Result<()> {
    fs::create_dir(directory)?;
    // The umask may be strict, and the container's user is none of ours.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}
