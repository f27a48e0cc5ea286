// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;

use super::*;
use crate::devices::{Class, Rule};
use crate::limits::{Cpu, Memory};

fn shown(properties: &[Property]) -> Vec<(&str, &Value)> {
    properties.iter().map(|p| (&*p.name, &p.value)).collect()
}

fn number(properties: &[Property], name: &str) -> Option<u64> {
    let found = properties.iter().rfind(|p| p.name == name)?;
    match found.value {
        Value::U64(number) => Some(number),
        ref other => panic!("{other:?}"),
    }
}

fn cpu(cpu: Cpu) -> Limits {
    Limits {
        cpu,
        ..Limits::default()
    }
}

#[test]
fn nothing_given_is_nothing_said() {
    for v2 in [true, false] {
        assert_eq!(limits(&Limits::default(), v2, Some(5)).unwrap(), []);
    }
}

#[test]
fn memory_and_pids_have_systemds_names_and_infinity() {
    let given = |limit, swap, pids| Limits {
        memory: Memory {
            limit,
            swap,
            reservation: Some(5),
            ..Memory::default()
        },
        pids,
        ..Limits::default()
    };
    let some = limits(&given(Some(10), Some(30), Some(7)), true, None).unwrap();
    let names = ["MemoryMax", "MemoryLow", "MemorySwapMax", "TasksMax"];
    assert_eq!(
        names.map(|name| number(&some, name)),
        [Some(10), Some(5), Some(20), Some(7)]
    );
    let none = limits(&given(Some(-1), None, Some(-1)), true, None).unwrap();
    assert_eq!(
        names.map(|name| number(&none, name)),
        [Some(u64::MAX), Some(5), Some(u64::MAX), Some(u64::MAX)]
    );
    let zero = limits(&given(Some(0), None, Some(0)), true, None).unwrap();
    assert_eq!(
        names.map(|name| number(&zero, name)),
        [None, Some(5), None, Some(1)]
    );
    let v1 = limits(&given(Some(10), Some(30), Some(7)), false, None).unwrap();
    let expected = [
        ("MemoryLimit", &Value::U64(10)),
        ("TasksMax", &Value::U64(7)),
    ];
    assert_eq!(shown(&v1), expected);
    assert!(limits(&given(Some(30), Some(10), None), true, None).is_err());
}

#[test]
fn processor_time_is_rounded_up_to_a_percent_of_a_second() {
    for (quota, period, present, expected) in [
        (Some(50_000), Some(100_000), None, Some(500_000)),
        (Some(50_001), Some(100_000), None, Some(510_000)),
        (Some(1000), None, None, Some(10_000)),
        (Some(-1), None, None, Some(u64::MAX)),
        (Some(-1), Some(50_000), Some(7), Some(u64::MAX)),
        (None, Some(50_000), None, Some(u64::MAX)),
        (None, Some(200_000), Some(50_000), Some(250_000)),
        (Some(0), None, Some(5), None),
        (Some(i64::MAX), Some(1), None, Some(u64::MAX)),
    ] {
        let limit = cpu(Cpu {
            quota,
            period,
            ..Cpu::default()
        });
        let properties = limits(&limit, true, present).unwrap();
        assert_eq!(
            number(&properties, "CPUQuotaPerSecUSec"),
            expected,
            "{quota:?} {period:?} {present:?}"
        );
        assert_eq!(number(&properties, "CPUQuotaPeriodUSec"), period);
    }
}

#[test]
fn shares_become_weights_and_an_idle_container_has_none() {
    let share = |idle| {
        cpu(Cpu {
            shares: Some(1024),
            idle,
            ..Cpu::default()
        })
    };
    let weight = |idle, v2, name| number(&limits(&share(idle), v2, None).unwrap(), name);
    assert_eq!(weight(None, true, "CPUWeight"), Some(100));
    assert_eq!(weight(Some(0), true, "CPUWeight"), Some(100));
    assert_eq!(weight(Some(1), true, "CPUWeight"), Some(0));
    assert_eq!(weight(None, false, "CPUShares"), Some(1024));
}

#[test]
fn lists_of_processors_become_bits() {
    for (list, expected) in [
        ("0", vec![1]),
        ("0-3,7", vec![0x8f]),
        ("8,1-2", vec![6, 1]),
        ("17", vec![0, 0, 2]),
        (" 0 - 1 \n", vec![3]),
    ] {
        assert_eq!(mask(list, "x").unwrap(), Value::bytes(expected), "{list}");
    }
    for bad in ["", ",", "a", "3-1", "1-", "-1", "8192", "0-99999999999"] {
        assert!(mask(bad, "x").is_err(), "{bad}");
    }
}

