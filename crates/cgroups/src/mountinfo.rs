// SPDX-License-Identifier: Apache-2.0
//! `/proc/self/mountinfo` and `/proc/self/cgroup` read as text: which hierarchy could be where.
//! Pure: nothing is opened here.

use crate::layout::{Kind, Mode};

/// Where cgroups are by convention. Mounts elsewhere may belong to somebody's container.
pub(crate) const CONVENTION: &str = "/sys/fs/cgroup";

/// One mount of a cgroup file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of the file system.
    pub(crate) device: (u32, u32),
    /// Which directory of the hierarchy is mounted.
    pub(crate) root: String,
    pub(crate) mount_point: String,
    unified: bool,
    /// Options of the file system: controllers and name among them.
    options: Vec<String>,
}

/// A hierarchy that exists, and its mounts, the likeliest first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    /// Our own cgroup in it, as the kernel names it.
    pub(crate) own: String,
    pub(crate) mounts: Vec<Mount>,
}

/// Brings both texts together. `cgroup` says what hierarchies there are, `mountinfo` where.
pub(crate) fn arrange(mountinfo: &str, cgroup: &str) -> (Mode, Vec<Found>) {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(mount).collect();
    let mut found: Vec<Found> = cgroup
        .lines()
        .filter_map(|line| hierarchy(line, &mounts))
        .collect();
    let (unified, v1): (Vec<&Found>, Vec<&Found>) =
        found.iter().partition(|f| f.kind == Kind::Unified);
    let convention = unified
        .iter()
        .any(|f| f.mounts.iter().any(|m| m.mount_point == CONVENTION));
    let mode = match (unified.is_empty(), v1.is_empty()) {
        // Some programs mount a v1 controller for themselves on a machine that is v2 otherwise.
        _ if convention => Mode::V2,
        (false, true) => Mode::V2,
        (false, false) => Mode::Hybrid,
        (true, _) => Mode::V1,
    };
    if mode == Mode::V2 {
        found.retain(|f| f.kind == Kind::Unified);
    }
    (mode, found)
}

/// Which directory of the v2 hierarchy is mounted at a place; the last mount lies on top.
pub(crate) fn unified_root(mountinfo: &str, mount_point: &str) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(mount);
    let mut there = mounts.filter(|mount| mount.unified && mount.mount_point == mount_point);
    there.next_back().map(|mount| mount.root)
}

/// A line of `/proc/self/cgroup`: `4:cpu,cpuacct:/path`, `1:name=systemd:/path`, `0::/path`.
fn hierarchy(line: &str, mounts: &[Mount]) -> Option<Found> {
    let mut fields = line.splitn(3, ':');
    let (_, tokens, own) = (fields.next()?, fields.next()?, fields.next()?);
    let tokens: Vec<&str> = tokens.split(',').filter(|t| !t.is_empty()).collect();
    let (names, controllers): (Vec<&str>, Vec<&str>) =
        tokens.iter().partition(|t| t.starts_with("name="));
    let kind = match (controllers.is_empty(), names.first()) {
        (false, _) => Kind::Controllers(controllers.iter().map(|&c| c.to_owned()).collect()),
        (true, Some(name)) => Kind::Named((*name).to_owned()),
        (true, None) => Kind::Unified,
    };
    let is_of_it = |m: &&Mount| match kind {
        Kind::Unified => m.unified,
        _ => !m.unified && tokens.iter().all(|t| m.options.iter().any(|o| o == t)),
    };
    let mut mounts: Vec<Mount> = mounts.iter().filter(is_of_it).cloned().collect();
    mounts.sort_by_key(|m| !is_conventional(&m.mount_point));
    (!mounts.is_empty()).then(|| Found {
        kind,
        own: own.to_owned(),
        mounts,
    })
}

fn is_conventional(mount_point: &str) -> bool {
    mount_point
        .strip_prefix(CONVENTION)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A line of mountinfo, if it is about cgroups.
fn mount(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let unified = match filesystem.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = filesystem.nth(1).unwrap_or_default();
    let mut mount = mount.split(' ').skip(2);
    let (major, minor) = mount.next()?.split_once(':')?;
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: unescape(mount.next()?),
        mount_point: unescape(mount.next()?),
        unified,
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// Undoes the octal escapes (`\040` for a space) of mountinfo.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |b: u8| (b'0'..=b'7').contains(&b).then(|| u32::from(b - b'0'));
        let escaped = match (first, tail) {
            (b'\\', [a, b, c, ..]) => match (octal(*a), octal(*b), octal(*c)) {
                (Some(a), Some(b), Some(c)) => u8::try_from(a * 64 + b * 8 + c).ok(),
                _ => None,
            },
            _ => None,
        };
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[path = "mountinfo_tests.rs"]
mod tests;
