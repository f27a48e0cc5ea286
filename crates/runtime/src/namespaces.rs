// SPDX-License-Identifier: Apache-2.0
//! Namespaces of a container: which are new, which are joined by path.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};
use sys::Call;

use crate::error::{Attempt, Error, Result};

/// A kind of namespace that we make or join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Mount points.
    Mount,
    /// Control group root directory.
    Cgroup,
    /// Host and domain name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Process ids.
    Pid,
    /// Network devices, addresses, ports.
    Network,
}

impl Kind {
    /// All kinds, in the order in which they are joined (runc's).
    pub const ALL: [Kind; 6] = [
        Kind::Cgroup,
        Kind::Ipc,
        Kind::Uts,
        Kind::Network,
        Kind::Pid,
        Kind::Mount,
    ];

    /// Its `CLONE_NEW*` flag.
    pub fn clone_flag(self) -> u64 {
        u64::from(self.link_type() as u32)
    }

    /// Its type for `setns(2)`.
    pub fn link_type(self) -> LinkNameSpaceType {
        match self {
            Kind::Mount => LinkNameSpaceType::Mount,
            Kind::Cgroup => LinkNameSpaceType::ControlGroup,
            Kind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Kind::Pid => LinkNameSpaceType::ProcessID,
            Kind::Network => LinkNameSpaceType::Network,
        }
    }

    /// Its name under `/proc/<pid>/ns`.
    pub fn proc_name(self) -> &'static str {
        match self {
            Kind::Mount => "mnt",
            Kind::Cgroup => "cgroup",
            Kind::Uts => "uts",
            Kind::Ipc => "ipc",
            Kind::Pid => "pid",
            Kind::Network => "net",
        }
    }

    /// runc's name of it in `namespace_paths` of `state.json`.
    pub fn state_name(self) -> &'static str {
        match self {
            Kind::Mount => "NEWNS",
            Kind::Cgroup => "NEWCGROUP",
            Kind::Uts => "NEWUTS",
            Kind::Ipc => "NEWIPC",
            Kind::Pid => "NEWPID",
            Kind::Network => "NEWNET",
        }
    }
}

/// Where a container's namespace of one kind comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The shim's own: the specification does not name the kind.
    Host,
    /// A new one.
    New,
    /// An existing one, by path.
    Joined(PathBuf),
}

/// The namespaces that a specification asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces([Source; 6]);

impl Namespaces {
    /// Reads `linux.namespaces`.
    ///
    /// # Errors
    /// A kind named twice, an empty or relative path, or a kind that we cannot do yet.
    pub fn from_spec(spec: &Spec) -> Result<Self> {
        let mut sources = Kind::ALL.map(|_| Source::Host);
        let list = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref());
        for (index, namespace) in list.into_iter().flatten().enumerate() {
            let field = || format!("linux.namespaces[{index}]");
            let kind = match namespace.typ() {
                LinuxNamespaceType::Mount => Kind::Mount,
                LinuxNamespaceType::Cgroup => Kind::Cgroup,
                LinuxNamespaceType::Uts => Kind::Uts,
                LinuxNamespaceType::Ipc => Kind::Ipc,
                LinuxNamespaceType::Pid => Kind::Pid,
                LinuxNamespaceType::Network => Kind::Network,
                other => {
                    return Err(Error::unsupported(format!("{} (type {other})", field())));
                }
            };
            let slot = &mut sources[index_of(kind)];
            if *slot != Source::Host {
                return Err(Error::spec(
                    field(),
                    format!("duplicated ns {}", kind.proc_name()),
                ));
            }
            *slot = match namespace.path() {
                Some(path) if path.as_os_str().is_empty() => Source::New,
                Some(path) if path.is_absolute() => Source::Joined(path.clone()),
                Some(path) => {
                    let reason = format!("path {} is not absolute", path.display());
                    return Err(Error::spec(field(), reason));
                }
                None => Source::New,
            };
        }
        Ok(Self(sources))
    }

    /// Where the namespace of `kind` comes from.
    pub fn get(&self, kind: Kind) -> &Source {
        &self.0[index_of(kind)]
    }

    /// Whether the container has one of its own or a joined one, and not the shim's.
    pub fn is_private(&self, kind: Kind) -> bool {
        *self.get(kind) != Source::Host
    }

    /// Flags for the clone. The cgroup namespace is not among them: it must be made by the child
    /// once it is in its cgroup, because the kernel takes the caller's for its root.
    pub fn clone_flags(&self) -> u64 {
        Kind::ALL
            .iter()
            .filter(|kind| **kind != Kind::Cgroup && *self.get(**kind) == Source::New)
            .fold(0, |flags, kind| flags | kind.clone_flag())
    }

    /// Opens the namespaces to be joined, before anything is joined.
    ///
    /// # Errors
    /// `open(2)` of a path.
    pub fn open_joined(&self) -> Result<Vec<(Kind, OwnedFd)>> {
        let mut joined = Vec::new();
        for kind in Kind::ALL {
            if let Source::Joined(path) = self.get(kind) {
                joined.push((kind, open(path, kind)?));
            }
        }
        Ok(joined)
    }
}

fn index_of(kind: Kind) -> usize {
    Kind::ALL.iter().position(|k| *k == kind).unwrap_or(0)
}

/// Opens a namespace file. That it is one of `kind` is checked by `setns(2)`, which is given the
/// kind: nothing can be swapped in between.
fn open(path: &Path, kind: Kind) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .call("open", || format!("{path:?}"))
    .attempt(|| format!("open {} namespace to join", kind.proc_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(namespaces: &str) -> Result<Namespaces> {
        let json = format!(r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":{namespaces}}}}}"#);
        Namespaces::from_spec(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn new_joined_and_host_namespaces_are_told_apart() {
        let ns = parse(
            r#"[{"type":"pid"},{"type":"cgroup"},{"type":"network","path":"/proc/1/ns/net"},{"type":"uts","path":""}]"#,
        )
        .unwrap();
        assert_eq!(*ns.get(Kind::Pid), Source::New);
        assert_eq!(
            *ns.get(Kind::Network),
            Source::Joined("/proc/1/ns/net".into())
        );
        assert_eq!(*ns.get(Kind::Ipc), Source::Host);
        assert_eq!(ns.clone_flags(), 0x2000_0000 | 0x0400_0000);
    }

    #[test]
    fn duplicates_relative_paths_and_unsupported_kinds_are_refused_by_name() {
        for (json, part) in [
            (
                r#"[{"type":"pid"},{"type":"pid"}]"#,
                "linux.namespaces[1]: duplicated ns pid",
            ),
            (
                r#"[{"type":"pid","path":"x"}]"#,
                "linux.namespaces[0]: path x is not absolute",
            ),
            (
                r#"[{"type":"user"}]"#,
                "linux.namespaces[0] (type user): is not supported",
            ),
            (
                r#"[{"type":"time"}]"#,
                "linux.namespaces[0] (type time): is not supported",
            ),
        ] {
            let text = parse(json).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
