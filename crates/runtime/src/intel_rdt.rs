// SPDX-License-Identifier: Apache-2.0
//! `linux.intelRdt`: the container's share of caches and memory bandwidth, in a resctrl file system
//! that the host has mounted.
//!
//! A group of the name of the container is made and removed by us; one with a name of its own
//! (`closID`) is somebody's who lives longer, and stays.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use rustix::fs::FsWord;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mountinfo;

const FIELD: &str = "linux.intelRdt";
const MOUNT_POINT: &str = "/sys/fs/resctrl";
/// Magic number of resctrl, `linux/magic.h`.
const RDTGROUP_SUPER_MAGIC: FsWord = 0x0765_5821;

/// What a specification asks for, checked against the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    root: PathBuf,
    /// Directory of the group.
    path: PathBuf,
    /// Whether the group's name is the container's, so that the group is ours.
    own: bool,
    /// Lines for the group's `schemata`.
    schemata: String,
    /// Directory of the monitoring group.
    monitoring: Option<PathBuf>,
}

/// A group that a container is in; kept in its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its directory.
    pub path: PathBuf,
    /// Whether we have made it and are to remove it.
    pub created: bool,
    /// Directory of the container's monitoring group.
    pub monitoring: Option<PathBuf>,
}

/// Changed shares: to be taken back, or kept by dropping this.
#[derive(Debug)]
pub struct Change {
    before: Plan,
}

impl Change {
    /// Takes them back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn undo(self) -> Result<()> {
        self.before.set_schemata()
    }
}

impl Plan {
    /// Takes the specification of container `id`.
    ///
    /// # Errors
    /// A machine without resctrl or without what is asked of it, an impossible value.
    pub fn new(spec: &LinuxIntelRdt, id: &str) -> Result<Self> {
        let root = mounted_at().ok_or_else(|| {
            let reason = "intelRdt is specified in config, but Intel RDT is not enabled";
            Error::spec(FIELD, reason)
        })?;
        Self::at(&root, spec, id)
    }

    fn at(root: &Path, spec: &LinuxIntelRdt, id: &str) -> Result<Self> {
        let refused =
            |name: &str, reason: String| Err(Error::spec(format!("{FIELD}.{name}"), reason));
        let clos = spec.clos_id().as_deref().filter(|clos| !clos.is_empty());
        if let Some(clos) = clos {
            if clos == "." || clos == ".." || (clos != "/" && clos.contains('/')) {
                return refused("closID", format!("invalid intelRdt.ClosID {clos:?}"));
            }
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (cache, memory) = (given(spec.l3_cache_schema()), given(spec.mem_bw_schema()));
        for (name, wanted, directory) in [
            ("l3CacheSchema", &cache, "L3"),
            ("memBwSchema", &memory, "MB"),
        ] {
            if wanted.is_some() && !root.join("info").join(directory).exists() {
                return refused(name, format!("this machine cannot control {directory}"));
            }
        }
        let lines = spec.schemata().iter().flatten().cloned();
        let lines: Vec<String> = cache.into_iter().chain(memory).chain(lines).collect();
        if lines.iter().any(|line| line.contains(['\n', '\0'])) {
            return refused("schemata", "contains a line break".to_owned());
        }
        let path = match clos {
            Some("/") => root.to_owned(),
            clos => root.join(clos.unwrap_or(id)),
        };
        let monitoring = spec.enable_monitoring().unwrap_or(false);
        Ok(Self {
            root: root.to_owned(),
            monitoring: monitoring.then(|| path.join("mon_groups").join(id)),
            path,
            own: clos.is_none(),
            schemata: lines.iter().map(|line| format!("{line}\n")).collect(),
        })
    }

    /// Makes the group, or finds it, and sets its shares. On failure nothing is left.
    ///
    /// # Errors
    /// The file system refuses; the error has the kernel's own words about it, too.
    pub fn create(&self) -> Result<Group> {
        if !self.own && self.schemata.is_empty() && !self.path.exists() {
            let reason = "the group does not exist: without a schema it must be made before";
            return Err(Error::spec(format!("{FIELD}.closID"), reason));
        }
        let existed = self.make(&self.path)?;
        let mut group = Group {
            path: self.path.clone(),
            created: self.own && !existed,
            monitoring: None,
        };
        let rest = self.set_schemata().and_then(|()| {
            if let Some(monitoring) = &self.monitoring {
                self.make(monitoring)?;
                group.monitoring = Some(monitoring.clone());
            }
            Ok(())
        });
        if let Err(e) = rest {
            if let Err(second) = group.remove() {
                log::warn!("undo create: {second}");
            }
            return Err(e);
        }
        Ok(group)
    }

    /// Says whether it was there.
    fn make(&self, directory: &Path) -> Result<bool> {
        match fs::create_dir(directory) {
            Ok(()) => Ok(false),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(true),
            Err(e) => Err(self.failed("create resctrl group", directory, e)),
        }
    }

    fn set_schemata(&self) -> Result<()> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let file = self.path.join("schemata");
        let write = || write_once(&file, &self.schemata);
        write().map_err(|e| self.failed("unable to apply Intel RDT configuration: write", &file, e))
    }

