// SPDX-License-Identifier: Apache-2.0
//! Record mode: what was said over a process's sync socket, as a file in the bundle.
//!
//! For containers with the annotation [`ANNOTATION`], or all if the variable [`VARIABLE`] says `on`. The
//! file holds what `runtime::sync::record` keeps: no arguments, no environment. It can be replayed with
//! `runtime::sync::record::replay`.

use std::path::{Path, PathBuf};

/// `true` asks for a record.
const ANNOTATION: &str = "io.containerd.rust.sync-record";
/// `on` asks for records of all containers.
const VARIABLE: &str = "CONTAINERD_SHIM_RUST_SYNC_RECORD";

/// Writes the record when it is dropped, however the operation ended.
pub(crate) struct SyncRecord {
    file: PathBuf,
    container: String,
    exec: String,
}

fn file_of(bundle: &Path, exec: &str) -> PathBuf {
    match exec {
        "" => bundle.join("sync-record.jsonl"),
        exec => bundle.join(format!("sync-record-{exec}.jsonl")),
    }
}

impl SyncRecord {
    /// For a Create, if its configuration or the environment asks for a record.
    pub(crate) fn of_create(bundle: &runtime::Bundle, container: &str) -> Option<Self> {
        let annotations = bundle.spec().annotations().as_ref();
        let asked = annotations.and_then(|all| all.get(ANNOTATION));
        let wanted = asked.is_some_and(|value| value == "true")
            || std::env::var_os(VARIABLE).is_some_and(|value| value == "on");
        wanted.then(|| Self {
            file: file_of(&bundle.path, ""),
            container: container.to_owned(),
            exec: String::new(),
        })
    }

    /// For a later operation, if the container's Create was recorded.
    pub(crate) fn of_later(bundle: &Path, container: &str, exec: &str) -> Option<Self> {
        file_of(bundle, "").exists().then(|| Self {
            file: file_of(bundle, exec),
            container: container.to_owned(),
            exec: exec.to_owned(),
        })
    }
}

impl Drop for SyncRecord {
    fn drop(&mut self) {
        let lines = runtime::sync::record::lines(&self.container, &self.exec);
        let written = runtime::state::write_atomically(&self.file, lines.as_bytes(), 0o600);
        if let Err(e) = written {
            log::warn!("write {}: {e}", self.file.display());
        }
    }
}
