// SPDX-License-Identifier: Apache-2.0
//! A connection to a bus, or to a service directly.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use sys::{Call, Errno};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::message::{Kind, Message, PREFIX};

/// A line of the authentication is never longer.
const LONGEST_LINE: usize = 4096;
/// Signals kept for [`Connection::signal`]; the oldest is dropped for a new one.
const SIGNALS: usize = 64;
/// Pause before a new try when the other side has too many waiting.
const CROWDED: Duration = Duration::from_millis(10);

/// Who is on the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A message bus: it wants to be greeted.
    Bus,
    /// The service itself.
    Service,
}

/// A connection. Not for several threads.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    serial: u32,
    authenticated: bool,
    /// Number of the greeting, until it is answered.
    greeting: Option<u32>,
    outgoing: Vec<u8>,
    /// What goes out once we are known: systemd does not look at what comes in one packet with the
    /// authentication before something else comes.
    held: Vec<u8>,
    incoming: Vec<u8>,
    signals: VecDeque<Message>,
    wanted: Option<(&'static str, &'static str)>,
}

impl Connection {
    /// Connects and says who we are. The answer is read with that of the first call.
    ///
    /// # Errors
    /// Nobody listens, or takes nobody before `deadline`.
    pub fn open(address: &Address, peer: Peer, deadline: Instant) -> Result<Self> {
        let socket = open_socket(address, deadline).map_err(|source| Error::Connect {
            address: address.to_string(),
            source,
        })?;
        let uid: String = rustix::process::geteuid()
            .as_raw()
            .to_string()
            .bytes()
            .map(|digit| format!("{digit:02x}"))
            .collect();
        let mut connection = Self {
            socket,
            serial: 0,
            authenticated: false,
            greeting: None,
            outgoing: format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").into_bytes(),
            held: Vec::new(),
            incoming: Vec::new(),
            signals: VecDeque::new(),
            wanted: None,
        };
        if peer == Peer::Bus {
            let mut hello = Message::call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "Hello",
            );
            connection.greeting = Some(connection.send(&mut hello)?);
        }
        Ok(connection)
    }

    /// Keeps the signals of this name for [`Self::signal`]. All others are dropped. A bus has to be
    /// told besides (`AddMatch`).
    pub fn keep_signals(&mut self, interface: &'static str, member: &'static str) {
        self.wanted = Some((interface, member));
    }

    /// Numbers a call and puts it behind what is to be sent; returns its number. It goes out when
    /// a reply is waited for.
    ///
    /// # Errors
    /// The call cannot be a message.
    pub fn send(&mut self, call: &mut Message) -> Result<u32> {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        call.serial = self.serial;
        call.encode(match self.authenticated {
            true => &mut self.outgoing,
            false => &mut self.held,
        })?;
        Ok(self.serial)
    }

    /// Waits for the reply to a call. Replies to calls sent before it are dropped: ask for them
    /// first, or not at all.
    ///
    /// # Errors
    /// The call failed there, was not answered before `deadline`, or the connection is broken.
    pub fn reply(&mut self, serial: u32, deadline: Instant) -> Result<Message> {
        loop {
            let Some(message) = self.receive(deadline)? else {
                return Err(Error::TimedOut {
                    what: format!("call {serial}"),
                });
            };
            let is_greeting = Some(message.reply_to) == self.greeting;
            match message.kind {
                Kind::Signal => self.keep(message),
                // A connection that is not greeted back is of no use.
                Kind::Error if message.reply_to == serial || is_greeting => {
                    return Err(Error::Remote {
                        message: message.text(0).unwrap_or("no message").to_owned(),
                        name: message.error,
                    });
                }
                Kind::Return if message.reply_to == serial => return Ok(message),
                Kind::Return if is_greeting => self.greeting = None,
                Kind::Return | Kind::Error => {}
                // Nobody has reason to call us. Whoever does is not waited for by us.
                Kind::Call => {}
            }
        }
    }

    /// Calls a method and waits for its reply.
    ///
    /// # Errors
    /// See [`Self::send`] and [`Self::reply`].
    pub fn call(&mut self, call: &mut Message, deadline: Instant) -> Result<Message> {
        let serial = self.send(call)?;
        self.reply(serial, deadline).map_err(|error| match error {
            Error::TimedOut { .. } => Error::TimedOut {
                what: format!("call of {}", call.member),
            },
            error => error,
        })
    }

    /// The next signal of those kept. `None`: there was none before `deadline`.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn signal(&mut self, deadline: Instant) -> Result<Option<Message>> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(Some(signal));
            }
            match self.receive(deadline)? {
                None => return Ok(None),
                Some(message) if message.kind == Kind::Signal => self.keep(message),
                Some(_) => {}
            }
        }
    }

    fn keep(&mut self, signal: Message) {
        let name = (signal.interface.as_str(), signal.member.as_str());
        if self.wanted.is_some_and(|wanted| wanted == name) {
            if self.signals.len() >= SIGNALS {
                self.signals.pop_front();
            }
            self.signals.push_back(signal);
        }
    }

    /// The next message, after sending what is to be sent. `None`: none before the deadline.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let ready = self.wait(deadline)?;
            if ready.is_empty() {
                return Ok(None);
            }
            if ready.contains(PollFlags::OUT) {
                self.write()?;
            }
            // An end or an error of the socket shows when it is read.
            if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                self.read()?;
            }
        }
    }

    /// A message, if a whole one has arrived.
    fn take(&mut self) -> Result<Option<Message>> {
        if !self.authenticated && !self.take_authentication()? {
            return Ok(None);
        }
        let Some(prefix) = self.incoming.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = Message::length(prefix)?;
        let Some(bytes) = self.incoming.get(..length) else {
            return Ok(None);
        };
        let message = Message::decode(bytes)?;
        self.incoming.drain(..length);
        Ok(Some(message))
    }

    /// Takes the line that says that we are who we are. `false`: not there yet.
    fn take_authentication(&mut self) -> Result<bool> {
        let end = self.incoming.iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            return match self.incoming.len() > LONGEST_LINE {
                true => Err(Error::Malformed("an endless line")),
                false => Ok(false),
            };
        };
        let line: Vec<u8> = self.incoming.drain(..=end).collect();
        if !line.starts_with(b"OK ") {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(Error::Rejected(line));
        }
        self.authenticated = true;
        self.outgoing.append(&mut self.held);
        Ok(true)
    }

    /// What the socket is ready for; nothing when the deadline has come.
    fn wait(&self, deadline: Instant) -> Result<PollFlags> {
        let mut events = PollFlags::IN;
        if !self.outgoing.is_empty() {
            events |= PollFlags::OUT;
        }
        loop {
            let mut fds = [PollFd::new(&self.socket, events)];
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut fds, Some(&timeout)) {
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(errno)
                        .call("poll", || "D-Bus socket")
                        .map_err(Error::Io);
                }
                Ok(_) => return Ok(fds[0].revents()),
            }
        }
    }

    fn write(&mut self) -> Result<()> {
        match send(&self.socket, &self.outgoing, SendFlags::NOSIGNAL) {
            Ok(sent) => drop(self.outgoing.drain(..sent)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // What the other side said before it left may still be read.
            Err(Errno::PIPE) => self.outgoing.clear(),
            Err(errno) => {
                return Err(errno)
                    .call("send", || "D-Bus socket")
                    .map_err(Error::Io);
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        self.incoming.reserve(4096);
        let space = rustix::buffer::spare_capacity(&mut self.incoming);
        match recv(&self.socket, space, RecvFlags::empty()) {
            Ok((0, _)) => Err(Error::Closed),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(Errno::CONNRESET) => Err(Error::Closed),
            Err(errno) => Err(errno)
                .call("recv", || "D-Bus socket")
                .map_err(Error::Io),
        }
    }
}

fn open_socket(address: &Address, deadline: Instant) -> sys::Result<OwnedFd> {
    let name = address.socket().call("connect", || address.to_string())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .call("socket", || "AF_UNIX")?;
    loop {
        match connect(&socket, &name) {
            // Its queue is full.
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(CROWDED),
            Err(Errno::INTR) => {}
            done => {
                done.call("connect", || address.to_string())?;
                return Ok(socket);
            }
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
