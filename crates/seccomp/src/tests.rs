// SPDX-License-Identifier: Apache-2.0
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::*;
use crate::arch::X32_BIT;
use crate::interpreter::{Data, run, steps};

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0;
const ENOSYS: u32 = 0x0005_0026;
const EPERM: u32 = 0x0005_0001;
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const ARM: u32 = 0x4000_0028;
const AARCH64: u32 = 0xc000_00b7;

fn profile(document: &Value) -> LinuxSeccomp {
    serde_json::from_value(document.clone()).unwrap()
}

fn compiled_for(machine: Machine, document: &Value) -> Result<Program> {
    let program = compile(&profile(document), machine)?;
    assert!(program.is_valid());
    Ok(program)
}

fn compiled(document: Value) -> Program {
    compiled_for(Machine::X86_64, &document).unwrap()
}

fn verdict(program: &Program, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    run(&program.instructions, &Data { nr, arch, args })
}

fn first(program: &Program, nr: u32, argument: u64) -> u32 {
    verdict(program, X86_64, nr, [argument, 0, 0, 0, 0, 0])
}

#[test]
fn every_action_has_its_value() {
    for (action, number, value) in [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, 0x0005_0001),
        ("SCMP_ACT_ERRNO", Some(13), 0x0005_000d),
        ("SCMP_ACT_ERRNO", Some(0x1_0005), 0x0005_0005),
        ("SCMP_ACT_TRACE", None, 0x7ff0_0001),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_NOTIFY", None, 0x7fc0_0000),
    ] {
        let mut rule = json!({"names": ["mkdir"], "action": action});
        if let Some(number) = number {
            rule["errnoRet"] = number.into();
        }
        let program = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        assert_eq!(first(&program, 83, 0), value, "{action}");
        assert_eq!(first(&program, 82, 0), ALLOW);
        assert_eq!(first(&program, 84, 0), ALLOW);
        assert_eq!(program.has_listener(), action == "SCMP_ACT_NOTIFY");
    }
}

#[test]
fn the_default_may_have_a_number() {
    let program = compiled(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99}));
    assert_eq!(first(&program, 1, 0), 0x0005_0063);
}

#[test]
fn operators_compare_all_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    let cases: &[(&str, &[u64], &[u64])] = &[
        ("SCMP_CMP_EQ", &[BIG], &[5, BIG + 1, 0x2_0000_0005, 0]),
        ("SCMP_CMP_NE", &[5, BIG + 1, 0x2_0000_0005], &[BIG]),
        (
            "SCMP_CMP_GT",
            &[BIG + 1, 0x2_0000_0000, u64::MAX],
            &[BIG, BIG - 1, 9, 0],
        ),
        (
            "SCMP_CMP_GE",
            &[BIG, BIG + 1, 0x2_0000_0000],
            &[BIG - 1, 0xffff_ffff],
        ),
        (
            "SCMP_CMP_LT",
            &[BIG - 1, 0xffff_ffff, 0],
            &[BIG, BIG + 1, 0x2_0000_0000],
        ),
        (
            "SCMP_CMP_LE",
            &[BIG, BIG - 1, 0xffff_ffff],
            &[BIG + 1, 0x2_0000_0000],
        ),
    ];
    for (operator, holds, holds_not) in cases {
        let program = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": BIG, "op": operator}]}]}));
        for value in *holds {
            assert_eq!(first(&program, 83, *value), EPERM, "{operator} {value:#x}");
        }
        for value in *holds_not {
            assert_eq!(first(&program, 83, *value), ALLOW, "{operator} {value:#x}");
        }
    }
}

#[test]
fn masks_choose_the_bits_that_count() {
    let masked = |mask: u64, value: u64| {
        compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}]}]}))
    };
    let low = masked(0xf0, 0x50);
    assert_eq!(first(&low, 83, 0x1_0000_0f5f), EPERM);
    assert_eq!(first(&low, 83, 0x4f), ALLOW);
    let high = masked(0xff_0000_0000, 0x12_0000_0000);
    assert_eq!(first(&high, 83, 0x112_1234_5678), EPERM);
    assert_eq!(first(&high, 83, 0x111_1234_5678), ALLOW);
    // Bits of the value outside of the mask do not count.
    assert_eq!(first(&masked(0xf, 0xf5), 83, 5), EPERM);
    // No bit counts: it always holds.
    assert_eq!(first(&masked(0, 7), 83, 1234), EPERM);
}

#[test]
fn conditions_on_several_arguments_must_all_hold_and_on_one_any() {
    let program = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 3, "op": "SCMP_CMP_EQ"},
            {"index": 5, "value": 9, "op": "SCMP_CMP_EQ"}]}]}));
    let both = |a, b| verdict(&program, X86_64, 83, [a, b, 0, 0, 0, 0]);
    assert_eq!((both(1, 2), both(1, 3), both(0, 2)), (EPERM, ALLOW, ALLOW));
    let any = |a, f| verdict(&program, X86_64, 84, [a, 0, 0, 0, 0, f]);
    assert_eq!(
        (any(1, 0), any(3, 0), any(0, 9), any(0, 0)),
        (EPERM, EPERM, EPERM, ALLOW)
    );
}