    /// The kernel leaves word of why it refused the last command.
    fn failed(&self, attempt: &'static str, path: &Path, source: std::io::Error) -> Error {
        let word = fs::read_to_string(self.root.join("info/last_cmd_status"));
        let word = word.unwrap_or_default();
        let source = match word.trim() {
            "" | "ok" => source,
            word => std::io::Error::new(source.kind(), format!("{source}: {word}")),
        };
        Error::State {
            attempt,
            path: path.to_owned(),
            source,
        }
    }
}

impl Group {
    /// Sets other shares of caches and memory bandwidth; what is not given stays.
    ///
    /// # Errors
    /// As [`Plan::new`] and [`Plan::create`]: then none is changed. The kernel takes line by line, so
    /// what it took before the one that it refused is taken back.
    pub fn update(&self, shares: &LinuxIntelRdt) -> Result<Change> {
        let plan = Plan::new(shares, "")?;
        self.change(&Plan {
            path: self.path.clone(),
            ..plan
        })
    }

    fn change(&self, plan: &Plan) -> Result<Change> {
        let file = self.path.join("schemata");
        let before = fs::read_to_string(&file)
            .map_err(|e| plan.failed("read Intel RDT configuration from", &file, e))?;
        let change = Change {
            before: Plan {
                schemata: before,
                ..plan.clone()
            },
        };
        match plan.set_schemata() {
            Ok(()) => Ok(change),
            Err(error) => {
                if let Err(second) = change.undo() {
                    log::error!("undo update: {second}");
                }
                Err(error)
            }
        }
    }

    /// Puts a process into the group.
    ///
    /// # Errors
    /// The kernel refuses, or the group is gone.
    pub fn join(&self, pid: Pid) -> Result<()> {
        let directories = std::iter::once(&self.path).chain(&self.monitoring);
        for directory in directories {
            let file = directory.join("tasks");
            write_once(&file, &pid.as_raw_nonzero().to_string()).map_err(|source| {
                Error::State {
                    attempt: "unable to apply Intel RDT configuration: write",
                    path: file,
                    source,
                }
            })?;
        }
        Ok(())
    }

