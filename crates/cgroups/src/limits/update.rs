// SPDX-License-Identifier: Apache-2.0
//! Changing the limits of a container that has some: all of the change, or none.

use std::cell::RefCell;

use super::undo::{Journal, Undo};
use super::{BlockIo, Cpu, Limits, Memory, Network};
use crate::access;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::systemd::Told;

/// What has been changed; to be taken back, or kept by dropping this.
#[derive(Debug)]
pub struct Change<'a> {
    cgroup: &'a Cgroup,
    journal: Journal,
    /// What systemd is to be told when it is taken back, if it was told of the change.
    told: Option<Limits>,
}

impl Change<'_> {
    /// Takes it back. What cannot be taken back is for the caller to tell: nothing more can be done.
    pub fn undo(self) -> Vec<Error> {
        let layout = self.cgroup.layout();
        let mut failed = Vec::new();
        // First: it writes what it knows, rounded. Otherwise it would write the new values again at
        // its next reload.
        if let Some(old) = &self.told {
            failed.extend(self.cgroup.tell_systemd(old, None).err());
        }
        for Undo {
            hierarchy,
            path,
            value,
        } in self.journal.into_reverse()
        {
            let hierarchy = &layout.hierarchies()[hierarchy];
            let Err(source) = access::write(hierarchy.root(), &path, &value) else {
                continue;
            };
            failed.push(Error::SetLimit {
                file: hierarchy.absolute(&path),
                value,
                source,
            });
        }
        failed
    }
}

impl Cgroup {
    /// Sets the limits that are given, as [`Self::set_limits`] does; if one of them cannot be set,
    /// takes back those that were. With the systemd driver systemd is told as well. `before` is what
    /// has been in force up to now.
    ///
    /// # Errors
    /// As [`Self::set_limits`], or systemd refuses. Everything is as it was before; if something is
    /// not, the error says so ([`Error::NotUndone`]).
    pub fn change_limits(&self, limits: &Limits, before: &Limits) -> Result<Change<'_>> {
        let journal = RefCell::new(Journal::default());
        let mut told = None;
        let set = self
            .set_limits_with(limits, Some(&journal))
            // After us, who know what was there before; then it has written what it knows, rounded.
            .and_then(|()| {
                let answer = self.tell_systemd(limits, None);
                // Without an answer it may have done it all the same.
                if !matches!(answer, Ok(Told::Nobody)) {
                    told = Some(before.inverse(limits));
                }
                match answer? {
                    Told::Systemd => self.set_limits(limits),
                    Told::Nobody => Ok(()),
                }
            });
        let change = Change {
            cgroup: self,
            journal: journal.into_inner(),
            told,
        };
        match set {
            Ok(()) => Ok(change),
            Err(error) => {
                let left = change.undo();
                Err(match left.is_empty() {
                    true => error,
                    false => Error::NotUndone {
                        source: Box::new(error),
                        left,
                    },
                })
            }
        }
    }
}

impl Limits {
    /// What is to be written when these limits are in force and `update` is asked for: memory and
    /// swap depend on each other, so both are written when one of them changes.
    #[must_use]
    pub fn to_apply(&self, update: &Self) -> Self {
        let mut apply = update.clone();
        if given(update.memory.limit) || given(update.memory.swap) {
            let merged = self.memory.merged(&update.memory);
            (apply.memory.limit, apply.memory.swap) = (merged.limit, merged.swap);
        }
        apply
    }

    /// The limits in force after the update.
    #[must_use]
    pub fn merged(&self, update: &Self) -> Self {
        let list = |old: &Vec<_>, new: &Vec<_>| match new.is_empty() {
            true => old.clone(),
            false => new.clone(),
        };
        let mut unified = self.unified.clone();
        unified.extend(update.unified.clone());
        Self {
            memory: self.memory.merged(&update.memory),
            cpu: self.cpu.merged(&update.cpu),
            pids: update.pids.or(self.pids),
            block_io: self.block_io.merged(&update.block_io),
            hugepages: list(&self.hugepages, &update.hugepages),
            network: self.network.merged(&update.network),
            rdma: match update.rdma.is_empty() {
                true => self.rdma.clone(),
                false => update.rdma.clone(),
            },
            unified,
        }
    }
}

