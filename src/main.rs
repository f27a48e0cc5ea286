// SPDX-License-Identifier: Apache-2.0
//! containerd runtime v2 shim with its own OCI runtime inside.
fn main() {}
