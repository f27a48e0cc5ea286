// SPDX-License-Identifier: Apache-2.0
//! The same verdict as libseccomp's, for the profiles of Docker and containerd and for random ones:
//! both programs are run for the same calls.
//!
//! What runc puts in front of libseccomp's program, the answer to calls newer than the profile, is
//! worked out here once more, with libseccomp's tables.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Seek};

use libseccomp::ScmpSyscall;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
    LinuxSyscall,
};
use seccomp::{Instruction, Machine};
use serde_json::{Value, json};

#[path = "../src/interpreter.rs"]
mod interpreter;
use interpreter::{Data, run};

const RANDOM_PROFILES: u64 = 4000;

/// A machine and its architectures: name in a profile, libseccomp's, what the kernel calls it.
type Archs = &'static [(&'static str, ScmpArch, u32)];
const X86: Archs = &[
    ("SCMP_ARCH_X86_64", ScmpArch::X8664, 0xc000_003e),
    ("SCMP_ARCH_X86", ScmpArch::X86, 0x4000_0003),
    ("SCMP_ARCH_X32", ScmpArch::X32, 0xc000_003e),
];
const ARM: Archs = &[
    ("SCMP_ARCH_AARCH64", ScmpArch::Aarch64, 0xc000_00b7),
    ("SCMP_ARCH_ARM", ScmpArch::Arm, 0x4000_0028),
];

fn archs(machine: Machine) -> Archs {
    match machine {
        Machine::X86_64 => X86,
        Machine::Aarch64 => ARM,
    }
}

/// libseccomp's opinion of a profile.
struct Oracle {
    program: Vec<Instruction>,
    /// Audit architecture, x32 or not, the newest number.
    newest: Vec<(u32, bool, u32)>,
}

fn scmp_action(action: Action, number: Option<u32>) -> ScmpAction {
    let number = number.unwrap_or(1);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(number as i32),
        Action::ScmpActNotify => ScmpAction::Notify,
        Action::ScmpActTrace => ScmpAction::Trace(number as u16),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
    }
}

fn comparison(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let (value, two) = (argument.value(), argument.value_two().unwrap_or(0));
    let (op, value) = match argument.op() {
        Op::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        Op::ScmpCmpLt => (ScmpCompareOp::Less, value),
        Op::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        Op::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        Op::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        Op::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        Op::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), two),
    };
    ScmpArgCompare::new(argument.index() as u32, op, value)
}

impl Oracle {
    /// `None` if libseccomp does not take the profile.
    fn new(profile: &LinuxSeccomp, machine: Machine) -> Option<Self> {
        let listed = profile.architectures().clone().unwrap_or_default();
        let archs: Vec<_> = archs(machine)
            .iter()
            .enumerate()
            .filter(|(index, (name, ..))| {
                *index == 0
                    || listed.contains(&serde_json::from_value::<Arch>(json!(name)).unwrap())
            })
            .map(|(_, arch)| *arch)
            .collect();
        let default = scmp_action(profile.default_action(), profile.default_errno_ret());
        let mut filter =
            ScmpFilterContext::new(default).unwrap_or_else(|e| panic!("{default:?}: {e}"));
        for (_, arch, _) in &archs {
            filter.add_arch(*arch).unwrap();
        }
        if machine == Machine::Aarch64 {
            filter.remove_arch(ScmpArch::X8664).unwrap();
        }
        let rules = profile.syscalls().clone().unwrap_or_default();
        if rules.iter().map(|rule| rule.names().len()).sum::<usize>() > 32 {
            filter.set_ctl_optimize(2).unwrap();
        }
        for rule in &rules {
            add(&mut filter, rule, default)?;
        }
        let mut file = tempfile::tempfile().unwrap();
        filter.export_bpf(&file).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let program = bytes
            .chunks_exact(8)
            .map(|b| Instruction {
                code: u16::from_le_bytes([b[0], b[1]]),
                jt: b[2],
                jf: b[3],
                k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            })
            .collect();
        Some(Self {
            program,
            newest: newest(profile, &archs),
        })
    }

    fn verdict(&self, data: &Data) -> u32 {
        let x32 = data.arch == 0xc000_003e && data.nr & 0x4000_0000 != 0;
        let newer = self.newest.iter().any(|(arch, of_x32, newest)| {
            (*arch, *of_x32) == (data.arch, x32) && data.nr > *newest
        });
        if newer {
            0x0005_0026
        } else {
            run(&self.program, data)
        }
    }
}

