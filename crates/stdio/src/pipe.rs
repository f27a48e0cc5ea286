// SPDX-License-Identifier: Apache-2.0
//! Pipes between the container and us.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, OFlags, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use sys::Call;

use crate::request::Owner;

/// A pipe, close-on-exec, both ends in blocking mode.
pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Pipe {
    pub(crate) fn new() -> sys::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).call("pipe2", || "O_CLOEXEC")?;
        Ok(Self { reader, writer })
    }

    /// One whose ends `owner` may open again.
    pub(crate) fn owned_by(owner: Owner) -> sys::Result<Self> {
        let pipe = Self::new()?;
        give_to(&pipe.reader, owner)?;
        Ok(pipe)
    }
}

/// Changes the owner of what `fd` refers to.
pub(crate) fn give_to(fd: impl AsFd, owner: Owner) -> sys::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid))
        .call("fchown", || format!("{}, {}", owner.uid, owner.gid))
}

/// Makes the open file description behind `fd` non-blocking. The other end is another one.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> sys::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd).call("fcntl", || "F_GETFL")?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).call("fcntl", || "F_SETFL, O_NONBLOCK")
}
