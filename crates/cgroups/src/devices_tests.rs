// SPDX-License-Identifier: Apache-2.0
//! Folded rules against their definition: the last rule that matches decides.

use super::*;

/// An access that a process attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) kind: Type,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) access: Access,
}

impl Attempt {
    /// Every access to some devices: those of the random rules, and others.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kind in [Type::Block, Type::Char] {
            for major in [0, 1, 5, 136, u32::MAX - 1] {
                for minor in [0, 3, 8, 1 << 20] {
                    all.extend((1..=7).map(|bits| Self {
                        kind,
                        major,
                        minor,
                        access: Access(bits),
                    }));
                }
            }
        }
        all
    }

    fn is_in(&self, pattern: &Pattern) -> bool {
        let same = |wanted: Option<u32>, is| wanted.is_none_or(|w| w == is);
        self.kind == pattern.kind
            && same(pattern.major, self.major)
            && same(pattern.minor, self.minor)
    }

    /// By definition: rule after rule, each kind of access by itself.
    pub(crate) fn is_allowed(&self, rules: &[Rule]) -> bool {
        let mut allowed = Access::default();
        for rule in rules {
            let matches = match rule.class {
                Class::Any => true,
                Class::Block => self.kind == Type::Block,
                Class::Char => self.kind == Type::Char,
            };
            let pattern = Pattern {
                kind: self.kind,
                major: rule.major,
                minor: rule.minor,
            };
            if matches && self.is_in(&pattern) {
                allowed = match rule.verdict {
                    Verdict::Allow => allowed.with(rule.access),
                    Verdict::Deny => allowed.without(rule.access),
                };
            }
        }
        self.access.without(allowed).is_empty()
    }

    /// As the kernel's v1 controller decides: one exception must allow all that is asked; any that
    /// denies some of it denies it.
    fn is_allowed_on_v1(&self, rules: &DeviceRules) -> bool {
        let mut matching = rules.exceptions.iter().filter(|(p, _)| self.is_in(p));
        match rules.default {
            Verdict::Deny => matching.any(|(_, access)| self.access.without(*access).is_empty()),
            Verdict::Allow => !matching.any(|(_, access)| self.access.overlaps(*access)),
        }
    }
}

/// A small generator (xorshift): the same lists in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn rule(&mut self) -> Rule {
        let verdict = match self.below(2) {
            0 => Verdict::Allow,
            _ => Verdict::Deny,
        };
        if self.below(6) == 0 {
            return all(verdict);
        }
        let class = [Class::Block, Class::Char, Class::Any][self.below(5).min(2) as usize];
        Rule {
            verdict,
            class,
            major: [None, Some(1), Some(5), Some(136)][self.below(4) as usize],
            minor: [None, Some(0), Some(3), Some(8)][self.below(4) as usize],
            access: Access(self.below(7) as u8 + 1),
        }
    }

    pub(crate) fn rules(&mut self) -> Vec<Rule> {
        (0..self.below(7)).map(|_| self.rule()).collect()
    }
}

pub(crate) fn all(verdict: Verdict) -> Rule {
    Rule {
        verdict,
        class: Class::Any,
        major: None,
        minor: None,
        access: Access::ALL,
    }
}

pub(crate) fn rule(verdict: Verdict, line: &str) -> Rule {
    let fields: Vec<&str> = line.split([' ', ':']).collect();
    let number = |field: &str| (field != "*").then(|| field.parse().unwrap());
    Rule {
        verdict,
        class: match fields[0] {
            "a" => Class::Any,
            "b" => Class::Block,
            _ => Class::Char,
        },
        major: number(fields[1]),
        minor: number(fields[2]),
        access: Access::parse(fields[3]).unwrap(),
    }
}

/// As the rules of a specification become those of a container.
pub(crate) fn with_defaults(rules: &[Rule]) -> Vec<Rule> {
    rules.iter().cloned().chain(defaults()).collect()
}

pub(crate) fn folded(rules: &[Rule]) -> Result<DeviceRules> {
    let mut folded = DeviceRules::nothing();
    rules.iter().try_for_each(|rule| folded.apply(rule))?;
    Ok(folded)
}

#[test]
fn folding_changes_no_verdict() {
    let mut random = Random::new();
    let mut kept = 0;
    for _ in 0..4000 {
        let mut rules = random.rules();
        if rules.len() % 2 == 0 {
            rules = with_defaults(&rules);
        }
        let Ok(folded) = folded(&rules) else {
            continue;
        };
        kept += 1;
        for attempt in Attempt::all() {
            let by_definition = attempt.is_allowed(&rules);
            let on_v1 = attempt.is_allowed_on_v1(&folded);
            // v1 cannot add up exceptions: it may refuse several kinds of access at once.
            if attempt.access.bits().count_ones() == 1 || folded.default == Verdict::Allow {
                assert_eq!(on_v1, by_definition, "{attempt:?} of {rules:?}");
            }
            assert!(!on_v1 || by_definition, "{attempt:?} of {rules:?}");
        }
    }
    assert!(kept > 1500, "{kept}");
}

