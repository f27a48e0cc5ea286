// SPDX-License-Identifier: Apache-2.0
//! Errors of the mock, and of the calls that it makes.

use std::io;
use std::time::Duration;

use ttrpc::proto::Code;

/// What the functions of the mock return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the mock could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on the mock's own side failed.
    #[error("{doing}: {cause}")]
    Io {
        /// What was attempted, on what.
        doing: String,
        /// Why not.
        cause: io::Error,
    },
    /// The shim binary ended with an error.
    #[error("{action}: {status}: {output}")]
    Binary {
        /// `start` or `delete`.
        action: &'static str,
        /// How it ended.
        status: String,
        /// What it wrote.
        output: String,
    },
    /// The shim binary's reply is not what this generation of containerd understands.
    #[error("reply of start: {why}: {reply:?}")]
    Reply {
        /// What is wrong with it.
        why: String,
        /// The reply.
        reply: String,
    },
    /// Something did not happen in time.
    #[error("not within {limit:?}: {what}")]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
    },
    /// The shim refused a call, or did not answer.
    #[error("{method}: {cause}")]
    Call {
        /// The method called.
        method: String,
        /// Why it failed.
        cause: CallError,
    },
}

impl Error {
    /// The status code with which the shim refused, if that is what happened.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Call {
                cause: CallError::Status { code, .. },
                ..
            } => Some(*code),
            _ => None,
        }
    }

    /// The text with which the shim refused; empty if it did not.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Call {
                cause: CallError::Status { message, .. },
                ..
            } => message,
            _ => "",
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The shim answered with an error.
    #[error("{code:?}: {message}")]
    Status {
        /// gRPC's code.
        code: Code,
        /// The text.
        message: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The connection is closed.
    #[error("connection closed: {0}")]
    Closed(String),
    /// The answer makes no sense.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

/// Adds to an I/O error what was attempted.
pub(crate) trait During<T> {
    /// Wraps the error; `doing` is asked only if there is one.
    fn during(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::Io {
            doing: doing(),
            cause: cause.into(),
        })
    }
}