#[test]
fn unified_files_that_systemd_knows_are_told() {
    let unified = |file: &str, value: &str| {
        let limit = Limits {
            unified: BTreeMap::from([(file.to_owned(), value.to_owned())]),
            ..Limits::default()
        };
        limits(&limit, true, None)
    };
    for (file, value, name, expected) in [
        ("memory.max", "max", "MemoryMax", u64::MAX),
        ("memory.high", "5", "MemoryHigh", 5),
        ("memory.low", "6\n", "MemoryLow", 6),
        ("memory.min", "7", "MemoryMin", 7),
        ("memory.swap.max", "0", "MemorySwapMax", 0),
        ("pids.max", "9", "TasksMax", 9),
        ("cpu.weight", "11", "CPUWeight", 11),
        ("cpu.idle", "1", "CPUWeight", 0),
        ("cpu.max", "5000 10000", "CPUQuotaPerSecUSec", 500_000),
        ("cpu.max", "max 10000", "CPUQuotaPerSecUSec", u64::MAX),
        ("cpu.max", "10000", "CPUQuotaPerSecUSec", 100_000),
    ] {
        let properties = unified(file, value).unwrap();
        assert_eq!(number(&properties, name), Some(expected), "{file}={value}");
    }
    let cpus = unified("cpuset.cpus", "0-1").unwrap();
    assert_eq!(shown(&cpus), [("AllowedCPUs", &Value::bytes([3]))]);
    assert_eq!(unified("io.max", "8:0 rbps=1").unwrap(), []);
    for (file, value) in [("memory.max", "x"), ("cpu.max", ""), ("cpuset.mems", "x")] {
        assert!(unified(file, value).is_err(), "{file}={value}");
    }
}

#[test]
fn killing_all_when_one_is_killed_is_said_at_the_start_only() {
    let group = |value: &str| Limits {
        unified: BTreeMap::from([("memory.oom.group".to_owned(), value.to_owned())]),
        ..Limits::default()
    };
    for (value, policy) in [("1", "kill"), ("0", "continue")] {
        let properties = only_at_start(&group(value)).unwrap();
        assert_eq!(shown(&properties), [("OOMPolicy", &Value::str(policy))]);
        assert_eq!(limits(&group(value), true, None).unwrap(), []);
    }
    assert!(only_at_start(&group("2")).is_err());
    assert_eq!(only_at_start(&Limits::default()).unwrap(), []);
}

const DEVICES: &str = "\
Character devices:
  1 mem
  4 /dev/vc/0
  4 tty
136 pts

Block devices:
  1 ramdisk
259 blkext
";

#[test]
fn a_group_of_devices_is_found_by_its_number() {
    for (kind, major, expected) in [
        (Type::Char, 1, Some("mem")),
        (Type::Char, 4, Some("/dev/vc/0")),
        (Type::Char, 136, Some("pts")),
        (Type::Char, 259, None),
        (Type::Block, 1, Some("ramdisk")),
        (Type::Block, 259, Some("blkext")),
        (Type::Block, 4, None),
    ] {
        assert_eq!(group(DEVICES, kind, major), expected);
    }
}

#[test]
fn what_systemd_cannot_say_of_devices_is_wider_on_v2_and_left_out_on_v1() {
    let shown = |major, minor, v2| {
        let pattern = Pattern {
            kind: Type::Char,
            major,
            minor,
        };
        let value = device(DEVICES, &pattern, Access::parse("rw").unwrap(), v2)?;
        let Value::Struct(pair) = value else {
            panic!("{value:?}");
        };
        assert_eq!(pair[1], Value::str("rw"));
        Some(pair[0].as_str().unwrap().to_owned())
    };
    let name = |name: &str| Some(name.to_owned());
    for v2 in [true, false] {
        assert_eq!(shown(Some(1), Some(3), v2), name("/dev/char/1:3"));
        assert_eq!(shown(Some(136), None, v2), name("char-pts"));
        assert_eq!(shown(None, None, v2), name("char-*"));
    }
    assert_eq!(shown(Some(200), None, true), name("char-*"));
    assert_eq!(shown(Some(200), None, false), None);
    assert_eq!(shown(None, Some(5), true), name("char-*"));
    assert_eq!(shown(None, Some(5), false), None);
}

#[test]
fn rules_are_a_strict_list_and_everything_is_no_policy() {
    let rules = DeviceRules::from_oci(&[]).unwrap();
    let properties = devices(&rules, true);
    assert_eq!(
        properties[0],
        Property::new("DevicePolicy", Value::str("strict"))
    );
    assert_eq!(
        properties[1].value,
        Value::Array("(ss)".to_owned(), Vec::new())
    );
    let Value::Array(_, allowed) = &properties[2].value else {
        panic!("{properties:?}");
    };
    let null = Value::Struct(vec![Value::str("/dev/char/1:3"), Value::str("rwm")]);
    assert!(allowed.contains(&null), "{allowed:?}");
    let privileged = DeviceRules::from_oci(&[Rule {
        verdict: Verdict::Allow,
        class: Class::Any,
        major: None,
        minor: None,
        access: Access::ALL,
    }]);
    let properties = devices(&privileged.unwrap(), true);
    assert_eq!(shown(&properties)[0], ("DevicePolicy", &Value::str("auto")));
    assert_eq!(properties.len(), 2);
}
