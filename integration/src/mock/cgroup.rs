// SPDX-License-Identifier: Apache-2.0
//! Control groups of a world: found in every hierarchy, emptied and removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{self, Process};

const MOUNT: &str = "/sys/fs/cgroup";

/// The folders of all hierarchies below which `name` could be: the v1 ones and the unified one.
fn hierarchies() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from(MOUNT)];
    if let Ok(entries) = fs::read_dir(MOUNT) {
        all.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.is_dir() && !path.is_symlink()),
        );
    }
    all.retain(|path| path.join("cgroup.procs").exists());
    all
}

/// Where the cgroup `name` exists.
pub(crate) fn folders(name: &str) -> Vec<PathBuf> {
    let name = name.trim_start_matches('/');
    hierarchies()
        .into_iter()
        .map(|root| root.join(name))
        .filter(|path| path.exists())
        .collect()
}

/// Cgroups at the top whose name begins so.
pub(crate) fn top_level(prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = hierarchies()
        .iter()
        .filter_map(|root| fs::read_dir(root).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Ends every process in the cgroup `name` and below, and removes it everywhere.
pub(crate) fn destroy(name: &str) {
    for _ in 0..50 {
        let folders = folders(name);
        if folders.is_empty() {
            return;
        }
        for folder in &folders {
            // A frozen v1 cgroup would not let its processes die. Not there in other hierarchies.
            if folder.join("freezer.state").exists() {
                let _ = fs::write(folder.join("freezer.state"), "THAWED");
            }
            process::kill_all(&members(folder));
            remove(folder);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn members(folder: &Path) -> Vec<Process> {
    let mut found: Vec<Process> = fs::read_to_string(folder.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| Process::open(line.parse().ok()?).ok())
        .collect();
    for child in children(folder) {
        if child.join("freezer.state").exists() {
            // As above.
            let _ = fs::write(child.join("freezer.state"), "THAWED");
        }
        found.extend(members(&child));
    }
    found
}

fn remove(folder: &Path) {
    for child in children(folder) {
        remove(&child);
    }
    // Busy for a moment after the last process has died; `destroy` tries again.
    let _ = fs::remove_dir(folder);
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}
