// SPDX-License-Identifier: Apache-2.0
//! Plays containerd for one shim, without containerd.
//!
//! A [`World`] is what a containerd instance is to a shim: a state folder with bundles, an image,
//! an events server, a namespace. It runs the shim binary with `start` and `delete` just as the
//! chosen [`Generation`] of containerd does, understands that generation's reply, connects and
//! hands out a blocking [`Task`] client. Any shim binary will do.
//!
//! | module      | what it plays |
//! |-------------|---------------|
//! | `subject`   | which binary is judged, and how it wants to be called |
//! | `world`     | the daemon's folders and bookkeeping; leaves nothing behind when dropped |
//! | `bootstrap` | `start`, `delete`, their input and replies |
//! | `shim`      | one running shim: connection, process, containers in it |
//! | `container` | container and exec, as short calls for tests |
//! | `client`    | the Task service, typed, over `ttrpc`'s own client: independent of our code |
//! | `diagnostics_client` | the shim's own Diagnostics service |
//! | `wire`      | raw ttrpc frames, for what a proper client would not send, and for the bench |
//! | `events`    | the daemon's events service; can be stopped, hung and restarted |
//! | `stdio`     | FIFOs and their readers |
//! | `spec`      | `config.json` |
//! | `image`     | a root filesystem of static busybox |
//! | `process`   | what `/proc` knows of a process; ending it |
//! | `orphans`   | adopts and reaps what shims leave |
//! | `cgroup`    | control groups of a world, on v1 and v2 |
//!
//! Invariant: every process, mount, cgroup, socket and folder that a world caused is gone after
//! its drop, whatever state the shim is in. What a killed run left, the next one sweeps up.

mod bootstrap;
mod cgroup;
mod client;
mod container;
mod diagnostics_client;
mod error;
mod events;
mod image;
mod orphans;
mod process;
mod shim;
mod spec;
mod stdio;
mod subject;
mod wire;
mod world;

pub use bootstrap::{Deletion, Reply};
pub use client::{Pending, Task, Transport};
pub use container::{Container, Exec};
pub use diagnostics_client::Diagnostics;
pub use error::{CallError, Error, Result};
pub use events::{Event, EventServer, Recorded};
pub use orphans::{Owned, run as run_for_output, run_to_end, spawn};
pub use process::{Process, Usage};
pub use shim::Shim;
pub use spec::Spec;
pub use stdio::{Output, Stdio, StdioKind};
pub use subject::{Generation, Kind, Subject, build};
pub use wire::Connection;
pub use world::{Bundle, World};

/// The messages of the Diagnostics service.
pub use ::diagnostics;
/// The messages of the Task service.
pub use containerd_shim_protos::api;
/// The codes of ttrpc's (gRPC's) status.
pub use ttrpc::proto::Code;
