// SPDX-License-Identifier: Apache-2.0
//! Terminals: the caller's, the container's, and the socket that takes the container's away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use runtime::Stdio;
use rustix::termios::{OptionalActions, Termios};
use sys::Call as _;

use crate::error::{Attempt as _, Error, system};

/// What is to become of a process's standard streams.
#[derive(Debug)]
pub(crate) enum Console {
    /// It shares ours.
    None,
    /// It gets a terminal, relayed to ours.
    Relayed,
    /// It gets a terminal, whose master goes through this socket.
    Sent(UnixStream),
}

/// Whether we wait for a process's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Foreground,
    Detached,
}

impl Console {
    /// Checks what is asked for, in runc's words, and connects the socket.
    pub(crate) fn new(terminal: bool, wait: Wait, socket: Option<&str>) -> Result<Self, Error> {
        let socket = socket.filter(|path| !path.is_empty());
        match (terminal, wait, socket) {
            (true, Wait::Detached, None) => Err(Error::Usage(
                "cannot allocate tty if ocirun will detach without setting console socket"
                    .to_owned(),
            )),
            (false, _, Some(_)) | (true, Wait::Foreground, Some(_)) => Err(Error::Usage(
                "cannot use console socket if ocirun will not detach or allocate tty".to_owned(),
            )),
            (true, Wait::Detached, Some(path)) => Ok(Self::Sent(
                UnixStream::connect(path)
                    .attempt(|| format!("connect to console socket {path}"))?,
            )),
            (true, Wait::Foreground, None) => Ok(Self::Relayed),
            (false, _, None) => Ok(Self::None),
        }
    }

    /// The process's standard streams.
    pub(crate) fn stdio(&self) -> Result<Stdio, Error> {
        if !matches!(self, Self::None) {
            return Ok(Stdio::Terminal);
        }
        let own = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .attempt(|| "use own standard streams".to_owned())
        };
        Ok(Stdio::Streams([
            own(rustix::stdio::stdin())?,
            own(rustix::stdio::stdout())?,
            own(rustix::stdio::stderr())?,
        ]))
    }

    /// Sends the master away, or keeps it for the relay.
    pub(crate) fn attach(self, master: Option<OwnedFd>) -> Result<Option<Relay>, Error> {
        match (self, master) {
            (Self::Sent(socket), Some(master)) => {
                send_fd(&socket, b"/dev/ptmx", master.as_fd(), "send terminal")?;
                Ok(None)
            }
            (Self::Relayed, Some(master)) => Ok(Some(Relay::new(master)?)),
            _ => Ok(None),
        }
    }
}

/// Sends a descriptor as runc does: its name as the data of the message.
fn send_fd(
    socket: &UnixStream,
    name: &[u8],
    fd: BorrowedFd<'_>,
    attempt: &'static str,
) -> Result<(), Error> {
    system(attempt, sys::packet::send(socket, name, &[fd]))
}

/// Sends a process's pidfd through the socket at `path`, if there is one.
pub(crate) fn send_pidfd(
    path: Option<&str>,
    kind: &[u8],
    pidfd: BorrowedFd<'_>,
) -> Result<(), Error> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let socket = UnixStream::connect(path).attempt(|| format!("connect to pidfd socket {path}"))?;
    send_fd(&socket, kind, pidfd, "send pidfd")
}

/// The caller's terminal, as it was before.
struct Raw(Termios);

impl Raw {
    /// Every key to the container's terminal; `None` if our input is no terminal.
    fn set() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone: nothing is left to restore then.
        let stdin = rustix::stdio::stdin();
        let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Now, &self.0);
    }
}

/// How much is read before it is written: not more than what a pipe takes in one piece, so that a
/// write that poll(2) has allowed does not block.
const CHUNK: usize = 4096;

/// Copies between our standard streams and the master of a container's terminal.
pub(crate) struct Relay {
    master: OwnedFd,
    /// Read from our input, not yet in the terminal.
    to_container: Vec<u8>,
    /// Read from the terminal, not yet in our output.
    to_caller: Vec<u8>,
    input_ended: bool,
    output_ended: bool,
    raw: Option<Raw>,
}

