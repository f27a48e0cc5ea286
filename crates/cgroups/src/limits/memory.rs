// SPDX-License-Identifier: Apache-2.0
//! Memory and swap. v2 has neither swappiness nor a switch for the OOM killer: there these two
//! are not asked for by setting them, as with every other runtime.

use super::{Read, Step, Tolerance};
use crate::error::{Error, Result};

/// Limits of memory in bytes; -1 is no limit, 0 as good as not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What may be used.
    pub limit: Option<i64>,
    /// What is left alone when others need memory.
    pub reservation: Option<i64>,
    /// Memory *and* swap.
    pub swap: Option<i64>,
    /// v1: how readily memory is swapped out, from 0 to 100.
    pub swappiness: Option<u64>,
    /// v1: processes that want more than the limit wait instead of being killed.
    pub disable_oom_killer: bool,
    /// v2: refuse a limit that is below the present use, instead of killing.
    pub check_before_update: bool,
}

const UNLIMITED: i64 = -1;

impl Memory {
    /// Swap without memory, as v2 wants it.
    pub(crate) fn swap_alone(&self) -> Result<Option<i64>> {
        swap_alone(given(self.limit), given(self.swap))
    }

    fn invalid(limit: &'static str, reason: impl Into<String>) -> Error {
        Error::InvalidLimit {
            limit,
            reason: reason.into(),
        }
    }
}

fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// At no time may the limit of memory be above that of memory and swap: which comes first
/// depends on the present one.
pub(super) fn v1(memory: &Memory, read: Read<'_>) -> Result<Vec<Step>> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let limit = given(memory.limit);
    let mut swap = given(memory.swap);
    if limit == Some(UNLIMITED) && swap.is_none() && read(SWAP)?.is_some() {
        swap = limit;
    }
    let set_limit = limit.map(|limit| Step::new(LIMIT, limit));
    let set_swap = swap.map(|swap| {
        Step::new(SWAP, swap).tolerate(match swap {
            UNLIMITED => Tolerance::Missing,
            _ => Tolerance::Nothing,
        })
    });
    let swap_first = match (limit, swap) {
        (Some(_), Some(UNLIMITED)) => true,
        (Some(_), Some(swap)) => {
            let current = read(LIMIT)?.and_then(|limit| limit.parse::<i64>().ok());
            current.is_some_and(|current| current < swap)
        }
        _ => false,
    };
    let mut steps: Vec<Step> = match swap_first {
        true => set_swap.into_iter().chain(set_limit).collect(),
        false => set_limit.into_iter().chain(set_swap).collect(),
    };
    let reservation = given(memory.reservation);
    steps.extend(reservation.map(|r| Step::new("memory.soft_limit_in_bytes", r)));
    if memory.disable_oom_killer {
        steps.push(Step::new("memory.oom_control", 1));
    }
    match memory.swappiness {
        Some(swappiness) if swappiness > 100 => {
            let reason = format!("{swappiness} is not between 0 and 100");
            return Err(Memory::invalid("memory.swappiness", reason));
        }
        swappiness => steps.extend(swappiness.map(|s| Step::new("memory.swappiness", s))),
    }
    Ok(steps)
}

pub(super) fn v2(memory: &Memory, read: Read<'_>) -> Result<Vec<Step>> {
    check_use(memory, read)?;
    let mut steps = Vec::new();
    if let Some(swap) = memory.swap_alone()? {
        // A machine without swap has no such file. Then there is none to be limited.
        let tolerance = match swap {
            UNLIMITED | 0 => Tolerance::Missing,
            _ => Tolerance::Nothing,
        };
        steps.push(Step::new("memory.swap.max", or_max(swap)).tolerate(tolerance));
    }
    let limit = given(memory.limit);
    steps.extend(limit.map(|limit| Step::new("memory.max", or_max(limit))));
    let reservation = given(memory.reservation);
    steps.extend(reservation.map(|r| Step::new("memory.low", or_max(r))));
    Ok(steps)
}

/// What v2 wants to know: swap without memory.
fn swap_alone(limit: Option<i64>, swap: Option<i64>) -> Result<Option<i64>> {
    let invalid = |reason: &str| Err(Memory::invalid("memory.swap", reason));
    match (limit, swap) {
        (Some(UNLIMITED), None) => Ok(Some(UNLIMITED)),
        (_, None) => Ok(None),
        (_, Some(UNLIMITED)) => Ok(Some(UNLIMITED)),
        (Some(UNLIMITED), Some(swap)) => Ok(Some(swap)),
        (None, Some(_)) => invalid("unable to set swap limit without memory limit"),
        (Some(limit), Some(swap)) if limit < 0 || swap < 0 => invalid("must not be negative"),
        (Some(limit), Some(swap)) if swap < limit => {
            invalid("memory+swap limit should be >= memory limit")
        }
        (Some(limit), Some(swap)) => Ok(Some(swap - limit)),
    }
}

/// As well as can be told: what cannot be read is no reason.
fn check_use(memory: &Memory, read: Read<'_>) -> Result<()> {
    if !memory.check_before_update {
        return Ok(());
    }
    for (what, limit) in [("memory+swap", memory.swap), ("memory", memory.limit)] {
        let Some(limit) = limit.filter(|limit| *limit > 0) else {
            continue;
        };
        let usage = read("memory.current")?.and_then(|usage| usage.parse::<i64>().ok());
        if let Some(usage) = usage.filter(|usage| limit <= *usage) {
            return Err(Error::BelowUse { what, limit, usage });
        }
    }
    Ok(())
}

fn or_max(value: i64) -> String {
    match value {
        UNLIMITED => "max".to_owned(),
        value => value.to_string(),
    }
}
