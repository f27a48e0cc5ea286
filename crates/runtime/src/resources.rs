// SPDX-License-Identifier: Apache-2.0
//! `linux.resources`: what the specification says, as the cgroups crate takes it.
//!
//! Pure. Impossible values are refused with their JSON path. What depends on the machine's cgroups
//! shows when the limits are set. Ignored are only limits of kernel memory, which the kernel itself
//! has given up, and `useHierarchy`, which it no longer lets anybody choose.

use cgroups::devices::{Access, Class, Rule, Verdict};
use cgroups::limits::{
    BlockIo, Cpu, Device, HugepageLimit, Memory, Network, Rate, RdmaLimit, Throttle, WeightDevice,
};
use cgroups::{DeviceRules, Limits};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory,
    LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

use crate::error::{Error, Result};

/// Which devices the container may use, and what it may use of everything else. Without any
/// resources it is still limited to the default devices.
///
/// # Errors
/// The first impossible value.
pub(crate) fn plan(resources: Option<&LinuxResources>) -> Result<(DeviceRules, Limits)> {
    let Some(resources) = resources else {
        return Ok((devices(&[])?, Limits::default()));
    };
    let memory = resources.memory().as_ref().map(memory).transpose()?;
    let cpu = resources.cpu().as_ref().map(cpu);
    let block_io = resources.block_io().as_ref().map(block_io).transpose()?;
    let network = resources.network().as_ref().map(network);
    let limits = Limits {
        memory: memory.unwrap_or_default(),
        cpu: cpu.unwrap_or_default(),
        pids: resources.pids().as_ref().map(|pids| pids.limit()),
        block_io: block_io.unwrap_or_default(),
        hugepages: hugepages(resources.hugepage_limits().as_deref().unwrap_or_default())?,
        network: network.unwrap_or_default(),
        rdma: rdma(resources),
        unified: resources.unified().iter().flatten().map(owned).collect(),
    };
    let rules = resources.devices().as_deref().unwrap_or_default();
    Ok((devices(rules)?, limits))
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

fn devices(rules: &[LinuxDeviceCgroup]) -> Result<DeviceRules> {
    const PATH: &str = "linux.resources.devices";
    let rules: Vec<Rule> = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| device(&format!("{PATH}[{index}]"), rule))
        .collect::<Result<_>>()?;
    DeviceRules::from_oci(&rules).map_err(|error| Error::spec(PATH, error.to_string()))
}

fn device(path: &str, rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let class = match rule.typ() {
        None | Some(LinuxDeviceType::A) => Class::Any,
        Some(LinuxDeviceType::B) => Class::Block,
        Some(LinuxDeviceType::C) => Class::Char,
        Some(other @ (LinuxDeviceType::U | LinuxDeviceType::P)) => {
            let reason = format!("invalid cgroup device type {:?}", other.as_str());
            return Err(Error::spec(format!("{path}.type"), reason));
        }
    };
    // Engines write -1 for "any" as well.
    let wanted = |name: &str, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => device_number(&format!("{path}.{name}"), number).map(Some),
    };
    let text = rule.access().as_deref().unwrap_or_default();
    let known: String = text.chars().filter(|c| "rwm".contains(*c)).collect();
    if known != text {
        // So does runc.
        log::warn!("{path}.access: ignoring what is neither r, w nor m in {text:?}");
    }
    let access = Access::parse(&known)
        .ok_or_else(|| Error::spec(format!("{path}.access"), "device access cannot be empty"))?;
    Ok(Rule {
        verdict: match rule.allow() {
            true => Verdict::Allow,
            false => Verdict::Deny,
        },
        class,
        major: wanted("major", rule.major())?,
        minor: wanted("minor", rule.minor())?,
        access,
    })
}

fn device_number(path: &str, number: i64) -> Result<u32> {
    // The last one means "any" to the kernel.
    u32::try_from(number)
        .ok()
        .filter(|number| *number < u32::MAX)
        .ok_or_else(|| Error::spec(path, format!("{number} is no device number")))
}

fn memory(memory: &LinuxMemory) -> Result<Memory> {
    const PATH: &str = "linux.resources.memory";
    let (limit, swap) = (memory.limit(), memory.swap());
    for (name, value) in [
        ("limit", limit),
        ("reservation", memory.reservation()),
        ("swap", swap),
    ] {
        if let Some(value) = value.filter(|value| *value < -1) {
            let reason = format!("{value} is neither a size nor -1");
            return Err(Error::spec(format!("{PATH}.{name}"), reason));
        }
    }
    if let (Some(limit @ 1..), Some(swap @ 1..)) = (limit, swap) {
        if swap < limit {
            let reason = "memory+swap limit should be >= memory limit";
            return Err(Error::spec(format!("{PATH}.swap"), reason));
        }
    }
    if let Some(swappiness) = memory.swappiness().filter(|swappiness| *swappiness > 100) {
        let reason = format!("{swappiness} is not between 0 and 100");
        return Err(Error::spec(format!("{PATH}.swappiness"), reason));
    }
    #[allow(deprecated, reason = "it may still be in a specification")]
    if memory.kernel().is_some() || memory.kernel_tcp().is_some() {
        log::warn!("ignoring limits of kernel memory");
    }
    Ok(Memory {
        limit,
        reservation: memory.reservation(),
        swap,
        swappiness: memory.swappiness(),
        disable_oom_killer: memory.disable_oom_killer().unwrap_or(false),
        check_before_update: memory.check_before_update().unwrap_or(false),
    })
}

