// SPDX-License-Identifier: Apache-2.0
//! Looks at what containers use, and what follows from two of them.

use std::collections::{BTreeMap, VecDeque};

use diagnostics::v1::ContainerStats;

use crate::discover::Shim;
use crate::fleet::Answer;
use crate::show::stats::{Usage, io, network, some10};

/// How many looks are kept of a container.
const KEPT: usize = 120;

/// What a container uses at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rates {
    /// Percent of one processor.
    pub(crate) cpu: f64,
    /// Bytes per second.
    pub(crate) io: f64,
    /// Bytes per second.
    pub(crate) network: f64,
}

/// A container with its past.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) stats: ContainerStats,
    pub(crate) now: Rates,
    /// CPU, the newest last.
    pub(crate) cpu: VecDeque<f64>,
    /// Memory, the newest last.
    pub(crate) memory: VecDeque<f64>,
    seen: bool,
}

impl Row {
    /// The worst of the three pressures.
    pub(crate) fn pressure(&self) -> f64 {
        let stats = &self.stats;
        [
            stats.cpu_pressure.as_ref(),
            stats.memory_pressure.as_ref(),
            stats.io_pressure.as_ref(),
        ]
        .iter()
        .filter_map(some10)
        .fold(0.0, f64::max)
    }
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct History {
    rows: BTreeMap<String, Row>,
    /// Shims that did not answer the last time.
    pub(crate) silent: Vec<String>,
    pub(crate) shims: usize,
}

/// What tells containers apart.
pub(crate) fn key(shim: &Shim, container: &str) -> String {
    format!("{}/{}/{container}", shim.namespace, shim.id)
}

impl History {
    /// Adds a look. What is not there any more is forgotten; of a shim that is silent, the last look
    /// stays.
    pub(crate) fn look(&mut self, answers: &[Answer<Vec<Usage>>]) {
        self.silent.clear();
        self.shims = answers.len();
        for row in self.rows.values_mut() {
            row.seen = false;
        }
        for Answer { shim, said } in answers {
            match said {
                Ok(all) => {
                    for usage in all {
                        let row = self
                            .rows
                            .entry(key(shim, &usage.stats.container))
                            .or_default();
                        row.add(usage);
                    }
                }
                Err(silence) => {
                    self.silent
                        .push(format!("{} ({})", shim.name(), silence.word()));
                    let own = key(shim, "");
                    let rows = self
                        .rows
                        .iter_mut()
                        .filter(|(key, _)| key.starts_with(&own));
                    rows.for_each(|(_, row)| row.seen = true);
                }
            }
        }
        self.rows.retain(|_, row| row.seen);
    }

    pub(crate) fn rows(&self) -> Vec<&Row> {
        self.rows.values().collect()
    }

    pub(crate) fn rates(&self, key: &str) -> Option<Rates> {
        self.rows.get(key).map(|row| row.now)
    }
}

impl Row {
    fn add(&mut self, usage: &Usage) {
        let (old, new) = (&self.stats, &usage.stats);
        let elapsed = new.time_unix_ns - old.time_unix_ns;
        if old.time_unix_ns != 0 && elapsed > 0 {
            let seconds = elapsed as f64 / 1e9;
            let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
            let cpu = |stats: &ContainerStats| stats.cpu.as_ref().map_or(0, |cpu| cpu.usage_ns);
            let sum = |(one, other): (u64, u64)| one + other;
            self.now = Rates {
                cpu: rate(cpu(old), cpu(new)) / 1e7,
                io: rate(sum(io(old)), sum(io(new))),
                network: rate(sum(network(old)), sum(network(new))),
            };
            push(&mut self.cpu, self.now.cpu);
        }
        let memory = new.memory.as_ref().map_or(0, |memory| memory.usage);
        push(&mut self.memory, memory as f64);
        self.id.clone_from(&new.container);
        self.name.clone_from(&usage.name);
        self.stats = new.clone();
        self.seen = true;
    }
}

fn push(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == KEPT {
        values.pop_front();
    }
    values.push_back(value);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::client::Silence;
    use crate::show::ps::tests::shim;
    use crate::show::stats::tests::usage;

    pub(crate) fn look(history: &mut History, ids: &[&str], step: u64) {
        let all = ids
            .iter()
            .enumerate()
            .map(|(index, id)| usage(id, step * (index as u64 + 1)))
            .map(|mut usage| {
                usage.stats.time_unix_ns = 1_000_000_000 * (step as i64 + 1);
                usage
            })
            .collect();
        history.look(&[Answer {
            shim: shim("pod", 1),
            said: Ok(all),
        }]);
    }

    #[test]
    fn two_looks_make_a_rate() {
        let mut history = History::default();
        look(&mut history, &["a", "b"], 1);
        assert_eq!(history.rows()[0].now, Rates::default());
        look(&mut history, &["a", "b"], 2);
        let rows = history.rows();
        assert_eq!(rows[0].now.cpu, 25.0);
        assert_eq!(rows[1].now.cpu, 50.0);
        assert_eq!(rows[0].now.network, 3072.0);
        assert_eq!(rows[0].now.io, 1.5 * 1048576.0);
        assert_eq!(rows[0].cpu.len(), 1);
        assert_eq!(rows[0].memory.len(), 2);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_is_silent_stays() {
        let mut history = History::default();
        look(&mut history, &["a", "b"], 1);
        history.look(&[Answer {
            shim: shim("pod", 1),
            said: Err(Silence::Late(std::time::Duration::from_millis(100))),
        }]);
        assert_eq!(history.rows().len(), 2);
        assert_eq!(history.silent, ["k8s.io/pod (no-answer)"]);
        look(&mut history, &["b"], 3);
        assert_eq!(history.rows().len(), 1);
        for step in 4..400 {
            look(&mut history, &["b"], step);
        }
        assert_eq!(history.rows()[0].cpu.len(), KEPT);
    }
}
