// SPDX-License-Identifier: Apache-2.0
//! What the shim says about itself: the log, and the flight recorder.
//!
//! | module     | what                                                         |
//! |------------|--------------------------------------------------------------|
//! | `logfmt`   | one record as one line, as containerd's own log prints it    |
//! | `sink`     | where lines go: containerd's FIFO, never blocking            |
//! | `logger`   | the logger behind the `log` crate's macros                   |
//! | [`tail`]   | the last lines of the log                                    |
//! | [`ring`]   | the last so many things of a kind, numbered                  |
//! | [`mod@span`] | what is done, for whom, as a part of what                    |
//! | [`recorder`] | the flight recorder: spans under way and ended             |
//! | [`trace`]  | the trace of whoever calls                                   |
//! | [`otlp`]   | export to an OpenTelemetry collector                         |
//!
//! Leaf crate: every other may call it, it knows none of them.

mod logfmt;
mod logger;
pub mod otlp;
pub mod recorder;
pub mod ring;
mod sink;
pub mod span;
pub mod tail;
pub mod trace;

pub use crate::logfmt::{Format, rfc3339};
pub use crate::logger::{DEFAULT_LEVEL, dropped, install, lost, set_level};
pub use crate::recorder::Outcome;
pub use crate::sink::Sink;
pub use crate::span::{Call, Context, span, traced};
pub use crate::trace::{TRACEPARENT, Trace};

/// Key of the field that names the container: `log::info!(container = id; "started")`.
pub const CONTAINER: &str = "container";
/// Key of the field that names the exec process.
pub const EXEC: &str = "exec";