#[test]
fn the_usual_specification_allows_the_default_devices_and_no_disk() {
    for rules in [vec![], vec![all(Verdict::Deny)]] {
        let rules = with_defaults(&rules);
        let folded = folded(&rules).unwrap();
        assert_eq!(folded, DeviceRules::from_oci(&[]).unwrap());
        assert!(!folded.allows_all());
        let attempt = |kind, major, minor, access| Attempt {
            kind,
            major,
            minor,
            access: Access::parse(access).unwrap(),
        };
        for (attempt, expected) in [
            (attempt(Type::Char, 1, 3, "rw"), true),
            (attempt(Type::Char, 136, 77, "rw"), true),
            (attempt(Type::Char, 1, 11, "r"), false),
            (attempt(Type::Char, 1, 11, "m"), true),
            (attempt(Type::Block, 8, 0, "r"), false),
            (attempt(Type::Block, 8, 0, "m"), true),
        ] {
            assert_eq!(attempt.is_allowed(&rules), expected, "{attempt:?}");
            assert_eq!(attempt.is_allowed_on_v1(&folded), expected, "{attempt:?}");
        }
    }
    // A privileged container: nothing is left to say.
    let privileged = DeviceRules::from_oci(&[all(Verdict::Deny), all(Verdict::Allow)]).unwrap();
    assert!(privileged.allows_all());
}

#[test]
fn a_hole_in_a_wider_rule_is_refused() {
    use Verdict::{Allow, Deny};
    for (first, second) in [
        (rule(Allow, "c 10:* rw"), rule(Deny, "c 10:229 r")),
        (rule(Allow, "c *:* rwm"), rule(Deny, "c 10:* w")),
        // Neither is wider: 1:3 is in both.
        (rule(Allow, "c *:3 rwm"), rule(Deny, "c 1:* w")),
    ] {
        let rules = [first, second];
        let error = folded(&rules).unwrap_err();
        assert!(matches!(error, Error::DeviceHole { .. }), "{error}");
    }
    // Default rules as well: null cannot be allowed when all of its major is denied.
    let error = DeviceRules::from_oci(&[all(Allow), rule(Deny, "c 1:* rwm")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device rule \"c 1:3 rwm\" cannot make a hole in rule \"c 1:* rw\""
    );
    // Other access, or another device: no hole.
    folded(&[rule(Allow, "c 10:* rw"), rule(Deny, "c 10:229 m")]).unwrap();
    folded(&[rule(Allow, "c 10:* rw"), rule(Deny, "b 10:229 r")]).unwrap();
}

#[test]
fn the_number_that_v1_takes_for_any_is_refused() {
    for line in ["c 4294967295:3 r", "c 3:4294967295 r"] {
        let error = folded(&[rule(Verdict::Allow, line)]).unwrap_err();
        assert!(matches!(error, Error::DeviceNumber { .. }), "{error}");
    }
}

#[test]
fn access_is_three_letters_in_any_order() {
    assert_eq!(Access::parse("mwr"), Some(Access::ALL));
    assert_eq!(Access::parse("rr").unwrap().to_string(), "r");
    assert_eq!(Access::ALL.to_string(), "rwm");
    for bad in ["", "x", "rwmx", "R"] {
        assert_eq!(Access::parse(bad), None, "{bad}");
    }
}

/// Does what the kernel's v1 controller does with a line: exceptions match literally.
fn obey(rules: &mut DeviceRules, verdict: Verdict, line: &str) {
    if line == "a *:* rwm" {
        *rules = DeviceRules::nothing();
        rules.default = verdict;
        return;
    }
    let Rule {
        class,
        major,
        minor,
        access,
        ..
    } = rule(verdict, line);
    let kind = match class {
        Class::Block => Type::Block,
        _ => Type::Char,
    };
    let pattern = Pattern { kind, major, minor };
    if verdict != rules.default {
        rules.add(pattern, access);
    } else if let Some(had) = rules.exceptions.get_mut(&pattern) {
        *had = had.without(access);
        rules.exceptions.retain(|_, had| !had.is_empty());
    }
}

#[test]
fn a_transition_arrives_and_refuses_nothing_that_stays_allowed() {
    let mut random = Random::new();
    let mut previous = DeviceRules::nothing();
    let mut gentle = 0;
    for _ in 0..2000 {
        let Ok(next) = folded(&random.rules()) else {
            continue;
        };
        let lines = transition(&previous, &next);
        let is_gentle = previous.default == Verdict::Deny && next.default == Verdict::Deny;
        gentle += i32::from(is_gentle && !lines.is_empty());
        let mut now = previous.clone();
        for (verdict, line) in lines {
            obey(&mut now, verdict, &line);
            for attempt in Attempt::all() {
                let stays = attempt.is_allowed_on_v1(&previous) && attempt.is_allowed_on_v1(&next);
                if is_gentle && stays {
                    assert!(attempt.is_allowed_on_v1(&now), "{attempt:?} at {line}");
                }
            }
        }
        assert_eq!(now, next);
        assert_eq!(
            transition(&next, &next).len(),
            match next.default {
                Verdict::Deny => 0,
                Verdict::Allow => 1 + next.exceptions.len(),
            }
        );
        previous = next;
    }
    assert!(gentle > 100, "{gentle}");
}
