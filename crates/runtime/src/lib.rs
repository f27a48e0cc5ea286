// SPDX-License-Identifier: Apache-2.0
//! The embedded OCI runtime. Knows nothing of containerd: it can be driven from a test.
//!
//! | module           | side   | what                                                       |
//! |------------------|--------|------------------------------------------------------------|
//! | [`seccomp_filter`] | shim | profiles to filters; those of late                       |
//! | [`seccomp_agent`] | shim | who decides on system calls                               |
//! | [`spec`]         | shim   | config.json, parsed and checked once                       |
//! | [`namespaces`]   | shim   | which namespaces are new, which are joined                 |
//! | [`own_namespaces`] | shim | mappings of user namespaces, offsets of time namespaces   |
//! | [`idmap`]        | shim   | mappings of ids: making, giving, reading them              |
//! | [`container`]    | shim   | create, start, exec, destroy                               |
//! | [`rootfs_mounts`]| shim   | the mounts that make a root file system                    |
//! | [`state`]        | shim   | what is on disk                                            |
//! | [`gate`]         | both   | where a container waits that another process starts        |
//! | `cgroup_config`  | shim   | the limits in force, as they are on disk                   |
//! | `interfaces`     | shim   | network traffic of a container                             |
//! | [`cleanup`]      | shim   | after a `kill -9`: the `delete` action                     |
//! | [`sync`]         | both   | the protocol between shim and init                         |
//! | [`process`]      | both   | what a process is to be                                    |
//! | [`attributes`]   | both   | scheduling, memory policy, labels of a process             |
//! | [`intel_rdt`]    | shim   | shares of caches and memory bandwidth                      |
//! | [`lsm`]          | both   | AppArmor and SELinux                                       |
//! | [`net_devices`]  | both   | devices of the host that become the container's            |
//! | [`capabilities`] | both   | names to bits; the order of giving up                      |
//! | `leniency`       | shim   | documents that runc takes and the parser does not          |
//! | `host_root`      | shim   | mounts of a container without a mount namespace            |
//! | `helper`         | shim   | programs of the host that do what we may or can not        |
//! | [`init`]         | child  | named steps from plan to execve                            |
//! | [`hooks`]        | both   | programs of the host run at points of a container's life   |
//! | [`rootfs`]       | both   | plan of the file system, and its making                    |
//! | [`procfs`]       | child  | a private /proc                                            |
//! | [`resolve`]      | child  | paths inside a root                                        |
//! | [`init_log`]     | child  | log lines over a pipe                                      |
//! | [`features`]     | shim   | what is supported, as a document                           |

pub mod attributes;
pub mod capabilities;
mod cgroup_config;
pub mod cleanup;
pub mod container;
mod error;
pub mod features;
pub mod gate;
mod helper;
pub mod hooks;
mod host_root;
pub mod idmap;
pub mod init;
pub mod init_log;
pub mod intel_rdt;
mod interfaces;
mod leniency;
pub mod lsm;
mod mountinfo;
pub mod namespaces;
pub mod net_devices;
pub mod own_namespaces;
pub mod process;
pub mod procfs;
pub mod resolve;
mod resources;
pub mod rootfs;
pub mod rootfs_mounts;
pub mod seccomp_agent;
pub mod seccomp_filter;
pub mod spec;
pub mod state;
pub mod sync;
mod time;

pub use cgroups::Driver as CgroupDriver;
pub use container::{
    Bundle, Container, CreateRequest, Deletion, ExecProcess, Inherited, Keyring, Maker, Recipient,
    Runtime, Status, Stdio, Stored, Summary,
};
pub use error::{Error, Failure, Result};
pub use interfaces::{Interface, Traffic};
pub use time::rfc3339_now;

/// Control groups: what statistics, limits and watches are made of.
pub use cgroups;
