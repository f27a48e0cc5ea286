// SPDX-License-Identifier: Apache-2.0
//! Standard input and output of a container's processes.
//!
//! | module     | what                                                                    |
//! |------------|-------------------------------------------------------------------------|
//! | `uri`      | what the strings of a request mean                                      |
//! | `node`     | opening what a path names, without hanging on it                        |
//! | `fifo`     | both ends of containerd's FIFO: what is held, and for how long          |
//! | `pipe`     | pipes between the container and us                                      |
//! | `relay`    | moving data between two descriptors until one of them would block       |
//! | `appender` | a thread that appends to a file, because files block                    |
//! | `logger`   | a logging program and its protocol                                      |
//! | `input`    | one stdin                                                               |
//! | `output`   | one stdout or stderr                                                    |
//! | `process`  | [`ProcessIo`]: the three streams of one process                         |
//! | `open`     | [`open`]: from the request to the descriptors                           |
//!
//! Invariants
//! - [`open`] and [`LoggerEnd::finish`] may wait a bounded time and belong on a worker thread.
//!   Nothing else here ever blocks: it is called by the reactor.
//! - A reader that stalls stalls its container. Data is moved only when the sink takes it.
//! - No byte is lost: a stream ends only when its source is at its end and the sink has it all.
//! - What a container gets is a FIFO, an end of a pipe, or `/dev/null`; never a file, whose owner,
//!   mode and contents it could change. All descriptors are close-on-exec; the container's are
//!   in blocking mode on open file descriptions that nobody else uses.
//! - The caller ignores `SIGPIPE` (Rust's runtime does).

mod appender;
mod error;
mod fifo;
mod input;
mod logger;
mod node;
mod open;
mod output;
mod pipe;
mod process;
mod relay;
mod request;
mod uri;

pub use crate::error::Error;
pub use crate::logger::LoggerEnd;
pub use crate::open::{ChildStdio, open};
pub use crate::process::{Drive, ProcessIo};
pub use crate::request::{DataPath, Owner, Request, Stream, Terminal};
