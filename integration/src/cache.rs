// SPDX-License-Identifier: Apache-2.0
//! What `scripts/setup` put into the cache folder: three generations of containerd, and an image.

use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

/// Debian releases whose packages are in the cache, oldest containerd first.
const SUITES: [&str; 3] = ["bookworm", "trixie", "forky"];

/// One containerd with the `ctr`, the Go shim and the runc of the same release.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Folder with the programs.
    pub bin: PathBuf,
    /// Release line, as `(1, 7)`.
    pub version: (u32, u32),
}

impl Generation {
    /// Is this containerd `major.minor` or newer?
    #[must_use]
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }

    fn read(folder: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(folder.join("version"))?;
        let mut parts = text.trim().split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self {
                bin: folder.join("bin"),
                version: (major, minor),
            }),
            _ => Err(io::Error::other(format!("no version: {text:?}"))),
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version.0, self.version.1)
    }
}

/// The cache folder; `scripts/lib/cache.sh` says the same.
#[must_use]
pub fn folder() -> PathBuf {
    if let Some(chosen) = env::var_os("CONTAINERD_SHIM_RUST_CACHE") {
        return chosen.into();
    }
    let base = env::var_os("XDG_CACHE_HOME").map_or_else(|| "/var/cache".into(), PathBuf::from);
    base.join("containerd-shim-rust")
}

/// The containerds that are there, oldest first.
#[must_use]
pub fn generations() -> Vec<Generation> {
    SUITES
        .iter()
        .filter_map(|suite| Generation::read(&folder().join(suite)).ok())
        .collect()
}

/// The test image's archive.
#[must_use]
pub fn image() -> PathBuf {
    folder().join("image.tar")
}
