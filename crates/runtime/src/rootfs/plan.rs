// SPDX-License-Identifier: Apache-2.0
//! The plan of a root file system: what the specification asks for, checked and resolved.
//!
//! Made in the parent; carried to the child as plain data. Whatever is impossible, or not possible
//! yet, is refused here with its JSON path; what reaches the child can only fail for reasons that
//! the kernel knows.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount as SpecMount, Spec};
use serde::{Deserialize, Serialize};
use sys::mount::{Extent, ms};

use super::error::PlanError;
use super::options::{self, Flags, Meaning, Propagation, TreeAttributes};
use crate::container::Maker;
use crate::idmap::Mappings;

/// How the container's root becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pivot {
    /// `pivot_root(2)`: the host's mounts are gone afterwards.
    PivotRoot,
    /// The mount is moved onto `/` (`no_pivot_root`): for hosts whose root is an initramfs.
    MoveMount,
    /// `chroot(2)`: for a container that has no mount namespace of its own. Whatever is mounted is
    /// mounted on the host.
    Chroot,
}

/// What a mount of type `cgroup` shall show; the caller knows the host's hierarchies and the
/// container's place in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupView {
    /// One cgroup2 hierarchy.
    Unified {
        /// Where the host has it mounted.
        mount_point: PathBuf,
        /// The container's cgroup below that.
        own: PathBuf,
        /// Whether the container has a cgroup namespace of its own. In the host's, a new mount of
        /// cgroup2 would reset the hierarchy's mount options for everybody.
        private_namespace: bool,
    },
    /// Several hierarchies, each in a directory of its own.
    Split(Vec<Hierarchy>),
}

/// One of several cgroup hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// The name of its directory, such as `memory`, `cpu,cpuacct`, `systemd` or `unified`.
    pub name: String,
    /// The container's cgroup in it, as the host sees it.
    pub own: PathBuf,
}

/// What the plan depends on besides the specification.
#[derive(Debug, Clone)]
pub struct Host<'a> {
    /// The bundle: relative paths are relative to it.
    pub bundle: &'a Path,
    /// How the root is changed.
    pub pivot: Pivot,
    /// What mounts of type `cgroup` show; without it such a mount is refused.
    pub cgroups: Option<CgroupView>,
    /// The mappings of the container's user namespace, if it has one.
    pub user: Option<&'a Mappings>,
    /// Who makes the container.
    pub maker: Maker,
}

/// Everything about the container's file system, in the order in which it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The root directory on the host, absolute.
    pub root: PathBuf,
    /// Whether the container has a user namespace. The root is the working directory then.
    pub user_namespace: bool,
    /// Whether the shim could open something that init cannot.
    pub opened_by_shim: bool,
    /// Whether the root is made read-only at the end.
    pub readonly: bool,
    /// `linux.rootfsPropagation`.
    pub propagation: Option<Propagation>,
    /// How the root is changed.
    pub pivot: Pivot,
    /// The mounts, in order.
    pub mounts: Vec<Mount>,
    /// Whether `/dev` is the container's own: then it is filled with nodes and links.
    pub own_dev: bool,
    /// The nodes: the default ones and those of the specification.
    pub devices: Vec<Device>,
    /// SELinux label of new file systems.
    pub mount_label: Option<String>,
    /// Paths to hide.
    pub masked_paths: Vec<PathBuf>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<PathBuf>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where: absolute, without `.` and `..`.
    pub destination: PathBuf,
    /// What.
    pub kind: Kind,
    /// How.
    pub flags: Flags,
    /// How the whole tree shall be.
    pub tree: TreeAttributes,
    /// Changes of propagation, in order.
    pub propagation: Vec<Propagation>,
    /// Whether it is an id-mapped one.
    pub id_map: Option<IdMap>,
}

/// Whose the files of an id-mapped mount are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The owners: container's ids are those on the disk.
    pub mappings: Mappings,
    /// Also on what is mounted below.
    pub recursive: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A file system.
    Filesystem(Filesystem),
    /// A file or directory of the host.
    Bind {
        /// Its path on the host.
        source: PathBuf,
        /// The same as the container sees it, if it is something in its own root: of earlier
        /// mounts, perhaps.
        inside: Option<PathBuf>,
        /// With what is mounted below it.
        recursive: bool,
    },
    /// The container's cgroups.
    Cgroup {
        /// What to show.
        view: CgroupView,
        /// Parameters of cgroup2.
        filesystem: Filesystem,
    },
    /// Nothing new: what is there gets other flags.
    Remount(Filesystem),
}

