// SPDX-License-Identifier: Apache-2.0
//! What a container may use, as properties of a systemd unit. Pure, but for `/proc/devices`.

use std::borrow::Cow;

use dbus::Value;

use super::{Claim, Unit};
use crate::devices::{Access, DeviceRules, Pattern, Type, Verdict};
use crate::error::{Error, Result};
use crate::limits::{Limits, weight};

/// systemd's "no limit".
const INFINITY: u64 = u64::MAX;
/// The kernel's default period of processor time, in microseconds.
const PERIOD: u64 = 100_000;
const SECOND: u64 = 1_000_000;
/// systemd counts processor time in whole percents of a second.
const PERCENT: u64 = 10_000;

/// A property to be set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    pub(crate) name: Cow<'static, str>,
    pub(crate) value: Value,
    /// The version of systemd that introduced it, if one that we may meet does not have it. An
    /// older one does without.
    pub(crate) since: u32,
}

impl Property {
    pub(crate) fn new(name: impl Into<Cow<'static, str>>, value: Value) -> Self {
        Self {
            name: name.into(),
            value,
            since: 0,
        }
    }

    fn since(mut self, version: u32) -> Self {
        self.since = version;
        self
    }
}

/// What makes the unit a container's.
pub(super) fn scope(unit: &Unit, claim: &Claim<'_>, v2: bool) -> Vec<Property> {
    // A pid is not negative.
    let pids = vec![Value::U32(claim.pid as u32)];
    let mut properties = vec![
        Property::new("Description", Value::Str(format!("container {}", claim.id))),
        Property::new("Slice", Value::str(unit.slice())),
        Property::new("Delegate", Value::Bool(true)),
        Property::new("PIDs", Value::Array("u".to_owned(), pids)),
        // Gone when it has ended, however it has.
        Property::new("CollectMode", Value::str("inactive-or-failed")).since(236),
    ];
    let io = if v2 {
        "IOAccounting"
    } else {
        "BlockIOAccounting"
    };
    for accounting in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
        properties.push(Property::new(accounting, Value::Bool(true)));
    }
    // It must outlive the shutdown of what has nothing to do with it.
    properties.push(Property::new("DefaultDependencies", Value::Bool(false)));
    properties
}

/// Device rules. What systemd cannot express it has to allow on v2, where our own program decides
/// as well, and may not allow on v1, where there is one list only.
pub(super) fn devices(rules: &DeviceRules, v2: bool) -> Vec<Property> {
    let list = |pairs: Vec<Value>| Value::Array("(ss)".to_owned(), pairs);
    // Lists add up: an empty one comes first.
    let clear = Property::new("DeviceAllow", list(Vec::new()));
    if rules.default == Verdict::Allow {
        return vec![Property::new("DevicePolicy", Value::str("auto")), clear];
    }
    let groups = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let mut allowed = Vec::new();
    for (pattern, access) in &rules.exceptions {
        allowed.extend(device(&groups, pattern, *access, v2));
    }
    let mut properties = vec![Property::new("DevicePolicy", Value::str("strict")), clear];
    if !allowed.is_empty() {
        properties.push(Property::new("DeviceAllow", list(allowed)));
    }
    properties
}

fn device(groups: &str, pattern: &Pattern, access: Access, v2: bool) -> Option<Value> {
    let kind = match pattern.kind {
        Type::Block => "block",
        Type::Char => "char",
    };
    let all = format!("{kind}-*");
    let name = match (pattern.major, pattern.minor) {
        (None, None) => Some(all.clone()),
        (None, Some(_)) => None,
        (Some(major), None) => {
            group(groups, pattern.kind, major).map(|group| format!("{kind}-{group}"))
        }
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
    };
    let name = name.or(v2.then_some(all))?;
    Some(Value::Struct(vec![
        Value::Str(name),
        Value::Str(access.to_string()),
    ]))
}

/// The name that `/proc/devices` has for a major number.
fn group(groups: &str, kind: Type, major: u32) -> Option<&str> {
    let header = match kind {
        Type::Block => "Block devices:",
        Type::Char => "Character devices:",
    };
    let mut lines = groups.lines().skip_while(|line| *line != header).skip(1);
    let lines = lines.by_ref().take_while(|line| !line.is_empty());
    lines
        .filter_map(|line| line.trim().split_once(' '))
        .find(|(number, _)| number.parse() == Ok(major))
        .map(|(_, name)| name.trim())
}

/// Limits, as far as systemd has them. `quota` is the present one: a new period alone keeps it.
pub(super) fn limits(limits: &Limits, v2: bool, quota: Option<i64>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    let mut set = |name: &'static str, value: u64| {
        properties.push(Property::new(name, Value::U64(value)));
    };
    if v2 {
        memory(limits, &mut set)?;
    } else if let Some(limit) = given(limits.memory.limit) {
        set("MemoryLimit", or_infinity(limit));
    }
    if let Some(pids) = limits.pids {
        set("TasksMax", if pids == 0 { 1 } else { or_infinity(pids) });
    }
    let shares = limits.cpu.shares.filter(|shares| *shares != 0);
    match (v2, shares) {
        (true, Some(shares)) => set("CPUWeight", weight(shares)),
        (false, Some(shares)) => set("CPUShares", shares),
        (_, None) => {}
    }
    if let Some(io) = limits.block_io.weight.filter(|weight| *weight != 0) {
        match v2 {
            true => set("IOWeight", crate::limits::io_weight(io)?),
            false => set("BlockIOWeight", io.into()),
        }
    }
    let cpu = &limits.cpu;
    if v2 && cpu.idle == Some(1) {
        properties.retain(|property| property.name != "CPUWeight");
        properties.push(Property::new("CPUWeight", Value::U64(0)).since(252));
    }
    properties.extend(quota_and_period(
        cpu.quota.filter(|quota| *quota != 0),
        cpu.period.filter(|period| *period != 0),
        quota,
    ));
    for (name, list) in [
        ("AllowedCPUs", &cpu.cpus),
        ("AllowedMemoryNodes", &cpu.mems),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            properties.push(Property::new(name, mask(list, "cpuset")?).since(244));
        }
    }
    for (file, value) in &limits.unified {
        properties.extend(unified(file, value)?);
    }
    Ok(properties)
}

