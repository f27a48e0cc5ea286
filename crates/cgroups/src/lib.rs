// SPDX-License-Identifier: Apache-2.0
//! Control groups of a container, on cgroup v1, v2 and the hybrid of both.
//!
//! | module       | what                                                            |
//! |--------------|-----------------------------------------------------------------|
//! | [`layout`]   | which hierarchies the machine has, and where                    |
//! | [`record`]   | one container's directories as data; kept in its saved state    |
//! | [`cgroup`]   | one container's directories, open: placement of processes       |
//! | `below`      | cgroups that the container has made below its own               |
//! | `create`     | making them, all or none                                        |
//! | `cpuset`     | v1: an empty cpuset takes no process                            |
//! | `controllers`| v2: a controller works where the ancestors allow it             |
//! | `delegate`   | v2: handing the directory to whoever runs in it                 |
//! | `inner`      | v2: what the container has made below                           |
//! | `processes`  | who is in there                                                 |
//! | `kill`       | SIGKILL to all of them                                          |
//! | `remove`     | removing the directories and what the container made below      |
//! | [`devices`]  | which devices a container may use                               |
//! | `device_list`| ... on v1, as lines in files                                    |
//! | `device_program`| ... on v2, as a program                                      |
//! | [`limits`]   | what a container may use of everything else                     |
//! | [`stats`]    | what a container has used                                       |
//! | `memory_events` | what limits of memory led to                                 |
//! | [`oom`]      | learning of processes killed for memory                         |
//! | [`pressure`] | learning that memory gets short                                 |
//! | `freezer`    | stopping all processes, and letting them go on                  |
//! | [`shim`]     | the shim's own cgroup                                           |
//! | `reader`     | many small files, one buffer                                    |
//! | [`systemd`]  | scopes of systemd, for those who let it manage cgroups          |
//! | `access`     | files below a hierarchy's root, opened so that nothing escapes  |
//! | `tree`       | walking a subtree that its owner may change meanwhile           |
//!
//! Kernel features beyond the baseline of 5.10 (which has `openat2` and `CLONE_INTO_CGROUP`):
//!
//! | feature       | since | for                  | without it                           |
//! |---------------|-------|----------------------|--------------------------------------|
//! | `cgroup.kill` | 5.14  | killing all at once  | freeze, pidfds, thaw, look again     |
//! | `cpu.idle`    | 5.15  | that limit           | an error                             |
//! | burst         | 5.14  | that limit           | an error                             |
//! | reserved huge pages | 5.7 | their limit      | left out                             |
//! | pressure triggers for all | 6.4 | memory pressure    | a kernel thread for each cgroup      |
//! | uncounted BPF | 5.11  | device programs      | `RLIMIT_MEMLOCK` lifted to load them |
//!
//! Nothing here caches descriptors for a container but one: its cgroup v2 directory, which
//! `clone3(2)` wants. Files are reached from the descriptor of the hierarchy's root.

pub mod cgroup;
pub mod devices;
pub mod error;
pub mod layout;
pub mod limits;
pub mod oom;
pub mod pressure;
pub mod record;
pub mod shim;
pub mod stats;
pub mod systemd;

mod access;
mod below;
mod controllers;
mod cpuset;
mod create;
mod delegate;
mod device_list;
mod device_program;
mod freezer;
mod inner;
mod kill;
mod memory_events;
mod mountinfo;
mod processes;
mod reader;
mod remove;
mod tree;

pub use cgroup::Cgroup;
pub use devices::DeviceRules;
pub use error::{Error, Result};
pub use layout::{Hierarchy, Kind, Layout, Mode};
pub use limits::Limits;
pub use memory_events::MemoryEvents;
pub use oom::Oom;
pub use pressure::Pressure;
pub use record::Record;
pub use remove::Removal;
pub use shim::join_shim;
pub use stats::Stats;
pub use systemd::Driver;

#[cfg(test)]
mod tests;
