// SPDX-License-Identifier: Apache-2.0
//! The container's state on disk: `<root>/<namespace>/<id>/state.json`.
//!
//! Written before anything of the container exists, and again when its init is ready: whoever finds
//! it after a `kill -9` of the shim knows what has to be cleaned up. Names and layout are runc's, so
//! that tools which read runc's state directory read ours.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const FILE: &str = "state.json";

/// What is known about a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Its id.
    pub id: String,
    /// The pid of its init in the shim's PID namespace; 0 until it is ready.
    #[serde(default)]
    pub init_process_pid: i32,
    /// Start time of that process in clock ticks since boot: tells a reused pid.
    #[serde(default)]
    pub init_process_start: u64,
    /// When it was created, RFC 3339.
    #[serde(default)]
    pub created: String,
    /// What runc's readers look for in the configuration.
    #[serde(default)]
    pub config: Config,
    /// Always false.
    #[serde(default)]
    pub rootless: bool,
    /// Its cgroup directories by controller ("" on cgroup v2).
    pub cgroup_paths: cgroups::Record,
    /// Its namespaces by runc's names.
    #[serde(default)]
    pub namespace_paths: BTreeMap<String, String>,
    /// For CRIU; empty.
    #[serde(default)]
    pub external_descriptors: Vec<String>,
    /// Intel RDT directory; empty.
    #[serde(default)]
    pub intel_rdt_path: String,
}

/// The part of runc's configuration that its `list` and `state` read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Config {
    /// The root file system.
    #[serde(default)]
    pub rootfs: PathBuf,
    /// `bundle=<path>`, and the annotations as `key=value`.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl State {
    /// The bundle that the labels name.
    pub fn bundle(&self) -> Option<&Path> {
        self.config
            .labels
            .iter()
            .find_map(|label| label.strip_prefix("bundle="))
            .map(Path::new)
    }
}

/// A container's state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory of container `id`; `root` is `Options.root` or `/run/containerd/runc`.
    ///
    /// # Errors
    /// An id or namespace that is not a plain file name.
    pub fn new(root: &Path, namespace: &str, id: &str) -> Result<Self> {
        for (field, name) in [("namespace", namespace), ("id", id)] {
            if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
                return Err(Error::NotPossible(format!(
                    "invalid container {field} {name:?}"
                )));
            }
        }
        Ok(Self(root.join(namespace).join(id)))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the container has one already.
    pub fn create(&self) -> Result<()> {
        let failed = |source| Error::State {
            attempt: "create state directory",
            path: self.0.clone(),
            source,
        };
        if let Some(parent) = self.0.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(parent)
                .map_err(failed)?;
        }
        match DirBuilder::new().mode(0o711).create(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let id = self
                    .0
                    .file_name()
                    .map(|id| id.to_string_lossy().into_owned());
                Err(Error::AlreadyExists(id.unwrap_or_default()))
            }
            other => other.map_err(failed),
        }
    }

    /// Writes the state; readers see the old or the new one, never a part.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, state: &State) -> Result<()> {
        let path = self.0.join(FILE);
        let failed = |source| Error::State {
            attempt: "write",
            path: path.clone(),
            source,
        };
        let json = serde_json::to_vec(state).map_err(|e| failed(e.into()))?;
        write_atomically(&path, &json, 0o600).map_err(failed)
    }

    /// Reads the state; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not a state.
    pub fn load(&self) -> Result<Option<State>> {
        let path = self.0.join(FILE);
        let failed = |source| Error::State {
            attempt: "read",
            path: path.clone(),
            source,
        };
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
                .map_err(|e| failed(e.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Removes the directory and what is in it; none is fine.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::State {
                attempt: "remove state directory",
                path: self.0.clone(),
                source: e,
            }),
            _ => Ok(()),
        }
    }
}

/// Writes a file by a temporary one and rename(2).
///
/// # Errors
/// The file cannot be written.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file: File = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// Start time of a process in clock ticks since boot, field 22 of `/proc/<pid>/stat`.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain blanks and brackets: count from its last bracket.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_start_time_is_found() {
        assert!(start_time(std::process::id() as i32).unwrap() > 0);
        assert_eq!(start_time(-1), None);
    }

    #[test]
    fn an_id_cannot_lead_out_of_the_root() {
        for id in ["", ".", "..", "a/b", "a\0b"] {
            assert!(
                Directory::new(Path::new("/run/x"), "ns", id).is_err(),
                "{id:?}"
            );
            assert!(
                Directory::new(Path::new("/run/x"), id, "id").is_err(),
                "{id:?}"
            );
        }
    }

    #[test]
    fn a_second_directory_of_the_same_id_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::new(root.path(), "ns", "c1").unwrap();
        directory.create().unwrap();
        assert!(matches!(directory.create(), Err(Error::AlreadyExists(id)) if id == "c1"));
        assert!(directory.load().unwrap().is_none());
        directory.remove().unwrap();
        directory.remove().unwrap();
    }
}