fn cpu(cpu: &LinuxCpu) -> Cpu {
    Cpu {
        shares: cpu.shares(),
        quota: cpu.quota(),
        period: cpu.period(),
        burst: cpu.burst(),
        idle: cpu.idle(),
        realtime_runtime: cpu.realtime_runtime(),
        realtime_period: cpu.realtime_period(),
        cpus: cpu.cpus().clone(),
        mems: cpu.mems().clone(),
    }
}

fn block_io(io: &LinuxBlockIo) -> Result<BlockIo> {
    const PATH: &str = "linux.resources.blockIO";
    let mut weight_devices = Vec::new();
    let list = io.weight_device().as_deref().unwrap_or_default();
    for (index, one) in list.iter().enumerate() {
        let path = format!("{PATH}.weightDevice[{index}]");
        weight_devices.push(WeightDevice {
            device: block_device(&path, one.major(), one.minor())?,
            weight: one.weight(),
            leaf_weight: one.leaf_weight(),
        });
    }
    let mut throttles = Vec::new();
    for (name, rate, list) in throttled(io) {
        for (index, one) in list.as_deref().unwrap_or_default().iter().enumerate() {
            let path = format!("{PATH}.{name}[{index}]");
            throttles.push(Throttle {
                device: block_device(&path, one.major(), one.minor())?,
                rate,
                limit: one.rate(),
            });
        }
    }
    Ok(BlockIo {
        weight: io.weight(),
        leaf_weight: io.leaf_weight(),
        weight_devices,
        throttles,
    })
}

type Throttled<'a> = (&'static str, Rate, &'a Option<Vec<LinuxThrottleDevice>>);

fn throttled(io: &LinuxBlockIo) -> [Throttled<'_>; 4] {
    let read_bytes = io.throttle_read_bps_device();
    let write_bytes = io.throttle_write_bps_device();
    let reads = io.throttle_read_iops_device();
    let writes = io.throttle_write_iops_device();
    [
        ("throttleReadBpsDevice", Rate::ReadBytes, read_bytes),
        ("throttleWriteBpsDevice", Rate::WriteBytes, write_bytes),
        ("throttleReadIOPSDevice", Rate::ReadOperations, reads),
        ("throttleWriteIOPSDevice", Rate::WriteOperations, writes),
    ]
}

fn block_device(path: &str, major: i64, minor: i64) -> Result<Device> {
    Ok(Device {
        major: device_number(&format!("{path}.major"), major)?,
        minor: device_number(&format!("{path}.minor"), minor)?,
    })
}

fn hugepages(limits: &[LinuxHugepageLimit]) -> Result<Vec<HugepageLimit>> {
    let convert = |(index, one): (usize, &LinuxHugepageLimit)| {
        let limit = u64::try_from(one.limit()).map_err(|_| {
            let path = format!("linux.resources.hugepageLimits[{index}].limit");
            Error::spec(path, format!("{} is negative", one.limit()))
        })?;
        let page_size = one.page_size().clone();
        Ok(HugepageLimit { page_size, limit })
    };
    limits.iter().enumerate().map(convert).collect()
}

fn network(network: &LinuxNetwork) -> Network {
    let priorities = network.priorities().as_deref().unwrap_or_default();
    let priority = priorities.iter().map(|p| (p.name().clone(), p.priority()));
    Network {
        class_id: network.class_id(),
        priorities: priority.collect(),
    }
}

