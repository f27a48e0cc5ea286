// SPDX-License-Identifier: Apache-2.0
//! Machines, and the architectures whose programs their kernels run.

use oci_spec::runtime::Arch as Name;

/// The names of the architectures that a profile may list, as runc knows them. Those of another
/// machine are accepted and mean nothing: its programs do not run here.
#[rustfmt::skip]
pub const NAMES: &[&str] = &[
    "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_X32", "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Machine {
    /// Runs x86_64, x86 and x32 programs.
    X86_64,
    /// Runs aarch64 and arm programs.
    Aarch64,
}

impl Machine {
    /// This machine; `None` on those that we have no tables for.
    #[must_use]
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// The architectures to filter: the machine's own always, the others if they are listed.
    pub(crate) fn architectures(self, listed: &[Name]) -> Vec<Arch> {
        let all: &[(Name, Arch)] = match self {
            Self::X86_64 => &[
                (Name::ScmpArchNative, Arch::X86_64),
                (Name::ScmpArchX32, Arch::X32),
                (Name::ScmpArchX86, Arch::X86),
            ],
            Self::Aarch64 => &[
                (Name::ScmpArchNative, Arch::Aarch64),
                (Name::ScmpArchArm, Arch::Arm),
            ],
        };
        all.iter()
            .filter(|(name, _)| *name == Name::ScmpArchNative || listed.contains(name))
            .map(|(_, arch)| *arch)
            .collect()
    }
}

/// An architecture: a table of system calls and a width of their arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// Set in the numbers of x32; the kernel does not tell its programs from those of x86_64 otherwise.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

impl Arch {
    /// `AUDIT_ARCH_*`: what the kernel gives the filter.
    pub(crate) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits. Those of x32 are compared by their low half, as libseccomp
    /// does.
    pub(crate) const fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }
}
