// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with a root file system: the step, the object, the cause.

use std::path::PathBuf;

use sys::Errno;

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
pub enum Error {
    /// One of the mounts.
    #[error("error mounting {from:?} to rootfs at {destination:?}: {cause}")]
    Mount {
        /// What was to be mounted.
        from: String,
        /// Where in the container.
        destination: PathBuf,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
    /// A device node or a link below `/dev`.
    #[error("error creating device {path:?}: {cause}")]
    Device {
        /// The node in the container.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
    /// Some other path in the container.
    #[error("{attempt} {path:?}: {cause}")]
    Path {
        /// What was attempted.
        attempt: &'static str,
        /// The path in the container.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
    /// A step that is about the root as a whole.
    #[error("{attempt}: {cause}")]
    Step {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
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
    /// `proc` or `sysfs` somewhere else than on an ordinary directory.
    #[error("filesystem {0:?} must be mounted on ordinary directory")]
    NotOrdinary(String),
    /// Something that is not safe to do.
    #[error("{0}")]
    Unsafe(&'static str),
}

impl Error {
    /// The error number, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Mount { cause, .. }
            | Self::Device { cause, .. }
            | Self::Path { cause, .. }
            | Self::Step { cause, .. } => cause.errno(),
        }
    }

    pub(crate) fn step(attempt: &'static str) -> impl FnOnce(Cause) -> Self {
        move |cause| Self::Step { attempt, cause }
    }
}

impl Cause {
    /// The error number, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::System(source) | Self::Shape(source) => Some(source.errno()),
            Self::Procfs(source) => source.errno(),
            Self::NotOrdinary(_) | Self::Unsafe(_) => None,
        }
    }
}
