// SPDX-License-Identifier: Apache-2.0
//! Resolved rules to instructions.
//!
//! ```text
//!   load architecture
//!   one of ours?               no: kill, for its numbers mean other calls
//!   load number
//!   search: the numbers cut into ranges of equal verdict, halved by comparisons
//!   return, or compare arguments and return
//! ```
//!
//! x86_64 and x32 are one architecture to the kernel, and here one list of ranges.

use crate::arch::{Arch, Machine, X32_BIT};
use crate::assembler::{Assembler, Label};
use crate::program::{Instruction, JEQ_K, JGE_K, JGT_K};
use crate::rules::{Action, Condition, Filter, KILL_THREAD, NO_SUCH_CALL, Rule, Test, Verdict};

/// Offsets in `struct seccomp_data` of little-endian machines.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A tracer sets this number to skip a call; the filter runs again then.
const SKIPPED: u32 = u32::MAX;

/// Where a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Return(Action),
    /// Index of a list of rules.
    Rules(usize),
}

/// Numbers from `first` up to the next range.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u32,
    target: Target,
}

/// Makes the program for the filters of a machine.
pub(crate) fn generate(machine: Machine, filters: &[Filter], default: Action) -> Vec<Instruction> {
    let mut generator = Generator {
        assembler: Assembler::default(),
        default,
    };
    let mut others = generator.assembler.verdict(KILL_THREAD);
    let native = match machine {
        Machine::X86_64 => Arch::X86_64,
        Machine::Aarch64 => Arch::Aarch64,
    };
    let foreign = |filter: &&Filter| filter.arch.audit() != native.audit();
    let mut sections: Vec<(u32, Label)> = Vec::new();
    for filter in filters.iter().filter(foreign) {
        let label = generator.section(&[filter]);
        sections.push((filter.arch.audit(), label));
    }
    // The machine's own comes first in the program: it is what nearly every call is.
    let own: Vec<&Filter> = filters.iter().filter(|f| !foreign(f)).collect();
    let label = generator.section(&own);
    sections.push((native.audit(), label));
    for (audit, label) in sections {
        others = generator.assembler.jump(JEQ_K, audit, label, others);
    }
    generator.assembler.load(ARCHITECTURE, others);
    generator.assembler.finish()
}

struct Generator {
    assembler: Assembler,
    default: Action,
}

impl Generator {
    /// The part for one architecture of the kernel's.
    fn section(&mut self, filters: &[&Filter]) -> Label {
        let mut lists: Vec<(&[Rule], bool)> = Vec::new();
        let mut ranges = Vec::new();
        for filter in filters {
            self.ranges(filter, &mut ranges, &mut lists);
        }
        if let Some(native) = filters.iter().find(|f| f.arch == Arch::X86_64) {
            self.beyond_x32(native, filters, &mut ranges);
        }
        let labels: Vec<Label> = lists
            .iter()
            .map(|(rules, wide)| self.rules(rules, *wide))
            .collect();
        let search = self.search(&ranges, &labels);
        self.assembler.load(NUMBER, search)
    }

    /// Adds the ranges of one filter, in order.
    fn ranges<'a>(
        &self,
        filter: &'a Filter,
        ranges: &mut Vec<Range>,
        lists: &mut Vec<(&'a [Rule], bool)>,
    ) {
        let default = Target::Return(self.default);
        let wide = filter.arch.wide();
        let mut next = if filter.arch == Arch::X32 { X32_BIT } else { 0 };
        let known =
            |(number, _): &&(u32, Verdict)| filter.newest.is_none_or(|last| *number <= last);
        for (number, verdict) in filter.verdicts.iter().take_while(known) {
            if *number > next {
                push(ranges, next, default);
            }
            let target = match verdict {
                Verdict::Always(action) => Target::Return(*action),
                Verdict::Rules(rules) => {
                    let same = |(other, w): &(&[Rule], bool)| *other == rules && *w == wide;
                    let index = lists.iter().position(same).unwrap_or_else(|| {
                        lists.push((rules, wide));
                        lists.len() - 1
                    });
                    Target::Rules(index)
                }
            };
            push(ranges, *number, target);
            next = number + 1;
        }
        if let Some(newest) = filter.newest {
            if newest >= next {
                push(ranges, next, default);
            }
            push(ranges, newest + 1, Target::Return(NO_SUCH_CALL));
        } else {
            push(ranges, next, default);
        }
    }

