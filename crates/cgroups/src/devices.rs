// SPDX-License-Identifier: Apache-2.0
//! Which devices a container may use: an ordered list of rules, folded; pure.
//!
//! The last rule that matches decides, for each kind of access by itself. Both kinds of cgroups
//! want it otherwise: one verdict for everything, and exceptions from it, without order. Folding
//! is exact, or refused: a rule that would have to punch a hole into a wider exception cannot be
//! expressed, and the kernel's v1 would ignore it in silence.
//!
//! Rules for every type of device that name a number, or not all access, are taken at their word
//! (as the specification has them; the kernel and runc take any of these as "everything").

use std::collections::BTreeMap;
use std::fmt;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::{device_list, device_program};

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Access is granted.
    Allow,
    /// Access is refused with `EPERM`.
    Deny,
}

/// Which type of device a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `a`: any.
    Any,
    /// `b`: block devices.
    Block,
    /// `c`: character devices.
    Char,
}

/// Kinds of access: a set of `r`, `w` and `m`(knod). The bits are those of the kernel's programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    const MKNOD: Self = Self(1);
    const READ: Self = Self(2);
    const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);
    const LETTERS: [(Self, char); 3] = [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')];

    /// Reads `rwm`. `None`: it is empty, or has another letter in it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut access = Self::default();
        for letter in text.chars() {
            let (bit, _) = Self::LETTERS.iter().find(|(_, known)| *known == letter)?;
            access = access.with(*bit);
        }
        (!access.is_empty()).then_some(access)
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |(bit, _): &&(Self, char)| self.overlaps(*bit);
        let letters: String = Self::LETTERS.iter().filter(has).map(|(_, l)| *l).collect();
        f.write_str(&letters)
    }
}

/// One rule, as the specification has it in `linux.resources.devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub verdict: Verdict,
    /// To which type of device.
    pub class: Class,
    /// Major number; `None`: any.
    pub major: Option<u32>,
    /// Minor number; `None`: any.
    pub minor: Option<u32>,
    /// For which access.
    pub access: Access,
}

/// A type of device that an exception can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Type {
    Block,
    Char,
}

/// Which devices an exception is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern {
    pub(crate) kind: Type,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
}

impl Pattern {
    /// Whether every device of the other is one of this.
    fn covers(&self, other: &Self) -> bool {
        let covers = |wide: Option<u32>, narrow| wide.is_none() || wide == narrow;
        self.kind == other.kind
            && covers(self.major, other.major)
            && covers(self.minor, other.minor)
    }

    /// Whether a device can be of both.
    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }

    /// As `devices.allow` and `devices.deny` of v1 take it.
    pub(crate) fn line(&self, access: Access) -> String {
        let kind = match self.kind {
            Type::Block => 'b',
            Type::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        format!("{kind} {major}:{minor} {access}")
    }
}

/// Rules, folded: everything is allowed or denied, but for some exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRules {
    pub(crate) default: Verdict,
    pub(crate) exceptions: BTreeMap<Pattern, Access>,
}

impl DeviceRules {
    /// Folds the rules of a specification, in their order. At first everything is denied. After
    /// them come the rules that every container has: making any node, and using the devices of
    /// the default `/dev`, terminals, and `/dev/net/tun`.
    ///
    /// # Errors
    /// A rule asks for an exception from an exception, or names the number that the kernel takes
    /// for "any".
    pub fn from_oci(rules: &[Rule]) -> Result<Self> {
        let mut folded = Self::nothing();
        for rule in rules {
            folded.apply(rule)?;
        }
        for rule in defaults() {
            folded.apply(&rule)?;
        }
        Ok(folded)
    }

    /// Everything is denied.
    pub(crate) fn nothing() -> Self {
        Self {
            default: Verdict::Deny,
            exceptions: BTreeMap::new(),
        }
    }

    /// Whether nothing is ever denied.
    pub(crate) fn allows_all(&self) -> bool {
        self.default == Verdict::Allow && self.exceptions.is_empty()
    }

    pub(crate) fn apply(&mut self, rule: &Rule) -> Result<()> {
        let (major, minor) = (rule.major, rule.minor);
        if [major, minor].contains(&Some(u32::MAX)) {
            let number = u32::MAX;
            return Err(Error::DeviceNumber { number });
        }
        let kinds: &[Type] = match rule.class {
            Class::Any if (major, minor, rule.access) == (None, None, Access::ALL) => {
                self.default = rule.verdict;
                self.exceptions.clear();
                return Ok(());
            }
            Class::Any => &[Type::Block, Type::Char],
            Class::Block => &[Type::Block],
            Class::Char => &[Type::Char],
        };
        for &kind in kinds {
            let pattern = Pattern { kind, major, minor };
            if rule.verdict == self.default {
                self.remove(pattern, rule.access)?;
            } else {
                self.add(pattern, rule.access);
            }
        }
        Ok(())
    }

