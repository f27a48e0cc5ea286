// SPDX-License-Identifier: Apache-2.0
//! From an OCI seccomp profile to the classic BPF program that the kernel runs at each system call.
//!
//! Pure: no system call is made here; loading the program is `sys::seccomp`. What a profile means
//! is what runc and libseccomp make of it, byte for byte of the verdict (`tests/oracle.rs` compares
//! with libseccomp itself), but the program is another: one search by number in a balanced tree of
//! ranges for each architecture, where libseccomp compares number after number.
//!
//! | module      | what                                                              |
//! |-------------|-------------------------------------------------------------------|
//! | [`arch`]    | machines and the architectures that their kernels run             |
//! | `table`     | names to numbers                                                  |
//! | `rules`     | a profile, resolved for one architecture                          |
//! | `codegen`   | resolved rules to instructions                                    |
//! | `assembler` | instructions from the last to the first; long jumps               |
//! | [`program`] | the result, and the checks that the kernel will make              |

pub mod arch;
mod assembler;
mod codegen;
mod error;
#[cfg(test)]
mod interpreter;
pub mod program;
mod rules;
mod table;
#[cfg(test)]
mod tests;

pub use arch::Machine;
pub use error::{Error, Result};
pub use program::{Instruction, LIMIT, Program};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

/// The names of the actions that a profile may use, as `features` lists them.
#[rustfmt::skip]
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
];

/// The operators on arguments.
#[rustfmt::skip]
pub const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
];

/// The filter flags.
#[rustfmt::skip]
pub const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Compiles `profile` for the processes of `machine`.
///
/// # Errors
/// What runc refuses too: notification as the default or for `write`, an argument index above 5,
/// equal conditions with different actions. And a profile whose program is longer than the kernel
/// takes.
pub fn compile(profile: &LinuxSeccomp, machine: Machine) -> Result<Program> {
    check_notify(profile)?;
    let filters = machine
        .architectures(profile.architectures().as_deref().unwrap_or_default())
        .into_iter()
        .map(|arch| rules::resolve(profile, arch))
        .collect::<Result<Vec<_>>>()?;
    log_unknown(profile, &filters);
    let default = rules::action(profile.default_action(), profile.default_errno_ret());
    let instructions = codegen::generate(machine, &filters, default);
    if instructions.len() > LIMIT {
        return Err(Error::TooLong(instructions.len()));
    }
    Ok(Program {
        instructions,
        flags: flags(profile),
    })
}

/// Whether any rule of the profile asks a user-space agent.
pub fn notifies(profile: &LinuxSeccomp) -> bool {
    let rules = profile.syscalls().iter().flatten();
    rules
        .into_iter()
        .any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// The listener travels from the loaded filter to the agent by a `write(2)` of the filtered process:
/// were that to wait for the agent, both would wait for ever.
fn check_notify(profile: &LinuxSeccomp) -> Result<()> {
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::NotifyDefault);
    }
    let mut rules = profile.syscalls().iter().flatten();
    let write = rules.any(|rule| {
        rule.action() == LinuxSeccompAction::ScmpActNotify
            && rule.names().iter().any(|name| name == "write")
    });
    if write {
        return Err(Error::NotifyWrite);
    }
    Ok(())
}

/// `SECCOMP_FILTER_FLAG_*` of the profile. Without a list of flags, speculation is left to the
/// process as runc does: the mitigation costs more than it is worth by default.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let mut bits = match profile.flags() {
        None => program::SPEC_ALLOW,
        Some(list) => list.iter().fold(0, |bits, flag| {
            bits | match flag {
                // One thread is all there is when the filter is loaded.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => program::LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => program::SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    program::WAIT_KILLABLE_RECV
                }
            }
        }),
    };
    if notifies(profile) {
        return bits | program::NEW_LISTENER;
    }
    // The kernel refuses it where nobody listens.
    bits &= !program::WAIT_KILLABLE_RECV;
    bits
}

/// A name that no architecture of the machine knows is for another kernel or machine: profiles name
/// all there are.
fn log_unknown(profile: &LinuxSeccomp, filters: &[rules::Filter]) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    for name in profile.syscalls().iter().flatten().flat_map(|r| r.names()) {
        if !filters.iter().any(|filter| filter.knows(name)) {
            log::debug!("unknown seccomp syscall {name:?} ignored");
        }
    }
}
