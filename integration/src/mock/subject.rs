// SPDX-License-Identifier: Apache-2.0
//! Which shim binary is judged, and how it wants to be called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{During as _, Error, Result};
use super::orphans;

/// The releases of containerd, as far as a shim can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Takes a plain address.
    V1_6,
    /// Takes JSON of version 2, or a plain address.
    V1_7,
    /// 2.0 to 2.2. Calls as 1.7 does, and takes version 3 too.
    V2_0,
    /// Sends bootstrap parameters on stdin and takes the same in return.
    V2_3,
}

impl Generation {
    /// All, oldest first.
    pub const ALL: [Self; 4] = [Self::V1_6, Self::V1_7, Self::V2_0, Self::V2_3];

    /// The highest version of the task service that this containerd can talk.
    #[must_use]
    pub fn newest_api(self) -> i32 {
        match self {
            Self::V1_6 | Self::V1_7 => 2,
            Self::V2_0 | Self::V2_3 => 3,
        }
    }
}

/// Who made the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project.
    Ours,
    /// containerd.
    Go,
}

/// A shim binary.
#[derive(Clone, Debug)]
pub struct Subject {
    /// For tables.
    pub name: String,
    /// The binary.
    pub path: PathBuf,
    /// Who made it.
    pub kind: Kind,
    /// How it is called unless a test says otherwise.
    pub generation: Generation,
    /// `BinaryName` of the options: another runtime than runc.
    pub runtime: Option<PathBuf>,
}

impl Subject {
    /// The binary at `path`, to be called as by the newest containerd it works with.
    pub fn new(path: &Path) -> Result<Self> {
        let path = path
            .canonicalize()
            .during(|| format!("shim binary {}", path.display()))?;
        let ours = path
            .file_name()
            .is_some_and(|name| name == "containerd-shim-rust-v2");
        let kind = if ours { Kind::Ours } else { Kind::Go };
        let generation = match kind {
            Kind::Ours => Generation::V2_3,
            Kind::Go => go_generation(&path)?,
        };
        let name = if ours {
            "ours".to_owned()
        } else {
            format!("go {generation:?}")
        };
        Ok(Self {
            name,
            path,
            kind,
            generation,
            runtime: None,
        })
    }

    /// The binary that `$SHIM` names; else ours, built by `scripts/build --debug`.
    pub fn from_environment() -> Result<Self> {
        if let Some(path) = std::env::var_os("SHIM") {
            return Self::new(Path::new(&path));
        }
        Self::new(&build(&["--debug"])?)
    }

    /// The same binary, called as this generation of containerd would.
    #[must_use]
    pub fn called_by(&self, generation: Generation) -> Self {
        Self {
            generation,
            ..self.clone()
        }
    }

    /// Is this our shim?
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.kind == Kind::Ours
    }

    /// `PATH` for the shim: a runc beside it comes first.
    pub(crate) fn search_path(&self) -> OsString {
        let mut path = self
            .path
            .parent()
            .unwrap_or(Path::new("/"))
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }
}

/// Runs `scripts/build` and returns the path that it prints.
pub fn build(arguments: &[&str]) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = orphans::run(
        Command::new(root.join("scripts/build"))
            .args(arguments)
            .current_dir(&root),
    )
    .during(|| "scripts/build".to_owned())?;
    if !output.status.success() {
        return Err(Error::Binary {
            action: "scripts/build",
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(text.lines().last().unwrap_or_default()))
}

/// Go's shim says with `-v` which containerd it belongs to.
fn go_generation(path: &Path) -> Result<Generation> {
    let output =
        orphans::run(Command::new(path).arg("-v")).during(|| format!("{} -v", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Version:"))
        .unwrap_or("");
    let mut numbers = version.trim().trim_start_matches('v').split('.');
    let mut next = || {
        numbers
            .next()
            .and_then(|part| part.parse::<u32>().ok())
            .unwrap_or(0)
    };
    Ok(match (next(), next()) {
        (0 | 1, ..=6) => Generation::V1_6,
        (0 | 1, _) => Generation::V1_7,
        (2, ..=2) => Generation::V2_0,
        _ => Generation::V2_3,
    })
}
