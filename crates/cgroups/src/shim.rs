// SPDX-License-Identifier: Apache-2.0
//! The shim's own cgroup, as the option `ShimCgroup` wants it.

use crate::access;
use crate::cgroup::{failed, move_process};
use crate::create::{Made, make};
use crate::error::{Error, Result};
use crate::layout::{Kind, Layout, Mode};
use crate::record::{Place, clean};

/// Moves the process into the cgroup `path`, counted from the root of every hierarchy.
///
/// On v1 the cgroup is made where it is missing; nobody removes it then. On pure v2 it must
/// exist, and on a hybrid the process stays where it is in v2 if it does not.
///
/// # Errors
/// The cgroup is missing or cannot be made, or does not take the process.
pub fn join_shim(layout: &Layout, path: &str, pid: i32) -> Result<()> {
    if path.contains('\0') {
        return Err(Error::InvalidPath {
            path: path.to_owned(),
            reason: "contains a NUL byte",
        });
    }
    let path = clean(path);
    let mut made = Made::nothing(layout);
    for (index, hierarchy) in layout.hierarchies().iter().enumerate() {
        if matches!(hierarchy.kind(), Kind::Named(name) if name != "name=systemd") {
            continue;
        }
        let place = Place {
            hierarchy: index,
            path: path.clone(),
        };
        if !hierarchy.is_unified() && !path.is_empty() {
            make(layout, &place, &mut made)
                .map_err(|error| failed(layout, "create", &place, error))?;
        }
        match move_process(hierarchy.root(), &path, pid) {
            Err(error)
                if hierarchy.is_unified()
                    && layout.mode() == Mode::Hybrid
                    && access::is_gone(&error) => {}
            done => done.map_err(|error| failed(layout, "join", &place, error))?,
        }
    }
    made.keep();
    Ok(())
}
