// SPDX-License-Identifier: Apache-2.0
//! Why a profile cannot be compiled.

/// A profile that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Every system call would wait for the agent, that which hands over the listener too.
    #[error("SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyDefault,
    /// `write(2)` hands over the listener.
    #[error("SCMP_ACT_NOTIFY cannot be used for the write syscall")]
    NotifyWrite,
    /// System calls have six arguments.
    #[error("syscall {name}: syscalls only have up to 6 arguments ({index} given)")]
    ArgumentIndex {
        /// The system call.
        name: String,
        /// The index.
        index: usize,
    },
    /// Two rules hold for the same calls and want different things.
    #[error("syscall {0}: two rules with equal conditions have different actions")]
    Contradiction(String),
    /// The kernel takes `BPF_MAXINSNS` instructions.
    #[error("the profile makes a program of {0} instructions, the kernel takes at most {max}", max = crate::LIMIT)]
    TooLong(usize),
}

/// Result of compiling.
pub type Result<T> = std::result::Result<T, Error>;
