// SPDX-License-Identifier: Apache-2.0
//! Programs of the host that do what the shim may not or cannot do itself: `newuidmap(1)`,
//! `mount.fuse3(8)`.

use std::ffi::OsStr;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};

use rustix::fs::MemfdFlags;
use rustix::process::Pid;

/// How much of what a program says is worth telling.
const LONGEST: u64 = 4096;

/// Runs a program to its end; its name is looked for in `$PATH`, which is the shim's, and
/// containerd's.
///
/// # Errors
/// It cannot be run, or does not succeed: what it has said.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Result<(), String> {
    // No pipe: what it leaves running in the background may hold its standard error for ever.
    let said = rustix::fs::memfd_create("helper", MemfdFlags::CLOEXEC)
        .map_err(|errno| format!("memfd_create: {errno}"))?;
    let mut said = std::fs::File::from(said);
    let stream = || said.try_clone().map(Stdio::from).map_err(|e| e.to_string());
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(stream()?)
        .stderr(stream()?);
    let gate = reaper::Spawning::begin();
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let pid = Pid::from_child(&child);
    gate.born(pid);
    let status = child.wait();
    reaper::forget(pid);
    let status = status.map_err(|e| e.to_string())?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    let read = said
        .rewind()
        .and_then(|()| said.take(LONGEST).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    match (read, text.trim()) {
        (Ok(_), text) if !text.is_empty() => Err(text.to_owned()),
        _ => Err(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_why_it_fails() {
        let sh = |script: &str| run("sh", ["-c", script]);
        sh("exit 0").unwrap();
        assert_eq!(
            sh("echo this; echo that >&2; exit 1").unwrap_err(),
            "this\nthat"
        );
        assert_eq!(sh("exit 3").unwrap_err(), "exit status: 3");
        assert!(run("/nope", [""; 0]).unwrap_err().contains("No such file"));
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let begun = std::time::Instant::now();
        run("sh", ["-c", "sleep 20 & exit 0"]).unwrap();
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    }
}