    /// Makes an exception.
    pub(crate) fn add(&mut self, pattern: Pattern, access: Access) {
        let exception = self.exceptions.entry(pattern).or_default();
        *exception = exception.with(access);
    }

    /// Takes exceptions back.
    fn remove(&mut self, pattern: Pattern, access: Access) -> Result<()> {
        let hit = |(wide, had): &(&Pattern, &Access)| {
            wide.overlaps(&pattern) && had.overlaps(access) && !pattern.covers(wide)
        };
        if let Some((wide, had)) = self.exceptions.iter().find(hit) {
            return Err(Error::DeviceHole {
                rule: pattern.line(access),
                wide: wide.line(*had),
            });
        }
        self.exceptions.retain(|narrow, had| {
            if pattern.covers(narrow) {
                *had = had.without(access);
            }
            !had.is_empty()
        });
        Ok(())
    }
}

/// What every container is allowed after its own rules; runc's list, which images rely on.
fn defaults() -> Vec<Rule> {
    let allow = |class, major, minor, access| Rule {
        verdict: Verdict::Allow,
        class,
        major,
        minor,
        access,
    };
    let mut rules = vec![
        allow(Class::Char, None, None, Access::MKNOD),
        allow(Class::Block, None, None, Access::MKNOD),
    ];
    const NODES: [(u32, Option<u32>); 9] = [
        (1, Some(3)),    // null
        (1, Some(5)),    // zero
        (1, Some(7)),    // full
        (1, Some(8)),    // random
        (1, Some(9)),    // urandom
        (5, Some(0)),    // tty
        (5, Some(2)),    // ptmx
        (136, None),     // pts
        (10, Some(200)), // net/tun
    ];
    let nodes = NODES.iter();
    rules.extend(nodes.map(|&(major, minor)| allow(Class::Char, Some(major), minor, Access::ALL)));
    rules
}

/// Which rules have to be given to a cgroup that follows `from` so that it follows `to`.
///
/// New exceptions come before old ones go, so that no access that is allowed before and after is
/// refused in between. Changing the verdict itself is not that gentle; it is only done where it
/// must be. A v1 cgroup that allows by default does not tell its exceptions: it starts afresh.
pub(crate) fn transition(from: &DeviceRules, to: &DeviceRules) -> Vec<(Verdict, String)> {
    let mut lines = Vec::new();
    let nothing = BTreeMap::new();
    let mut old = &from.exceptions;
    if from.default != to.default || from.default == Verdict::Allow {
        lines.push((to.default, "a *:* rwm".to_owned()));
        old = &nothing;
    }
    let (make, unmake) = match to.default {
        Verdict::Allow => (Verdict::Deny, Verdict::Allow),
        Verdict::Deny => (Verdict::Allow, Verdict::Deny),
    };
    let difference = |verdict, these: &BTreeMap<_, _>, others: &BTreeMap<_, Access>| {
        let rest = |(pattern, access): (&Pattern, &Access)| {
            let other = others.get(pattern).copied().unwrap_or_default();
            let access = access.without(other);
            (!access.is_empty()).then(|| (verdict, pattern.line(access)))
        };
        these.iter().filter_map(rest).collect::<Vec<_>>()
    };
    lines.extend(difference(make, &to.exceptions, old));
    lines.extend(difference(unmake, old, &to.exceptions));
    lines
}

impl Cgroup {
    /// Lets the processes in the cgroup use the devices that the rules allow, and no others.
    ///
    /// On v1 this is the `devices` controller, where the first time is not atomic: no process that
    /// uses devices may be in the cgroup yet. Without that controller it is a program on the v2
    /// directory, which replaces the one before at once.
    ///
    /// # Errors
    /// The kernel refuses, does not do what it was told, or has neither.
    pub fn set_devices(&self, rules: &DeviceRules) -> Result<()> {
        match (self.v1_place("devices"), self.unified_place()) {
            (Some(place), _) => device_list::set(self, place, rules),
            (None, Some(place)) => device_program::set(self, place, rules),
            (None, None) if rules.allows_all() => Ok(()),
            (None, None) => Err(Error::NoController {
                controller: "devices".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
pub(crate) mod tests;