/// What cannot be changed later: whether all of a container is killed when one of it is.
pub(super) fn only_at_start(limits: &Limits) -> Result<Vec<Property>> {
    let Some(group) = limits.unified.get("memory.oom.group") else {
        return Ok(Vec::new());
    };
    let policy = match group.trim() {
        "0" => "continue",
        "1" => "kill",
        other => return Err(invalid("memory.oom.group", other)),
    };
    Ok(vec![
        Property::new("OOMPolicy", Value::str(policy)).since(253),
    ])
}

fn memory(limits: &Limits, set: &mut impl FnMut(&'static str, u64)) -> Result<()> {
    let memory = &limits.memory;
    if let Some(limit) = given(memory.limit) {
        set("MemoryMax", or_infinity(limit));
    }
    if let Some(reservation) = given(memory.reservation) {
        set("MemoryLow", or_infinity(reservation));
    }
    if let Some(swap) = memory.swap_alone()? {
        set("MemorySwapMax", or_infinity(swap));
    }
    Ok(())
}

/// Processor time in each second, rounded up so that what is inside can have what it was promised;
/// the exact quota is written by ourselves.
fn quota_and_period(
    quota: Option<i64>,
    period: Option<u64>,
    present: Option<i64>,
) -> Vec<Property> {
    let mut properties = Vec::new();
    if let Some(period) = period {
        properties.push(Property::new("CPUQuotaPeriodUSec", Value::U64(period)).since(242));
    }
    if quota.is_none() && period.is_none() {
        return properties;
    }
    let each_second = match u64::try_from(quota.or(present).unwrap_or(-1)) {
        Ok(quota) => {
            let time =
                u128::from(quota) * u128::from(SECOND) / u128::from(period.unwrap_or(PERIOD));
            let time = time.next_multiple_of(PERCENT.into());
            u64::try_from(time).unwrap_or(INFINITY)
        }
        Err(_) => INFINITY,
    };
    properties.push(Property::new("CPUQuotaPerSecUSec", Value::U64(each_second)));
    properties
}

/// One v2 file by its name. What systemd does not know is only written by ourselves.
fn unified(file: &str, value: &str) -> Result<Vec<Property>> {
    let number = |name: &'static str| {
        let number = amount(file, value)?;
        Ok(vec![Property::new(name, Value::U64(number))])
    };
    match file {
        "memory.max" => number("MemoryMax"),
        "memory.high" => number("MemoryHigh"),
        "memory.low" => number("MemoryLow"),
        "memory.min" => number("MemoryMin"),
        "memory.swap.max" => number("MemorySwapMax"),
        "pids.max" => number("TasksMax"),
        "cpu.weight" => number("CPUWeight"),
        "cpu.idle" if value.trim() == "1" => {
            Ok(vec![Property::new("CPUWeight", Value::U64(0)).since(252)])
        }
        "cpu.max" => {
            let mut parts = value.split_whitespace();
            let quota = amount(file, parts.next().unwrap_or_default())?;
            let quota = i64::try_from(quota).unwrap_or(-1);
            let period = parts
                .next()
                .map(|period| amount(file, period))
                .transpose()?;
            Ok(quota_and_period(
                Some(quota),
                period.filter(|p| *p != 0),
                None,
            ))
        }
        "cpuset.cpus" => Ok(vec![
            Property::new("AllowedCPUs", mask(value, "unified")?).since(244),
        ]),
        "cpuset.mems" => Ok(vec![
            Property::new("AllowedMemoryNodes", mask(value, "unified")?).since(244),
        ]),
        _ => Ok(Vec::new()),
    }
}

fn amount(file: &str, value: &str) -> Result<u64> {
    match value.trim() {
        "max" => Ok(INFINITY),
        value => value.parse().map_err(|_| invalid(file, value)),
    }
}

fn invalid(file: &str, value: &str) -> Error {
    Error::InvalidLimit {
        limit: "unified",
        reason: format!("{file:?} cannot be {value:?}"),
    }
}

/// `0-3,7` as bits, the lowest first.
fn mask(list: &str, limit: &'static str) -> Result<Value> {
    /// Linux has at most 8192 processors.
    const MOST: usize = 8192;
    let failed = || Error::InvalidLimit {
        limit,
        reason: format!("{list:?} is no list of numbers"),
    };
    let mut bytes: Vec<u8> = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse().ok().filter(|n: &usize| *n < MOST);
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(failed());
        };
        if last < first {
            return Err(failed());
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        for bit in first..=last {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    match bytes.is_empty() {
        true => Err(failed()),
        false => Ok(Value::bytes(bytes)),
    }
}

fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

fn or_infinity(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(INFINITY)
}

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;
