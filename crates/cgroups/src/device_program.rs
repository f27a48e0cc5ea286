// SPDX-License-Identifier: Apache-2.0
//! Device rules on v2: a program on the cgroup's directory that decides on each access.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sys::bpf::{self, Instruction};
use sys::{Call, Errno};

use crate::cgroup::Cgroup;
use crate::devices::{Access, DeviceRules, Pattern, Type, Verdict};
use crate::error::Result;
use crate::record::Place;

/// Makes the cgroup follow the rules.
pub(crate) fn set(cgroup: &Cgroup, place: &Place, rules: &DeviceRules) -> Result<()> {
    let directory = cgroup
        .clone_target()
        .ok_or(Errno::NOENT)
        .call("openat2", || format!("{:?}", place.path));
    directory
        .and_then(|directory| attach(directory, rules))
        .map_err(|error| cgroup.failed("set device rules of", place, error))
}

/// The new program takes the place of all that are there, in one step if that is one.
fn attach(directory: BorrowedFd<'_>, rules: &DeviceRules) -> sys::Result<()> {
    let ids = bpf::attached_device_programs(directory)?;
    if ids.is_empty() && rules.allows_all() {
        return Ok(());
    }
    let old: Vec<OwnedFd> = ids
        .into_iter()
        .map(bpf::open_program)
        .collect::<sys::Result<_>>()?;
    let program = load(&program(rules))?;
    if let [only] = &old[..] {
        return bpf::attach_device_program(directory, &program, Some(only));
    }
    bpf::attach_device_program(directory, &program, None)?;
    for program in &old {
        bpf::detach_device_program(directory, program)?;
    }
    Ok(())
}

fn load(program: &[Instruction]) -> sys::Result<OwnedFd> {
    match bpf::load_device_program(program) {
        Err(error) if error.errno() == Errno::PERM => {
            // Before 5.11 programs are charged to a limit that is small by default.
            let Some(_raised) = Raised::memlock() else {
                return Err(error);
            };
            bpf::load_device_program(program)
        }
        loaded => loaded,
    }
}

/// RLIMIT_MEMLOCK lifted until dropped. It is the whole process's: what is started meanwhile
/// inherits it, which is harmless.
struct Raised(Rlimit);

impl Raised {
    fn memlock() -> Option<Self> {
        let before = getrlimit(Resource::Memlock);
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        setrlimit(Resource::Memlock, unlimited).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        // Lowering a limit is always allowed.
        let _ = setrlimit(Resource::Memlock, self.0);
    }
}

// `struct bpf_cgroup_dev_ctx`: three 32-bit numbers. The first has the type of device in its
// lower half (1 block, 2 character) and the access asked for in its upper one.
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;
const RESULT: u8 = 0;

// Classes and operations of 32-bit instructions (jumps of that width since Linux 5.1).
const LOAD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_EQUAL: u8 = 0x16;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The program for the rules.
///
/// What is allowed by exceptions adds up: each that matches strikes its access from what was
/// asked, and when nothing is left the answer is yes. Of what is denied by exceptions any suffices.
fn program(rules: &DeviceRules) -> Vec<Instruction> {
    let load = |dst, offset| Instruction::new(LOAD, dst, CONTEXT, offset, 0);
    let mut code = vec![
        load(TYPE, 0),
        Instruction::new(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        operation(AND, TYPE, 0xffff),
        operation(SHIFT_RIGHT, ACCESS, 16),
        // There are no other bits. Told so, the verifier has few cases to go through.
        operation(AND, ACCESS, i32::from(Access::ALL.bits())),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for (pattern, access) in &rules.exceptions {
        code.extend(exception(rules.default, pattern, *access));
    }
    let verdict = i32::from(rules.default == Verdict::Allow);
    code.extend([operation(MOVE, RESULT, verdict), operation(EXIT, 0, 0)]);
    code
}

/// The part of the program for one exception: what it does is skipped for other devices.
fn exception(default: Verdict, pattern: &Pattern, access: Access) -> Vec<Instruction> {
    let kind = match pattern.kind {
        Type::Block => 1,
        Type::Char => 2,
    };
    // All the same bits, seen as signed.
    let number = |number: u32| number as i32;
    let mut tests = vec![(TYPE, kind)];
    tests.extend(pattern.major.map(|major| (MAJOR, number(major))));
    tests.extend(pattern.minor.map(|minor| (MINOR, number(minor))));
    let bits = i32::from(access.bits());
    let body = match default {
        Verdict::Deny if access == Access::ALL => {
            vec![operation(MOVE, RESULT, 1), operation(EXIT, 0, 0)]
        }
        Verdict::Deny => vec![
            operation(AND, ACCESS, !bits),
            jump(JUMP_UNLESS_EQUAL, ACCESS, 0, 2),
            operation(MOVE, RESULT, 1),
            operation(EXIT, 0, 0),
        ],
        Verdict::Allow => vec![
            Instruction::new(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0),
            operation(AND, SCRATCH, bits),
            jump(JUMP_IF_EQUAL, SCRATCH, 0, 2),
            operation(MOVE, RESULT, 0),
            operation(EXIT, 0, 0),
        ],
    };
    let mut code = Vec::with_capacity(tests.len() + body.len());
    for (index, &(register, value)) in tests.iter().enumerate() {
        // Over the remaining tests and the body: at most seven instructions.
        let skip = (tests.len() - 1 - index + body.len()) as i16;
        code.push(jump(JUMP_UNLESS_EQUAL, register, value, skip));
    }
    code.extend(body);
    code
}

/// An instruction with an immediate operand.
fn operation(code: u8, dst: u8, immediate: i32) -> Instruction {
    Instruction::new(code, dst, 0, 0, immediate)
}

/// A jump over `skip` instructions, depending on a register and an immediate operand.
fn jump(code: u8, register: u8, immediate: i32, skip: i16) -> Instruction {
    Instruction::new(code, register, 0, skip, immediate)
}

#[cfg(test)]
#[path = "device_program_tests.rs"]
mod tests;
