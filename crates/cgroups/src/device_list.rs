// SPDX-License-Identifier: Apache-2.0
//! Device rules on v1: lines written to `devices.allow` and `devices.deny`.

use crate::access;
use crate::cgroup::Cgroup;
use crate::devices::{Access, DeviceRules, Pattern, Type, Verdict, transition};
use crate::error::{Error, Result};
use crate::record::Place;

/// Makes the cgroup follow the rules.
pub(crate) fn set(cgroup: &Cgroup, place: &Place, rules: &DeviceRules) -> Result<()> {
    let current = current(cgroup, place)?;
    let root = place.hierarchy(cgroup.layout()).root();
    for lines in transition(&current, rules).chunk_by(|a, b| a.0 == b.0) {
        let file = match lines[0].0 {
            Verdict::Allow => "devices.allow",
            Verdict::Deny => "devices.deny",
        };
        let lines = lines.iter().map(|(_, line)| line.as_str());
        access::write_each(root, &place.file(file), lines)
            .map_err(|error| cgroup.failed("set device rules of", place, error))?;
    }
    verify(cgroup, place, rules)
}

/// The kernel takes some rules without following them. What it says afterwards counts; only the
/// exceptions of a cgroup that allows by default cannot be known.
fn verify(cgroup: &Cgroup, place: &Place, rules: &DeviceRules) -> Result<()> {
    let current = current(cgroup, place)?;
    let same = match rules.default {
        Verdict::Allow => current.default == Verdict::Allow,
        Verdict::Deny => current == *rules,
    };
    if same {
        return Ok(());
    }
    Err(Error::DeviceList {
        path: place.hierarchy(cgroup.layout()).absolute(&place.path),
        reason: "is not what was set",
    })
}

fn current(cgroup: &Cgroup, place: &Place) -> Result<DeviceRules> {
    let root = place.hierarchy(cgroup.layout()).root();
    let list = access::read(root, &place.file("devices.list"))
        .map_err(|error| cgroup.failed("read device rules of", place, error))?;
    parse(&list).ok_or_else(|| Error::DeviceList {
        path: place.hierarchy(cgroup.layout()).absolute(&place.path),
        reason: "cannot be understood",
    })
}

/// A `devices.list`: exceptions from deny, or one line for a cgroup that allows by default.
fn parse(list: &str) -> Option<DeviceRules> {
    let mut rules = DeviceRules::nothing();
    for line in list.lines() {
        let mut fields = line.split([' ', ':']);
        let kind = match fields.next()? {
            "a" => {
                rules.default = Verdict::Allow;
                continue;
            }
            "b" => Type::Block,
            "c" => Type::Char,
            _ => return None,
        };
        let (major, minor) = (number(fields.next()?)?, number(fields.next()?)?);
        let access = Access::parse(fields.next()?)?;
        rules.add(Pattern { kind, major, minor }, access);
    }
    Some(rules)
}

fn number(field: &str) -> Option<Option<u32>> {
    match field {
        "*" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_back_as_it_was_written() {
        let rules = DeviceRules::from_oci(&[]).unwrap();
        let lines = transition(&DeviceRules::nothing(), &rules);
        assert!(lines.iter().all(|(verdict, _)| *verdict == Verdict::Allow));
        let list: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(parse(&list.join("\n")), Some(rules));
        assert_eq!(parse(""), Some(DeviceRules::nothing()));
        let allowing = parse("a *:* rwm").unwrap();
        assert!(allowing.allows_all());
        for bad in ["x 1:3 r", "c 1:3 q", "c 1:x r", "c 1", "c 1:3 "] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
