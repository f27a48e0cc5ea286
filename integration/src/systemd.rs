// SPDX-License-Identifier: Apache-2.0
//! The host's systemd, as an operator asks it. Where none runs, the tests that want one are
//! skipped: the end-to-end tests in the VM (`scripts/test-vm`) have one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome, failed, wait_until};
use crate::host;

/// Does systemd run this machine? As sd_booted(3).
#[must_use]
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Skips the test where it does not.
///
/// # Errors
/// [`Failure::Exempt`].
pub fn required() -> Outcome {
    match is_running() {
        true => Ok(()),
        false => Err(Failure::Exempt("systemd does not run here".to_owned())),
    }
}

/// How long a unit is waited for: systemd has more to do than we have asked for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What systemctl says when systemd executes itself anew, as another test makes it do.
const ANEW: [&str; 6] = [
    "Broken pipe",
    "Transport endpoint is not connected",
    "Connection reset by peer",
    "Connection refused",
    "Message recipient disconnected",
    "Remote peer disconnected",
];

/// Runs systemctl and returns what it prints.
///
/// # Errors
/// With what it says, when it fails.
pub fn systemctl(args: &[&str]) -> Outcome<String> {
    ask(Command::new("systemctl").args(args))
}

/// Runs a program that asks systemd for something, again if systemd could not hear it, and returns what it
/// prints.
///
/// # Errors
/// With what it says, when it fails.
pub fn ask(command: &mut Command) -> Outcome<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = command.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if Instant::now() >= end || !ANEW.iter().any(|text| said.contains(text)) {
            return Err(failed(format!("{command:?}: {said}")));
        }
    }
}

/// A property of a unit, as systemctl shows it.
///
/// # Errors
/// As [`systemctl`].
pub fn property(unit: &str, name: &str) -> Outcome<String> {
    systemctl(&["show", "--value", "--property", name, unit])
}

/// Checks properties of a unit.
///
/// # Errors
/// When one of them is not as wanted.
pub fn expect(unit: &str, wanted: &[(&str, &str)]) -> Outcome {
    for (name, value) in wanted {
        let shown = property(unit, name)?;
        if shown != *value {
            crate::fail!("{unit}: {name} is {shown:?}, wanted {value:?}");
        }
    }
    Ok(())
}

/// Waits until a property of a unit is as wanted.
///
/// # Errors
/// When it does not become so.
pub fn wait_for(unit: &str, name: &str, value: &str) -> Outcome {
    let reached = wait_until(PATIENCE, "", || {
        (property(unit, name).ok()? == value).then_some(())
    });
    reached.map_err(|_| {
        let shown = systemctl(&["status", "--no-pager", unit]);
        failed(format!(
            "{unit}: waited for {name}={value}, it is {:?}; {}",
            property(unit, name).unwrap_or_default(),
            shown.unwrap_or_default()
        ))
    })
}

/// Waits until systemd knows nothing of a unit any more.
///
/// # Errors
/// When it stays.
pub fn wait_gone(unit: &str) -> Outcome {
    wait_for(unit, "LoadState", "not-found")
}

/// The directories of a unit's cgroup, given its slice as `/a.slice/a-b.slice`.
#[must_use]
pub fn folders(slice: &str, unit: &str) -> Vec<PathBuf> {
    host::cgroup_folders(&format!("{slice}/{unit}"))
}

/// Ends a unit that a test has made, whatever became of it.
pub struct Ended(pub String);

impl Drop for Ended {
    fn drop(&mut self) {
        // Mostly it is gone already, and that is what they say.
        let _ = systemctl(&["kill", "--signal", "KILL", &self.0]);
        let _ = systemctl(&["stop", &self.0]);
        let _ = systemctl(&["reset-failed", &self.0]);
    }
}