#[test]
fn a_rule_without_conditions_decides_whatever_else_is_said() {
    for (first_rule, second_rule) in [(json!(null), json!([])), (json!([]), json!(null))] {
        let condition = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
        let of = |args: Value| {
            if args.is_null() {
                condition.clone()
            } else {
                args
            }
        };
        let program = compiled(json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ALLOW", "args": of(first_rule.clone())},
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": of(second_rule.clone())}]}));
        let expected = if first_rule.is_null() { EPERM } else { ALLOW };
        assert_eq!(first(&program, 83, 1), expected);
        assert_eq!(first(&program, 83, 2), expected);
    }
}

#[test]
fn other_architectures_are_killed_and_listed_ones_have_their_own_numbers() {
    let document = |archs: &[&str]| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": archs, "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]})
    };
    let native = compiled(document(&[]));
    assert_eq!(verdict(&native, X86_64, 83, [0; 6]), EPERM);
    assert_eq!(verdict(&native, X86, 39, [0; 6]), KILL);
    assert_eq!(verdict(&native, X86_64, X32_BIT | 83, [0; 6]), KILL);
    assert_eq!(verdict(&native, X86_64, u32::MAX, [0; 6]), ALLOW);
    // Of another machine: accepted, and without effect.
    assert_eq!(
        compiled(document(&["SCMP_ARCH_MIPS64", "SCMP_ARCH_S390X"])),
        native
    );
    let all = compiled(document(&[
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
    ]));
    assert_eq!(verdict(&all, X86_64, 83, [0; 6]), EPERM);
    assert_eq!(verdict(&all, X86, 39, [0; 6]), EPERM);
    assert_eq!(verdict(&all, X86, 83, [0; 6]), ALLOW);
    assert_eq!(verdict(&all, X86_64, X32_BIT | 83, [0; 6]), EPERM);
    assert_eq!(verdict(&all, X86_64, X32_BIT | 84, [0; 6]), ALLOW);
    assert_eq!(verdict(&all, AARCH64, 34, [0; 6]), KILL);
    let document = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"],
        "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    let arm = compiled_for(Machine::Aarch64, &document).unwrap();
    assert_eq!(verdict(&arm, AARCH64, 34, [0; 6]), EPERM);
    assert_eq!(verdict(&arm, ARM, 323, [0; 6]), EPERM);
    assert_eq!(verdict(&arm, X86_64, 83, [0; 6]), KILL);
}

#[test]
fn what_is_newer_than_the_profile_does_not_exist() {
    let document = |default: &str, number: Option<u32>| {
        json!({"defaultAction": default, "defaultErrnoRet": number,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}]})
    };
    for (default, verdict_of_default) in [("SCMP_ACT_ERRNO", EPERM), ("SCMP_ACT_KILL", KILL)] {
        let program = compiled(document(default, None));
        assert_eq!(first(&program, 437, 0), ALLOW);
        assert_eq!(first(&program, 438, 0), ENOSYS);
        assert_eq!(first(&program, 10_000, 0), ENOSYS);
        assert_eq!(first(&program, 436, 0), verdict_of_default);
        assert_eq!(verdict(&program, X86, 438, [0; 6]), ENOSYS);
        assert_eq!(verdict(&program, X86, u32::MAX, [0; 6]), ENOSYS);
        assert_eq!(verdict(&program, X86, 436, [0; 6]), verdict_of_default);
        assert_eq!(
            verdict(&program, X86_64, u32::MAX, [0; 6]),
            verdict_of_default
        );
        assert_eq!(verdict(&program, X86_64, X32_BIT | 438, [0; 6]), KILL);
    }
    // Not where new calls are let through, or get ENOSYS anyway.
    for (default, number, wanted) in [
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_TRACE", None, 0x7ff0_0001),
        ("SCMP_ACT_ERRNO", Some(38), ENOSYS),
    ] {
        let program = compiled(document(default, number));
        assert_eq!(first(&program, 436, 0), wanted);
        assert_eq!(first(&program, 438, 0), wanted);
    }
}

#[test]
fn rules_that_say_what_the_default_says_count_as_known_only() {
    let program = compiled(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["openat2"], "action": "SCMP_ACT_ERRNO"}]}));
    assert_eq!(first(&program, 437, 0), EPERM);
    assert_eq!(first(&program, 438, 0), ENOSYS);
}

