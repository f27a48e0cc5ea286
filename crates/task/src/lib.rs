// SPDX-License-Identifier: Apache-2.0
//! The shim's server: the Task service (v2 and v3) on one socket, and everything behind it.
//!
//! | module        | what                                                             |
//! |---------------|------------------------------------------------------------------|
//! | [`ttrpc`]     | framing, connections, the methods of the Task service            |
//! | [`status`]    | errors as clients of containerd know them                        |
//! | [`events`]    | the events of a task                                             |
//! | [`publisher`] | their ordered way to containerd                                  |
//! | `server`      | the reactor: one thread, all descriptors, all state              |
//! | `workers`     | threads for what blocks                                          |
//! | `service`     | the calls that are answered from memory                          |
//! | `create`, `start`, `delete` | the calls that block                               |
//! | `freeze`      | Pause and Resume                                                 |
//! | `notify_relay` | what containers say to their `NOTIFY_SOCKET`                     |
//! | `update`      | the resources of a container change                              |
//! | `lifecycle`   | the end of processes and the order in which it is told           |
//! | `container`   | what is known of a container                                     |
//! | `diagnostics` | the Diagnostics service: all of the above, shown                 |
//! | `metrics`     | statistics as messages                                           |
//! | `pressure`    | memory that gets short                                           |
//! | `oom`         | processes killed for memory                                      |

use std::os::fd::OwnedFd;

mod container;
mod create;
mod delete;
pub mod diagnostics;
mod dump;
pub mod events;
mod freeze;
mod lifecycle;
mod log_pipe;
mod metrics;
mod notify_relay;
mod oom;
mod pressure;
pub mod publisher;
mod server;
mod service;
mod start;
pub mod status;
mod timers;
mod token;
pub mod ttrpc;
mod update;
mod workers;

/// What a server needs to know.
#[derive(Debug)]
pub struct Config {
    /// The socket that clients connect to, bound and listening.
    pub listener: OwnedFd,
    /// The debug socket, if there is one; kept open and not served.
    pub debug_listener: Option<OwnedFd>,
    /// containerd's namespace.
    pub namespace: String,
    /// The id that the shim was started for.
    pub id: String,
    /// Where containerd takes events.
    pub containerd_ttrpc_address: String,
    /// The shim's own `NOTIFY_SOCKET`: where containers' notifications go.
    pub notify_socket: Option<String>,
    /// The shim's executable as init processes are to see it: not writable.
    pub exe: OwnedFd,
    /// Gets a NUL byte when the server is ready, and is closed.
    pub ready: Option<OwnedFd>,
    /// Whether init processes log each step.
    pub debug: bool,
    /// Version of the program.
    pub version: &'static str,
    /// Revision it was built from.
    pub revision: &'static str,
}

/// Why a server ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// The machine lacks what containers need.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
}

/// Serves until a Shutdown without containers, SIGTERM or SIGINT.
///
/// To be called on the only thread of the process: signals are blocked here for all to come.
///
/// # Errors
/// The server could not begin; or epoll failed.
pub fn serve(mut config: Config) -> Result<(), Error> {
    use sys::Call;
    let ready = config.ready.take();
    let server = server::Server::new(config)?;
    if let Some(ready) = ready {
        rustix::io::write(&ready, &[0]).call("write", || "ready")?;
    }
    server.run()
}