fn add(filter: &mut ScmpFilterContext, rule: &LinuxSyscall, default: ScmpAction) -> Option<()> {
    let action = scmp_action(rule.action(), rule.errno_ret());
    if action == default {
        return Some(());
    }
    for name in rule.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let arguments = rule.args().clone().unwrap_or_default();
        let compare: Vec<_> = arguments.iter().map(comparison).collect();
        let repeated = has_repeated_index(&arguments);
        if compare.is_empty() {
            filter.add_rule(action, call).ok()?;
        } else if repeated {
            for one in compare {
                filter.add_rule_conditional(action, call, &[one]).ok()?;
            }
        } else {
            filter.add_rule_conditional(action, call, &compare).ok()?;
        }
    }
    Some(())
}

fn has_repeated_index(arguments: &[LinuxSeccompArg]) -> bool {
    let mut indices: Vec<_> = arguments.iter().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    indices.windows(2).any(|pair| pair[0] == pair[1])
}

fn newest(profile: &LinuxSeccomp, archs: &[(&str, ScmpArch, u32)]) -> Vec<(u32, bool, u32)> {
    let through = matches!(
        profile.default_action(),
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
    );
    if through || profile.default_errno_ret() == Some(38) {
        return Vec::new();
    }
    let rules = profile.syscalls().clone().unwrap_or_default();
    let of = |arch: ScmpArch| {
        rules
            .iter()
            .flat_map(LinuxSyscall::names)
            .filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok())
            .map(i32::from)
            .max()
            .filter(|number| *number > 0)
    };
    archs
        .iter()
        .filter_map(|(_, arch, audit)| Some((*audit, *arch == ScmpArch::X32, of(*arch)? as u32)))
        .collect()
}

/// A small generator: the same profiles in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 33) as usize) % limit
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

const VALUES: &[u64] = &[
    0,
    1,
    2,
    3,
    5,
    16,
    38,
    40,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x1_0000_0005,
    0x5_0000_0005,
    0x7e02_0000,
    0xffff_ffff_0000_0000,
    u64::MAX,
];

/// Whether libseccomp knows a name, and not only for some architectures as when it was new.
fn is_known(name: &str) -> bool {
    ScmpSyscall::from_name(name).is_ok() && name != "map_shadow_stack"
}

