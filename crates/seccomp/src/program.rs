// SPDX-License-Identifier: Apache-2.0
//! A compiled profile.

/// `BPF_MAXINSNS`: longer programs are refused by the kernel.
pub const LIMIT: usize = 4096;

/// `SECCOMP_FILTER_FLAG_LOG`: actions other than allowing are logged.
pub const LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: no mitigation of speculative store bypass.
pub const SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: loading returns the descriptor that an agent listens on.
pub const NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: once an agent has taken a call, only a fatal signal
/// interrupts it (Linux 5.19).
pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;

pub(crate) const LD_W_ABS: u16 = 0x20;
pub(crate) const ALU_AND_K: u16 = 0x54;
pub(crate) const JA: u16 = 0x05;
pub(crate) const JEQ_K: u16 = 0x15;
pub(crate) const JGT_K: u16 = 0x25;
pub(crate) const JGE_K: u16 = 0x35;
pub(crate) const RET_K: u16 = 0x06;

/// Size of `struct seccomp_data`: what a program may read.
const DATA: u32 = 64;

/// One instruction, `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A program, and how it is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What the kernel runs; at most [`LIMIT`].
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

impl Program {
    /// Whether loading makes a listener that an agent must get.
    #[must_use]
    pub fn has_listener(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }

    /// Whether the kernel will take it: every jump forward and inside, every path ending in a
    /// return, only known operations.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let code = &self.instructions;
        let ends = code.last().is_some_and(|last| last.code == RET_K);
        let inside = |at: usize, skip: u32| at + 1 + (skip as usize) < code.len();
        ends && code.len() <= LIMIT
            && code.iter().enumerate().all(|(at, i)| match i.code {
                LD_W_ABS => i.k < DATA && i.k % 4 == 0,
                ALU_AND_K | RET_K => true,
                JA => inside(at, i.k),
                JEQ_K | JGT_K | JGE_K => inside(at, u32::from(i.jt)) && inside(at, u32::from(i.jf)),
                _ => false,
            })
    }
}
