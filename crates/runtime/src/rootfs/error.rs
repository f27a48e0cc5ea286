// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with a root file system: the step, the object, the cause.

use std::path::{Path, PathBuf};

use sys::Errno;

use crate::error::Operation;
use crate::procfs;

/// The specification asks for something impossible, or for what we cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct PlanError {
    /// JSON path of the value.
    pub field: String,
    /// Why it is refused.
    pub reason: String,
}

impl PlanError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// A step of setting up the root file system failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {cause}")]
pub struct Error {
    attempt: Attempt,
    #[source]
    cause: Box<Cause>,
}

/// What was attempted.
#[derive(Debug)]
enum Attempt {
    /// One of the mounts.
    Mount { from: String, destination: PathBuf },
    /// A device node or a link below `/dev`.
    Device(PathBuf),
    /// Something on another path of the container.
    Path(&'static str, PathBuf),
    /// A step that is about the root as a whole.
    Step(&'static str),
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount { from, destination } => {
                write!(f, "error mounting {from:?} to rootfs at {destination:?}")
            }
            Self::Device(path) => write!(f, "error creating device {path:?}"),
            Self::Path(attempt, path) => write!(f, "{attempt} {path:?}"),
            Self::Step(attempt) => f.write_str(attempt),
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A system call.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// The private procfs.
    #[error(transparent)]
    Procfs(#[from] procfs::Error),
    /// Mounting a directory on a file or a file on a directory.
    #[error("{0}: a directory cannot be mounted on a file, nor a file on a directory")]
    Shape(#[source] sys::Error),
    /// Id-mapping a mount, for which the kernel has one error number only.
    #[error("{0} (maybe its file system cannot be id-mapped by this kernel)")]
    NotMapped(#[source] sys::Error),
    /// `proc` or `sysfs` somewhere else than on an ordinary directory.
    #[error("filesystem {0:?} must be mounted on ordinary directory")]
    NotOrdinary(String),
    /// The user namespace for an id-mapped mount.
    #[error("id-mapped mount: {0}")]
    IdMap(String),
    /// Something that is not safe to do.
    #[error("{0}")]
    Unsafe(&'static str),
}

impl Error {
    /// The error number, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        self.cause.errno()
    }

    /// The system call that failed, and the container's path that it was for.
    pub fn operation(&self) -> Option<Operation> {
        let mut operation = self.cause.operation()?;
        match &self.attempt {
            Attempt::Mount {
                destination: path, ..
            }
            | Attempt::Device(path)
            | Attempt::Path(_, path) => operation.object = path.to_string_lossy().into_owned(),
            Attempt::Step(_) => {}
        }
        Some(operation)
    }

    pub(super) fn mount(from: String, destination: &Path) -> impl FnOnce(Cause) -> Self {
        let attempt = Attempt::Mount {
            from,
            destination: destination.to_owned(),
        };
        move |cause| Self {
            attempt,
            cause: Box::new(cause),
        }
    }

    pub(super) fn device(path: &Path) -> impl FnOnce(Cause) -> Self {
        let attempt = Attempt::Device(path.to_owned());
        move |cause| Self {
            attempt,
            cause: Box::new(cause),
        }
    }

    pub(super) fn path(attempt: &'static str, path: &Path) -> impl FnOnce(Cause) -> Self {
        let attempt = Attempt::Path(attempt, path.to_owned());
        move |cause| Self {
            attempt,
            cause: Box::new(cause),
        }
    }

    pub(super) fn step(attempt: &'static str) -> impl FnOnce(Cause) -> Self {
        move |cause| Self {
            attempt: Attempt::Step(attempt),
            cause: Box::new(cause),
        }
    }
}

impl Cause {
    fn operation(&self) -> Option<Operation> {
        match self {
            Self::System(source) | Self::Shape(source) | Self::NotMapped(source) => {
                Some(source.into())
            }
            Self::Procfs(source) => source.operation(),
            Self::NotOrdinary(_) | Self::IdMap(_) | Self::Unsafe(_) => None,
        }
    }

    /// The error number, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::System(source) | Self::Shape(source) | Self::NotMapped(source) => {
                Some(source.errno())
            }
            Self::Procfs(source) => source.errno(),
            Self::NotOrdinary(_) | Self::IdMap(_) | Self::Unsafe(_) => None,
        }
    }
}
