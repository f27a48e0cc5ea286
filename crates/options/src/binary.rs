// SPDX-License-Identifier: Apache-2.0
//! What `BinaryName` means to a shim that has its runtime inside.
//!
//! Docker always sets it, so `runc` must pass, wherever it lies and whether it is installed or
//! not. Any other runtime (crun, a vendor's wrapper) would behave differently from ours, so it is
//! refused rather than silently replaced. A program that does not exist gives the error that
//! callers of the Go shim know.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::{Error, Options};

/// Names that mean the built-in runtime, without or with a directory before them.
const OURS: [&str; 4] = [
    "runc",
    "containerd-shim-rust-v2",
    "containerd-shim-runc-v2",
    "containerd-shim-rust",
];

impl Options {
    /// Accepts a `BinaryName` that means us.
    ///
    /// # Errors
    /// The name is another program: [`Error::BinaryRefused`] if it exists, else what Go's
    /// `exec.LookPath` would say.
    pub fn check_binary(&self) -> Result<(), Error> {
        check(&self.binary_name, std::env::var_os("PATH").as_deref())
    }
}

fn check(name: &str, search: Option<&OsStr>) -> Result<(), Error> {
    let base = name.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || OURS.contains(&base) {
        return Ok(());
    }
    if name.contains('/') {
        return Err(match probe(Path::new(name)) {
            Ok(()) => Error::BinaryRefused(name.to_owned()),
            Err(why) => Error::BinaryNotExecutable {
                path: name.to_owned(),
                why,
            },
        });
    }
    let found = search
        .is_some_and(|path| std::env::split_paths(path).any(|dir| probe(&dir.join(name)).is_ok()));
    Err(if found {
        Error::BinaryRefused(name.to_owned())
    } else {
        Error::BinaryNotInPath(name.to_owned())
    })
}

/// Whether there is an executable file, else why not in Go's words.
fn probe(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => Err("is a directory".to_owned()),
        Ok(m) if m.permissions().mode() & 0o111 == 0 => Err("permission denied".to_owned()),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(format!(
            "stat {}: no such file or directory",
            path.display()
        )),
        Err(e) => Err(format!("stat {}: {e}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let crun = dir.path().join("crun");
        std::fs::write(&crun, "").unwrap();
        std::fs::set_permissions(&crun, std::fs::Permissions::from_mode(0o755)).unwrap();
        let name = name.replace("DIR", dir.path().to_str().unwrap());
        let text = match check(&name, Some(dir.path().as_os_str())) {
            Ok(()) => "ok".to_owned(),
            Err(e) => e.to_string(),
        };
        text.replace(dir.path().to_str().unwrap(), "DIR")
    }

    #[test]
    fn runc_and_we_ourselves_pass_installed_or_not() {
        for name in ["", "runc", "/nowhere/runc", "containerd-shim-rust-v2"] {
            assert_eq!(said(name), "ok", "{name}");
        }
    }

    #[test]
    fn a_program_that_does_not_exist_gives_gos_error() {
        assert_eq!(
            said("no-runc"),
            "exec: \"no-runc\": executable file not found in $PATH"
        );
        assert_eq!(
            said("DIR/none"),
            "exec: \"DIR/none\": stat DIR/none: no such file or directory"
        );
        assert_eq!(said("DIR/"), "exec: \"DIR/\": is a directory");
    }

    #[test]
    fn another_runtime_is_refused_by_name() {
        assert!(said("crun").starts_with("runtime binary \"crun\" cannot be used: this shim has"));
        assert!(said("DIR/crun").contains("\"DIR/crun\""));
    }
}