#[test]
fn the_old_calls_of_x86_follow_those_that_they_stand_for() {
    let names = |more: &str| json!(["connect", "semget", "write", more]);
    let compiled = |more: &str| {
        compiled(
            json!({"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": names(more), "action": "SCMP_ACT_ALLOW"}]}),
        )
    };
    let program = compiled("openat2");
    let of = |nr, call| verdict(&program, X86, nr, [call, 0, 0, 0, 0, 0]);
    assert_eq!(
        (of(102, 3), of(102, 1), of(117, 2), of(117, 1)),
        (ALLOW, KILL, ALLOW, KILL)
    );
    assert_eq!((of(362, 0), of(361, 0)), (ALLOW, KILL));
    // Such names do not say how new a profile is: they are older than their numbers.
    let program = compiled("write");
    let of = |nr| verdict(&program, X86, nr, [3, 0, 0, 0, 0, 0]);
    assert_eq!(
        (of(4), of(3), of(102), of(362)),
        (ALLOW, KILL, ENOSYS, ENOSYS)
    );
}

#[test]
fn unknown_names_are_ignored() {
    let program = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["no_such_call", "", "mkdir"], "action": "SCMP_ACT_ERRNO"}]}));
    assert_eq!(first(&program, 83, 0), EPERM);
    let nothing = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    assert_eq!(first(&nothing, 83, 0), ALLOW);
}

#[test]
fn flags_are_the_kernels_and_speculation_is_allowed_by_default() {
    for (flags, bits) in [
        (json!(null), 4),
        (json!([]), 0),
        (json!(["SECCOMP_FILTER_FLAG_TSYNC"]), 0),
        (
            json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
            6,
        ),
        // Means nothing where nobody listens, and the kernel refuses it there.
        (json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), 0),
    ] {
        let document = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags});
        assert_eq!(compiled(document).flags, bits, "{flags}");
    }
    let listens = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}));
    assert_eq!(listens.flags, 32 | 8);
    let unknown = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]});
    assert!(serde_json::from_value::<LinuxSeccomp>(unknown).is_err());
}

#[test]
fn what_cannot_be_is_refused() {
    let rule = |names: &str, action: &str, index: usize| {
        json!({"names": [names], "action": action,
               "args": [{"index": index, "value": 1, "op": "SCMP_CMP_EQ"}]})
    };
    let refused = |default: &str, rules: Vec<Value>| {
        let document = json!({"defaultAction": default, "syscalls": rules});
        compiled_for(Machine::X86_64, &document)
            .unwrap_err()
            .to_string()
    };
    let text = refused("SCMP_ACT_NOTIFY", vec![]);
    assert_eq!(text, "SCMP_ACT_NOTIFY cannot be used as default action");
    let text = refused("SCMP_ACT_ALLOW", vec![rule("write", "SCMP_ACT_NOTIFY", 0)]);
    assert_eq!(text, "SCMP_ACT_NOTIFY cannot be used for the write syscall");
    let text = refused("SCMP_ACT_ALLOW", vec![rule("mkdir", "SCMP_ACT_ERRNO", 6)]);
    assert!(text.contains("only have up to 6 arguments"), "{text}");
    let text = refused(
        "SCMP_ACT_ALLOW",
        vec![
            rule("mkdir", "SCMP_ACT_ERRNO", 0),
            rule("mkdir", "SCMP_ACT_KILL", 0),
        ],
    );
    assert!(text.contains("different actions"), "{text}");
    let many = |n: u64| -> Vec<Value> {
        let args = |i: u64| json!([{"index": 0, "value": i << 32 | i, "op": "SCMP_CMP_EQ"}]);
        (0..n)
            .map(|i| json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": args(i)}))
            .collect()
    };
    let text = refused("SCMP_ACT_ALLOW", many(1100));
    assert!(text.contains("at most 4096"), "{text}");
    let long = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many(1000)}));
    assert_eq!(first(&long, 83, 999 << 32 | 999), EPERM);
    assert_eq!(first(&long, 83, 1 << 32 | 999), ALLOW);
}

#[test]
fn a_call_among_hundreds_is_found_in_few_steps() {
    let names: Vec<&str> = syscalls::x86_64::Sysno::iter()
        .step_by(2)
        .map(|c| c.name())
        .collect();
    let program = compiled(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": names, "action": "SCMP_ACT_ALLOW"}]}));
    let newest = syscalls::x86_64::Sysno::iter()
        .step_by(2)
        .last()
        .unwrap()
        .id();
    for call in syscalls::x86_64::Sysno::iter() {
        let wanted = match names.contains(&call.name()) {
            true => ALLOW,
            false if call.id() > newest => ENOSYS,
            false => EPERM,
        };
        let data = Data {
            nr: call.id() as u32,
            arch: X86_64,
            args: [0; 6],
        };
        let (verdict, steps) = steps(&program.instructions, &data);
        assert_eq!(verdict, wanted, "{call}");
        assert!(steps <= 20, "{call} took {steps} instructions");
    }
}
