// SPDX-License-Identifier: Apache-2.0
//! Hooks: programs of the host's configuration that are run at points of a container's life.
//!
//! | kind              | run by | namespaces | when                                            | a failure        |
//! |-------------------|--------|------------|-------------------------------------------------|------------------|
//! | `prestart`        | shim   | host's     | init has made the file system, not entered it   | fails the create |
//! | `createRuntime`   | shim   | host's     | after `prestart`                                | fails the create |
//! | `createContainer` | init   | container's| after `createRuntime`, before the change of root| fails the create |
//! | `startContainer`  | init   | container's| in the jail, as the user, last before `execve`  | fails the start  |
//! | `poststart`       | shim   | host's     | the program has been executed                   | ends the container |
//! | `poststop`        | shim   | host's     | nothing of the container is left                | is logged        |
//!
//! Who runs a hook waits for it, so hooks are run by workers, never by the thread that answers
//! requests. `run.rs` says how one is run.

mod run;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{ContainerState, Spec};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Error as RuntimeError, Result};
use crate::state;

pub use self::run::Cause;

/// The version of the specification that the state document is of.
const VERSION: &str = "1.3.0";

/// The point in a container's life at which a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Deprecated by the specification, and much used.
    Prestart,
    /// In the host's namespaces, before the root is changed.
    CreateRuntime,
    /// In the container's namespaces, before the root is changed.
    CreateContainer,
    /// In the container, before the program is executed.
    StartContainer,
    /// After the program has been executed.
    Poststart,
    /// After the container has been deleted.
    Poststop,
}

impl Kind {
    /// All, in the order of a container's life.
    pub const ALL: [Kind; 6] = [
        Kind::Prestart,
        Kind::CreateRuntime,
        Kind::CreateContainer,
        Kind::StartContainer,
        Kind::Poststart,
        Kind::Poststop,
    ];

    /// Its name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::CreateContainer => "createContainer",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One hook, checked. Serialised as runc does in its state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program, absolute.
    pub path: String,
    /// Its arguments, `argv[0]` included; the path alone if there are none.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment.
    #[serde(default)]
    pub env: Vec<String>,
    /// Its time limit in nanoseconds.
    #[serde(default)]
    pub timeout: Option<u64>,
}

impl Hook {
    fn time_limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_nanos)
    }
}

/// All hooks of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    #[serde(default)]
    prestart: Vec<Hook>,
    #[serde(default)]
    create_runtime: Vec<Hook>,
    #[serde(default)]
    create_container: Vec<Hook>,
    #[serde(default)]
    start_container: Vec<Hook>,
    #[serde(default)]
    poststart: Vec<Hook>,
    #[serde(default)]
    poststop: Vec<Hook>,
}

impl Hooks {
    /// Takes the hooks of a specification.
    ///
    /// # Errors
    /// A path that is not absolute, a time limit that is no time, a NUL byte.
    pub fn from_spec(spec: &Spec) -> Result<Self> {
        let Some(hooks) = spec.hooks() else {
            return Ok(Self::default());
        };
        let plan = |kind: Kind, list: &Option<Vec<oci_spec::runtime::Hook>>| {
            let hooks = list.as_deref().unwrap_or_default().iter().enumerate();
            hooks
                .map(|(index, hook)| checked(&format!("hooks.{kind}[{index}]"), hook))
                .collect::<Result<Vec<_>>>()
        };
        #[allow(deprecated, reason = "the specification still has prestart")]
        let prestart = hooks.prestart();
        Ok(Self {
            prestart: plan(Kind::Prestart, prestart)?,
            create_runtime: plan(Kind::CreateRuntime, hooks.create_runtime())?,
            create_container: plan(Kind::CreateContainer, hooks.create_container())?,
            start_container: plan(Kind::StartContainer, hooks.start_container())?,
            poststart: plan(Kind::Poststart, hooks.poststart())?,
            poststop: plan(Kind::Poststop, hooks.poststop())?,
        })
    }

    /// The hooks of a kind, in the order in which they are run.
    pub fn of(&self, kind: Kind) -> &[Hook] {
        match kind {
            Kind::Prestart => &self.prestart,
            Kind::CreateRuntime => &self.create_runtime,
            Kind::CreateContainer => &self.create_container,
            Kind::StartContainer => &self.start_container,
            Kind::Poststart => &self.poststart,
            Kind::Poststop => &self.poststop,
        }
    }
}

