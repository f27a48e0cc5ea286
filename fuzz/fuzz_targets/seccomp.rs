// SPDX-License-Identifier: Apache-2.0
//! Seccomp profiles: what compiles is a program that the kernel takes, on either machine, and that
//! ends with a verdict for every call.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxSeccomp;
use seccomp::{Instruction, Machine};

#[path = "../../crates/seccomp/src/interpreter.rs"]
mod interpreter;

fuzz_target!(|data: &[u8]| {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(data) else {
        return;
    };
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let Ok(program) = seccomp::compile(&profile, machine) else {
            continue;
        };
        assert!(program.is_valid());
        for arch in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0] {
            for nr in [0, 1, 83, 102, 435, 0x4000_0001, 0x8000_0000, u32::MAX] {
                let args = [0, 1, u64::MAX, 1 << 32, 7, 0xffff_ffff];
                interpreter::run(&program.instructions, &interpreter::Data { nr, arch, args });
            }
        }
    }
});
