// SPDX-License-Identifier: Apache-2.0
//! The container's state on disk: `<root>/<namespace>/<id>/state.json`; a command line has no
//! namespaces, and leaves that level out.
//!
//! Written before anything of the container exists, and again when its init is ready: whoever finds
//! it after a `kill -9` of the shim knows what has to be cleaned up. Names and layout are runc's, so
//! that tools which read runc's state directory read ours.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::cgroup_config::{CgroupConfig, Hugetlb};
use crate::error::{Error, Result};
use crate::hooks::Hooks;
pub use crate::host_root::HostRoot;
use crate::intel_rdt::Group;

const FILE: &str = "state.json";
/// The configuration as it was when the container was created.
const CONFIG: &str = "config.json";

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
    /// Whether somebody else than root has made it.
    #[serde(default)]
    pub rootless: bool,
    /// Its cgroup directories by controller ("" on cgroup v2), and its systemd unit, if it is one.
    #[serde(flatten)]
    pub cgroup_paths: cgroups::Record,
    /// Its namespaces by runc's names.
    #[serde(default)]
    pub namespace_paths: BTreeMap<String, String>,
    /// For CRIU; empty.
    #[serde(default)]
    pub external_descriptors: Vec<String>,
    /// Intel RDT directory, for runc's readers.
    #[serde(default)]
    pub intel_rdt_path: String,
    /// The same with all that we know of it.
    #[serde(default)]
    pub intel_rdt: Option<Group>,
    /// Of a container without a mount namespace: what is to be unmounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_root: Option<HostRoot>,
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
    /// Version of the specification that the configuration follows.
    #[serde(default)]
    pub version: String,
    /// The limits in force.
    #[serde(default)]
    pub cgroups: CgroupConfig,
    /// Whether its processes use the session keyring of whoever made it.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// The hooks: `poststart` and `poststop` outlive the shim that created the container.
    #[serde(rename = "Hooks", default)]
    pub hooks: Hooks,
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

    /// The directory of container `id` of a command line, directly below `root`.
    ///
    /// # Errors
    /// An id that runc would refuse.
    pub fn of_command_line(root: &Path, id: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        if id.is_empty() || matches!(id, "." | "..") || !id.chars().all(plain) {
            return Err(Error::NotPossible("invalid container ID format".to_owned()));
        }
        Ok(Self(root.join(id)))
    }

    /// The container's id.
    pub fn id(&self) -> String {
        let name = self.0.file_name();
        name.map(|id| id.to_string_lossy().into_owned())
            .unwrap_or_default()
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
                Err(Error::AlreadyExists(self.id()))
            }
            other => other.map_err(failed),
        }
    }

    /// Makes a directory in it that everybody may look into who gets there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create_open(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        let made = fs::create_dir(&path)
            // The umask may be strict.
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
        made.map_err(|source| Error::State {
            attempt: "create",
            path,
            source,
        })
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

    /// Keeps the configuration that the container is created with: what is in its bundle may
    /// change, and must not change the container.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_config(&self, json: &[u8]) -> Result<()> {
        let path = self.0.join(CONFIG);
        write_atomically(&path, json, 0o600).map_err(|source| Error::State {
            attempt: "write",
            path,
            source,
        })
    }

    /// The configuration that was kept; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load_config(&self) -> Result<Option<Vec<u8>>> {
        let path = self.0.join(CONFIG);
        match fs::read(&path) {
            Ok(json) => Ok(Some(json)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::State {
                attempt: "read",
                path,
                source,
            }),
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
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// Whether the process is the one that was started then, and has not ended.
pub(crate) fn is_alive(pid: i32, started: u64) -> bool {
    let Some(fields) = stat_fields(pid) else {
        return false;
    };
    let is_dead = matches!(fields.first().map(String::as_str), Some("Z" | "X"));
    !is_dead && fields.get(19).and_then(|field| field.parse().ok()) == Some(started)
}

/// `/proc/<pid>/stat` from its third field on.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain blanks and brackets: count from its last bracket.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some(fields.map(str::to_owned).collect())
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
    fn a_command_line_takes_the_ids_that_runc_takes() {
        let of = |id| Directory::of_command_line(Path::new("/run/x"), id);
        for id in ["", ".", "..", "a/b", "a b", "\u{e4}"] {
            let error = of(id).unwrap_err().to_string();
            assert_eq!(error, "invalid container ID format", "{id:?}");
        }
        assert_eq!(
            of("a_b+c-d.e").unwrap().path(),
            Path::new("/run/x/a_b+c-d.e")
        );
    }

    #[test]
    fn a_process_is_alive_until_it_has_ended() {
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let started = start_time(pid).unwrap();
        assert!(is_alive(pid, started));
        assert!(!is_alive(pid, started + 1), "another one with its pid");
        drop(child.stdin.take());
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, options).unwrap();
        assert!(!is_alive(pid, started), "a zombie");
        child.wait().unwrap();
        assert!(!is_alive(pid, started));
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
