// SPDX-License-Identifier: Apache-2.0
//! What limits of memory led to, as the kernel counts it.

use crate::cgroup::Cgroup;
use crate::reader::{Reader, pairs};
use crate::record::Place;

/// Counters of a cgroup's memory controller. v1 has only the last three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// v2: memory was taken although the use was below what is protected.
    pub low: u64,
    /// v2: processes were held up above `memory.high`.
    pub high: u64,
    /// v2: the limit was about to be exceeded.
    pub max: u64,
    /// v2: nothing could be reclaimed at the limit.
    pub oom: u64,
    /// v2: the whole group was killed.
    pub oom_group_kill: u64,
    /// Processes killed for memory.
    pub oom_kill: u64,
    /// v1: whether the killer is switched off.
    pub oom_kill_disabled: bool,
    /// v1: whether processes wait for memory at this moment.
    pub under_oom: bool,
}

impl MemoryEvents {
    pub(crate) fn read_v1(reader: &mut Reader) -> Option<Self> {
        reader.text("memory.oom_control").map(Self::parse)
    }

    pub(crate) fn read_v2(reader: &mut Reader) -> Option<Self> {
        reader.text("memory.events").map(Self::parse)
    }

    /// The names of v1 and v2 do not collide.
    pub(crate) fn parse(text: &str) -> Self {
        let mut events = Self::default();
        for (name, value) in pairs(text) {
            match name {
                "low" => events.low = value,
                "high" => events.high = value,
                "max" => events.max = value,
                "oom" => events.oom = value,
                "oom_kill" => events.oom_kill = value,
                "oom_group_kill" => events.oom_group_kill = value,
                "oom_kill_disable" => events.oom_kill_disabled = value != 0,
                "under_oom" => events.under_oom = value != 0,
                _ => {}
            }
        }
        events
    }
}

impl Cgroup {
    /// The counters; `None` if the cgroup is gone, or has no memory controller.
    pub fn memory_events(&self) -> Option<MemoryEvents> {
        let (place, v1) = self.memory_place()?;
        let mut reader = Reader::new(self, place);
        match v1 {
            true => MemoryEvents::read_v1(&mut reader),
            false => MemoryEvents::read_v2(&mut reader),
        }
    }

    /// Where the memory controller is, and whether that is v1.
    pub(crate) fn memory_place(&self) -> Option<(&Place, bool)> {
        if let Some(place) = self.v1_place("memory") {
            return Some((place, true));
        }
        let place = self.unified_place()?;
        let offered = place.hierarchy(self.layout()).offers("memory");
        offered.then_some((place, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_both_versions_are_read() {
        let v2 = MemoryEvents::parse(
            "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\nsock_throttled 0\n",
        );
        let expected = MemoryEvents {
            low: 1,
            high: 2,
            max: 3,
            oom: 4,
            oom_kill: 5,
            oom_group_kill: 6,
            ..MemoryEvents::default()
        };
        assert_eq!(v2, expected);
        let v1 = MemoryEvents::parse("oom_kill_disable 1\nunder_oom 1\noom_kill 9\n");
        assert!(v1.oom_kill_disabled && v1.under_oom && v1.oom_kill == 9);
    }
}
