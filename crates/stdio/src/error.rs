// SPDX-License-Identifier: Apache-2.0
//! What can go wrong.

use std::path::PathBuf;
use std::time::Duration;

use crate::request::Stream;

/// A failure to set up a process's streams. The cause is in `source()`, not in the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The scheme of stdout's URI is none that a shim knows.
    #[error("unknown STDIO scheme {0}")]
    UnknownScheme(String),
    /// The URI has a known scheme but names nothing usable.
    #[error("invalid STDIO URI {uri:?}: {problem}")]
    InvalidUri {
        /// The URI as it came.
        uri: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// What the path names could not be opened.
    #[error("opening {stream} {path:?}")]
    Open {
        /// For which stream.
        stream: Stream,
        /// The path.
        path: PathBuf,
        /// Why.
        source: sys::Error,
    },
    /// The path names something that is not for a stream.
    #[error("opening {stream} {path:?}: is {kind}, want a FIFO{}", match stream {
        Stream::Stdin => "",
        _ => " or a regular file",
    })]
    WrongKind {
        /// For which stream.
        stream: Stream,
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The log file's directory could not be made, or the file not be opened.
    #[error("opening log file {path:?}")]
    LogFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: sys::Error,
    },
    /// The logging program could not be executed.
    #[error("failed to start binary process")]
    LoggerStart(#[source] sys::Error),
    /// The logging program ended, or closed its ready descriptor, without a word
    /// (`binary-v2` only).
    #[error("logging binary did not call ready (it may have crashed or exited prematurely)")]
    LoggerNotReady,
    /// The logging program neither got ready nor ended.
    #[error("logging binary did not call ready within {0:?}")]
    LoggerTimeout(Duration),
    /// What was offered as the terminal's master is none.
    #[error("console is not a terminal master")]
    NotATerminal(#[source] sys::Error),
    /// A console for a process without a terminal, or a second one.
    #[error("no console is expected")]
    UnexpectedConsole,
    /// Another system call failed.
    #[error("standard streams")]
    System(#[from] sys::Error),
}
