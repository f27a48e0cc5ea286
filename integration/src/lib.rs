// SPDX-License-Identifier: Apache-2.0
//! End-to-end tests: a harness that runs any shim under real, private containerds, and the
//! tests.
//!
//! | module | job |
//! |---|---|
//! | [`cache`] | what `scripts/setup` fetched: three generations of containerd, an image |
//! | [`containerd`] | one private daemon: start, kill, log, end |
//! | [`client`], [`events`], [`stdio`] | a client's view: calls, events, FIFOs |
//! | [`spec`] | the OCI documents that tests start from |
//! | [`lab`], [`container`], [`process`], [`streams`] | what tests handle: a shim under a containerd, processes |
//! | [`host`], [`systemd`] | the host's view: processes, mounts, cgroups, sockets; its systemd |
//! | [`mock`] | the layer without containerd: plays it for one shim |
//! | [`suite`], [`e2e`] | the list of tests and how it is run; the tests, one file for each area |

pub mod cache;
pub mod client;
pub mod container;
pub mod containerd;
pub mod e2e;
pub mod events;
pub mod failure;
pub mod host;
pub mod lab;
pub mod mock;
pub mod process;
pub mod spec;
pub mod stdio;
pub mod streams;
pub mod suite;
pub mod systemd;