/// A file system and its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its type.
    pub fstype: String,
    /// Its source: often just a name.
    pub source: String,
    /// `key` or `key=value`.
    pub params: Vec<(String, Option<String>)>,
    /// Whether a tmpfs is filled with what it hides.
    pub copy_up: bool,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where: absolute, without `.` and `..`.
    pub path: PathBuf,
    /// What.
    pub kind: DeviceKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a device node refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A character device, by major and minor number.
    Char(u32, u32),
    /// A block device, by major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// The nodes that every container has.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The files of `/proc` that may be mounted over: those that lxcfs emulates, and two more that
/// runc allows.
const ALLOWED_IN_PROC: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

impl Plan {
    /// Makes the plan.
    ///
    /// # Errors
    /// The first value that is impossible or that we cannot honour, with its JSON path.
    pub fn from_spec(spec: &Spec, host: &Host<'_>) -> Result<Self, PlanError> {
        let Some(root) = spec.root() else {
            return Err(PlanError::new("root", "must not be empty"));
        };
        if root.path().as_os_str().is_empty() {
            return Err(PlanError::new("root.path", "must not be empty"));
        }
        let linux = spec.linux().as_ref();
        let readonly = root.readonly().unwrap_or(false);
        let propagation = match linux.and_then(|l| l.rootfs_propagation().as_deref()) {
            None | Some("") => None,
            Some(word) => Some(Propagation::parse(word).ok_or_else(|| {
                let reason = format!("unknown propagation {word:?}");
                PlanError::new("linux.rootfsPropagation", reason)
            })?),
        };
        if host.pivot == Pivot::MoveMount && propagation.is_some_and(|p| p.kind == ms::PRIVATE) {
            // The host's mounts stay below, and what the host unmounts would stay mounted there.
            let reason = "[r]private is not safe with no_pivot_root";
            return Err(PlanError::new("linux.rootfsPropagation", reason));
        }
        let mount_label = linux.and_then(|l| l.mount_label().clone());
        let mount_label = mount_label.filter(|label| !label.is_empty());
        if mount_label.is_some() {
            crate::lsm::check_selinux()
                .map_err(|reason| PlanError::new("linux.mountLabel", reason))?;
        }
        let root = host.bundle.join(root.path());
        let mounts = spec
            .mounts()
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, mount)| {
                Mount::from_spec(mount, host, &root).map_err(|(field, reason)| {
                    PlanError::new(format!("mounts[{index}]{field}"), reason)
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let bound =
            |m: &Mount| matches!(m.kind, Kind::Bind { .. }) && m.destination == Path::new("/dev");
        let own_dev = !mounts.iter().any(bound);
        let devices = linux
            .and_then(|l| l.devices().as_deref())
            .unwrap_or_default();
        let paths = |list: Option<&Vec<String>>| -> Vec<PathBuf> {
            let mut seen = HashSet::new();
            list.into_iter()
                .flatten()
                .map(|path| clean(Path::new(path)))
                .filter(|path| seen.insert(path.clone()))
                .collect()
        };
        Ok(Self {
            root,
            user_namespace: host.user.is_some(),
            opened_by_shim: host.maker == Maker::Root,
            readonly,
            propagation,
            pivot: host.pivot,
            mounts,
            own_dev,
            devices: all_devices(devices)?,
            masked_paths: paths(linux.and_then(|l| l.masked_paths().as_ref())),
            readonly_paths: paths(linux.and_then(|l| l.readonly_paths().as_ref())),
            mount_label,
        })
    }
}

type Refusal = (&'static str, String);

impl Mount {
    fn from_spec(spec: &SpecMount, host: &Host<'_>, root: &Path) -> Result<Self, Refusal> {
        if spec.destination().as_os_str().is_empty() {
            return Err((".destination", "must not be empty".into()));
        }
        // As the host sees it, some write; runc takes that as well.
        let mut destination = clean(spec.destination());
        if let Ok(inside) = destination.strip_prefix(clean(root)) {
            destination = clean(inside);
        }
        if destination == Path::new("/") {
            return Err((".destination", "must not be the root itself".into()));
        }
        let mut mount = Self {
            destination,
            kind: Kind::Bind {
                source: PathBuf::new(),
                inside: None,
                recursive: false,
            },
            flags: Flags::default(),
            tree: TreeAttributes::default(),
            propagation: Vec::new(),
            id_map: None,
        };
        let mut filesystem = Filesystem {
            fstype: spec.typ().clone().unwrap_or_default(),
            source: String::new(),
            params: Vec::new(),
            copy_up: false,
        };
        let mut id_map = None;
        for option in spec.options().iter().flatten() {
            for word in options::split(option) {
                match options::meaning(word) {
                    Some(Meaning::Idmap(extent)) => id_map = Some(extent),
                    meaning => mount.apply(word, meaning, &mut filesystem),
                }
            }
        }
        mount.kind = mount.kind_of(spec, filesystem, host, root)?;
        mount.id_map = mount.id_map(spec, id_map, host)?;
        mount.check_proc()?;
        Ok(mount)
    }

    fn apply(&mut self, word: &str, meaning: Option<Meaning>, filesystem: &mut Filesystem) {
        match meaning {
            None => {
                let (key, value) = match word.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (word, None),
                };
                filesystem.params.push((key.to_owned(), value));
            }
            Some(meaning @ (Meaning::Set(_) | Meaning::Clear(_))) => self.flags.apply(meaning),
            Some(meaning @ (Meaning::SetAll(_) | Meaning::ClearAll(_))) => self.tree.apply(meaning),
            Some(Meaning::Propagate(propagation)) => self.propagation.push(propagation),
            Some(Meaning::CopyUp) => filesystem.copy_up = true,
            Some(Meaning::Nothing | Meaning::Idmap(_)) => {}
        }
    }

    /// The mount is id-mapped if it has mappings of its own or an option says so; without mappings
    /// of its own by those of the container's user namespace. runc's rules.
    fn id_map(
        &self,
        spec: &SpecMount,
        option: Option<Extent>,
        host: &Host<'_>,
    ) -> Result<Option<IdMap>, Refusal> {
        let own = Mappings::from_spec(spec.uid_mappings().as_ref(), spec.gid_mappings().as_ref())
            .map_err(|(field, reason)| {
            let field = match field {
                "uidMappings" => ".uidMappings",
                _ => ".gidMappings",
            };
            (field, reason)
        })?;
        if own.is_empty() && option.is_none() {
            return Ok(None);
        }
        if !matches!(self.kind, Kind::Bind { .. }) {
            return Err((
                "",
                "id-mapped mounts are only supported for bind-mounts".into(),
            ));
        }
        let mappings = if !own.is_empty() {
            own
        } else if let Some(user) = host.user {
            user.clone()
        } else {
            let reason = "an id-mapped mount needs mappings of its own or a user namespace";
            return Err((".options", reason.into()));
        };
        for (field, ranges) in [
            (".uidMappings", &mappings.uids),
            (".gidMappings", &mappings.gids),
        ] {
            if ranges.is_empty() {
                let reason = "id-mapped mounts must have both uid and gid mappings specified";
                return Err((field, reason.into()));
            }
        }
        Ok(Some(IdMap {
            mappings,
            recursive: option == Some(Extent::Tree),
        }))
    }

    fn kind_of(
        &self,
        spec: &SpecMount,
        mut filesystem: Filesystem,
        host: &Host<'_>,
        root: &Path,
    ) -> Result<Kind, Refusal> {
        let source = spec.source().clone().unwrap_or_default();
        let is_bind = self.flags.has(ms::BIND) || filesystem.fstype == "bind";
        if filesystem.copy_up && (is_bind || filesystem.fstype != "tmpfs") {
            return Err((".options", "tmpcopyup is for tmpfs only".into()));
        }
        if is_bind {
            // The kernel ignores data for a bind mount, and so does runc.
            for (key, _) in filesystem.params.drain(..) {
                log::warn!("mount option {key:?} means nothing for a bind mount: ignored");
            }
        }
        if self.flags.has(ms::REMOUNT) {
            return Ok(Kind::Remount(filesystem));
        }
        if is_bind {
            if source.as_os_str().is_empty() {
                return Err((".source", "must not be empty for a bind mount".into()));
            }
            let source = host.bundle.join(source);
            return Ok(Kind::Bind {
                inside: clean(&source).strip_prefix(clean(root)).ok().map(clean),
                source,
                recursive: self.flags.has(ms::REC),
            });
        }
        if filesystem.fstype.is_empty() {
            return Err((
                ".type",
                "must not be empty unless it is a bind mount".into(),
            ));
        }
        filesystem.source = match source.to_str() {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => "none".to_owned(),
        };
        if filesystem.fstype != "cgroup" {
            return Ok(Kind::Filesystem(filesystem));
        }
        match host.cgroups.clone() {
            Some(view) => Ok(Kind::Cgroup { view, filesystem }),
            None => Err((".type", "no cgroups are mounted on this host".into())),
        }
    }

    /// Procfs is what the kernel shows us: what lies over it could redirect our own writes, or hide
    /// from the container what it relies on.
    fn check_proc(&self) -> Result<(), Refusal> {
        let Ok(inside) = self.destination.strip_prefix("/proc") else {
            return Ok(());
        };
        let shown = self.destination.display();
        if inside.as_os_str().is_empty() {
            return match &self.kind {
                // That the source is a procfs is checked when it is opened.
                Kind::Bind { .. } | Kind::Remount(_) => Ok(()),
                Kind::Filesystem(filesystem) if filesystem.fstype == "proc" => Ok(()),
                _ => Err((
                    "",
                    format!("\"{shown}\" cannot be mounted because it is not of type proc"),
                )),
            };
        }
        if ALLOWED_IN_PROC
            .iter()
            .any(|allowed| inside == Path::new(allowed))
        {
            return Ok(());
        }
        Err((
            "",
            format!("\"{shown}\" cannot be mounted because it is inside /proc"),
        ))
    }
}

/// The default devices, unless the specification has its own for the same path, and the others.
fn all_devices(devices: &[LinuxDevice]) -> Result<Vec<Device>, PlanError> {
    let mut all = Vec::with_capacity(DEFAULT_DEVICES.len() + devices.len());
    for (index, device) in devices.iter().enumerate() {
        let device = Device::from_spec(device).map_err(|(field, reason)| {
            PlanError::new(format!("linux.devices[{index}]{field}"), reason)
        })?;
        // It is a link into the container's own devpts.
        if device.path != Path::new("/dev/ptmx") {
            all.push(device);
        }
    }
    for (path, major, minor) in DEFAULT_DEVICES {
        if !all.iter().any(|device| device.path == Path::new(path)) {
            let kind = DeviceKind::Char(major, minor);
            all.push(Device {
                path: path.into(),
                kind,
                mode: 0o666,
                uid: 0,
                gid: 0,
            });
        }
    }
    Ok(all)
}

impl Device {
    fn from_spec(spec: &LinuxDevice) -> Result<Self, Refusal> {
        if !spec.path().is_absolute() || spec.path().file_name().is_none() {
            return Err((".path", "must be an absolute path of a file".into()));
        }
        // The kernel's own limits: 12 bits and 20 bits.
        let number = |value: i64, limit: i64, field| match u32::try_from(value) {
            Ok(number) if value < limit => Ok(number),
            _ => Err((field, format!("{value} is no device number"))),
        };
        let numbers = || -> Result<(u32, u32), Refusal> {
            let major = number(spec.major(), 1 << 12, ".major")?;
            Ok((major, number(spec.minor(), 1 << 20, ".minor")?))
        };
        let kind = match spec.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => {
                let (major, minor) = numbers()?;
                DeviceKind::Char(major, minor)
            }
            LinuxDeviceType::B => {
                let (major, minor) = numbers()?;
                DeviceKind::Block(major, minor)
            }
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::A => {
                return Err((".type", "must be one of \"c\", \"b\", \"u\", \"p\"".into()));
            }
        };
        Ok(Self {
            path: clean(spec.path()),
            kind,
            // With or without the bits of the file type.
            mode: spec.file_mode().unwrap_or(0o666) & 0o7777,
            uid: spec.uid().unwrap_or(0),
            gid: spec.gid().unwrap_or(0),
        })
    }
}

/// Makes a path absolute and takes out `.` and `..`, by its letters only.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The path of a node below `/dev`, relative to it.
pub(crate) fn below_dev(path: &Path) -> Option<&Path> {
    path.strip_prefix("/dev")
        .ok()
        .filter(|rest| *rest != Path::new(OsStr::new("")))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
