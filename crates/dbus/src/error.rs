// SPDX-License-Identifier: Apache-2.0
//! What can go wrong on a bus.

use sys::Errno;

/// A failed operation on a bus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that names nothing we can connect to.
    #[error("D-Bus address {address:?} {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody listens, or not to us.
    #[error("connect to D-Bus at {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: sys::Error,
    },
    /// The other side does not take us for who we are.
    #[error("D-Bus authentication refused: {0:?}")]
    Rejected(String),
    /// The socket failed.
    #[error("D-Bus: {0}")]
    Io(#[source] sys::Error),
    /// The other side has closed the connection.
    #[error("D-Bus connection closed by the other side")]
    Closed,
    /// There was no answer in time.
    #[error("no answer to D-Bus {what} in time")]
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// The call failed on the other side.
    #[error("{message} ({name})")]
    Remote {
        /// The error's name, as `org.freedesktop.DBus.Error.NoReply`.
        name: String,
        /// What it says.
        message: String,
    },
    /// What arrived, or was to be sent, is no proper message.
    #[error("malformed D-Bus message: {0}")]
    Malformed(&'static str),
}

/// Result of an operation on a bus.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The name of an error of the other side.
    pub fn remote(&self) -> Option<&str> {
        match self {
            Self::Remote { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether the connection, or the service behind the bus, was lost: what was asked for may have
    /// been done or not.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => matches!(error.errno(), Errno::PIPE | Errno::CONNRESET),
            Self::Remote { name, .. } => matches!(
                name.as_str(),
                "org.freedesktop.DBus.Error.NoReply"
                    | "org.freedesktop.DBus.Error.Disconnected"
                    | "org.freedesktop.DBus.Error.ServiceUnknown"
                    | "org.freedesktop.DBus.Error.NameHasNoOwner"
            ),
            _ => false,
        }
    }
}
