// SPDX-License-Identifier: Apache-2.0
//! A small D-Bus client: one connection, one thread, every wait with an end.
//!
//! | module       | what                                                              |
//! |--------------|-------------------------------------------------------------------|
//! | [`value`]    | values and their types                                            |
//! | [`message`]  | messages, to and from bytes; pure                                 |
//! | `encode`     | values to bytes                                                   |
//! | `decode`     | bytes to values; whatever arrives, it ends with an error at worst |
//! | [`text`]     | values written by people: GVariant's text format                  |
//! | [`address`]  | where a bus listens                                               |
//! | [`connection`]| calls and their replies, signals                                 |
//!
//! It speaks to a message bus and, with the same words but without the bus's own, to a service
//! directly. Calls are pipelined: several can be sent, the connection's own greeting among them,
//! before the first reply is waited for; they go out once the other side knows who we are.
//!
//! Not here, because nobody needs it: descriptors in messages, being a service, other ways to
//! authenticate than by user id, other byte orders than this machine's.

pub mod address;
pub mod connection;
pub mod error;
pub mod message;
pub mod text;
pub mod value;

mod decode;
mod encode;

pub use address::Address;
pub use connection::{Connection, Peer};
pub use error::{Error, Result};
pub use message::{Kind, Message};
pub use value::Value;
