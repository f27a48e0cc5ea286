// SPDX-License-Identifier: Apache-2.0
//! Taking changes of limits back.
//!
//! Before a file is written, what undoes that is worked out from its present content. Files differ:
//! most hold one value; those for devices and interfaces have a line for each, and take one line at
//! a time.

use super::Step;

/// What has been changed so far, in order: which place's file, and what would undo it.
#[derive(Debug, Default)]
pub(super) struct Journal(Vec<Undo>);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undo {
    /// Index of the hierarchy.
    pub(super) hierarchy: usize,
    /// Path below its root.
    pub(super) path: String,
    pub(super) value: String,
}

impl Journal {
    pub(super) fn note(&mut self, undo: Undo) {
        self.0.push(undo);
    }

    /// The last change first: each was possible in the state that the one before it left.
    pub(super) fn into_reverse(self) -> impl Iterator<Item = Undo> {
        self.0.into_iter().rev()
    }
}

/// What to write so that a file is again as it was before the step.
pub(super) fn value(step: &Step, content: &str) -> Option<String> {
    if step.file == "memory.oom_control" {
        let line = content.lines().next()?;
        return line
            .strip_prefix("oom_kill_disable ")
            .map(ToOwned::to_owned);
    }
    match key(step) {
        None => content.lines().next().map(ToOwned::to_owned),
        Some(key) => {
            let lines = content.lines();
            let old = lines
                .map(|line| line.trim())
                .find(|line| line.split(' ').next() == Some(key));
            old.map(ToOwned::to_owned)
                .or_else(|| absent(&step.file, key))
        }
    }
}

/// Which line of a file a step is about, if it has lines.
fn key(step: &Step) -> Option<&str> {
    let has_lines = step.file.contains("_device")
        || step.file == "net_prio.ifpriomap"
        || step.file == "rdma.max"
        || step.file.starts_with("io.");
    match step.value.split_once(' ') {
        Some((key, _)) if has_lines => Some(key),
        _ if step.file.ends_with(".weight") && step.file.starts_with("io.") => Some("default"),
        _ => None,
    }
}

/// What stands for "no line".
fn absent(file: &str, key: &str) -> Option<String> {
    Some(match file {
        "io.max" => format!("{key} rbps=max wbps=max riops=max wiops=max"),
        "rdma.max" => format!("{key} hca_handle=max hca_object=max"),
        file if file.starts_with("blkio.throttle.") => format!("{key} 0"),
        file if file.contains("weight") => format!("{key} default"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_undoes_a_step_depends_on_the_file() {
        let undo = |file: &str, step: &str, content: &str| {
            value(&Step::new(file.to_owned(), step), content)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(undo("pids.max", "7", "max\n"), some("max"));
        assert_eq!(
            undo("cpu.max", "1000 5000", "max 100000\n"),
            some("max 100000")
        );
        let oom = "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n";
        assert_eq!(undo("memory.oom_control", "1", oom), some("0"));
        let lines = "8:0 rbps=1 wbps=max riops=max wiops=max\n";
        assert_eq!(undo("io.max", "8:0 wbps=2", lines), some(lines.trim()));
        assert_eq!(
            undo("io.max", "8:16 wbps=2", lines),
            some("8:16 rbps=max wbps=max riops=max wiops=max")
        );
        let weights = "default 100\n8:0 50\n";
        assert_eq!(undo("io.weight", "70", weights), some("default 100"));
        assert_eq!(undo("io.weight", "8:0 70", weights), some("8:0 50"));
        assert_eq!(undo("io.weight", "8:16 70", weights), some("8:16 default"));
        let file = "blkio.throttle.read_bps_device";
        assert_eq!(undo(file, "8:0 1", ""), some("8:0 0"));
        assert_eq!(undo(file, "8:0 1", "8:0 77\n"), some("8:0 77"));
        assert_eq!(
            undo("net_prio.ifpriomap", "lo 5", "eth0 1\nlo 0\n"),
            some("lo 0")
        );
    }
}
