// SPDX-License-Identifier: Apache-2.0
//! The relay of `sd_notify(3)`: what a container's processes say to their `NOTIFY_SOCKET` reaches
//! the service manager of the host.
//!
//! | module      | what                                                               |
//! |-------------|--------------------------------------------------------------------|
//! | [`message`] | one datagram: which of its lines are passed on, and how            |
//! | [`setting`] | whether a container has a relay, and where it leads                |
//! | `address`   | the host's socket: a path of any length, or an abstract name       |
//! | `host`      | sending to it                                                      |
//! | `server`    | the container's socket                                             |
//! | [`members`] | who is in the container, and what their pids are on the host       |
//! | [`state`]   | what the container has said, for whoever wants to know             |
//! | [`relay`]   | all of it together: [`Relay`]                                      |
//!
//! Invariants
//! - Nothing blocks: the relay is driven by the reactor. While the host does not take a datagram,
//!   the container's next one is not read; a container that goes on waits as it would for systemd.
//! - Only lines of an allow-list pass, each checked and written anew. No descriptor passes but the
//!   one of a barrier; all others are closed at once.
//! - Pids are the host's by the kernel's word, and only of processes in the container's cgroup.
//! - Datagrams leave in the order in which they came.

mod address;
mod host;
pub mod members;
pub mod message;
pub mod relay;
mod server;
pub mod setting;
pub mod state;

use std::path::PathBuf;

pub use crate::relay::{Progress, Relay};
pub use crate::setting::{ANNOTATION, Setting};
pub use crate::state::State;

/// The variable that names the socket (`sd_notify(3)`).
pub const VARIABLE: &str = "NOTIFY_SOCKET";
/// Where the directory of the socket is in a container, as with runc.
pub const DIRECTORY: &str = "/run/notify";
/// The socket in its directory.
pub const SOCKET: &str = "notify.sock";

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's socket is named in a way that we do not understand.
    #[error("{VARIABLE} {address:?}: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The annotation says something else than on, off or a socket.
    #[error("annotation {ANNOTATION}: {value:?} is neither on, off nor the address of a socket")]
    Setting {
        /// What it says.
        value: String,
    },
    /// The directory for the container's socket cannot be made.
    #[error("make {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
}
