// SPDX-License-Identifier: Apache-2.0
//! Why a verb failed.

use crate::Code;

/// A failed verb.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A verb or flag of runc that we do not have.
    #[error("{0} is not supported by this runtime yet")]
    Unsupported(String),
    /// The library refused or failed.
    #[error("{}", chain(.0))]
    Runtime(#[from] runtime::Error),
    /// The container cannot be listened to.
    #[error("notify socket: {}", causes(.0))]
    Notify(#[from] notify::Error),
    /// A verb that says its name, as runc's do.
    #[error("{prefix}: {source}")]
    Verb {
        /// What comes first.
        prefix: &'static str,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A file or stream could not be used.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted, on what.
        attempt: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A system call failed.
    #[error("{attempt}: {source}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// Why.
        #[source]
        source: sys::Error,
    },
}

impl Error {
    /// What to exit with: runc's exec has a number of its own, so that it cannot be taken for the
    /// program's.
    pub(crate) fn code(&self) -> Code {
        match self {
            Error::Verb {
                prefix: EXEC_FAILED,
                ..
            } => 255,
            _ => 1,
        }
    }
}

pub(crate) const CREATE_FAILED: &str = "ocirun create failed";
pub(crate) const RUN_FAILED: &str = "ocirun run failed";
pub(crate) const EXEC_FAILED: &str = "exec failed";

/// Says which verb failed.
pub(crate) fn of_verb<T>(prefix: &'static str, result: Result<T, Error>) -> Result<T, Error> {
    result.map_err(|source| Error::Verb {
        prefix,
        source: Box::new(source),
    })
}

/// The library's messages hold their causes already.
fn chain(error: &runtime::Error) -> String {
    error.to_string()
}

/// A message with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Says what was attempted when an I/O operation fails.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Attempt<T> for std::io::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            attempt: what(),
            source,
        })
    }
}

/// Says what was attempted when a system call fails.
pub(crate) fn system<T>(attempt: &'static str, result: sys::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::System { attempt, source })
}
