// SPDX-License-Identifier: Apache-2.0
//! How the server tells `start` that it serves, or why it cannot.
//!
//! Over a pipe: a NUL byte means ready, any other text is an error, end of file alone means that
//! the server died. Go's shim tells nothing, so a server that fails leaves containerd with the
//! address of nobody.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Error;

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest error that is passed on.
const TEXT_MAX: u64 = 4096;

/// Waits until the server serves.
pub(crate) fn wait(pipe: OwnedFd) -> Result<(), Error> {
    let timeout = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)));
    if ready.is_ok_and(|n| n == 0) {
        return Err(Error::ServerLate(PATIENCE.as_secs()));
    }
    let mut first = [0];
    let mut pipe = std::fs::File::from(pipe);
    match pipe.read_exact(&mut first) {
        Ok(()) if first == [0] => Ok(()),
        Ok(()) => {
            let mut text = first.to_vec();
            // What has arrived is better than nothing.
            let _ = pipe.take(TEXT_MAX).read_to_end(&mut text);
            Err(Error::Server(String::from_utf8_lossy(&text).into_owned()))
        }
        Err(_) => Err(Error::ServerEnded),
    }
}

/// Tells `start` why the server cannot serve.
pub(crate) fn fail(pipe: OwnedFd, text: &str) {
    // If `start` has gone, nobody waits for the answer.
    let _ = std::fs::File::from(pipe).write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    #[test]
    fn ready_an_error_and_death_are_told_apart() {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (read, write) = pipe();
        rustix::io::write(&write, &[0]).unwrap();
        wait(read).unwrap();

        let (read, write) = pipe();
        fail(write, "no memory");
        assert_eq!(wait(read).unwrap_err().to_string(), "no memory");

        let (read, write) = pipe();
        drop(write);
        assert!(matches!(wait(read), Err(Error::ServerEnded)));
    }
}
