// SPDX-License-Identifier: Apache-2.0
//! A profile, resolved for one architecture: what happens to each number.
//!
//! The rules of precedence are libseccomp's. Without conditions the first rule of a call decides,
//! whatever other rules there are. Rules with conditions are alternatives; where several hold, the
//! one that comes first in libseccomp's tree does: of the higher argument, then equality before
//! "less" before "greater", then the narrower range.

use std::cmp::Reverse;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator as Op, LinuxSyscall,
};

use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::table::Table;

/// What the filter returns, `SECCOMP_RET_*` with its data.
pub(crate) type Action = u32;

pub(crate) const KILL_THREAD: Action = 0;
/// For what is newer than the profile: a program that knows how to do without it, will.
pub(crate) const NO_SUCH_CALL: Action = 0x0005_0000 | ENOSYS;
const ENOSYS: u32 = 38;

/// The action of a rule; numbers are those of an errno, or a tracer's message.
pub(crate) fn action(action: LinuxSeccompAction, number: Option<u32>) -> Action {
    const EPERM: u32 = 1;
    // The kernel keeps 16 bits for it.
    let number = number.unwrap_or(EPERM) & 0xffff;
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | number,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | number,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    /// Under a mask.
    Equal(u64),
    Greater,
    GreaterOrEqual,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) argument: u8,
    pub(crate) test: Test,
    pub(crate) value: u64,
    /// It holds when the test does not.
    pub(crate) negated: bool,
}

impl Condition {
    fn new(name: &str, argument: &LinuxSeccompArg, arch: Arch) -> Result<Self> {
        let index = argument.index();
        let number = u8::try_from(index).ok().filter(|index| *index < 6);
        let Some(number) = number else {
            let name = name.to_owned();
            return Err(Error::ArgumentIndex { name, index });
        };
        let width = if arch.wide() { u64::MAX } else { 0xffff_ffff };
        let (test, negated) = match argument.op() {
            Op::ScmpCmpEq => (Test::Equal(width), false),
            Op::ScmpCmpNe => (Test::Equal(width), true),
            Op::ScmpCmpMaskedEq => (Test::Equal(argument.value() & width), false),
            Op::ScmpCmpGt => (Test::Greater, false),
            Op::ScmpCmpLe => (Test::Greater, true),
            Op::ScmpCmpGe => (Test::GreaterOrEqual, false),
            Op::ScmpCmpLt => (Test::GreaterOrEqual, true),
        };
        let value = match test {
            Test::Equal(mask) if argument.op() == Op::ScmpCmpMaskedEq => {
                argument.value_two().unwrap_or(0) & mask
            }
            _ => argument.value() & width,
        };
        Ok(Self {
            argument: number,
            test,
            value,
            negated,
        })
    }

    fn always_holds(&self) -> bool {
        self.test == Test::Equal(0)
    }

    /// Sorts what libseccomp asks first to the front.
    fn order(&self) -> (Reverse<u8>, u8, u64) {
        let (class, value) = match (self.test, self.negated) {
            (Test::Equal(_), _) => (0, !self.value),
            (_, true) => (1, self.value),
            (_, false) => (2, !self.value),
        };
        (Reverse(self.argument), class, value)
    }
}

/// A rule with conditions, all of which must hold; by argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: Action,
}

/// What happens to a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Always(Action),
    /// The first rule that holds, else the default.
    Rules(Vec<Rule>),
}

/// A profile for one architecture.
pub(crate) struct Filter {
    pub(crate) arch: Arch,
    /// By number; the rest gets the default action.
    pub(crate) verdicts: Vec<(u32, Verdict)>,
    /// Numbers above this one are newer than the profile.
    pub(crate) newest: Option<u32>,
    table: Table,
}

impl Filter {
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.table.number(name).is_some() || self.table.multiplexed(name).is_some()
    }
}

