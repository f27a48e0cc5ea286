// SPDX-License-Identifier: Apache-2.0
//! A small blocking client, for tests and tools. The server does not use it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Error;
use super::address::Address;
use super::message::{Call, Response, oversize};
use super::stream::Stream;
use super::wire::{Body, Input, RESPONSE};
use crate::status::Status;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered with a failure.
    #[error(transparent)]
    Status(#[from] Status),
    /// No answer within the time given.
    #[error("no answer within the time given")]
    Timeout,
    /// The connection failed or was closed.
    #[error(transparent)]
    Connection(#[from] Error),
}

/// A call that was sent and not yet answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

/// A connection to a ttrpc server.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    namespace: Option<String>,
    next: u32,
    /// Answers to calls whose turn to be waited for has not come.
    answers: Vec<(u32, Response)>,
}

impl Client {
    /// Connects to `address`, which [`Address::parse`] reads, waiting while its queue is full.
    ///
    /// # Errors
    /// Nobody listens there, or the queue stays full.
    pub fn connect(address: &str, timeout: Duration) -> Result<Self, CallError> {
        let invalid = || sys::Error::new("connect", format!("{address:?}"), Errno::INVAL);
        let deadline = Instant::now() + timeout;
        let address = Address::parse(address)
            .ok_or_else(invalid)
            .map_err(Error::from)?;
        loop {
            match address.connect() {
                Ok(socket) => return Ok(Self::new(Stream::new(socket))),
                Err(error) if error.errno() == Errno::AGAIN => {
                    if Instant::now() >= deadline {
                        return Err(CallError::Timeout);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }

    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            namespace: None,
            next: 1,
            answers: Vec::new(),
        }
    }

    /// Makes every call in this containerd namespace.
    pub fn set_namespace(&mut self, namespace: &str) {
        self.namespace = Some(namespace.to_owned());
    }

    /// Makes a call and waits for its result. A timeout of zero waits forever.
    ///
    /// # Errors
    /// The server's failure, no answer in time, or a broken connection.
    pub fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let ticket = self.send(service, method, payload, timeout)?;
        self.receive(ticket, timeout)
    }

    /// Sends a call; its result is fetched with [`Client::receive`], in any order.
    ///
    /// # Errors
    /// The call is too long, the server does not read in time, or the connection is broken.
    pub fn send(
        &mut self,
        service: &str,
        method: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Ticket, CallError> {
        let namespace = self.namespace.as_deref().map(|ns| [(super::NAMESPACE, ns)]);
        let metadata = namespace.as_ref().map_or(&[][..], |pair| &pair[..]);
        let ticket = Ticket(self.next);
        let frame = Call {
            service,
            method,
            payload,
            timeout,
            metadata,
        }
        .encode(ticket.0)
        .map_err(oversize)?;
        self.next += 2;
        let deadline = deadline(timeout);
        self.stream.send(frame)?;
        while self.stream.has_backlog() {
            self.wait(PollFlags::OUT, deadline)?;
            self.stream.flush()?;
        }
        Ok(ticket)
    }

    /// Waits for the result of a call that was sent. A timeout of zero waits forever.
    ///
    /// # Errors
    /// The server's failure, no answer in time, or a broken connection.
    pub fn receive(&mut self, ticket: Ticket, timeout: Duration) -> Result<Vec<u8>, CallError> {
        let deadline = deadline(timeout);
        loop {
            if let Some(index) = self
                .answers
                .iter()
                .position(|(stream, _)| *stream == ticket.0)
            {
                return Ok(self.answers.swap_remove(index).1.into_result()?);
            }
            self.wait(PollFlags::IN, deadline)?;
            let answers = &mut self.answers;
            let input = self.stream.read(|_, header, body| {
                if let (RESPONSE, Body::Whole(body)) = (header.kind, body) {
                    answers.push((
                        header.stream,
                        Response::decode(body).map_err(Error::Garbled)?,
                    ));
                }
                Ok(())
            })?;
            if input == Input::Closed && !self.answers.iter().any(|(s, _)| *s == ticket.0) {
                return Err(Error::Disconnected.into());
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Option<Instant>) -> Result<(), CallError> {
        loop {
            let left = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(CallError::Timeout),
                // A timeout that does not fit is as good as none.
                left => left.and_then(|left| Timespec::try_from(left).ok()),
            };
            let socket = self.stream.as_fd();
            match poll(&mut [PollFd::new(&socket, flags)], left.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => {
                    let error = sys::Error::new("poll", format!("{socket:?}"), errno);
                    return Err(Error::from(error).into());
                }
            }
        }
    }
}

fn deadline(timeout: Duration) -> Option<Instant> {
    if timeout.is_zero() {
        None
    } else {
        Instant::now().checked_add(timeout)
    }
}
