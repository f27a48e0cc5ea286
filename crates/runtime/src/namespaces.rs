// SPDX-License-Identifier: Apache-2.0
//! Namespaces of a container: which are new, which are joined by path.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
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
    /// User and group ids, and what their owners may.
    User,
    /// The clocks that count from boot.
    Time,
}

impl Kind {
    /// All kinds, in the order in which they are joined. The user namespace last: whoever may enter
    /// a namespace before may not always do so after. The mount namespace after all that is found
    /// by path.
    pub const ALL: [Kind; 8] = [
        Kind::Cgroup,
        Kind::Ipc,
        Kind::Uts,
        Kind::Network,
        Kind::Pid,
        Kind::Time,
        Kind::Mount,
        Kind::User,
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
            Kind::User => LinkNameSpaceType::User,
            Kind::Time => LinkNameSpaceType::Time,
        }
    }

    /// Its type for `setns(2)` with a pidfd.
    pub fn thread_type(self) -> ThreadNameSpaceType {
        match self {
            Kind::Mount => ThreadNameSpaceType::MOUNT,
            Kind::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
            Kind::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
            Kind::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
            Kind::Pid => ThreadNameSpaceType::PROCESS_ID,
            Kind::Network => ThreadNameSpaceType::NETWORK,
            Kind::User => ThreadNameSpaceType::USER,
            Kind::Time => ThreadNameSpaceType::TIME,
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
            Kind::User => "user",
            Kind::Time => "time",
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
            Kind::User => "NEWUSER",
            Kind::Time => "NEWTIME",
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
pub struct Namespaces([Source; 8]);

impl Namespaces {
    /// Reads `linux.namespaces`.
    ///
    /// # Errors
    /// A kind named twice, or a relative path.
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
                LinuxNamespaceType::User => Kind::User,
                LinuxNamespaceType::Time => Kind::Time,
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

    /// The namespaces to be born into, as flags for the clone.
    ///
    /// Not among them is the cgroup namespace: it must be made by the child once it is in its
    /// cgroup, because the kernel takes the caller's for its root. Nor the time namespace, whose
    /// offsets must be set before anybody is in it. And with a user namespace there is none at all:
    /// the others must be made by who is in it, so that they belong to it.
    pub fn clone_flags(&self) -> u64 {
        if self.is_private(Kind::User) {
            return 0;
        }
        self.new_flags()
    }

    /// What a process that has entered the container's user namespace makes there.
    pub fn flags_in_user_namespace(&self) -> u64 {
        if self.is_private(Kind::User) {
            return self.new_flags();
        }
        0
    }

    fn new_flags(&self) -> u64 {
        let later = [Kind::Cgroup, Kind::Time, Kind::User];
        Kind::ALL
            .iter()
            .filter(|kind| !later.contains(kind) && *self.get(**kind) == Source::New)
            .fold(0, |flags, kind| flags | kind.clone_flag())
    }

    /// Opens the namespaces to be joined, before anything is joined.
    ///
    /// # Errors
    /// `open(2)` of a path, or something else than a namespace of its kind is there.
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

/// Those of `kinds` of which the process `pid` has another namespace than we have.
///
/// # Errors
/// `/proc/<pid>/ns` cannot be read.
pub fn foreign(pid: rustix::process::Pid, kinds: &[Kind]) -> Result<Vec<Kind>> {
    let identity = |process: &str, kind: Kind| -> Result<Option<(u64, u64)>> {
        let path = format!("/proc/{process}/ns/{}", kind.proc_name());
        match rustix::fs::stat(&*path) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            // A kernel without namespaces of this kind.
            Err(sys::Errno::NOENT) if process == "self" => Ok(None),
            Err(errno) => Err(sys::Error::new("stat", format!("{path:?}"), errno))
                .attempt(|| "look at namespaces of container"),
        }
    };
    let mut foreign = Vec::new();
    for &kind in kinds {
        let ours = identity("self", kind)?;
        if ours.is_some() && identity(&pid.as_raw_nonzero().to_string(), kind)? != ours {
            foreign.push(kind);
        }
    }
    Ok(foreign)
}

fn index_of(kind: Kind) -> usize {
    Kind::ALL.iter().position(|k| *k == kind).unwrap_or(0)
}

/// Opens a namespace file, which must be one of `kind`.
fn open(path: &Path, kind: Kind) -> Result<OwnedFd> {
    let attempt = || format!("open {} namespace to join", kind.proc_name());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .call("open", || format!("{path:?}"))
        .attempt(attempt)?;
    let found = sys::namespace::kind_of(&fd)
        .map_err(|e| sys::Error::new(e.call(), format!("{path:?}"), e.errno()))
        .attempt(attempt)?;
    if found != kind.clone_flag() {
        let other = Kind::ALL.iter().find(|other| other.clone_flag() == found);
        return Err(Error::NotPossible(format!(
            "{}: {path:?} is a {} namespace",
            attempt(),
            other.map_or("strange", |other| other.proc_name()),
        )));
    }
    Ok(fd)
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
    fn duplicates_and_relative_paths_are_refused_by_name() {
        for (json, part) in [
            (
                r#"[{"type":"pid"},{"type":"pid"}]"#,
                "linux.namespaces[1]: duplicated ns pid",
            ),
            (
                r#"[{"type":"pid","path":"x"}]"#,
                "linux.namespaces[0]: path x is not absolute",
            ),
        ] {
            let text = parse(json).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn with_a_user_namespace_the_others_are_made_inside() {
        let list = r#"[{"type":"pid"},{"type":"mount"},{"type":"cgroup"},{"type":"time"}"#;
        let without = parse(&format!("{list}]")).unwrap();
        assert_eq!(without.clone_flags(), 0x2002_0000);
        assert_eq!(without.flags_in_user_namespace(), 0);
        let with = parse(&format!(r#"{list},{{"type":"user"}}]"#)).unwrap();
        assert_eq!(with.clone_flags(), 0);
        assert_eq!(with.flags_in_user_namespace(), 0x2002_0000);
        let joined = parse(&format!(
            r#"{list},{{"type":"user","path":"/proc/1/ns/user"}}]"#
        ));
        assert_eq!(joined.unwrap().flags_in_user_namespace(), 0x2002_0000);
    }

    #[test]
    fn what_is_joined_is_checked_to_be_of_its_kind() {
        let join = |kind: &str, path: &str| {
            let list = format!(r#"[{{"type":"{kind}","path":"{path}"}}]"#);
            parse(&list).unwrap().open_joined()
        };
        for (kind, name) in [("network", "net"), ("user", "user"), ("mount", "mnt")] {
            let path = format!("/proc/self/ns/{name}");
            assert_eq!(join(kind, &path).unwrap().len(), 1, "{kind}");
        }
        for (path, part) in [
            ("/proc/self/ns/uts", "is a uts namespace"),
            ("/dev/null", "\"/dev/null\""),
            ("/nope", "no such file"),
        ] {
            let text = join("network", path).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn our_own_namespaces_are_not_foreign() {
        assert_eq!(foreign(rustix::process::getpid(), &Kind::ALL).unwrap(), []);
    }
}