/// What a relay waits for.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) master_in: bool,
    pub(crate) master_out: bool,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Self, Error> {
        let flags = rustix::fs::fcntl_getfl(&master).call("fcntl", || "F_GETFL");
        let flags = system("prepare terminal", flags)? | rustix::fs::OFlags::NONBLOCK;
        let set = rustix::fs::fcntl_setfl(&master, flags).call("fcntl", || "F_SETFL, O_NONBLOCK");
        system("prepare terminal", set)?;
        keep_newlines(&master)?;
        let relay = Self {
            master,
            to_container: Vec::new(),
            to_caller: Vec::new(),
            input_ended: false,
            output_ended: false,
            raw: Raw::set(),
        };
        relay.resize();
        Ok(relay)
    }

    pub(crate) fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Gives the container's terminal the size of ours.
    pub(crate) fn resize(&self) {
        // Without a terminal of our own there is no size.
        if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
            if size.ws_row > 0 && size.ws_col > 0 {
                let _ = rustix::termios::tcsetwinsize(&self.master, size);
            }
        }
    }

    pub(crate) fn interest(&self) -> Interest {
        Interest {
            stdin: !self.input_ended && self.to_container.is_empty(),
            stdout: !self.to_caller.is_empty(),
            master_in: !self.output_ended && self.to_caller.is_empty(),
            master_out: !self.to_container.is_empty(),
        }
    }

    /// Moves what can be moved without waiting, as far as `ready` says.
    pub(crate) fn step(&mut self, ready: Interest) {
        if ready.stdin && self.to_container.is_empty() {
            match read(rustix::stdio::stdin()) {
                Ok(bytes) if bytes.is_empty() => self.input_ended = true,
                Ok(bytes) => self.to_container = bytes,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => self.input_ended = true,
            }
        }
        if ready.master_in && self.to_caller.is_empty() {
            match read(self.master.as_fd()) {
                Ok(bytes) if !bytes.is_empty() => self.to_caller = bytes,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                // EIO: nobody holds the other end any more.
                _ => self.output_ended = true,
            }
        }
        if ready.master_out || !self.to_container.is_empty() {
            match write(self.master.as_fd(), &mut self.to_container) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => {
                    self.to_container.clear();
                    self.input_ended = true;
                }
            }
        }
        if ready.stdout {
            match write(rustix::stdio::stdout(), &mut self.to_caller) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                // Nobody reads: the container's output goes nowhere, and it goes on.
                Err(_) => self.to_caller.clear(),
            }
        }
    }

    /// Whether all output has been passed on.
    pub(crate) fn has_ended(&self) -> bool {
        self.output_ended && self.to_caller.is_empty()
    }

    /// Passes on what the terminal still holds when the process has ended.
    pub(crate) fn drain(mut self) {
        loop {
            while !self.to_caller.is_empty() {
                if write(rustix::stdio::stdout(), &mut self.to_caller).is_err() {
                    return;
                }
            }
            match read(self.master.as_fd()) {
                Ok(bytes) if !bytes.is_empty() => self.to_caller = bytes,
                _ => break,
            }
        }
        drop(self.raw.take());
    }
}

/// Output through a terminal is to be what the program wrote: no carriage returns are added on the
/// way to our own terminal, which adds them itself or is raw.
fn keep_newlines(master: &OwnedFd) -> Result<(), Error> {
    let get = rustix::termios::tcgetattr(master).call("ioctl", || "TCGETS");
    let mut attributes = system("prepare terminal", get)?;
    attributes.output_modes -= rustix::termios::OutputModes::ONLCR;
    let set = rustix::termios::tcsetattr(master, OptionalActions::Now, &attributes)
        .call("ioctl", || "TCSETS");
    system("prepare terminal", set)
}

fn read(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = vec![0; CHUNK];
    let count = rustix::io::read(fd, &mut bytes[..])?;
    bytes.truncate(count);
    Ok(bytes)
}

fn write(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<()> {
    let count = rustix::io::write(fd, bytes)?;
    bytes.drain(..count);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_and_its_socket_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let socket = path.to_str();
        let new = |terminal, wait, socket| Console::new(terminal, wait, socket);
        assert!(matches!(
            new(true, Wait::Detached, socket),
            Ok(Console::Sent(_))
        ));
        assert!(matches!(
            new(true, Wait::Foreground, None),
            Ok(Console::Relayed)
        ));
        assert!(matches!(
            new(false, Wait::Detached, Some("")),
            Ok(Console::None)
        ));
        assert!(new(true, Wait::Detached, None).is_err());
        assert!(new(true, Wait::Foreground, socket).is_err());
        assert!(new(false, Wait::Detached, socket).is_err());
        assert!(new(true, Wait::Detached, Some("/nope")).is_err());
    }
}