/// Names that libseccomp knows too, old as it may be.
fn known_names() -> Vec<&'static str> {
    let ours = syscalls::x86_64::Sysno::iter().map(|call| call.name());
    let x86 = syscalls::x86::Sysno::iter().map(|call| call.name());
    let arm = syscalls::arm::Sysno::iter().map(|call| call.name());
    let mut names: Vec<_> = ours
        .chain(x86)
        .chain(arm)
        .chain(["newfstatat", "set_tls", "breakpoint", "no_such_call"])
        .filter(|name| *name == "no_such_call" || is_known(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn random_action(random: &mut Random) -> (Value, Value) {
    let action = *random.one_of(&[
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_LOG",
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ALLOW",
    ]);
    let number = json!(random.one_of(&[None, Some(1), Some(13), Some(38), Some(4094)]));
    (action.into(), number)
}

/// Rules for one name have one action: where they contradict each other libseccomp's own answer
/// depends on the order in which it met them.
///
/// Where a name has several rules each has `most_of_several` conditions; if that is one, of
/// equality: among ranges of several arguments libseccomp itself goes astray.
fn random_profile(
    random: &mut Random,
    names: &[&str],
    machine: Machine,
    most_of_several: usize,
) -> Value {
    let (default, number) = random_action(random);
    let mut listed = Vec::new();
    for (name, ..) in archs(machine) {
        if random.below(3) > 0 {
            listed.push(*name);
        }
    }
    let mut used = std::collections::HashSet::new();
    let mut rules = Vec::new();
    for _ in 0..=random.below(40) {
        let (action, errno) = random_action(random);
        let mut group = Vec::new();
        for _ in 0..=random.below(2) * random.below(8) {
            let name = *random.one_of(names);
            if used.insert(name) {
                group.push(name);
            }
        }
        let alternatives = if random.below(3) == 0 {
            1 + random.below(3)
        } else {
            1
        };
        let conditional = random.below(5) < 2;
        for _ in 0..alternatives {
            let mut arguments = Vec::new();
            let most = if alternatives == 1 {
                1 + random.below(3)
            } else {
                most_of_several
            };
            for _ in 0..if conditional { most } else { 0 } {
                let op = *random.one_of(match (alternatives, most_of_several) {
                    (2.., 1) => &["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"],
                    _ => seccomp::OPERATORS,
                });
                let mut index = random.below(6);
                // Repeated, they are rules of their own.
                while most_of_several == 1 && arguments.iter().any(|a: &Value| a["index"] == index)
                {
                    index = random.below(6);
                }
                arguments.push(json!({
                    "index": index, "value": random.one_of(VALUES),
                    "valueTwo": random.one_of(VALUES), "op": op,
                }));
            }
            rules.push(
                json!({"names": group, "action": action, "errnoRet": errno, "args": arguments}),
            );
        }
    }
    json!({"defaultAction": default, "defaultErrnoRet": number, "architectures": listed,
           "syscalls": rules})
}

/// Calls that are near to what the profile speaks of.
fn calls(random: &mut Random, profile: &LinuxSeccomp, machine: Machine, count: usize) -> Vec<Data> {
    let mut numbers = vec![
        0,
        1,
        0x3fff_ffff,
        0x4000_0000,
        0x8000_0000,
        u32::MAX,
        500,
        1000,
    ];
    for name in profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(LinuxSyscall::names)
    {
        for (_, arch, _) in archs(machine) {
            if let Ok(call) = ScmpSyscall::from_name_by_arch_rewrite(name, *arch) {
                let number = i32::from(call) as u32;
                numbers.extend([
                    number.wrapping_sub(1),
                    number,
                    number,
                    number.wrapping_add(1),
                ]);
            }
        }
    }
    // The multiplexers of x86.
    numbers.extend([102, 102, 117, 117]);
    let mut values = vec![0, 1, 2, 3, 11];
    for argument in profile
        .syscalls()
        .iter()
        .flatten()
        .filter_map(|r| r.args().as_ref())
        .flatten()
    {
        for value in [argument.value(), argument.value_two().unwrap_or(0)] {
            values.extend([value, value, value.wrapping_add(1), value.wrapping_sub(1)]);
            values.push(value ^ 1 << (random.next() % 64));
        }
    }
    let mut calls: Vec<Data> = (0..count)
        .map(|_| Data {
            nr: *random.one_of(&numbers),
            arch: random.one_of(archs(machine)).2,
            args: std::array::from_fn(|_| *random.one_of(&values)),
        })
        .collect();
    calls.push(Data {
        nr: 1,
        arch: 0x1234,
        args: [0; 6],
    });
    calls
}

fn compare(random: &mut Random, document: &Value, machine: Machine, count: usize) -> Option<usize> {
    let mut astray = 0;
    let profile: LinuxSeccomp = serde_json::from_value(document.clone()).unwrap();
    let oracle = Oracle::new(&profile, machine)?;
    let ours = seccomp::compile(&profile, machine).unwrap();
    assert!(ours.is_valid());
    for data in &calls(random, &profile, machine, count) {
        let (got, wanted) = (run(&ours.instructions, data), oracle.verdict(data));
        // libseccomp shares blocks of its program between comparisons that are alike but not the
        // same, now and then. Where it differs from us, the words of the profile decide.
        if got != wanted {
            let read = literally(&profile, data, machine);
            let text = format!("{got:#x}, libseccomp says {wanted:#x}: {data:x?}\n{document:#}");
            assert_eq!(Some(got), read, "{text}");
            astray += 1;
        }
    }
    Some(astray)
}

#[test]
fn the_profiles_of_docker_and_containerd_get_libseccomps_verdicts() {
    let mut random = Random(1);
    for text in [
        include_str!("data/docker.json"),
        include_str!("data/containerd.json"),
    ] {
        let mut document: Value = serde_json::from_str(text).unwrap();
        // What this libseccomp does not know yet is left out on both sides.
        for rule in document["syscalls"].as_array_mut().unwrap() {
            let names = rule["names"].as_array_mut().unwrap();
            names.retain(|name| is_known(name.as_str().unwrap()));
        }
        let astray = compare(&mut random, &document, Machine::X86_64, 20_000);
        assert_eq!(astray, Some(0));
        document["architectures"] = json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
        let astray = compare(&mut random, &document, Machine::Aarch64, 20_000);
        assert_eq!(astray, Some(0));
    }
}

#[test]
fn random_profiles_get_libseccomps_verdicts() {
    let names = known_names();
    let mut random = Random(0x5eed);
    let (mut profiles, mut astray) = (0, 0);
    for number in 0..RANDOM_PROFILES {
        let machine = if number % 4 == 3 {
            Machine::Aarch64
        } else {
            Machine::X86_64
        };
        let document = random_profile(&mut random, &names, machine, 1);
        if let Some(count) = compare(&mut random, &document, machine, 300) {
            (profiles, astray) = (profiles + 1, astray + count);
        }
    }
    eprintln!(
        "{profiles} profiles, libseccomp astray in {astray} of {} calls",
        profiles * 300
    );
    assert!(
        profiles > RANDOM_PROFILES / 2,
        "libseccomp took {profiles} only"
    );
    assert!(
        (astray as u64) < profiles,
        "libseccomp astray in {astray} calls"
    );
}

/// Where alternatives have several conditions each, or ranges, libseccomp is no oracle: a test that
/// fails may lead into the middle of another rule. So the rules are read literally here, for the machine's
/// own architecture.
#[test]
fn alternatives_of_several_conditions_are_read_literally() {
    let names = known_names();
    let mut random = Random(0xa1fa);
    let mut matched = 0;
    for _ in 0..RANDOM_PROFILES / 2 {
        let document = random_profile(&mut random, &names, Machine::X86_64, 2);
        let profile: LinuxSeccomp = serde_json::from_value(document.clone()).unwrap();
        let ours = seccomp::compile(&profile, Machine::X86_64).unwrap();
        for data in calls(&mut random, &profile, Machine::X86_64, 300) {
            if let Some(action) = literally(&profile, &data, Machine::X86_64) {
                assert_eq!(
                    run(&ours.instructions, &data),
                    action,
                    "{data:x?}\n{document:#}"
                );
                matched += 1;
            }
        }
    }
    assert!(matched > 10_000, "{matched}");
}

/// What a profile whose rules do not contradict each other says of a call, if it names it. Not for
/// the calls of x86 that stand for several.
fn literally(profile: &LinuxSeccomp, data: &Data, machine: Machine) -> Option<u32> {
    let x32 = machine == Machine::X86_64 && data.nr & 0x4000_0000 != 0;
    let listed = profile.architectures().clone().unwrap_or_default();
    let (name, arch, _) = archs(machine)
        .iter()
        .find(|(_, arch, audit)| *audit == data.arch && (*arch == ScmpArch::X32) == x32)?;
    let native = matches!(arch, ScmpArch::X8664 | ScmpArch::Aarch64);
    let multiplexer = *arch == ScmpArch::X86 && [102, 117].contains(&data.nr);
    if multiplexer
        || !native && !listed.contains(&serde_json::from_value::<Arch>(json!(name)).unwrap())
    {
        return None;
    }
    let number = i32::try_from(data.nr).ok()?;
    let width = if native { u64::MAX } else { 0xffff_ffff };
    let value = |action, errno| seccomp_value(scmp_action(action, errno));
    let default = value(profile.default_action(), profile.default_errno_ret());
    let mut named = false;
    for rule in profile.syscalls().iter().flatten() {
        let names = rule.names().iter();
        let calls = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, *arch).ok());
        if !calls.into_iter().any(|call| i32::from(call) == number) {
            continue;
        }
        named = true;
        let arguments = rule.args().clone().unwrap_or_default();
        let mut holds = arguments.iter().map(|argument| {
            let actual = data.args[argument.index()] & width;
            let value = argument.value() & width;
            let two = argument.value_two().unwrap_or(0) & width;
            match argument.op() {
                Op::ScmpCmpNe => actual != value,
                Op::ScmpCmpLt => actual < value,
                Op::ScmpCmpLe => actual <= value,
                Op::ScmpCmpEq => actual == value,
                Op::ScmpCmpGe => actual >= value,
                Op::ScmpCmpGt => actual > value,
                Op::ScmpCmpMaskedEq => actual & value == two & value,
            }
        });
        let any = !arguments.is_empty() && has_repeated_index(&arguments);
        let applies = if any {
            holds.any(|h| h)
        } else {
            holds.all(|h| h)
        };
        if applies {
            return Some(value(rule.action(), rule.errno_ret()));
        }
    }
    named.then_some(default)
}

fn seccomp_value(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(number) => 0x0005_0000 | number as u32,
        ScmpAction::Notify => 0x7fc0_0000,
        ScmpAction::Trace(number) => 0x7ff0_0000 | u32::from(number),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        _ => 0,
    }
}
