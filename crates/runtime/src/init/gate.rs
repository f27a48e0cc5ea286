// SPDX-License-Identifier: Apache-2.0
//! Where the first process of a container waits, and who hears what becomes of it then.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::{Descriptor, Init, StepError, StepResult};
use crate::error::Failure;
use crate::gate::THROUGH;
use crate::procfs::OwnDescriptors;
use crate::sync::{Channel, Kind};

/// What is waited for after Ready.
pub(super) enum Gate {
    /// Run over the sync socket.
    Channel,
    /// Run, and then somebody who reads from the FIFO.
    Fifo {
        /// `O_PATH`.
        fifo: OwnedFd,
        /// To open it through.
        own: OwnDescriptors,
    },
}

impl Init {
    /// Before a seccomp filter may forbid what it takes.
    pub(super) fn find_gate(&mut self) -> StepResult {
        self.gate = Gate::of(self)?;
        Ok(())
    }
}

impl Gate {
    /// The one that came with the plan.
    fn of(init: &mut Init) -> Result<Self, StepError> {
        let Some(fifo) = init.take(Descriptor::Gate) else {
            return Ok(Gate::Channel);
        };
        let procfs = init
            .rootfs
            .as_ref()
            .map_or(&init.procfs, |rootfs| rootfs.procfs());
        let own = procfs.own_descriptors()?;
        own.verify(&fifo)?;
        Ok(Gate::Fifo { fifo, own })
    }

    /// Says Ready, waits, and returns who is to hear the rest.
    pub(super) fn wait(self, listener: Listener) -> Result<Listener, (Listener, Failure)> {
        let Listener::Channel(channel) = listener else {
            return Ok(listener);
        };
        if let Err(e) = channel.signal(Kind::Ready, &[]) {
            return Err((Listener::Channel(channel), failed(e.to_string())));
        }
        let failure = match channel.receive_signal() {
            Ok(Some(Kind::Run)) => return self.wait_for_reader(channel),
            Ok(Some(kind)) => failed(format!("received {kind:?} instead of Run")),
            // The shim is gone, and with it everybody who could start or delete us.
            Ok(None) => sys::exec::exit_now(1),
            Err(e) => failed(e.to_string()),
        };
        Err((Listener::Channel(channel), failure))
    }

    fn wait_for_reader(self, channel: Channel) -> Result<Listener, (Listener, Failure)> {
        match self {
            Gate::Channel => Ok(Listener::Channel(channel)),
            Gate::Fifo { fifo, own } => match own.reopen_verified(fifo, OFlags::WRONLY) {
                // The FIFO takes the channel's place, whose other end is closed by now.
                Ok(fifo) => Ok(Listener::Fifo(fifo)),
                Err(e) => Err((Listener::Nobody, failed(e.to_string()))),
            },
        }
    }
}

fn failed(message: String) -> Failure {
    Failure::new("execute program", message, None)
}

/// Who hears of a failure.
pub(super) enum Listener {
    /// Whoever has made us.
    Channel(Channel),
    /// Whoever has started us.
    Fifo(OwnedFd),
    /// Nobody any more but the reader of our standard error.
    Nobody,
}

impl Listener {
    /// The same one as the last open descriptor, behind those that the program inherits; ends the
    /// process if that fails: it is too late to tell anybody.
    pub(super) fn behind(self, inherited: Vec<OwnedFd>) -> Self {
        let (fd, make): (_, fn(OwnedFd) -> Self) = match self {
            Listener::Channel(channel) => (channel.into(), |fd| Listener::Channel(fd.into())),
            Listener::Fifo(fifo) => (fifo, Listener::Fifo),
            Listener::Nobody => sys::exec::exit_now(EXIT),
        };
        match sys::exec::keep_only(inherited, fd) {
            Ok(fd) => make(fd),
            Err(_) => sys::exec::exit_now(EXIT),
        }
    }

    /// The same one, told that we are through the gate: what follows is why we end.
    pub(super) fn through(self) -> Self {
        if let Listener::Fifo(_) = &self {
            // If its reader is gone, so is whoever would hear the rest.
            let _ = self.executing();
        }
        self
    }

    /// The last word before execve.
    pub(super) fn executing(&self) -> Result<(), String> {
        match self {
            Listener::Channel(channel) => channel
                .signal(Kind::Executing, &[])
                .map_err(|e| e.to_string()),
            Listener::Fifo(fifo) => {
                // One byte into an empty FIFO. If its reader is gone again SIGPIPE ends us, as the
                // end of the shim does at the other gate.
                rustix::io::write(fifo, THROUGH)
                    .map(drop)
                    .map_err(|errno| format!("write to the gate: {errno}"))
            }
            Listener::Nobody => Ok(()),
        }
    }

    /// Tells of a failure and ends the process.
    pub(super) fn tell(self, failure: &Failure) -> ! {
        let text = failure.to_string();
        // If nobody listens any more there is nobody to tell.
        match self {
            Listener::Channel(channel) => {
                let _ = channel.send(Kind::Failed, failure, &[]);
                sys::exec::exit_now(1)
            }
            Listener::Fifo(fifo) => {
                let _ = rustix::io::write(fifo, text.as_bytes());
            }
            // As runc: whoever looks at the output of the container finds it there.
            Listener::Nobody => {
                let line = format!("{text}\n");
                let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
            }
        }
        sys::exec::exit_now(EXIT)
    }
}

/// The status of a program that could not be executed after the gate; runc's.
const EXIT: i32 = 255;
