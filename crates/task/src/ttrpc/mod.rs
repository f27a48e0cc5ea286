// SPDX-License-Identifier: Apache-2.0
//! ttrpc without threads: what the reactor needs to serve calls, and what clients need to make them.
//!
//! | module       | what                                                              |
//! |--------------|-------------------------------------------------------------------|
//! | `wire`       | frames: cutting a byte stream, the ten-byte header                |
//! | `message`    | `Request` and `Response`, the bodies of frames                    |
//! | `stream`     | a non-blocking socket with frames both ways                       |
//! | `address`    | where a server listens                                            |
//! | `connection` | the server's end: accept, requests in, replies out                |
//! | `method`     | the Task service's methods (v2 and v3) and their request messages |
//! | `client`     | a blocking client for tests and tools                             |

mod address;
pub mod client;
mod connection;
pub(crate) mod message;
mod method;
pub(crate) mod stream;
pub(crate) mod wire;

pub use address::Address;
pub use connection::{Connection, Incoming, accept};
pub use method::{Method, TaskRequest};
pub use wire::Input;

/// The metadata key that tells a call's containerd namespace.
pub const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer is gone; nothing is wrong.
    #[error("the peer closed the connection")]
    Disconnected,
    /// The peer does not read its answers.
    #[error("the peer left {0} bytes of answers unread")]
    Backlog(usize),
    /// The peer sent something that is no answer.
    #[error("the peer's answer is garbled")]
    Garbled(#[source] protobuf::Error),
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
}

#[cfg(test)]
mod tests;
