// SPDX-License-Identifier: Apache-2.0
//! v2: a cgroup has the controllers that each of its ancestors lists in `cgroup.subtree_control`.
//!
//! Done for all controllers on pure v2 only. On a hybrid most limits are on v1, and the machine's
//! v2 hierarchy is left as its owner set it up, except for a controller that a limit needs.

use std::os::fd::AsFd;

use sys::Errno;

use crate::access;
use crate::layout::Hierarchy;

const CONTROL: &str = "cgroup.subtree_control";

/// Makes every controller of the hierarchy available to `path`, whose parent is open as `parent`.
///
/// Usually the first container below an ancestor has done this for all that follow: one read
/// tells.
pub(crate) fn enable(hierarchy: &Hierarchy, parent: impl AsFd, path: &str) -> sys::Result<()> {
    enable_all(hierarchy, &missing(hierarchy, parent)?, path)
}

/// Makes one controller of the hierarchy available to `path`.
pub(crate) fn enable_one(hierarchy: &Hierarchy, path: &str, name: &str) -> sys::Result<()> {
    let (parent, _) = access::split(path);
    let parent = access::open_directory(hierarchy.root(), parent)?;
    let mut missing = missing(hierarchy, parent)?;
    missing.retain(|controller| *controller == name);
    enable_all(hierarchy, &missing, path)
}

fn enable_all(hierarchy: &Hierarchy, missing: &[&str], path: &str) -> sys::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut directory = access::open_directory(hierarchy.root(), "")?;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        enable_in(&directory, missing)?;
        if names.peek().is_some() {
            directory = access::open_directory(&directory, name)?;
        }
    }
    Ok(())
}

/// The controllers that children of the directory do not have.
fn missing(hierarchy: &Hierarchy, directory: impl AsFd) -> sys::Result<Vec<&str>> {
    let enabled = access::read(directory, CONTROL)?;
    let is_missing = |name: &&str| !enabled.split_whitespace().any(|e| e == *name);
    let available = hierarchy.available().iter().map(String::as_str);
    Ok(available.filter(is_missing).collect())
}

/// Enables the controllers for the children of one directory, as many of them as possible.
fn enable_in(directory: impl AsFd, controllers: &[&str]) -> sys::Result<()> {
    let all: Vec<String> = controllers.iter().map(|c| format!("+{c}")).collect();
    if access::write(&directory, CONTROL, &all.join(" ")).is_ok() {
        return Ok(());
    }
    // One of them spoils the write for all.
    for controller in all {
        match access::write(&directory, CONTROL, &controller) {
            Err(error) if !is_unavailable(error.errno()) => return Err(error),
            // Who sets a limit that needs the controller will fail and say so.
            _ => {}
        }
    }
    Ok(())
}

/// Whether a controller is just not to be had here: not delegated to this subtree (`ENOENT`), in
/// the way of processes in the directory (`EBUSY`), not for threads (`EOPNOTSUPP`), or in
/// conflict with real-time processes (`EINVAL`).
fn is_unavailable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::BUSY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV
    )
}
