// SPDX-License-Identifier: Apache-2.0
//! Weights and rates of block devices.

use super::{Read, Step};
use crate::error::{Error, Result};

/// Limits of block devices. A weight of 0 is as good as not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Weight among those who compete, from 10 to 1000.
    pub weight: Option<u16>,
    /// v1: weight against the cgroups below.
    pub leaf_weight: Option<u16>,
    /// Weights for single devices.
    pub weight_devices: Vec<WeightDevice>,
    /// Highest rates.
    pub throttles: Vec<Throttle>,
}

/// A block device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The weight for one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightDevice {
    /// Which.
    pub device: Device,
    /// As [`BlockIo::weight`].
    pub weight: Option<u16>,
    /// As [`BlockIo::leaf_weight`].
    pub leaf_weight: Option<u16>,
}

/// What is counted, each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Read operations.
    ReadOperations,
    /// Write operations.
    WriteOperations,
}

/// The highest rate of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Which.
    pub device: Device,
    /// What of it.
    pub rate: Rate,
    /// How much; 0 is no limit.
    pub limit: u64,
}

pub(super) fn v1(io: &BlockIo, read: Read<'_>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let weights = given(io.weight).is_some() || !io.weight_devices.is_empty();
    let (weight, weight_device) = match weights && read("blkio.weight")?.is_some() {
        true => ("blkio.weight", "blkio.weight_device"),
        false => ("blkio.bfq.weight", "blkio.bfq.weight_device"),
    };
    steps.extend(given(io.weight).map(|w| Step::new(weight, w)));
    steps.extend(given(io.leaf_weight).map(|w| Step::new("blkio.leaf_weight", w)));
    for one in &io.weight_devices {
        let step = |file, weight| Step::new(file, format!("{} {weight}", one.device));
        steps.extend(given(one.weight).map(|w| step(weight_device, w)));
        steps.extend(given(one.leaf_weight).map(|w| step("blkio.leaf_weight_device", w)));
    }
    steps.extend(io.throttles.iter().map(|throttle| {
        let file = match throttle.rate {
            Rate::ReadBytes => "blkio.throttle.read_bps_device",
            Rate::WriteBytes => "blkio.throttle.write_bps_device",
            Rate::ReadOperations => "blkio.throttle.read_iops_device",
            Rate::WriteOperations => "blkio.throttle.write_iops_device",
        };
        Step::new(file, format!("{} {}", throttle.device, throttle.limit))
    }));
    Ok(steps)
}

pub(super) fn v2(io: &BlockIo, read: Read<'_>) -> Result<Vec<Step>> {
    let leaf_weights = io.weight_devices.iter().map(|one| one.leaf_weight);
    if leaf_weights
        .chain([io.leaf_weight])
        .any(|w| given(w).is_some())
    {
        return Err(invalid("cgroup v2 has no leaf weights"));
    }
    let mut steps = Vec::new();
    let weights = given(io.weight).is_some() || !io.weight_devices.is_empty();
    // The scheduler that the v1 weights were made for takes them as they are.
    let bfq = weights && read("io.bfq.weight")?.is_some();
    let file = match bfq {
        true => "io.bfq.weight",
        false => "io.weight",
    };
    let convert = |weight: u16| match bfq {
        true => Ok(u64::from(weight)),
        false => converted(weight),
    };
    if let Some(weight) = given(io.weight) {
        steps.push(Step::new(file, convert(weight)?));
    }
    for one in &io.weight_devices {
        if let Some(weight) = given(one.weight) {
            let value = format!("{} {}", one.device, convert(weight)?);
            steps.push(Step::new(file, value));
        }
    }
    steps.extend(io.throttles.iter().map(|throttle| {
        let key = match throttle.rate {
            Rate::ReadBytes => "rbps",
            Rate::WriteBytes => "wbps",
            Rate::ReadOperations => "riops",
            Rate::WriteOperations => "wiops",
        };
        let limit = match throttle.limit {
            0 => "max".to_owned(),
            limit => limit.to_string(),
        };
        Step::new("io.max", format!("{} {key}={limit}", throttle.device))
    }));
    Ok(steps)
}

fn given(weight: Option<u16>) -> Option<u16> {
    weight.filter(|weight| *weight != 0)
}

/// From 10..1000 to 1..10000.
pub(crate) fn converted(weight: u16) -> Result<u64> {
    match weight {
        10..=1000 => Ok(1 + (u64::from(weight) - 10) * 9999 / 990),
        _ => Err(invalid(&format!("{weight} is not between 10 and 1000"))),
    }
}

fn invalid(reason: &str) -> Error {
    Error::InvalidLimit {
        limit: "blockIO.weight",
        reason: reason.to_owned(),
    }
}
