// SPDX-License-Identifier: Apache-2.0
//! A process whose end is waited for: its signals, its terminal, its words, its exit status.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;
use sys::Call as _;

use crate::Code;
use crate::error::{Error, system};
use crate::notify::Listener;
use crate::terminal::{Interest, Relay};

const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;
const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;
/// Signals that say that this program is at fault: they are not somebody's wish.
const FAULTS: [i32; 6] = [4, 5, 7, 8, 11, 31];
const LAST: i32 = 64;

/// Every signal that somebody may send us, held back until [`Foreground::wait`] passes it on. To be
/// made before the process: what comes meanwhile is not lost and does not end us.
pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// Holds them back from now on.
    pub(crate) fn hold() -> Result<Self, Error> {
        // The C library keeps 32 and 33 to itself.
        let all: Vec<i32> = (1..=LAST)
            .filter(|signal| !FAULTS.contains(signal))
            .filter(|signal| !matches!(*signal, SIGKILL | SIGSTOP | 32 | 33))
            .collect();
        system("hold back signals", sys::signals::watch(&all)).map(Self)
    }
}

/// A process that is waited for.
pub(crate) struct Foreground<'a> {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) relay: Option<Relay>,
    pub(crate) notify: Option<Listener<'a>>,
}

impl Foreground<'_> {
    /// Passes on signals and the terminal's bytes until the process has ended; its exit status.
    pub(crate) fn wait(mut self, signals: &Signals) -> Result<Code, Error> {
        while !self.step(signals)? {}
        if let Some(relay) = self.relay.take() {
            relay.drain();
        }
        if let Some(notify) = self.notify.take() {
            notify.end();
        }
        let exit = system("wait for process", reaper::wait_for(self.pid, &self.pidfd))?;
        Ok(exit.status() as Code)
    }

    /// Waits for something to happen and deals with it; says whether the process has ended.
    fn step(&mut self, signals: &Signals) -> Result<bool, Error> {
        if let Some(notify) = &mut self.notify {
            notify.step();
        }
        let interest = self.relay.as_ref().map(Relay::interest).unwrap_or_default();
        let (ended, signalled, ready) = self.poll(signals, interest)?;
        if signalled {
            while let Some(signal) = sys::signals::next(&signals.0) {
                self.pass_on(signal);
            }
        }
        if let Some(relay) = &mut self.relay {
            relay.step(ready);
            if relay.has_ended() && !ended {
                // Nobody in the container has the terminal open; the process lives on.
                let relay = self.relay.take();
                relay.into_iter().for_each(Relay::drain);
            }
        }
        Ok(ended)
    }

    fn poll(&self, signals: &Signals, want: Interest) -> Result<(bool, bool, Interest), Error> {
        let of = |wanted: bool, flag| if wanted { flag } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::new(&self.pidfd, PollFlags::IN),
            PollFd::new(&signals.0, PollFlags::IN),
        ];
        let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let master = self.relay.as_ref().map(Relay::master);
        // A descriptor without interest is left out: it would still report its end, for ever.
        let places = [
            (want.stdin, stdin, PollFlags::IN),
            (want.stdout, stdout, PollFlags::OUT),
        ];
        let mut place_of = [None; 3];
        for (slot, (wanted, fd, flag)) in place_of.iter_mut().zip(places) {
            if wanted {
                *slot = Some(fds.len());
                fds.push(PollFd::from_borrowed_fd(fd, flag));
            }
        }
        if let (Some(master), true) = (master, want.master_in || want.master_out) {
            place_of[2] = Some(fds.len());
            let flags = of(want.master_in, PollFlags::IN) | of(want.master_out, PollFlags::OUT);
            fds.push(PollFd::from_borrowed_fd(master, flags));
        }
        let said = self.notify.as_ref().and_then(Listener::socket);
        fds.extend(said.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        let timeout = self.notify.as_ref().and_then(Listener::timeout);
        let polled = rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))
            .call("poll", String::new);
        system("wait for process", polled)?;
        let got = |place: Option<usize>| place.and_then(|at| fds.get(at)).map(PollFd::revents);
        let any = |place| got(place).is_some_and(|flags| !flags.is_empty());
        let ready = Interest {
            stdin: any(place_of[0]),
            stdout: any(place_of[1]),
            master_in: want.master_in && any(place_of[2]),
            master_out: want.master_out && any(place_of[2]),
        };
        Ok((any(Some(0)), any(Some(1)), ready))
    }

    fn pass_on(&mut self, signal: i32) {
        match signal {
            SIGCHLD => {
                // The container's orphans, when we are their subreaper.
                let _ = reaper::reap_strangers();
            }
            SIGURG => {}
            SIGWINCH if self.relay.is_some() => self.relay.iter().for_each(Relay::resize),
            signal => {
                if let Some(notify) = &mut self.notify {
                    notify.signalled(signal);
                }
                if let Err(e) = sys::signals::send(self.pidfd.as_fd(), signal) {
                    log::debug!("forward signal {signal}: {e}");
                }
            }
        }
    }
}
