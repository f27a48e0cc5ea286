// SPDX-License-Identifier: Apache-2.0
//! Why an action failed, as containerd shows it to its users.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::args::ArgsError;
use crate::bootstrap::InputError;
use crate::socket::SocketError;

/// A failed action.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("an argument is not UTF-8")]
    ArgumentEncoding,
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("lock sockets")]
    Lock(#[source] sys::Error),
    #[error("{verb} {path:?}")]
    File {
        verb: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("parse {path:?}")]
    Spec {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("make our executable unwritable")]
    Seal(#[source] sys::Error),
    #[error("execute the server")]
    Spawn(#[source] sys::Error),
    #[error("share cores only among ourselves (SCHED_CORE)")]
    CoreScheduling(#[source] sys::Error),
    #[error("move the server to its cgroup")]
    Cgroup(#[source] cgroups::Error),
    #[error("adjust the server's OOM score")]
    OomScore(#[source] std::io::Error),
    #[error("{0}")]
    Server(String),
    #[error("server ended before it was ready")]
    ServerEnded,
    #[error("server not ready within {0} seconds")]
    ServerLate(u64),
    #[error("socket keeps changing hands")]
    SocketUnsteady,
    #[error("set up the server")]
    Setup(#[source] sys::Error),
    #[error("no listener: neither -socket nor an inherited descriptor")]
    NoListener(#[source] sys::Error),
    #[error("write reply")]
    Reply(#[source] std::io::Error),
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
