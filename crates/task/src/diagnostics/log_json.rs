// SPDX-License-Identifier: Apache-2.0
//! `log.json` in the bundle: where runc, started with `--log`, leaves its errors, and where tools look
//! for them.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::SystemTime;

/// A file longer than this is not added to: its bundle is somebody's who retries without end.
const LONGEST: u64 = 1 << 20;
/// What the service puts before the runtime's own words.
const PREFIXES: [&str; 3] = [
    "OCI runtime create failed: ",
    "OCI runtime start failed: ",
    "OCI runtime exec failed: ",
];

/// Appends an error. That it cannot be written is no error of the operation that failed.
pub(crate) fn append(bundle: &Path, message: &str) {
    if let Err(e) = write(bundle, message) {
        log::debug!("write log.json in {}: {e}", bundle.display());
    }
}

fn write(bundle: &Path, message: &str) -> std::io::Result<()> {
    let message = PREFIXES
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix))
        .unwrap_or(message);
    let mut time = telemetry::rfc3339(SystemTime::now());
    // runc's has seconds.
    if let Some(dot) = time.find('.') {
        time.truncate(dot);
        time.push('Z');
    }
    let mut line =
        serde_json::json!({ "level": "error", "msg": message, "time": time }).to_string();
    line.push('\n');
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        // A bundle belongs to root, but costs nothing to distrust.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(bundle.join("log.json"))?;
    if file.metadata()?.len() > LONGEST {
        return Ok(());
    }
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_lines_as_runc_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), "OCI runtime create failed: no \"root\"\n");
        append(dir.path(), "second");
        let text = std::fs::read_to_string(dir.path().join("log.json")).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["msg"], "no \"root\"\n");
        assert_eq!(lines[1]["msg"], "second");
        assert_eq!(lines[1]["level"], "error");
        assert_eq!(
            lines[0]["time"].as_str().unwrap().len(),
            "2026-01-01T00:00:00Z".len()
        );
        append(Path::new("/nonexistent"), "harmless");
    }
}
