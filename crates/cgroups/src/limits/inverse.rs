// SPDX-License-Identifier: Apache-2.0
//! What was in force before an update, as something that can be asked for: systemd has no other way
//! to forget what it was told. What was never set goes back to the kernel's default.

use super::{Cpu, Limits, Memory};

const NONE: Option<i64> = Some(-1);
const SHARES: u64 = 1024;
const PERIOD: u64 = 100_000;

/// Defaults of the v2 files that systemd has properties for.
const DEFAULTS: [(&str, &str); 9] = [
    ("memory.max", "max"),
    ("memory.high", "max"),
    ("memory.low", "0"),
    ("memory.min", "0"),
    ("memory.swap.max", "max"),
    ("pids.max", "max"),
    ("cpu.weight", "100"),
    ("cpu.idle", "0"),
    ("cpu.max", "max 100000"),
];

impl Limits {
    /// What to ask for so that `update` is as if it had never been, where these limits were in
    /// force. Processors, memory nodes and weights of devices that were not limited are left out:
    /// there is nothing that stands for "not limited".
    pub(super) fn inverse(&self, update: &Self) -> Self {
        let mut back = Self {
            memory: self.memory.inverse(&update.memory),
            cpu: self.cpu.inverse(&update.cpu),
            pids: update.pids.map(|_| self.pids.unwrap_or(-1)),
            ..Self::default()
        };
        if update.block_io.weight.is_some() {
            back.block_io.weight = self.block_io.weight;
        }
        if set(update.memory.reservation) && !set(self.memory.reservation) {
            back.unified.insert("memory.low".into(), "0".into());
        }
        for file in update.unified.keys() {
            let default = DEFAULTS.iter().find(|(known, _)| known == file);
            let default = default.map(|(_, value)| (*value).to_owned());
            if let Some(value) = self.unified.get(file).cloned().or(default) {
                back.unified.insert(file.clone(), value);
            }
        }
        back
    }
}

fn set<T: Default + PartialEq>(value: Option<T>) -> bool {
    value.is_some_and(|value| value != T::default())
}

impl Memory {
    fn inverse(&self, update: &Self) -> Self {
        let mut back = Self::default();
        // Each means something only beside the other.
        if set(update.limit) || set(update.swap) {
            back.limit = self.limit.filter(|old| *old != 0).or(NONE);
            back.swap = self.swap.filter(|old| *old != 0).or(NONE);
        }
        if set(update.reservation) {
            back.reservation = self.reservation;
        }
        back
    }
}

impl Cpu {
    fn inverse(&self, update: &Self) -> Self {
        let mut back = Self::default();
        if set(update.shares) || set(update.idle) {
            back.shares = self.shares.filter(|old| *old != 0).or(Some(SHARES));
            back.idle = self.idle;
        }
        if set(update.quota) || set(update.period) {
            back.quota = self.quota.filter(|old| *old != 0).or(NONE);
            back.period = self.period.filter(|old| *old != 0).or(Some(PERIOD));
        }
        if update.cpus.is_some() {
            back.cpus.clone_from(&self.cpus);
        }
        if update.mems.is_some() {
            back.mems.clone_from(&self.mems);
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_comes_back_and_what_was_not_goes() {
        let mut old = Limits::default();
        old.memory.limit = Some(10);
        old.cpu.cpus = Some("0".to_owned());
        old.unified.insert("pids.max".into(), "5".into());
        let mut update = Limits {
            pids: Some(7),
            ..Limits::default()
        };
        update.memory.swap = Some(30);
        update.memory.reservation = Some(4);
        update.cpu.quota = Some(1000);
        update.cpu.cpus = Some("1".to_owned());
        update.cpu.mems = Some("0".to_owned());
        for (file, value) in [("pids.max", "9"), ("memory.high", "1"), ("x.y", "1")] {
            update.unified.insert(file.into(), value.into());
        }
        let back = old.inverse(&update);
        assert_eq!((back.memory.limit, back.memory.swap), (Some(10), NONE));
        assert_eq!((back.pids, back.cpu.shares), (Some(-1), None));
        assert_eq!((back.cpu.quota, back.cpu.period), (NONE, Some(100_000)));
        assert_eq!((back.cpu.cpus.as_deref(), back.cpu.mems), (Some("0"), None));
        let unified: Vec<_> = back
            .unified
            .iter()
            .map(|(file, value)| (file.as_str(), value.as_str()))
            .collect();
        let expected = [
            ("memory.high", "max"),
            ("memory.low", "0"),
            ("pids.max", "5"),
        ];
        assert_eq!(unified, expected);
        assert_eq!(old.inverse(&Limits::default()), Limits::default());
    }
}
