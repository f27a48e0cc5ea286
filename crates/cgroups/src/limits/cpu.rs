// SPDX-License-Identifier: Apache-2.0
//! Processor time, and which processors and memory nodes are used.

use super::{Read, Step, Tolerance};
use crate::error::{Error, Result};

/// Limits of processor time. 0 is as good as not given, except for burst and idle; so is an
/// empty list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Share among those who compete, from 2 to 262144; usually 1024.
    pub shares: Option<u64>,
    /// Time in each period, in microseconds; negative is no limit.
    pub quota: Option<i64>,
    /// Length of a period in microseconds.
    pub period: Option<u64>,
    /// Unused time that may be saved up, in microseconds.
    pub burst: Option<u64>,
    /// 1: runs only when nobody else wants to.
    pub idle: Option<i64>,
    /// v1: time for real-time processes in each of their periods, in microseconds.
    pub realtime_runtime: Option<i64>,
    /// v1: length of such a period in microseconds.
    pub realtime_period: Option<u64>,
    /// Processors, as `0-3,7`.
    pub cpus: Option<String>,
    /// Memory nodes, alike.
    pub mems: Option<String>,
}

/// What the kernel takes on v1; it would take the nearest in silence.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

impl Cpu {
    fn shares(&self) -> Option<u64> {
        self.shares.filter(|shares| *shares != 0)
    }

    fn quota(&self) -> Option<i64> {
        self.quota.filter(|quota| *quota != 0)
    }

    fn period(&self) -> Option<u64> {
        self.period.filter(|period| *period != 0)
    }

    /// Period and burst may not fit the quota that is still set, if another one comes.
    fn early(&self) -> Tolerance {
        match self.quota() {
            Some(_) => Tolerance::TooEarly,
            None => Tolerance::Nothing,
        }
    }

    /// An idle cgroup takes no share or weight: it stops being idle before, or becomes it after.
    fn idle_around(&self, mut steps: Vec<Step>) -> Vec<Step> {
        let step = |idle| Step::new("cpu.idle", idle);
        match self.idle {
            Some(0) => steps.insert(0, step(0)),
            idle => steps.extend(idle.map(step)),
        }
        steps
    }
}

pub(super) fn v1(cpu: &Cpu) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if let Some(shares) = cpu.shares() {
        if !SHARES.contains(&shares) {
            let (least, most) = (SHARES.start(), SHARES.end());
            return Err(Error::InvalidLimit {
                limit: "cpu.shares",
                reason: format!("{shares} is not between {least} and {most}"),
            });
        }
        steps.push(Step::new("cpu.shares", shares));
    }
    let early = |file, value: Option<u64>| value.map(|v| Step::new(file, v).tolerate(cpu.early()));
    steps.extend(early("cpu.cfs_period_us", cpu.period()));
    steps.extend(early("cpu.cfs_burst_us", cpu.burst));
    steps.extend(cpu.quota().map(|q| Step::new("cpu.cfs_quota_us", q)));

    let runtime = cpu.realtime_runtime.filter(|runtime| *runtime != 0);
    let period = cpu.realtime_period.filter(|period| *period != 0);
    let tolerance = match runtime {
        Some(_) => Tolerance::TooEarly,
        None => Tolerance::Nothing,
    };
    steps.extend(period.map(|p| Step::new("cpu.rt_period_us", p).tolerate(tolerance)));
    steps.extend(runtime.map(|r| Step::new("cpu.rt_runtime_us", r)));
    Ok(cpu.idle_around(steps))
}

pub(super) fn v2(cpu: &Cpu, read: Read<'_>) -> Result<Vec<Step>> {
    if cpu.realtime_runtime.is_some_and(|r| r != 0) || cpu.realtime_period.is_some_and(|p| p != 0) {
        return Err(Error::InvalidLimit {
            limit: "cpu.realtime",
            reason: "cgroup v2 has no limits for real-time processes".to_owned(),
        });
    }
    let mut steps = Vec::new();
    let weight = cpu.shares().map(weight);
    steps.extend(weight.map(|weight| Step::new("cpu.weight", weight)));
    let burst = cpu.burst;
    steps.extend(burst.map(|b| Step::new("cpu.max.burst", b).tolerate(cpu.early())));
    let quota = cpu.quota().map(|quota| match quota {
        quota if quota > 0 => quota.to_string(),
        _ => "max".to_owned(),
    });
    match (quota, cpu.period()) {
        // The period stays what it is.
        (Some(quota), None) => steps.push(Step::new("cpu.max", quota)),
        (Some(quota), Some(period)) => {
            steps.push(Step::new("cpu.max", format!("{quota} {period}")))
        }
        (None, Some(period)) => {
            // A period cannot be written alone: the quota stays what it is.
            let current = read("cpu.max")?.unwrap_or_default();
            let quota = current.split(' ').next().filter(|quota| !quota.is_empty());
            let value = format!("{} {period}", quota.unwrap_or("max"));
            steps.push(Step::new("cpu.max", value));
        }
        (None, None) => {}
    }
    Ok(cpu.idle_around(steps))
}

pub(super) fn cpuset(cpu: &Cpu) -> Vec<Step> {
    let files = [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)];
    let step = |(file, list): (&'static str, &Option<String>)| {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(Step::new(file, list))
    };
    files.into_iter().filter_map(step).collect()
}

/// The weight on v2 for shares on v1: a curve through 2 → 1, 1024 → 100 and 262144 → 10000,
/// which are the ends and the defaults. The formula is that of other runtimes: users compare.
pub(crate) fn weight(shares: u64) -> u64 {
    if shares <= *SHARES.start() {
        return 1;
    }
    if shares >= *SHARES.end() {
        return 10_000;
    }
    // In this range exact in a float, and the result below 10001.
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}
