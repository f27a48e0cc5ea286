// SPDX-License-Identifier: Apache-2.0
//! `options.json` in the bundle: what `Create` was given, for the `delete` that may follow a crash.
//!
//! Written and read as the Go shim does it, so that a bundle outlives an exchange of one shim for
//! the other while its container runs.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Options, table};

/// Name of the file in the bundle.
pub const FILE_NAME: &str = "options.json";

impl Options {
    /// Reads `options.json`; a file that does not exist means no options.
    ///
    /// # Errors
    /// The file exists and cannot be read, or is not what the name says.
    pub fn read(bundle: &Path) -> Result<Self, Error> {
        let path = bundle.join(FILE_NAME);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(Error::File {
                    verb: "read",
                    path: show(&path),
                    source,
                });
            }
        };
        let parsed: Option<Map<String, Value>> =
            serde_json::from_slice(&text).map_err(|source| Error::Json {
                path: show(&path),
                source,
            })?;
        // Go writes `null` for absent options.
        table::from_table(parsed.unwrap_or_default())
    }

    /// Writes `options.json`, readable by root alone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, bundle: &Path) -> Result<(), Error> {
        let path = bundle.join(FILE_NAME);
        let text = Value::Object(table::to_table(self)).to_string();
        let open = || {
            let mut options = std::fs::OpenOptions::new();
            options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
        };
        open()
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| Error::File {
                verb: "write",
                path: show(&path),
                source,
            })
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_written_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            systemd_cgroup: true,
            io_uid: 65_536,
            root: "/var/run/docker/runtime-runc/moby".into(),
            ..Options::default()
        };
        options.write(dir.path()).unwrap();
        assert_eq!(Options::read(dir.path()).unwrap(), options);
        let path = dir.path().join(FILE_NAME);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            r#"{"io_uid":65536,"root":"/var/run/docker/runtime-runc/moby","systemd_cgroup":true}"#
        );
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
    }

    #[test]
    fn files_of_the_go_shim_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            Options::read(dir.path()).unwrap()
        };
        assert_eq!(read("{}"), Options::default());
        assert_eq!(read("null"), Options::default());
        let old = read(r#"{"binary_name":"runc","criu_path":"/c","new_key":{"a":1},"root":null}"#);
        assert_eq!(
            (old.binary_name.as_str(), old.criu_path.as_str()),
            ("runc", "/c")
        );
    }

    #[test]
    fn an_absent_file_means_no_options_and_a_broken_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Options::read(dir.path()).unwrap(), Options::default());
        std::fs::write(dir.path().join(FILE_NAME), "{\"root\":").unwrap();
        assert!(matches!(Options::read(dir.path()), Err(Error::Json { .. })));
    }
}
