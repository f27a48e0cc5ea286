// SPDX-License-Identifier: Apache-2.0
//! Controllers with one kind of limit each.

use super::{Step, Tolerance, Version};
use crate::error::{Error, Result};

/// Limit of huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageLimit {
    /// As in the file names: `2MB`, `1GB`.
    pub page_size: String,
    /// In bytes.
    pub limit: u64,
}

/// Marks on network traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Class for traffic control; 0 is as good as not given.
    pub class_id: Option<u32>,
    /// Priority by interface.
    pub priorities: Vec<(String, u32)>,
}

/// Limits of one RDMA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdmaLimit {
    /// Its name.
    pub device: String,
    /// Handles.
    pub handles: Option<u32>,
    /// Objects.
    pub objects: Option<u32>,
}

/// 0 would let nobody in, on paper: in fact processes are moved in and cannot fork, as with 1.
pub(super) fn pids(limit: Option<i64>) -> Vec<Step> {
    let value = limit.map(|limit| match limit {
        0 => "1".to_owned(),
        limit if limit > 0 => limit.to_string(),
        _ => "max".to_owned(),
    });
    let step = value.map(|value| Step::new("pids.max", value));
    step.into_iter().collect()
}

/// Two limits of each size: pages in use, and pages reserved (Linux 5.7, missing before).
pub(super) fn hugepages(limits: &[HugepageLimit], version: Version) -> Result<Vec<Step>> {
    let suffix = match version {
        Version::V1 => "limit_in_bytes",
        Version::V2 => "max",
    };
    let mut steps = Vec::with_capacity(2 * limits.len());
    for HugepageLimit { page_size, limit } in limits {
        if page_size.is_empty() || !page_size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::InvalidLimit {
                limit: "hugepageLimits",
                reason: format!("{page_size:?} is no page size"),
            });
        }
        let file = |part: &str| format!("hugetlb.{page_size}.{part}{suffix}");
        steps.push(Step::new(file(""), limit));
        steps.push(Step::new(file("rsvd."), limit).tolerate(Tolerance::Missing));
    }
    Ok(steps)
}

pub(super) fn class_id(network: &Network, version: Version) -> Result<Vec<Step>> {
    let class_id = network.class_id.filter(|class_id| *class_id != 0);
    let steps = class_id.map(|class_id| Step::new("net_cls.classid", class_id));
    only_v1(steps.into_iter().collect(), version)
}

pub(super) fn priorities(network: &Network, version: Version) -> Result<Vec<Step>> {
    let step = |(name, priority): &(String, u32)| {
        Step::new("net_prio.ifpriomap", format!("{name} {priority}"))
    };
    only_v1(network.priorities.iter().map(step).collect(), version)
}

fn only_v1(steps: Vec<Step>, version: Version) -> Result<Vec<Step>> {
    if version == Version::V2 && !steps.is_empty() {
        return Err(Error::InvalidLimit {
            limit: "network",
            reason: "cgroup v2 does not mark network traffic".to_owned(),
        });
    }
    Ok(steps)
}

pub(super) fn rdma(limits: &[RdmaLimit]) -> Vec<Step> {
    let step = |limit: &RdmaLimit| {
        let handles = limit.handles.map(|n| format!(" hca_handle={n}"));
        let objects = limit.objects.map(|n| format!(" hca_object={n}"));
        let parts: String = handles.into_iter().chain(objects).collect();
        let given = !parts.is_empty();
        given.then(|| Step::new("rdma.max", format!("{}{parts}", limit.device)))
    };
    limits.iter().filter_map(step).collect()
}