/// 0 is as good as not given.
fn given<T: Default + PartialEq>(value: Option<T>) -> bool {
    value.is_some_and(|value| value != T::default())
}

fn newer<T: Default + PartialEq + Copy>(old: Option<T>, new: Option<T>) -> Option<T> {
    match given(new) {
        true => new,
        false => old,
    }
}

impl Memory {
    fn merged(&self, update: &Self) -> Self {
        const UNLIMITED: Option<i64> = Some(-1);
        // Without a limit of memory there can be none of memory and swap, unless asked for.
        let swap = match (update.limit, given(update.swap)) {
            (UNLIMITED, false) => UNLIMITED,
            _ => newer(self.swap, update.swap),
        };
        Self {
            limit: newer(self.limit, update.limit),
            reservation: newer(self.reservation, update.reservation),
            swap,
            swappiness: update.swappiness.or(self.swappiness),
            disable_oom_killer: update.disable_oom_killer || self.disable_oom_killer,
            check_before_update: update.check_before_update,
        }
    }
}

impl Cpu {
    fn merged(&self, update: &Self) -> Self {
        let text = |old: &Option<String>, new: &Option<String>| match new {
            Some(new) if !new.is_empty() => Some(new.clone()),
            _ => old.clone(),
        };
        Self {
            shares: newer(self.shares, update.shares),
            quota: newer(self.quota, update.quota),
            period: newer(self.period, update.period),
            burst: update.burst.or(self.burst),
            idle: update.idle.or(self.idle),
            realtime_runtime: newer(self.realtime_runtime, update.realtime_runtime),
            realtime_period: newer(self.realtime_period, update.realtime_period),
            cpus: text(&self.cpus, &update.cpus),
            mems: text(&self.mems, &update.mems),
        }
    }
}

impl BlockIo {
    fn merged(&self, update: &Self) -> Self {
        Self {
            weight: newer(self.weight, update.weight),
            leaf_weight: newer(self.leaf_weight, update.leaf_weight),
            weight_devices: match update.weight_devices.is_empty() {
                true => self.weight_devices.clone(),
                false => update.weight_devices.clone(),
            },
            throttles: match update.throttles.is_empty() {
                true => self.throttles.clone(),
                false => update.throttles.clone(),
            },
        }
    }
}

impl Network {
    fn merged(&self, update: &Self) -> Self {
        Self {
            class_id: newer(self.class_id, update.class_id),
            priorities: match update.priorities.is_empty() {
                true => self.priorities.clone(),
                false => update.priorities.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(limit: Option<i64>, swap: Option<i64>) -> Limits {
        Limits {
            memory: Memory {
                limit,
                swap,
                ..Memory::default()
            },
            ..Limits::default()
        }
    }

    #[test]
    fn memory_and_swap_are_written_together() {
        let old = memory(Some(10), Some(20));
        let apply = |limit, swap| {
            let memory = old.to_apply(&memory(limit, swap)).memory;
            (memory.limit, memory.swap)
        };
        assert_eq!(apply(Some(15), None), (Some(15), Some(20)));
        assert_eq!(apply(None, Some(30)), (Some(10), Some(30)));
        assert_eq!(apply(Some(-1), None), (Some(-1), Some(-1)));
        assert_eq!(apply(Some(-1), Some(0)), (Some(-1), Some(-1)));
        assert_eq!(
            apply(Some(0), None),
            (Some(0), None),
            "nothing is asked for"
        );
    }

    #[test]
    fn what_is_not_given_stays() {
        let mut old = memory(Some(10), None);
        old.cpu.shares = Some(100);
        old.pids = Some(7);
        let mut update = Limits::default();
        update.cpu.cpus = Some("0".to_owned());
        update.cpu.shares = Some(0);
        let merged = old.merged(&update);
        assert_eq!(
            (merged.memory.limit, merged.cpu.shares),
            (Some(10), Some(100))
        );
        assert_eq!(
            (merged.pids, merged.cpu.cpus.as_deref()),
            (Some(7), Some("0"))
        );
        assert_eq!(old.to_apply(&update), update);
    }
}