    /// Removes what was made for the container; none there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self) -> Result<()> {
        let own = self.created.then_some(&self.path);
        // A monitoring group goes with its parent, but may be another's.
        for directory in self.monitoring.iter().chain(own) {
            match fs::remove_dir(directory) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::State {
                        attempt: "unable to remove container's IntelRDT group",
                        path: directory.clone(),
                        source: e,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// With one `write(2)`, without creating the file.
fn write_once(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}

/// Where the host has mounted a resctrl file system.
fn mounted_at() -> Option<PathBuf> {
    match rustix::fs::statfs(MOUNT_POINT) {
        Ok(fs) if fs.f_type == RDTGROUP_SUPER_MAGIC => Some(MOUNT_POINT.into()),
        // The kernel makes the directory where the hardware can do it; it may be mounted elsewhere.
        Ok(_) => mountinfo::mounted("resctrl"),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A directory that looks like resctrl.
    fn resctrl() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("info/L3")).unwrap();
        fs::create_dir_all(root.path().join("mon_groups")).unwrap();
        fs::write(root.path().join("info/last_cmd_status"), "ok\n").unwrap();
        root
    }

    fn plan(root: &Path, spec: Value) -> Result<Plan> {
        Plan::at(root, &serde_json::from_value(spec).unwrap(), "c1")
    }

    /// What the kernel puts into a new group.
    fn populate(group: &Path) {
        fs::create_dir_all(group.join("mon_groups")).unwrap();
        for file in ["tasks", "schemata"] {
            fs::write(group.join(file), "").unwrap();
        }
    }

    #[test]
    fn a_group_of_the_containers_name_is_made_and_removed() {
        let root = resctrl();
        let group = plan(root.path(), json!({})).unwrap().create().unwrap();
        assert_eq!(
            (&group.path, group.created),
            (&root.path().join("c1"), true)
        );
        group.remove().unwrap();
        assert!(!group.path.exists());
        group.remove().unwrap();
    }

    #[test]
    fn a_named_group_gets_its_lines_and_its_process_and_stays() {
        let root = resctrl();
        let path = root.path().join("gold");
        fs::create_dir(&path).unwrap();
        populate(&path);
        let plan = plan(
            root.path(),
            json!({"closID": "gold", "l3CacheSchema": "L3:0=f", "schemata": ["MB:0=20", "L2:0=3"],
                   "enableMonitoring": true}),
        );
        let group = plan.unwrap().create().unwrap();
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap();
        assert_eq!(read("schemata"), "L3:0=f\nMB:0=20\nL2:0=3\n");
        let monitoring = path.join("mon_groups/c1");
        fs::write(monitoring.join("tasks"), "").unwrap();
        group.join(Pid::from_raw(77).unwrap()).unwrap();
        assert_eq!(read("tasks"), "77");
        assert_eq!(read("mon_groups/c1/tasks"), "77");
        // The kernel's files go with their directory.
        fs::remove_file(monitoring.join("tasks")).unwrap();
        group.remove().unwrap();
        assert!(path.exists() && !monitoring.exists());
    }

    #[test]
    fn a_group_whose_shares_are_refused_is_not_left() {
        let root = resctrl();
        fs::write(root.path().join("info/last_cmd_status"), "Invalid mask\n").unwrap();
        // There is no file to write to in the new directory.
        let plan = plan(root.path(), json!({"schemata": ["L3:0=z"]})).unwrap();
        let error = plan.create().unwrap_err().to_string();
        assert!(error.contains("Invalid mask"), "{error}");
        assert!(!root.path().join("c1").exists());
    }

    #[test]
    fn changed_shares_can_be_taken_back() {
        let root = resctrl();
        populate(root.path());
        let file = root.path().join("schemata");
        let before = "    L3:0=fff;1=fff\n    MB:0=100;1=100\n";
        fs::write(&file, before).unwrap();
        let group = Group {
            path: root.path().to_owned(),
            ..Group::default()
        };
        let new = json!({"closID": "/", "l3CacheSchema": "L3:0=f"});
        let new = plan(root.path(), new).unwrap();
        // The kernel's file changes what is written; this one becomes it.
        let change = group.change(&new).unwrap();
        assert!(fs::read_to_string(&file).unwrap().starts_with("L3:0=f\n"));
        change.undo().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
        fs::remove_file(&file).unwrap();
        let error = group.change(&new).unwrap_err().to_string();
        assert!(error.contains("schemata"), "{error}");
    }

    #[test]
    fn what_is_impossible_is_refused_by_its_json_path() {
        let root = resctrl();
        for (spec, text) in [
            (json!({"closID": ".."}), "linux.intelRdt.closID: invalid"),
            (json!({"closID": "a/b"}), "linux.intelRdt.closID: invalid"),
            (
                json!({"memBwSchema": "MB:0=20"}),
                "linux.intelRdt.memBwSchema: this machine cannot control MB",
            ),
            (json!({"schemata": ["a\nb"]}), "linux.intelRdt.schemata"),
        ] {
            let error = plan(root.path(), spec).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let missing = plan(root.path(), json!({"closID": "none"})).unwrap();
        let error = missing.create().unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        let default = plan(root.path(), json!({"closID": "/"})).unwrap();
        assert_eq!(default.path, root.path());
        if mounted_at().is_none() {
            let error = Plan::new(&LinuxIntelRdt::default(), "c1").unwrap_err();
            let text =
                "linux.intelRdt: intelRdt is specified in config, but Intel RDT is not enabled";
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