fn checked(field: &str, hook: &oci_spec::runtime::Hook) -> Result<Hook> {
    let refused = |name: &str, reason: &str| {
        Err(RuntimeError::spec(
            format!("{field}.{name}"),
            reason.to_owned(),
        ))
    };
    if !hook.path().is_absolute() {
        return refused("path", "must be an absolute path");
    }
    let path = hook.path().to_string_lossy().into_owned();
    let args = hook.args().clone().unwrap_or_default();
    let env = hook.env().clone().unwrap_or_default();
    for (name, list) in [
        ("path", std::slice::from_ref(&path)),
        ("args", args.as_slice()),
        ("env", env.as_slice()),
    ] {
        if list.iter().any(|text| text.contains('\0')) {
            return refused(name, "contains a NUL byte");
        }
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(seconds.saturating_mul(1_000_000_000)),
            _ => return refused("timeout", "must be greater than zero"),
        },
    };
    Ok(Hook {
        path,
        args,
        env,
        timeout,
    })
}

/// A hook that failed. Prints as runc's: `error running createRuntime hook #0: exit status 1, …`.
#[derive(Debug, thiserror::Error)]
#[error("error running {kind} hook #{index}: {cause}")]
pub struct Error {
    /// When it was run.
    pub kind: Kind,
    /// Its place in the list, from 0.
    pub index: usize,
    /// Why.
    pub cause: Cause,
}

/// A container's hooks, and what they are told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    hooks: Hooks,
    id: String,
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
}

impl Lifecycle {
    /// For a container that is about to be created.
    pub fn new(hooks: Hooks, spec: &Spec, id: &str, bundle: &Path) -> Self {
        let annotations = spec.annotations().iter().flatten();
        Self {
            hooks,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            annotations: annotations.map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }

    /// For a container that is known by its state file only.
    pub fn from_state(state: &state::State) -> Self {
        let labels = state.config.labels.iter();
        let pairs = labels.filter_map(|label| label.split_once('='));
        Self {
            hooks: state.config.hooks.clone(),
            id: state.id.clone(),
            bundle: state.bundle().map(Path::to_owned).unwrap_or_default(),
            annotations: pairs
                .filter(|(key, _)| *key != "bundle")
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    /// Whether there are hooks of one of these kinds.
    pub fn has(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| !self.hooks.of(*kind).is_empty())
    }

    /// All hooks.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// The document that a hook of `kind` reads, `state` of the specification. `pid` is init's in
    /// the PID namespace of the hook.
    fn state(&self, kind: Kind, pid: i32) -> Vec<u8> {
        let status = match kind {
            Kind::Prestart | Kind::CreateRuntime | Kind::CreateContainer => {
                ContainerState::Creating
            }
            Kind::StartContainer => ContainerState::Created,
            Kind::Poststart => ContainerState::Running,
            Kind::Poststop => ContainerState::Stopped,
        };
        let mut document = serde_json::json!({
            "ociVersion": VERSION,
            "id": self.id,
            "status": status,
            "bundle": self.bundle,
        });
        if pid != 0 {
            document["pid"] = pid.into();
        }
        if !self.annotations.is_empty() {
            document["annotations"] = self.annotations.clone().into_iter().collect();
        }
        document.to_string().into_bytes()
    }

    /// Runs the hooks of a kind one after the other, up to the first failure. `env` is the
    /// environment of those that have none of their own.
    ///
    /// # Errors
    /// The first hook that could not be started, took too long, or did not exit with 0.
    pub fn run(
        &self,
        kind: Kind,
        pid: i32,
        directory: Option<BorrowedFd<'_>>,
        env: &[String],
    ) -> std::result::Result<(), Error> {
        let hooks = self.hooks.of(kind);
        if hooks.is_empty() {
            return Ok(());
        }
        let state = self.state(kind, pid);
        for (index, hook) in hooks.iter().enumerate() {
            log::debug!("running {kind} hook #{index}: {}", hook.path);
            run::run(hook, &state, directory, env).map_err(|cause| Error { kind, index, cause })?;
        }
        Ok(())
    }

    /// Runs hooks in the host's namespaces and in the bundle, as runc does.
    ///
    /// # Errors
    /// As [`Lifecycle::run`].
    pub fn run_on_host(&self, kind: Kind, pid: i32) -> std::result::Result<(), Error> {
        if self.hooks.of(kind).is_empty() {
            return Ok(());
        }
        let directory = self.directory();
        self.run(kind, pid, directory.as_ref().map(AsFd::as_fd), &[])
    }

    /// Runs the `poststop` hooks. The container is gone already: a hook that fails is logged, and
    /// the others are run all the same, as the specification demands.
    pub fn run_poststop(&self) {
        let (directory, state) = (self.directory(), self.state(Kind::Poststop, 0));
        for (index, hook) in self.hooks.poststop.iter().enumerate() {
            let directory = directory.as_ref().map(AsFd::as_fd);
            if let Err(cause) = run::run(hook, &state, directory, &[]) {
                let kind = Kind::Poststop;
                log::warn!("{}: {}", self.id, Error { kind, index, cause });
            }
        }
    }

    /// The bundle, as long as it exists; a killed shim's may be gone.
    fn directory(&self) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
        open(&self.bundle).or_else(|_| open(Path::new("/"))).ok()
    }
}

#[cfg(test)]
mod tests;
