// SPDX-License-Identifier: Apache-2.0
//! What goes wrong, and the exit status that tells it.

use std::process::ExitCode;

use crate::client::Silence;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing goes by that name.
    #[error("no container, pod or shim {id:?} on this node")]
    NoSuch { id: String },
    /// Several things begin so.
    #[error("{id:?} could be any of {}", .candidates.join(", "))]
    Ambiguous { id: String, candidates: Vec<String> },
    /// A shim did not answer.
    #[error("shim {shim}: {source}")]
    Silent { shim: String, source: Silence },
    /// Reading or writing failed.
    #[error("{attempt}: {source}")]
    Io {
        attempt: String,
        source: std::io::Error,
    },
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// The address to listen at is none, or is reachable from other machines.
    #[error("listen at {address:?}: {reason}")]
    Address {
        address: String,
        reason: &'static str,
    },
}

impl Error {
    pub(crate) fn io(attempt: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let attempt = attempt.into();
        |source| Self::Io { attempt, source }
    }

    /// Whether whoever reads our output has gone: then there is nobody to complain to.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// It failed.
    Failure,
    /// There is no such container or shim.
    NotFound,
    /// Some shims did not answer.
    Partial,
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error {
            Error::NoSuch { .. } => Self::NotFound,
            Error::Silent { .. } => Self::Partial,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::NotFound => 3,
            Exit::Partial => 4,
        })
    }
}
