// SPDX-License-Identifier: Apache-2.0
//! v1 cpusets: a new one has no CPU and no memory node, and takes no process until it has.

use std::os::fd::AsFd;

use crate::access;
use crate::layout::Hierarchy;

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Whether a cpuset may have something already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// It was made just now.
    Nothing,
    /// Then it keeps that.
    Perhaps,
}

/// Gives the cpuset `path` what its parent (open as `parent`) has, where it has nothing yet.
pub(crate) fn fill(
    hierarchy: &Hierarchy,
    parent: impl AsFd,
    path: &str,
    content: Content,
) -> sys::Result<()> {
    let (ancestors, name) = access::split(path);
    for file in FILES {
        let own = access::join(name, file);
        if content == Content::Perhaps && !access::read(&parent, &own)?.is_empty() {
            continue;
        }
        let mut inherited = access::read(&parent, file)?;
        if inherited.is_empty() && !ancestors.is_empty() {
            // New as well, or left so by somebody: from the top down.
            let above = access::open_directory(hierarchy.root(), access::split(ancestors).0)?;
            fill(hierarchy, above, ancestors, Content::Perhaps)?;
            inherited = access::read(&parent, file)?;
        }
        access::write(&parent, &own, &inherited)?;
    }
    Ok(())
}
