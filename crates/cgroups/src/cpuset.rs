// SPDX-License-Identifier: Apache-2.0
//! v1 cpusets: a new one has no CPU and no memory node, and takes no process until it has.

use std::os::fd::AsFd;

use crate::access;
use crate::layout::Hierarchy;

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Gives the cpuset `path` what its parent (open as `parent`) has, where it has nothing yet.
pub(crate) fn fill(hierarchy: &Hierarchy, parent: impl AsFd, path: &str) -> sys::Result<()> {
    let (ancestors, name) = access::split(path);
    for file in FILES {
        let own = access::join(name, file);
        if !access::read(&parent, &own)?.is_empty() {
            continue;
        }
        let mut inherited = access::read(&parent, file)?;
        if inherited.is_empty() {
            // New as well, or left so by somebody: from the top down.
            let above = access::split(ancestors).0;
            fill(
                hierarchy,
                access::open_directory(hierarchy.root(), above)?,
                ancestors,
            )?;
            inherited = access::read(&parent, file)?;
        }
        access::write(&parent, &own, &inherited)?;
    }
    Ok(())
}