/// In the order of their names: the specification has none.
fn rdma(resources: &LinuxResources) -> Vec<RdmaLimit> {
    let devices = resources.rdma().iter().flatten();
    let mut limits: Vec<RdmaLimit> = devices
        .map(|(device, limit)| RdmaLimit {
            device: device.clone(),
            handles: limit.hca_handles(),
            objects: limit.hca_objects(),
        })
        .collect();
    limits.sort_by(|a, b| a.device.cmp(&b.device));
    limits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn planned(resources: serde_json::Value) -> Result<(DeviceRules, Limits)> {
        plan(Some(&serde_json::from_value(resources).unwrap()))
    }

    #[test]
    fn no_resources_are_the_default_devices_and_no_limits() {
        let (devices, limits) = plan(None).unwrap();
        assert_eq!(limits, Limits::default());
        for same in [
            json!({}),
            json!({"devices": [{"allow": false, "access": "rwm"}]}),
            json!({"devices": [{"allow": false, "type": "a", "major": -1, "minor": -1, "access": "rwm"}],
                   "memory": {}, "cpu": {}, "blockIO": {}, "network": {}}),
        ] {
            assert_eq!(planned(same).unwrap(), (devices.clone(), limits.clone()));
        }
        let (privileged, _) =
            planned(json!({"devices": [{"allow": true, "access": "rwm"}]})).unwrap();
        assert_ne!(privileged, devices);
    }

    #[test]
    fn every_limit_arrives() {
        let (_, limits) = planned(json!({
            "memory": {"limit": 8, "reservation": 4, "swap": 16, "swappiness": 7, "kernel": 1,
                       "kernelTCP": 1, "disableOOMKiller": true, "checkBeforeUpdate": true},
            "cpu": {"shares": 1, "quota": -1, "period": 2, "burst": 3, "idle": 1,
                    "realtimeRuntime": 4, "realtimePeriod": 5, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 0},
            "blockIO": {
                "weight": 10, "leafWeight": 11,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 12, "leafWeight": 13}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 1}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 1, "rate": 2}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 1, "rate": 3}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 4}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
            "network": {"classID": 3, "priorities": [{"name": "lo", "priority": 4}]},
            "rdma": {"b": {"hcaHandles": 1}, "a": {"hcaObjects": 2}},
            "unified": {"memory.high": "1", "cpu.max": "2"},
        }))
        .unwrap();
        let device = |minor| Device { major: 8, minor };
        let throttle = |rate, limit| Throttle {
            device: device(1),
            rate,
            limit,
        };
        let rdma = |device: &str, handles, objects| RdmaLimit {
            device: device.to_owned(),
            handles,
            objects,
        };
        let unified = [("memory.high", "1"), ("cpu.max", "2")];
        let expected = Limits {
            memory: Memory {
                limit: Some(8),
                reservation: Some(4),
                swap: Some(16),
                swappiness: Some(7),
                disable_oom_killer: true,
                check_before_update: true,
            },
            cpu: Cpu {
                shares: Some(1),
                quota: Some(-1),
                period: Some(2),
                burst: Some(3),
                idle: Some(1),
                realtime_runtime: Some(4),
                realtime_period: Some(5),
                cpus: Some("0-1".to_owned()),
                mems: Some("0".to_owned()),
            },
            pids: Some(0),
            block_io: BlockIo {
                weight: Some(10),
                leaf_weight: Some(11),
                weight_devices: vec![WeightDevice {
                    device: device(0),
                    weight: Some(12),
                    leaf_weight: Some(13),
                }],
                throttles: vec![
                    throttle(Rate::ReadBytes, 1),
                    throttle(Rate::WriteBytes, 2),
                    throttle(Rate::ReadOperations, 3),
                    throttle(Rate::WriteOperations, 4),
                ],
            },
            hugepages: vec![HugepageLimit {
                page_size: "2MB".to_owned(),
                limit: 9,
            }],
            network: Network {
                class_id: Some(3),
                priorities: vec![("lo".to_owned(), 4)],
            },
            rdma: vec![rdma("a", None, Some(2)), rdma("b", Some(1), None)],
            unified: unified.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn impossible_values_are_refused_by_their_json_path() {
        let devices = |rule: serde_json::Value| json!({"devices": [{"access": "r"}, rule]});
        for (resources, part) in [
            (
                devices(json!({"allow": true, "type": "c"})),
                "linux.resources.devices[1].access: device access cannot be empty",
            ),
            (
                devices(json!({"allow": true, "access": "x"})),
                "devices[1].access: device access cannot be empty",
            ),
            (
                devices(json!({"allow": true, "type": "p", "access": "r"})),
                "devices[1].type: invalid cgroup device type \"p\"",
            ),
            (
                devices(json!({"allow": true, "major": -2, "access": "r"})),
                "devices[1].major: -2 is no device number",
            ),
            (
                devices(json!({"allow": true, "minor": 4_294_967_295_u32, "access": "r"})),
                "devices[1].minor: 4294967295",
            ),
            (
                json!({"devices": [{"allow": true, "type": "c", "access": "rw"},
                                   {"allow": false, "type": "c", "major": 1, "access": "w"}]}),
                "linux.resources.devices: device rule \"c 1:* w\" cannot make a hole",
            ),
            (
                json!({"memory": {"limit": -2}}),
                "memory.limit: -2 is neither a size nor -1",
            ),
            (
                json!({"memory": {"limit": 8, "swap": 4}}),
                "memory.swap: memory+swap limit should be",
            ),
            (json!({"memory": {"swappiness": 101}}), "memory.swappiness"),
            (
                json!({"blockIO": {"throttleReadIOPSDevice": [{"major": -1, "minor": 0, "rate": 1}]}}),
                "blockIO.throttleReadIOPSDevice[0].major",
            ),
            (
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}),
                "hugepageLimits[0].limit",
            ),
        ] {
            let text = planned(resources).unwrap_err().to_string();
            assert!(text.contains(part), "{text} should contain {part}");
        }
    }
}
