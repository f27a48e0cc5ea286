// SPDX-License-Identifier: Apache-2.0
//! The limits in force, as runc keeps them in `config.cgroups` of `state.json`: its names and units.
//!
//! Whoever opens a container again needs them for its next update. What runc has and is not here
//! (rates of single devices, device rules) is written when it is asked for and not remembered.

use std::collections::BTreeMap;

use cgroups::Limits;
use cgroups::limits::{BlockIo, Cpu, HugepageLimit, Memory, Network};
use serde::{Deserialize, Serialize};

/// Limits of a container. 0, or nothing, is a limit that was never set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The names are runc's.
pub struct CgroupConfig {
    pub memory: i64,
    pub memory_reservation: i64,
    pub memory_swap: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swappiness: Option<u64>,
    pub memory_check_before_update: bool,
    pub oom_kill_disable: bool,
    pub cpu_shares: u64,
    pub cpu_quota: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_burst: Option<u64>,
    pub cpu_period: u64,
    pub cpu_rt_quota: i64,
    pub cpu_rt_period: u64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_idle: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<i64>,
    pub blkio_weight: u16,
    pub blkio_leaf_weight: u16,
    pub hugetlb_limit: Vec<Hugetlb>,
    pub net_cls_classid_u: u32,
    pub unified: BTreeMap<String, String>,
}

/// Limit of huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are runc's.
pub struct Hugetlb {
    pub page_size: String,
    pub limit: u64,
}

impl From<&Limits> for CgroupConfig {
    fn from(limits: &Limits) -> Self {
        let Limits {
            memory,
            cpu,
            block_io,
            ..
        } = limits;
        let pages = limits.hugepages.iter().map(|one| Hugetlb {
            page_size: one.page_size.clone(),
            limit: one.limit,
        });
        Self {
            memory: memory.limit.unwrap_or_default(),
            memory_reservation: memory.reservation.unwrap_or_default(),
            memory_swap: memory.swap.unwrap_or_default(),
            memory_swappiness: memory.swappiness,
            memory_check_before_update: memory.check_before_update,
            oom_kill_disable: memory.disable_oom_killer,
            cpu_shares: cpu.shares.unwrap_or_default(),
            cpu_quota: cpu.quota.unwrap_or_default(),
            cpu_burst: cpu.burst,
            cpu_period: cpu.period.unwrap_or_default(),
            cpu_rt_quota: cpu.realtime_runtime.unwrap_or_default(),
            cpu_rt_period: cpu.realtime_period.unwrap_or_default(),
            cpuset_cpus: cpu.cpus.clone().unwrap_or_default(),
            cpuset_mems: cpu.mems.clone().unwrap_or_default(),
            cpu_idle: cpu.idle,
            pids_limit: limits.pids,
            blkio_weight: block_io.weight.unwrap_or_default(),
            blkio_leaf_weight: block_io.leaf_weight.unwrap_or_default(),
            hugetlb_limit: pages.collect(),
            net_cls_classid_u: limits.network.class_id.unwrap_or_default(),
            unified: limits.unified.clone(),
        }
    }
}

impl From<&CgroupConfig> for Limits {
    fn from(config: &CgroupConfig) -> Self {
        let pages = config.hugetlb_limit.iter().map(|one| HugepageLimit {
            page_size: one.page_size.clone(),
            limit: one.limit,
        });
        Self {
            memory: Memory {
                limit: set(config.memory),
                reservation: set(config.memory_reservation),
                swap: set(config.memory_swap),
                swappiness: config.memory_swappiness,
                disable_oom_killer: config.oom_kill_disable,
                check_before_update: config.memory_check_before_update,
            },
            cpu: Cpu {
                shares: set(config.cpu_shares),
                quota: set(config.cpu_quota),
                period: set(config.cpu_period),
                burst: config.cpu_burst,
                idle: config.cpu_idle,
                realtime_runtime: set(config.cpu_rt_quota),
                realtime_period: set(config.cpu_rt_period),
                cpus: set(config.cpuset_cpus.clone()),
                mems: set(config.cpuset_mems.clone()),
            },
            pids: config.pids_limit,
            block_io: BlockIo {
                weight: set(config.blkio_weight),
                leaf_weight: set(config.blkio_leaf_weight),
                ..BlockIo::default()
            },
            hugepages: pages.collect(),
            network: Network {
                class_id: set(config.net_cls_classid_u),
                ..Network::default()
            },
            rdma: Vec::new(),
            unified: config.unified.clone(),
        }
    }
}

fn set<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_the_state_file() {
        let mut limits = Limits::default();
        assert_eq!(Limits::from(&CgroupConfig::from(&limits)), limits);
        limits.memory.limit = Some(1);
        limits.memory.swap = Some(-1);
        limits.cpu.shares = Some(3);
        limits.cpu.cpus = Some("0-1".to_owned());
        limits.cpu.idle = Some(0);
        limits.pids = Some(0);
        limits.block_io.weight = Some(10);
        limits.unified = [("memory.high".to_owned(), "1".to_owned())].into();
        let json = serde_json::to_string(&CgroupConfig::from(&limits)).unwrap();
        let config: CgroupConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(Limits::from(&config), limits);
        // What runc has written, or an older version of ours.
        let config: CgroupConfig =
            serde_json::from_str(r#"{"path": "/x", "memory": 7, "devices": []}"#).unwrap();
        assert_eq!(config.memory, 7);
    }
}
