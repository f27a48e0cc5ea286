// SPDX-License-Identifier: Apache-2.0
//! What the kernel does with a program, for tests: classic BPF over `struct seccomp_data`.

use super::Instruction;

/// What the kernel tells a filter of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// Number.
    pub(crate) nr: u32,
    /// `AUDIT_ARCH_*`.
    pub(crate) arch: u32,
    /// Arguments.
    pub(crate) args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => 0,
            _ => {
                let argument = self.args[((offset - 16) / 8) as usize];
                (argument >> (8 * (offset % 8))) as u32
            }
        }
    }
}

/// Runs a program. Panics where the kernel would have refused it.
pub(crate) fn run(program: &[Instruction], data: &Data) -> u32 {
    steps(program, data).0
}

/// Runs a program and counts the instructions.
pub(crate) fn steps(program: &[Instruction], data: &Data) -> (u32, usize) {
    let (mut at, mut a, mut steps) = (0, 0u32, 0);
    loop {
        let i = program[at];
        at += 1;
        steps += 1;
        let mut compare = |holds: bool| at += usize::from(if holds { i.jt } else { i.jf });
        match i.code {
            0x20 => a = data.word(i.k),
            0x54 => a &= i.k,
            0x05 => at += i.k as usize,
            0x15 => compare(a == i.k),
            0x25 => compare(a > i.k),
            0x35 => compare(a >= i.k),
            0x45 => compare(a & i.k != 0),
            0x06 => return (i.k, steps),
            code => panic!("operation {code:#x}"),
        }
    }
}
