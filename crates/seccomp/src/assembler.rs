// SPDX-License-Identifier: Apache-2.0
//! Instructions put together from the last to the first: a jump only goes forward, so that its
//! target is there when the jump is made.

use std::collections::HashMap;

use crate::program::{self, Instruction};
use crate::rules::Action;

/// A place to jump to, counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// How far a comparison can jump.
const NEAR: usize = 255;
/// A return is jumped to from another part of the program up to here: leaves room for what is put
/// in between.
const SHARED: usize = 200;

/// A program in the making.
#[derive(Default)]
pub(crate) struct Assembler {
    /// From the last to the first.
    reversed: Vec<Instruction>,
    returns: HashMap<Action, Label>,
}

impl Assembler {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// Instructions between the next one to be put in front and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label.0
    }

    /// `label`, or a long jump to it that is near even when `more` instructions come in between.
    fn near(&mut self, label: Label, more: usize) -> Label {
        let distance = self.distance(label);
        if distance + more <= NEAR {
            return label;
        }
        // A program is far shorter than 2^32.
        self.push(program::JA, 0, 0, distance as u32)
    }

    /// The end of the program with a verdict.
    pub(crate) fn verdict(&mut self, action: Action) -> Label {
        if let Some(label) = self.returns.get(&action) {
            if self.distance(*label) <= SHARED {
                return *label;
            }
        }
        let label = self.push(program::RET_K, 0, 0, action);
        self.returns.insert(action, label);
        label
    }

    /// Loads a word of what is known of the call. What follows must be what was put in last.
    pub(crate) fn load(&mut self, offset: u32, then: Label) -> Label {
        let mut then = then;
        if self.distance(then) != 0 {
            let distance = self.distance(then);
            then = self.push(program::JA, 0, 0, distance as u32);
        }
        debug_assert_eq!(self.distance(then), 0);
        self.push(program::LD_W_ABS, 0, 0, offset)
    }

    /// Keeps the bits of `mask` only; what follows must be what was put in last.
    pub(crate) fn and(&mut self, mask: u32, then: Label) -> Label {
        debug_assert_eq!(self.distance(then), 0);
        self.push(program::ALU_AND_K, 0, 0, mask)
    }

    /// Compares with `k`.
    pub(crate) fn jump(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let no = self.near(no, 1);
        let yes = self.near(yes, 0);
        // Both are near, that is at most 255.
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, jt, jf, k)
    }

    /// The program, from its first instruction.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{JEQ_K, Program};

    #[test]
    fn far_targets_are_reached_by_long_jumps() {
        let mut assembler = Assembler::default();
        let end = assembler.push(program::RET_K, 0, 0, 7);
        let other = assembler.push(program::RET_K, 0, 0, 8);
        for fill in 0..300 {
            assembler.push(program::RET_K, 0, 0, fill);
        }
        let compare = assembler.jump(JEQ_K, 1, end, other);
        assembler.load(0, compare);
        let instructions = assembler.finish();
        let run = |nr| {
            let data = crate::interpreter::Data {
                nr,
                ..Default::default()
            };
            crate::interpreter::run(&instructions, &data)
        };
        assert_eq!((run(1), run(2)), (7, 8));
        assert!(
            Program {
                instructions: instructions.clone(),
                flags: 0
            }
            .is_valid()
        );
    }

    #[test]
    fn targets_at_the_limit_of_a_comparison_are_reached() {
        for between in 250..260 {
            let mut assembler = Assembler::default();
            let no = assembler.push(program::RET_K, 0, 0, 8);
            let yes = assembler.push(program::RET_K, 0, 0, 7);
            for fill in 0..between {
                assembler.push(program::RET_K, 0, 0, fill);
            }
            let compare = assembler.jump(JEQ_K, 1, yes, no);
            assembler.load(0, compare);
            let instructions = assembler.finish();
            for (nr, verdict) in [(1, 7), (2, 8)] {
                let data = crate::interpreter::Data {
                    nr,
                    ..Default::default()
                };
                assert_eq!(crate::interpreter::run(&instructions, &data), verdict);
            }
        }
    }
}
