// SPDX-License-Identifier: Apache-2.0
//! A thread that appends to a file, because files block.
//!
//! The container must not get the file itself: as root it could change its owner and mode (a
//! set-user-ID program on the host), and `echo > /dev/stderr` would truncate the log. And the
//! reactor must not write to it: a disk makes the writer wait, and no flag prevents that. So the
//! container, or a terminal's relay, writes into a pipe, and a thread empties it into the file.
//! It ends with the last write end of the pipe, or when the [`Appender`] is dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sys::Call;

/// What is read from the pipe at once.
const CHUNK: usize = 16 * 1024;
/// A chunk and the frames of a few small functions, in any build.
const STACK: usize = 128 * 1024;

/// The thread, from outside.
#[derive(Debug)]
pub(crate) struct Appender {
    /// Closed by us: the thread is to stop. Closed by the thread: it has ended.
    link: OwnedFd,
}

impl Appender {
    /// Starts to append to `file` what comes through `pipe`. `name` is for the log.
    pub(crate) fn start(pipe: OwnedFd, file: OwnedFd, name: String) -> sys::Result<Self> {
        let (link, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .call("socketpair", || "AF_UNIX, SOCK_STREAM")?;
        std::thread::Builder::new()
            .name("log file".to_owned())
            .stack_size(STACK)
            .spawn(move || append(File::from(pipe), File::from(file), &far, &name))
            .call("clone3", || "log file thread")?;
        Ok(Self { link })
    }

    /// Becomes readable when the thread has ended.
    pub(crate) fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Whether everything is in the file.
    pub(crate) fn has_ended(&self) -> bool {
        rustix::io::read(&self.link, &mut [0]) == Ok(0)
    }
}

fn append(mut pipe: File, mut file: File, stop: &OwnedFd, name: &str) {
    let mut chunk = [0; CHUNK];
    let mut wanted = true;
    while wait_for_data(&pipe, stop) {
        match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) if wanted => {
                if let Err(error) = file.write_all(&chunk[..length]) {
                    log::warn!("{name}: writing the log file: {error}; output is dropped");
                    wanted = false;
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// False when it is time to stop.
fn wait_for_data(pipe: &File, stop: &OwnedFd) -> bool {
    loop {
        let mut fds = [
            PollFd::new(pipe, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) if !fds[1].revents().is_empty() => return false,
            Ok(_) => return true,
        }
    }
}
