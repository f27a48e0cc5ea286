// SPDX-License-Identifier: Apache-2.0
//! The tests, one file for each area of behaviour. Each first passed with the Go shim and runc of
//! every containerd generation; where those differ, the test says so.

use crate::suite::Test;

mod run;

/// All tests.
pub fn tests() -> impl Iterator<Item = Test> {
    let areas = [run::TESTS];
    areas.into_iter().flatten().copied()
}
