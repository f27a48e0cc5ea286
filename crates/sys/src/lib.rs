// SPDX-License-Identifier: Apache-2.0
//! System calls as safe typed functions: the only crate with unsafe code.
//!
//! Whatever `rustix` offers safely is called through `rustix` directly, from any crate.
//! Here is what it lacks, one file per family, without any container policy:
//!
//! | module      | what                                                              |
//! |-------------|-------------------------------------------------------------------|
//! | [`bpf`]       | device programs of cgroup v2                                      |
//! | [`clock`]   | `clock_gettime(2)`                                                |
//! | [`daemon`]    | `posix_spawn(3)` of the server                                    |
//! | [`datagram`]  | datagrams of a Unix socket, with their senders                    |
//! | [`error`]   | a failed call with its arguments and errno                        |
//! | [`exec`]    | `execve(2)`, `_exit(2)`                                           |
//! | [`exeseal`]   | our executable, unwritable                                        |
//! | [`fork`]    | a copy of this process, as its sibling                            |
//! | [`inherit`]   | descriptors that came through `execve(2)`                         |
//! | [`keyring`] | session keyrings                                                  |
//! | [`launch`]  | another program beside ours, with descriptors placed at 3 and up    |
//! | [`loopdev`] | files as block devices                                            |
//! | [`memory`]  | the allocator kept small                                          |
//! | [`mount`]     | mounts as descriptors, `mount(2)`                                 |
//! | [`namespace`] | `unshare(2)`, kinds of namespace files                          |
//! | [`netdev`]  | loopback up                                                       |
//! | [`packet`]  | packets with descriptors over a Unix socket                       |
//! | [`persona`] | execution domain, NUMA memory policy                             |
//! | [`sched`]   | scheduling policy, processors, I/O priority                       |
//! | [`seccomp`] | a filter on this process's system calls                        |
//! | [`signals`] | dispositions and masks before `execve(2)`                         |
//! | [`spawn`]   | `clone3(2)` + `execveat(2)` without copying memory                |
//! | [`userns`]  | a process that lives in a user namespace, to give it its maps     |
//! | [`wait`]    | `waitid(2)` for any child                                         |

pub mod bpf;
pub mod clock;
pub mod daemon;
pub mod datagram;
pub mod error;
pub mod exec;
pub mod exeseal;
pub mod fork;
pub mod inherit;
pub mod keyring;
pub mod launch;
pub mod loopdev;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netdev;
pub mod packet;
pub mod persona;
pub mod sched;
pub mod seccomp;
pub mod signals;
pub mod spawn;
pub mod userns;
pub mod wait;

pub use error::{Call, Errno, Error, Result};
