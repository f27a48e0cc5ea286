// SPDX-License-Identifier: Apache-2.0
//! The program, run by a small interpreter, against the definition of the rules.

use super::*;
use crate::devices::tests::{Attempt, Random, folded, rule, with_defaults};

/// What a program answers; panics on what no program of ours does.
fn run(program: &[Instruction], attempt: &Attempt) -> i32 {
    let kind = match attempt.kind {
        Type::Block => 1,
        Type::Char => 2,
    };
    let context = [
        kind | u32::from(attempt.access.bits()) << 16,
        attempt.major,
        attempt.minor,
    ];
    let mut registers: [Option<u32>; 11] = [None; 11];
    let mut at = 0;
    loop {
        let now = program[at];
        let dst = usize::from(now.dst());
        // Reading a register that was never written is refused by the kernel.
        let read = |register: u8| registers[usize::from(register)].unwrap();
        let immediate = now.immediate() as u32;
        let mut jump = false;
        match now.code() {
            LOAD => {
                assert_eq!(now.src(), CONTEXT);
                registers[dst] = Some(context[usize::try_from(now.offset()).unwrap() / 4]);
            }
            MOVE => registers[dst] = Some(immediate),
            MOVE_REGISTER => registers[dst] = Some(read(now.src())),
            AND => registers[dst] = Some(read(now.dst()) & immediate),
            SHIFT_RIGHT => registers[dst] = Some(read(now.dst()) >> immediate),
            JUMP_IF_EQUAL => jump = read(now.dst()) == immediate,
            JUMP_UNLESS_EQUAL => jump = read(now.dst()) != immediate,
            EXIT => return read(RESULT) as i32,
            code => panic!("unexpected instruction {code:#x}"),
        }
        at += 1;
        if jump {
            // Forward only: it ends.
            at += usize::try_from(now.offset()).unwrap();
        }
    }
}

#[test]
fn a_program_decides_by_the_definition() {
    let mut random = Random::new();
    let mut kept = 0;
    for _ in 0..1500 {
        let mut rules = random.rules();
        if rules.len() % 2 == 0 {
            rules = with_defaults(&rules);
        }
        let Ok(folded) = folded(&rules) else {
            continue;
        };
        kept += 1;
        let program = program(&folded);
        for attempt in Attempt::all() {
            let expected = i32::from(attempt.is_allowed(&rules));
            assert_eq!(run(&program, &attempt), expected, "{attempt:?} {rules:?}");
        }
    }
    assert!(kept > 500, "{kept}");
}

#[test]
fn several_rules_allow_together_what_none_allows_alone() {
    let rules = [
        rule(Verdict::Allow, "c *:* r"),
        rule(Verdict::Allow, "c 1:3 w"),
    ];
    let program = program(&folded(&rules).unwrap());
    let attempts = Attempt::all().into_iter();
    let mut null = attempts.filter(|a| (a.kind, a.major, a.minor) == (Type::Char, 1, 3));
    let both = null.find(|a| a.access.to_string() == "rw").unwrap();
    assert_eq!(run(&program, &both), 1);
}

// Requires the right to load programs.
#[test]
fn the_kernel_takes_every_program() {
    let mut random = Random::new();
    for _ in 0..100 {
        if let Ok(folded) = folded(&random.rules()) {
            load(&program(&folded)).unwrap();
        }
    }
    // As for a host with very many devices.
    let many: Vec<_> = (0..2000)
        .map(|minor| rule(Verdict::Allow, &format!("b 8:{minor} rwm")))
        .collect();
    load(&program(&folded(&many).unwrap())).unwrap();
}