    /// Numbers of x86_64 from where those of x32 begin. What has no bit for x32 but is as high is
    /// newer than the profile; without a filter for x32 its calls are those of a foreign architecture.
    fn beyond_x32(&self, native: &Filter, filters: &[&Filter], ranges: &mut Vec<Range>) {
        const NOT_X32: u32 = 0x8000_0000;
        let newer = |filter: &Filter, otherwise: Action| {
            Target::Return(filter.newest.map_or(otherwise, |_| NO_SUCH_CALL))
        };
        match filters.iter().find(|f| f.arch == Arch::X32) {
            Some(x32) => {
                push(ranges, NOT_X32, newer(native, self.default));
                push(ranges, NOT_X32 | X32_BIT, newer(x32, self.default));
            }
            None => {
                push(ranges, X32_BIT, Target::Return(KILL_THREAD));
                push(ranges, NOT_X32, newer(native, KILL_THREAD));
                push(ranges, NOT_X32 | X32_BIT, Target::Return(KILL_THREAD));
                push(ranges, SKIPPED, Target::Return(self.default));
            }
        }
    }

    /// The search among `ranges`, of which there is at least one.
    fn search(&mut self, ranges: &[Range], labels: &[Label]) -> Label {
        match ranges {
            [] => self.assembler.verdict(self.default),
            [only] => match only.target {
                Target::Return(action) => self.assembler.verdict(action),
                Target::Rules(index) => labels[index],
            },
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let first = high[0].first;
                let above = self.search(high, labels);
                let below = self.search(low, labels);
                self.assembler.jump(JGE_K, first, above, below)
            }
        }
    }

    /// One rule after the other, then the default.
    fn rules(&mut self, rules: &[Rule], wide: bool) -> Label {
        let mut next = self.assembler.verdict(self.default);
        for rule in rules.iter().rev() {
            let mut holds = self.assembler.verdict(rule.action);
            for condition in rule.conditions.iter().rev() {
                holds = self.condition(condition, wide, holds, next);
            }
            next = holds;
        }
        next
    }

    fn condition(&mut self, condition: &Condition, wide: bool, yes: Label, no: Label) -> Label {
        let (yes, no) = if condition.negated {
            (no, yes)
        } else {
            (yes, no)
        };
        let low = ARGUMENTS + 8 * u32::from(condition.argument);
        let half = |value: u64| (value as u32, (value >> 32) as u32);
        let (value_low, value_high) = half(condition.value);
        match condition.test {
            Test::Equal(mask) => {
                let (mask_low, mask_high) = half(mask);
                let mut label = yes;
                if mask_low != 0 || !wide {
                    label = self.equal(low, mask_low, value_low, label, no);
                }
                if wide && mask_high != 0 {
                    label = self.equal(low + 4, mask_high, value_high, label, no);
                }
                label
            }
            test => {
                let code = if test == Test::Greater { JGT_K } else { JGE_K };
                let compare = self.assembler.jump(code, value_low, yes, no);
                let label = self.assembler.load(low, compare);
                if !wide {
                    return label;
                }
                let equal = self.assembler.jump(JEQ_K, value_high, label, no);
                let compare = self.assembler.jump(JGT_K, value_high, yes, equal);
                self.assembler.load(low + 4, compare)
            }
        }
    }

    fn equal(&mut self, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        let mut label = self.assembler.jump(JEQ_K, value, yes, no);
        if mask != u32::MAX {
            label = self.assembler.and(mask, label);
        }
        self.assembler.load(offset, label)
    }
}

/// Adds a range, or lengthens the last.
fn push(ranges: &mut Vec<Range>, first: u32, target: Target) {
    if ranges.last().is_none_or(|last| last.target != target) {
        ranges.push(Range { first, target });
    }
}
