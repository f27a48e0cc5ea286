// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with a container, in sentences that name the attempt, the object, the cause.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A failed operation on a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A container of this id has state already.
    #[error("container with given ID already exists: {0}")]
    AlreadyExists(String),
    /// There is no container of this id, in runc's words, which clients match on.
    #[error("container does not exist")]
    DoesNotExist,
    /// config.json could not be read.
    #[error("open {}: {}", path.display(), describe(source))]
    ReadSpec {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// config.json is not what the specification says.
    #[error("parse {}: {field}: {reason}", path.display())]
    ParseSpec {
        /// The file.
        path: PathBuf,
        /// JSON path of the value, `.` for the document.
        field: String,
        /// Why.
        reason: String,
    },
    /// The specification asks for something impossible, or for what we cannot do yet.
    #[error("invalid spec: {field}: {reason}")]
    Spec {
        /// JSON path of the value.
        field: String,
        /// Why.
        reason: String,
    },
    /// The root file system cannot be planned.
    #[error(transparent)]
    Rootfs(#[from] crate::rootfs::PlanError),
    /// A cgroup operation failed.
    #[error("{attempt}: {source}")]
    Cgroup {
        /// What was attempted.
        attempt: &'static str,
        /// Why.
        #[source]
        source: cgroups::Error,
    },
    /// A system call of ours failed.
    #[error("{attempt}: {source}")]
    System {
        /// What was attempted, and on what.
        attempt: String,
        /// Why.
        #[source]
        source: sys::Error,
    },
    /// The state directory cannot be used.
    #[error("{attempt} {}: {}", path.display(), describe(source))]
    State {
        /// What was attempted.
        attempt: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Init reported that one of its steps failed.
    #[error("unable to start container process: {0}")]
    Init(Failure),
    /// Init ended without a word.
    #[error("unable to start container process: init {how} during {phase}")]
    Died {
        /// How it ended.
        how: String,
        /// What it was asked to do.
        phase: &'static str,
    },
    /// The kernel killed init because its cgroup, or one above it, has no more memory.
    #[error(
        "unable to start container process: container init was OOM-killed (memory limit too low?)"
    )]
    OomKilled,
    /// A hook of the host failed.
    #[error("{}{}", hook_phase(.0), .0)]
    Hook(crate::hooks::Error),
    /// Init said something that the protocol does not allow at this point.
    #[error("sync protocol: {0}")]
    Protocol(String),
    /// The operation does not fit the container's state.
    #[error("{0}")]
    NotPossible(String),
}

/// Result of an operation on a container.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A value in config.json that is wrong or cannot be honoured.
    pub fn spec(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Spec {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// A value in config.json that we do not implement: refused by name, never ignored.
    pub fn unsupported(field: impl Into<String>) -> Self {
        Self::spec(field, "is not supported by this runtime yet")
    }
}

/// What a hook's failure has made impossible, in runc's words.
fn hook_phase(error: &crate::hooks::Error) -> &'static str {
    use crate::hooks::Kind;
    match error.kind {
        Kind::Prestart | Kind::CreateRuntime => {
            "unable to start container process: error during container init: "
        }
        _ => "",
    }
}

/// The text of an I/O error as Go prints it.
fn describe(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => sys::error::describe(sys::Errno::from_raw_os_error(errno)),
        None => error.to_string(),
    }
}

/// Says what was attempted when a system call fails.
pub(crate) trait Attempt<T> {
    /// Adds the attempt to the error.
    fn attempt<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Attempt<T> for sys::Result<T> {
    fn attempt<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::System {
            attempt: what().into(),
            source,
        })
    }
}

/// What a step of init reports when it fails: the step's name, one sentence, and its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Name of the step, as in the lists of [`crate::init`].
    pub step: String,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// The errno behind it, if a system call failed.
    pub errno: Option<i32>,
    /// The operation that failed, if it was a single one.
    pub operation: Option<Operation>,
}

/// What failed, and on what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The system call.
    pub call: String,
    /// What it was for: a path of the container where there is one, else the call's arguments.
    pub object: String,
}

impl From<&sys::Error> for Operation {
    fn from(error: &sys::Error) -> Self {
        Self {
            call: error.call().to_owned(),
            object: error.args().to_owned(),
        }
    }
}

impl Failure {
    /// Without a single operation behind it.
    pub fn new(step: &str, message: impl Into<String>, errno: Option<i32>) -> Self {
        Self {
            step: step.to_owned(),
            message: message.into(),
            errno,
            operation: None,
        }
    }

    /// Leaves its parts in the log: the sentence is for whoever asked, these are for whoever
    /// searches.
    pub(crate) fn log(&self) {
        let operation = self.operation.as_ref();
        log::debug!(
            phase = self.step.as_str(),
            operation = operation.map_or("", |operation| &operation.call),
            object = operation.map_or("", |operation| &operation.object),
            errno = self.errno.unwrap_or(0),
            hint = self.hint().unwrap_or("");
            "init failed: {}", self.message
        );
    }

    /// What the error number most probably means at this step, where it says less than it could.
    pub fn hint(&self) -> Option<&'static str> {
        use sys::Errno;
        let errno = Errno::from_raw_os_error(self.errno?);
        Some(match (self.step.as_str(), errno) {
            // It was there when it was looked for.
            ("execute program", Errno::NOENT) => {
                "the script's interpreter or the program's loader is missing in the container"
            }
            ("execute program", Errno::NOEXEC) => {
                "no program for this machine, or a script without #!"
            }
            ("set resource limits", Errno::PERM) => {
                "to raise a hard limit the shim needs CAP_SYS_RESOURCE"
            }
            ("set sysctls", Errno::NOENT) => "this kernel has no such parameter in a namespace",
            ("set AppArmor profile", Errno::NOENT) => "the profile is not loaded",
            ("prepare root file system" | "make paths read-only" | "mask paths", Errno::NOSPC) => {
                "more mounts than the sysctl fs.mount-max allows?"
            }
            _ => return None,
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_follows_the_sentence_that_clients_look_for() {
        let failure = |step: &str, errno: Option<i32>| {
            Failure::new(step, "exec /x: no such file or directory", errno)
        };
        assert_eq!(
            Error::Init(failure("execute program", Some(2))).to_string(),
            "unable to start container process: exec /x: no such file or directory (the script's \
             interpreter or the program's loader is missing in the container)"
        );
        for (step, errno) in [("find program", Some(2)), ("execute program", None)] {
            let failure = failure(step, errno);
            assert_eq!(failure.to_string(), failure.message);
        }
    }

    /// The steps that have hints are steps that there are.
    #[test]
    fn hints_are_for_steps_that_exist() {
        let steps = include_str!("init/mod.rs");
        for step in [
            "execute program",
            "set resource limits",
            "set sysctls",
            "set AppArmor profile",
            "prepare root file system",
            "make paths read-only",
            "mask paths",
        ] {
            assert!(steps.contains(&format!("\"{step}\"")), "{step}");
        }
    }
}
