// SPDX-License-Identifier: Apache-2.0
//! Both ends of containerd's FIFO: what is held, and for how long.
//!
//! Output. We hold a read end until Delete and a write end until the output has ended. So a
//! container is not killed by `SIGPIPE` when containerd restarts, and what it wrote stays in the
//! FIFO. When the output has ended, the write end is closed and the client sees the end of the
//! file. But with no client there, closing it would make what is in the FIFO unreachable: a
//! client that comes later could not even open the FIFO (opening to read waits for a writer).
//! Then the write end is held on until a client has opened ([`Unread`]).
//!
//! Input. We hold a write end until `CloseIO`: a client that disconnects is no end of input.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, inotify};
use sys::Call;

use crate::node::{Handle, reopen};

/// A FIFO that output goes to.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// Non-blocking.
    writer: OwnedFd,
    reader: OwnedFd,
}

/// A FIFO that input comes from.
pub(crate) struct Inlet {
    /// Non-blocking.
    pub(crate) reader: OwnedFd,
    /// Held until `CloseIO`.
    pub(crate) keeper: OwnedFd,
}

/// What is left of an [`Outlet`] after the last byte.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The client sees the end. The read end is kept until Delete: should the client go before
    /// it has read all, another can read the rest.
    Told(#[allow(dead_code, reason = "held, not read")] Option<OwnedFd>),
    /// There is no client.
    Unread(Unread),
}

/// A FIFO with output that no client has opened yet. The write end alone keeps the data.
#[derive(Debug)]
pub(crate) struct Unread {
    writer: OwnedFd,
    /// Tells when somebody opens the FIFO. Non-blocking.
    watch: OwnedFd,
}

impl Outlet {
    /// Opens both ends at once, whether or not a client is there.
    pub(crate) fn open(handle: &Handle) -> sys::Result<Self> {
        // The read end first: without a reader the write end could not be opened without waiting.
        let reader = handle.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let writer = handle.open(OFlags::WRONLY | OFlags::NONBLOCK)?;
        Ok(Self { writer, reader })
    }

    /// A write end for the container. Does not wait: we hold a read end.
    pub(crate) fn for_container(&self) -> sys::Result<OwnedFd> {
        reopen(&self.writer, OFlags::WRONLY)
    }

    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// To be called when nobody else writes any more.
    pub(crate) fn end(self) -> Ending {
        let Self { writer, reader } = self;
        // To see whether there is another reader. The write end keeps the data.
        drop(reader);
        if has_reader(&writer) {
            return tell(writer);
        }
        match watch_for_opening(&writer) {
            // It may have come before the watch was set.
            Ok(watch) if !has_reader(&writer) => Ending::Unread(Unread { writer, watch }),
            // Without a watch nobody could be told the end later: better now than never.
            Ok(_) | Err(_) => tell(writer),
        }
    }
}

impl Unread {
    /// Becomes readable when it is worth to [`check`](Self::check).
    pub(crate) fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Tells the end though nobody hears it.
    pub(crate) fn give_up(self) -> Ending {
        tell(self.writer)
    }

    /// Tells the end if a client has come.
    pub(crate) fn check(self) -> Ending {
        let mut space = [std::mem::MaybeUninit::uninit(); 256];
        let mut events = inotify::Reader::new(&self.watch, &mut space);
        // What opened does not matter, only that all events are taken before the look.
        while events.next().is_ok() {}
        if has_reader(&self.writer) {
            tell(self.writer)
        } else {
            Ending::Unread(self)
        }
    }
}

/// Closes the write end, so that the reader sees the end after the data.
fn tell(writer: OwnedFd) -> Ending {
    // Fails at the descriptor limit only; then a client that goes too early takes the rest along.
    Ending::Told(reopen(&writer, OFlags::RDONLY | OFlags::NONBLOCK).ok())
}

/// Whether the FIFO of this write end is open for reading. Never waits.
fn has_reader(writer: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::empty())];
    let now = Timespec::default();
    // An error tells nothing; then the end is told at once, as without this check.
    poll(&mut fds, Some(&now)).is_err() || !fds[0].revents().contains(PollFlags::ERR)
}

fn watch_for_opening(fifo: &OwnedFd) -> sys::Result<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).call("inotify_init1", || format!("{flags:?}"))?;
    let path = format!("/proc/self/fd/{}", fifo.as_raw_fd());
    inotify::add_watch(&watch, path.as_str(), inotify::WatchFlags::OPEN)
        .call("inotify_add_watch", || format!("{path:?}, IN_OPEN"))?;
    Ok(watch)
}

impl Inlet {
    /// Opens both ends at once, whether or not a client is there.
    pub(crate) fn open(handle: &Handle) -> sys::Result<Self> {
        let reader = handle.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let keeper = handle.open(OFlags::WRONLY | OFlags::NONBLOCK)?;
        Ok(Self { reader, keeper })
    }
}
