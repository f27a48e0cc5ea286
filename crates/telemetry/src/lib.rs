// SPDX-License-Identifier: Apache-2.0
//! What the shim says about itself: the log.
//!
//! | module     | what                                                         |
//! |------------|--------------------------------------------------------------|
//! | `logfmt`   | one record as one line, as containerd's own log prints it    |
//! | `sink`     | where lines go: containerd's FIFO, never blocking            |
//! | `logger`   | the logger behind the `log` crate's macros                   |
//!
//! Leaf crate: every other may call it, it knows none of them.

mod logfmt;
mod logger;
mod sink;

pub use crate::logger::{DEFAULT_LEVEL, dropped, install, set_level};
pub use crate::sink::Sink;

/// Key of the field that names the container: `log::info!(container = id; "started")`.
pub const CONTAINER: &str = "container";
/// Key of the field that names the exec process.
pub const EXEC: &str = "exec";
