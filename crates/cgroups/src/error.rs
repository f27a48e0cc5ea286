// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with cgroups.

/// A failed operation on cgroups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the kernel says of hierarchies could not be read.
    #[error("find cgroup hierarchies: {0}")]
    Detect(#[source] sys::Error),
    /// No cgroup file system is mounted, or none of a record's is.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// The path cannot name a container's cgroup.
    #[error("cgroup path {path:?} {reason}")]
    InvalidPath {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path that the systemd driver cannot use.
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {0:?} instead"
    )]
    SystemdPath(String),
    /// An annotation that is no property of a systemd unit.
    #[error("annotation {annotation:?} {reason}")]
    Annotation {
        /// Its name.
        annotation: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The systemd driver without systemd.
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    SystemdAbsent,
    /// systemd refuses, or cannot be reached.
    #[error("unable to {attempt} unit {unit:?}: {source}")]
    Systemd {
        /// What was attempted: `start`, `stop`, ...
        attempt: &'static str,
        /// The unit.
        unit: String,
        /// Why.
        #[source]
        source: Box<dbus::Error>,
    },
    /// systemd tried, and failed.
    #[error("error creating systemd unit `{unit}`: got `{result}`")]
    SystemdJob {
        /// The unit.
        unit: String,
        /// systemd's word: `failed`, `canceled`, `timeout`, ...
        result: String,
    },
    /// systemd has not done it in time.
    #[error("timeout waiting for systemd to {attempt} {unit}")]
    SystemdSlow {
        /// `start` or `stop`.
        attempt: &'static str,
        /// The unit.
        unit: String,
    },
    /// systemd has its scope at another place than where it was expected.
    #[error("systemd has put the container elsewhere than into {path}")]
    Misplaced {
        /// The expected directory.
        path: String,
    },
    /// A relative path, and the hierarchy is not mounted where our own cgroup could be seen.
    #[error("own cgroup is not visible below {mount_point}: the cgroup path must be absolute")]
    OwnCgroupHidden {
        /// Where the hierarchy is mounted.
        mount_point: String,
    },
    /// A record names a directory outside the hierarchy it is for.
    #[error("recorded cgroup {path:?} is not below {mount_point}")]
    OutsideHierarchy {
        /// The directory as recorded.
        path: String,
        /// Where the hierarchy is mounted.
        mount_point: String,
    },
    /// A process that should be the container's is in a cgroup that is not.
    #[error("cgroup {path:?} of the container's init is not below the container's own, {own:?}")]
    Elsewhere {
        /// Where it is.
        path: String,
        /// The container's cgroup.
        own: String,
    },
    /// Somebody runs in the cgroup that was to be the container's own.
    #[error("container's cgroup is not empty: {count} process(es) found")]
    NotEmpty {
        /// How many.
        count: usize,
    },
    /// A process placed there would not run.
    #[error("container's cgroup unexpectedly frozen")]
    Frozen,
    /// Processes did not stop.
    #[error("cgroup {path}: timeout of {limit:?} reached waiting for it to freeze")]
    NotFrozen {
        /// The directory.
        path: String,
        /// How long they had.
        limit: std::time::Duration,
    },
    /// A cgroup v2 directory that takes threads only, or nothing.
    #[error("cgroup {path} cannot hold a container: its type is {kind:?}")]
    Unsuitable {
        /// The directory.
        path: String,
        /// Content of its `cgroup.type`.
        kind: String,
    },
    /// What the rules or limits need is not to be had on this machine, or not for this cgroup.
    #[error("cgroup controller {controller:?} is not available")]
    NoController {
        /// Its name.
        controller: String,
    },
    /// No hierarchy of the container has this name.
    #[error("unknown controller {controller:?}")]
    UnknownController {
        /// As it was given.
        controller: String,
    },
    /// A device number that the kernel takes for "any".
    #[error("{number} is no device number")]
    DeviceNumber {
        /// As it was given.
        number: u32,
    },
    /// A device rule that would have to be an exception from an exception.
    #[error("device rule {rule:?} cannot make a hole in rule {wide:?}")]
    DeviceHole {
        /// The rule.
        rule: String,
        /// What came before it.
        wide: String,
    },
    /// A `devices.list` that is not as it should be.
    #[error("device list of cgroup {path} {reason}")]
    DeviceList {
        /// The directory.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit that no cgroup could follow, or none of this version.
    #[error("invalid limit {limit}: {reason}")]
    InvalidLimit {
        /// Which, by its name in the specification.
        limit: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel does not take a limit.
    #[error("set {file} to {value:?}: {source}")]
    SetLimit {
        /// The file.
        file: String,
        /// What was to be written.
        value: String,
        /// Why.
        #[source]
        source: sys::Error,
    },
    /// A change of limits failed, and what had been changed by then could not all be taken back.
    #[error("{source}; not taken back: {}", join(.left))]
    NotUndone {
        /// Why the change failed.
        #[source]
        source: Box<Error>,
        /// What failed afterwards.
        left: Vec<Error>,
    },
    /// v1 does not take a limit of memory because too much is in use already.
    #[error("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})")]
    MemoryInUse {
        /// The limit in bytes.
        limit: String,
        /// What is in use.
        usage: String,
        /// What was in use once.
        peak: String,
    },
    /// A limit of memory that would kill, where that was not wanted.
    #[error("rejecting {what} limit {limit} <= usage {usage}")]
    BelowUse {
        /// Which limit.
        what: &'static str,
        /// In bytes.
        limit: i64,
        /// What is in use.
        usage: i64,
    },
    /// A file operation on a cgroup failed.
    #[error("{attempt} cgroup {path}: {source}")]
    Access {
        /// What was attempted: `create`, `open`, ...
        attempt: &'static str,
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: sys::Error,
    },
    /// Processes were still there after the time that killing may take.
    #[error("{count} process(es) in cgroup {path} survived SIGKILL")]
    Survivors {
        /// The directory.
        path: String,
        /// How many.
        count: usize,
    },
}

fn join(errors: &[Error]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Result of an operation on cgroups.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error number behind it, if a system call failed.
    pub fn errno(&self) -> Option<sys::Errno> {
        match self {
            Self::Detect(source) | Self::Access { source, .. } | Self::SetLimit { source, .. } => {
                Some(source.errno())
            }
            Self::NotUndone { source, .. } => source.errno(),
            _ => None,
        }
    }

    /// Whether systemd, which does run the machine, may not have heard what was asked of it.
    pub(crate) fn is_unheard(&self) -> bool {
        match self {
            Self::Systemd { source, .. } => source.remote().is_none() || source.is_lost(),
            _ => false,
        }
    }
}
