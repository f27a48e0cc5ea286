// SPDX-License-Identifier: Apache-2.0
//! Mappings of user and group ids: those of a container's user namespace and of id-mapped mounts.
//!
//! A user namespace gets its mappings from outside, once: by us if we may, else by `newuidmap(1)`
//! and `newgidmap(1)`, which may give what `/etc/subuid` and `/etc/subgid` grant.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use sys::userns::{Place, Resident};
use sys::{Call, Errno};

use crate::error::{Attempt, Error, Result};
use crate::helper;

/// Ids in a row: `size` of them, from `container` on, are those from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    /// The first id in the namespace.
    pub container: u32,
    /// The first id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// The mappings of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    /// Of user ids.
    pub uids: Vec<Range>,
    /// Of group ids.
    pub gids: Vec<Range>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    Users,
    Groups,
}

impl Ids {
    fn file(self) -> &'static str {
        match self {
            Ids::Users => "uid_map",
            Ids::Groups => "gid_map",
        }
    }

    fn helper(self) -> &'static str {
        match self {
            Ids::Users => "newuidmap",
            Ids::Groups => "newgidmap",
        }
    }
}

impl Mappings {
    /// Reads two lists of a specification; the error is what is wrong with which of them.
    ///
    /// # Errors
    /// An empty range, or one that leaves the 32 bits of an id.
    pub fn from_spec(
        uids: Option<&Vec<LinuxIdMapping>>,
        gids: Option<&Vec<LinuxIdMapping>>,
    ) -> std::result::Result<Self, (&'static str, String)> {
        let list = |field, list: Option<&Vec<LinuxIdMapping>>| {
            list.into_iter()
                .flatten()
                .map(|range| Range::checked(range).map_err(|reason| (field, reason)))
                .collect::<std::result::Result<Vec<_>, _>>()
        };
        Ok(Self {
            uids: list("uidMappings", uids)?,
            gids: list("gidMappings", gids)?,
        })
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Whether both map the same ids to the same ids. The order is no difference: the kernel keeps
    /// long lists sorted.
    pub fn same(&self, other: &Self) -> bool {
        let sorted = |list: &[Range]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        sorted(&self.uids) == sorted(&other.uids) && sorted(&self.gids) == sorted(&other.gids)
    }

    /// The user id outside of `uid` inside.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        host(&self.uids, uid)
    }

    /// The group id outside of `gid` inside.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        host(&self.gids, gid)
    }

    /// Gives them to the user namespace of process `pid`, which has none yet. The process must be
    /// a child of ours that nobody waits for meanwhile, so that the pid means it.
    ///
    /// # Errors
    /// The kernel refuses them, or we may not and the helpers cannot.
    pub fn give_to(&self, pid: Pid) -> Result<()> {
        // Groups first: they are the ones that may need more.
        for (ids, ranges) in [(Ids::Groups, &self.gids), (Ids::Users, &self.uids)] {
            give(pid, ids, ranges, &helper_path(ids))?;
        }
        Ok(())
    }

    /// A user namespace with these mappings, for id-mapped mounts.
    ///
    /// # Errors
    /// It cannot be made, or as [`Mappings::give_to`].
    pub fn namespace(&self) -> Result<OwnedFd> {
        let resident = Resident::start(Place::New).attempt(|| "make user namespace")?;
        self.give_to(resident.pid())?;
        let path = format!("/proc/{}/ns/user", resident.pid().as_raw_nonzero());
        rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .call("open", || format!("{path:?}"))
            .attempt(|| "open user namespace")
    }

    /// The mappings of an existing user namespace, which must not be our own.
    ///
    /// # Errors
    /// It cannot be entered or its mappings cannot be read.
    pub fn of(namespace: BorrowedFd<'_>) -> Result<Self> {
        let resident = Resident::start(Place::Existing(namespace))
            .attempt(|| "enter user namespace to read its mappings")?;
        let read = |ids: Ids| -> Result<Vec<Range>> {
            let path = map_file(resident.pid(), ids);
            let text = fs::read_to_string(&path)
                .call("read", || format!("{path:?}"))
                .attempt(|| "read mappings of user namespace")?;
            parse(&text).ok_or_else(|| Error::NotPossible(format!("{path:?} has no mappings")))
        };
        Ok(Self {
            uids: read(Ids::Users)?,
            gids: read(Ids::Groups)?,
        })
    }
}

