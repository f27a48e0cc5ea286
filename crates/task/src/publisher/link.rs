// SPDX-License-Identifier: Apache-2.0
//! One connection to containerd's events service, with at most one call under way.

use std::os::fd::BorrowedFd;

use super::TRY;
use crate::status::Status;
use crate::ttrpc::message::{Call, Response, oversize};
use crate::ttrpc::stream::Stream;
use crate::ttrpc::wire::{Body, Input, RESPONSE};
use crate::ttrpc::{Address, Error, NAMESPACE};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// A method that the service does not have: whoever answers "unimplemented" is there.
const NO_METHOD: &str = "Ping";

/// What containerd says to a call.
pub(super) type Answer = Result<(), Status>;

/// Where connections are watched.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    pub(super) epoll: BorrowedFd<'a>,
    pub(super) token: u64,
}

/// Why a call was not sent.
pub(super) enum SendError {
    /// It never can be.
    TooLong(Status),
    /// The connection failed.
    Connection(Error),
}

#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    next: u32,
    under_way: Option<u32>,
    worked: bool,
}

impl Link {
    pub(super) fn connect(address: &Address, watch: Watch<'_>) -> Result<Self, Error> {
        let mut stream = Stream::new(address.connect()?);
        stream.watch(watch.epoll, watch.token)?;
        Ok(Self {
            stream,
            next: 1,
            under_way: None,
            worked: false,
        })
    }

    /// Whether a call was ever answered.
    pub(super) fn has_worked(&self) -> bool {
        self.worked
    }

    /// Sends an event.
    pub(super) fn forward(
        &mut self,
        payload: &[u8],
        namespace: &str,
        watch: Watch<'_>,
    ) -> Result<(), SendError> {
        let metadata = &[(NAMESPACE, namespace)];
        let call = Call {
            service: SERVICE,
            method: "Forward",
            payload,
            timeout: TRY,
            metadata,
        };
        let frame = call
            .encode(self.next)
            .map_err(|length| SendError::TooLong(oversize(length)))?;
        self.send(frame, watch).map_err(SendError::Connection)
    }

    /// Sends a call that changes nothing.
    pub(super) fn ask(&mut self, watch: Watch<'_>) -> Result<(), Error> {
        let call = Call {
            service: SERVICE,
            method: NO_METHOD,
            payload: &[],
            timeout: TRY,
            metadata: &[],
        };
        // A call this short always fits a frame.
        self.send(call.encode(self.next).unwrap_or_default(), watch)
    }

    fn send(&mut self, frame: Vec<u8>, watch: Watch<'_>) -> Result<(), Error> {
        self.under_way = Some(self.next);
        self.next += 2;
        self.stream.send(frame)?;
        self.stream.watch(watch.epoll, watch.token)
    }

    /// Sends what is left and reads what has come: the answer, if it has.
    ///
    /// An error means the connection is gone, and the answer with it unless it came before.
    pub(super) fn answer(&mut self, watch: Watch<'_>) -> Result<Option<Answer>, Error> {
        let flushed = self.stream.flush();
        let mut answer = None;
        loop {
            let awaited = self.under_way;
            let input = self.stream.read(|_, header, body| {
                if header.kind == RESPONSE && Some(header.stream) == awaited {
                    answer = Some(match body {
                        Body::Whole(body) => Response::decode(body).map_err(Error::Garbled)?,
                        Body::Oversize => Response::default(),
                    });
                }
                Ok(())
            });
            match (answer.take(), input) {
                // Whatever became of the connection afterwards, this call is over.
                (Some(response), _) => {
                    self.under_way = None;
                    self.worked = true;
                    return Ok(Some(response.into_result().map(drop)));
                }
                (None, Err(error)) => return Err(error),
                (None, Ok(Input::Closed)) => return Err(Error::Disconnected),
                (None, Ok(Input::More)) => {}
                (None, Ok(Input::Drained)) => break,
            }
        }
        flushed?;
        self.stream.watch(watch.epoll, watch.token)?;
        Ok(None)
    }
}