/// Resolves `profile` for `arch`.
pub(crate) fn resolve(profile: &LinuxSeccomp, arch: Arch) -> Result<Filter> {
    let table = Table::of(arch);
    let default = action(profile.default_action(), profile.default_errno_ret());
    let rules = || profile.syscalls().iter().flatten();
    let mut found: Vec<(u32, &str, Rule)> = Vec::with_capacity(512);
    for rule in rules() {
        let action = action(rule.action(), rule.errno_ret());
        // libseccomp takes no rule that says what the default says: runc leaves it out.
        if action == default {
            continue;
        }
        for name in rule.names() {
            add(&mut found, &table, rule, name, action)?;
        }
    }
    // Stable: among those of one number the order of the profile counts.
    found.sort_by_key(|(number, ..)| *number);
    let mut verdicts = Vec::with_capacity(found.len());
    for same in found.chunk_by(|(a, ..), (b, ..)| a == b) {
        if let Some((number, ..)) = same.first() {
            verdicts.push((*number, verdict(same)?));
        }
    }
    let newest = wants_no_such_call(profile)
        .then(|| newest(&table, rules()))
        .flatten();
    Ok(Filter {
        arch,
        verdicts,
        newest,
        table,
    })
}

fn add<'a>(
    found: &mut Vec<(u32, &'a str, Rule)>,
    table: &Table,
    rule: &LinuxSyscall,
    name: &'a str,
    action: Action,
) -> Result<()> {
    let direct = table.number(name);
    let multiplexed = table.multiplexed(name);
    if direct.is_none() && multiplexed.is_none() {
        return Ok(());
    }
    if let (Some(number), None, None) = (direct, multiplexed, rule.args()) {
        // Nearly all rules are of this kind.
        let conditions = Vec::new();
        found.push((number, name, Rule { conditions, action }));
        return Ok(());
    }
    for conditions in alternatives(name, rule, table)? {
        if let Some((number, call)) = multiplexed {
            // The rest of the arguments is behind a pointer. libseccomp compares them all the same.
            let mut conditions = conditions.clone();
            conditions.retain(|condition| condition.argument != 0);
            let selector = Condition {
                argument: 0,
                test: Test::Equal(0xffff_ffff),
                value: call.into(),
                negated: false,
            };
            conditions.insert(0, selector);
            found.push((number, name, Rule { conditions, action }));
        }
        if let Some(number) = direct {
            found.push((number, name, Rule { conditions, action }));
        }
    }
    Ok(())
}

/// The sets of conditions of a rule. One, unless an argument is named more than once: then each
/// condition is a rule of its own, as it was before there were conjunctions.
fn alternatives(name: &str, rule: &LinuxSyscall, table: &Table) -> Result<Vec<Vec<Condition>>> {
    let conditions = rule
        .args()
        .iter()
        .flatten()
        .map(|argument| Condition::new(name, argument, table.arch()))
        .collect::<Result<Vec<_>>>()?;
    let mut seen = [false; 6];
    let repeated = conditions
        .iter()
        .any(|c| std::mem::replace(&mut seen[usize::from(c.argument)], true));
    let mut sets = if repeated {
        conditions.into_iter().map(|c| vec![c]).collect()
    } else {
        vec![conditions]
    };
    for set in &mut sets {
        set.retain(|condition| !condition.always_holds());
        set.sort_by_key(|condition| condition.argument);
    }
    Ok(sets)
}

/// The verdict on one number.
fn verdict(rules: &[(u32, &str, Rule)]) -> Result<Verdict> {
    let mut conditional: Vec<&Rule> = Vec::new();
    for (_, name, rule) in rules {
        if rule.conditions.is_empty() {
            return Ok(Verdict::Always(rule.action));
        }
        match conditional.iter().find(|r| r.conditions == rule.conditions) {
            Some(same) if same.action == rule.action => {}
            Some(_) => return Err(Error::Contradiction((*name).to_owned())),
            None => conditional.push(rule),
        }
    }
    conditional.sort_by_key(|rule| rule.conditions.first().map(Condition::order));
    Ok(Verdict::Rules(conditional.into_iter().cloned().collect()))
}

/// Not where the default lets calls through, or says ENOSYS anyway. A tracer handles what is new by
/// itself.
fn wants_no_such_call(profile: &LinuxSeccomp) -> bool {
    let lets_through = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
    );
    !lets_through && profile.default_errno_ret() != Some(ENOSYS)
}

/// The highest number that the profile has a name for, whatever it says of it.
fn newest<'a>(table: &Table, rules: impl Iterator<Item = &'a LinuxSyscall>) -> Option<u32> {
    rules
        .flat_map(LinuxSyscall::names)
        .filter(|name| table.multiplexed(name).is_none())
        .filter_map(|name| table.number(name))
        .max()
        .filter(|number| *number > 0)
}