impl Range {
    /// Whether there are such ids: 4294967295 is none, but the word for none.
    pub(crate) fn is_possible(&self) -> bool {
        let ends = |first: u32| first.checked_add(self.size).is_some();
        self.size != 0 && ends(self.container) && ends(self.host)
    }

    fn checked(range: &LinuxIdMapping) -> std::result::Result<Self, String> {
        let range = Self {
            container: range.container_id(),
            host: range.host_id(),
            size: range.size(),
        };
        if !range.is_possible() {
            let Self {
                container,
                host,
                size,
            } = range;
            return Err(format!(
                "{size} ids from {container} to {host} are no possible mapping"
            ));
        }
        Ok(range)
    }
}

fn host(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.container)?;
        (offset < range.size).then(|| range.host + offset)
    })
}

fn map_file(pid: Pid, ids: Ids) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{}", pid.as_raw_nonzero(), ids.file()))
}

/// What the kernel takes: one range a line, in one `write(2)`.
fn text(ranges: &[Range]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", range.container, range.host, range.size);
        text
    })
}

fn parse(text: &str) -> Option<Vec<Range>> {
    text.lines()
        .map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let mut next = || numbers.next().and_then(std::result::Result::ok);
            Some(Range {
                container: next()?,
                host: next()?,
                size: next()?,
            })
        })
        .collect()
}

/// Where one of the helpers is: `$PATH` is the shim's, and containerd's.
fn helper_path(ids: Ids) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path)
        .map(|folder| folder.join(ids.helper()))
        .find(|file| file.is_file())
        .unwrap_or_else(|| Path::new("/usr/bin").join(ids.helper()))
}

fn give(pid: Pid, ids: Ids, ranges: &[Range], program: &Path) -> Result<()> {
    let file = map_file(pid, ids);
    match write_once(&file, &text(ranges)) {
        Ok(()) => Ok(()),
        // One's own group may be mapped without privilege by who gives up setgroups(2).
        Err(Errno::PERM) if ids == Ids::Groups && is_own_group(ranges) => {
            let setgroups = format!("/proc/{}/setgroups", pid.as_raw_nonzero());
            write_once(Path::new(&setgroups), "deny")
                .call("write", || format!("{setgroups:?}, \"deny\""))
                .attempt(|| "give up setgroups in user namespace")?;
            write_once(&file, &text(ranges))
                .call("write", || format!("{file:?}, {:?}", text(ranges)))
                .attempt(|| "map ids of user namespace")
        }
        Err(Errno::PERM) if program.exists() => run(program, pid, ranges),
        Err(errno) => Err(sys::Error::new(
            "write",
            format!("{file:?}, {:?}", text(ranges)),
            errno,
        ))
        .attempt(|| "map ids of user namespace"),
    }
}

/// Whether nothing is mapped but the group that we have.
fn is_own_group(ranges: &[Range]) -> bool {
    let own = rustix::process::getegid().as_raw();
    matches!(ranges, [range] if range.size == 1 && range.host == own)
}

