// SPDX-License-Identifier: Apache-2.0
//! Speaks `sd_notify(3)` inside a container: each argument is done in order.
//!
//! `send:TEXT` sends a datagram, with `|` for newlines; `barrier` sends one and waits for its end;
//! `store` sends a descriptor to be stored; `hup` waits for SIGHUP; `stay` waits for ever. Says
//! `done NAME` after each.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let socket = UnixDatagram::unbound()?;
    socket.connect(std::env::var("NOTIFY_SOCKET")?)?;
    for step in std::env::args().skip(1) {
        match step.as_str() {
            "barrier" => barrier(&socket)?,
            "store" => send(&socket, "FDSTORE=1\nFDNAME=x", Some(socket.as_fd()))?,
            "stay" => loop {
                std::thread::park();
            },
            "hup" => {
                let mut signals = signal_hook::iterator::Signals::new([1])?;
                writeln!(std::io::stdout(), "waiting")?;
                signals.wait();
            }
            text => {
                let text = text.strip_prefix("send:").ok_or("what?")?;
                let text = text.replace('|', "\n");
                let text = text.replace("SELF", &std::process::id().to_string());
                send(&socket, &text, None)?;
            }
        }
        writeln!(std::io::stdout(), "done {step}")?;
    }
    Ok(())
}

fn send(socket: &UnixDatagram, text: &str, fd: Option<BorrowedFd<'_>>) -> Outcome {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [IoSlice::new(text.as_bytes())];
    sendmsg(socket, &parts, &mut control, SendFlags::empty())?;
    Ok(())
}

/// As `sd_notify_barrier(3)`: ends when nobody holds the descriptor any more.
fn barrier(socket: &UnixDatagram) -> Outcome {
    let (reader, writer) = rustix::pipe::pipe()?;
    send(socket, "BARRIER=1", Some(writer.as_fd()))?;
    drop(writer);
    let limit = Timespec::try_from(Duration::from_secs(10))?;
    if poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&limit))? == 0 {
        return Err("the barrier does not end".into());
    }
    match rustix::io::read(&reader, &mut [0])? {
        0 => Ok(()),
        _ => Err("data from a barrier".into()),
    }
}
