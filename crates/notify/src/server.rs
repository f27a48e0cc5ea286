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
    directory: PathBuf,
}

impl Server {
    /// Makes the directory and the socket in it, instead of what was there.
    pub(crate) fn bind(directory: &Path) -> Result<Self, Error> {
        make(directory).map_err(|source| Error::Directory {
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
        let server = Self {
            socket,
            directory: directory.to_owned(),
        };
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
        let _ = remove(&self.directory);
    }
}

fn make(directory: &Path) -> std::io::Result<()> {
    remove(directory)?;
    fs::create_dir(directory)?;
    // The umask may be strict, and the container's user is none of ours.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

fn remove(directory: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
