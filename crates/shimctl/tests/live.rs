// SPDX-License-Identifier: Apache-2.0
//! `shimctl` against real shims. The shims are started by a mock of containerd (`integration::mock`), each
//! test in a namespace of its own; `SHIM=/path/to/ours` judges another binary than the one of
//! `scripts/build --debug`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "live"]
mod live {
    pub(crate) mod scene;

    mod diag;
    mod looks;
    mod metrics;
    mod streams;
    mod trace;
}