fn write_once(path: &Path, text: &str) -> std::result::Result<(), Errno> {
    let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::io::write(&fd, text.as_bytes())? {
        written if written == text.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Runs one of the helpers and waits for it; what it says belongs to the error.
fn run(program: &Path, pid: Pid, ranges: &[Range]) -> Result<()> {
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.container, range.host, range.size])
        .map(|number| number.to_string());
    let pid = pid.as_raw_nonzero().to_string();
    helper::run(program, std::iter::once(pid).chain(numbers)).map_err(|reason| {
        let what = program.display();
        Error::NotPossible(format!("map ids of user namespace with {what}: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn range(container: u32, host: u32, size: u32) -> Range {
        Range {
            container,
            host,
            size,
        }
    }

    fn both(ranges: &[Range]) -> Mappings {
        Mappings {
            uids: ranges.to_vec(),
            gids: ranges.to_vec(),
        }
    }

    #[test]
    fn ids_are_found_in_their_range_only() {
        let mappings = both(&[range(0, 100_000, 10), range(20, 5, 1)]);
        assert_eq!(mappings.host_uid(0), Some(100_000));
        assert_eq!(mappings.host_uid(9), Some(100_009));
        assert_eq!(mappings.host_gid(20), Some(5));
        for unmapped in [10, 19, 21, u32::MAX] {
            assert_eq!(mappings.host_gid(unmapped), None);
        }
        assert!(
            both(&[range(0, 1, 1), range(1, 5, 2)]).same(&both(&[range(1, 5, 2), range(0, 1, 1)]))
        );
        assert!(!both(&[range(0, 1, 2)]).same(&both(&[range(0, 1, 1)])));
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let parse = |json: &str| {
            let list: Vec<LinuxIdMapping> = serde_json::from_str(json).unwrap();
            Mappings::from_spec(None, Some(&list))
        };
        let (field, reason) = parse(r#"[{"containerID":0,"hostID":1,"size":0}]"#).unwrap_err();
        assert_eq!(field, "gidMappings");
        assert!(reason.contains("no possible mapping"), "{reason}");
        assert!(parse(r#"[{"containerID":0,"hostID":4294967295,"size":1}]"#).is_err());
        assert!(parse(r#"[{"containerID":1,"hostID":0,"size":4294967295}]"#).is_err());
        parse(r#"[{"containerID":0,"hostID":0,"size":4294967295}]"#).unwrap();
    }

    #[test]
    fn a_namespace_has_the_mappings_that_it_was_made_for() {
        let mappings = Mappings {
            uids: vec![range(0, 100_000, 65_536), range(70_000, 5, 3)],
            gids: vec![range(0, 200_000, 1000)],
        };
        let namespace = mappings.namespace().unwrap();
        assert_eq!(sys::namespace::kind_of(&namespace).unwrap(), 0x1000_0000);
        assert!(Mappings::of(namespace.as_fd()).unwrap().same(&mappings));
        let error = both(&[range(0, 1, 10), range(5, 100, 10)])
            .namespace()
            .unwrap_err();
        assert!(error.to_string().contains("gid_map"), "{error}");
    }

    const NOBODY: u32 = 65_534;

    /// Runs in a thread that is nobody and may do nothing.
    fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                use rustix::process::{Gid, Uid};
                let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
                // With the last user id that is root's the capabilities go.
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A stand-in for `newuidmap`: notes its arguments and says something.
    fn helper(folder: &Path, status: i32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let (path, notes) = (folder.join(format!("helper{status}")), folder.join("notes"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{}\necho too bad >&2\nexit {status}\n",
            notes.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn whoever_may_not_asks_the_helper() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let ranges = [range(0, 1000, 1), range(1, 100_000, 5)];
        unprivileged(|| {
            let resident = Resident::start(Place::New).unwrap();
            let pid = resident.pid();
            let error = give(pid, Ids::Users, &ranges, Path::new("/nope")).unwrap_err();
            assert!(
                error.to_string().contains("operation not permitted"),
                "{error}"
            );
            give(pid, Ids::Users, &ranges, &helper(folder.path(), 0)).unwrap();
            let error = give(pid, Ids::Groups, &ranges, &helper(folder.path(), 1)).unwrap_err();
            assert!(error.to_string().ends_with("too bad"), "{error}");
            let notes = fs::read_to_string(folder.path().join("notes")).unwrap();
            let line = format!("{} 0 1000 1 1 100000 5\n", pid.as_raw_nonzero());
            assert_eq!(notes, line.repeat(2));
        });
    }

    #[test]
    fn ones_own_ids_are_mapped_without_privilege_and_helper() {
        unprivileged(|| {
            let resident = Resident::start(Place::New).unwrap();
            let pid = resident.pid();
            for ids in [Ids::Groups, Ids::Users] {
                give(pid, ids, &[range(0, NOBODY, 1)], Path::new("/nope")).unwrap();
            }
            let setgroups = format!("/proc/{}/setgroups", pid.as_raw_nonzero());
            assert_eq!(fs::read_to_string(setgroups).unwrap(), "deny\n");
        });
    }
}
