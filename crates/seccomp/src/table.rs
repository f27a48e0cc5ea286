// SPDX-License-Identifier: Apache-2.0
//! The names of system calls, and their numbers on each architecture.

use crate::arch::{Arch, X32_BIT};

/// The system calls of an architecture, sorted by name.
pub(crate) struct Table {
    arch: Arch,
    entries: Vec<(&'static str, u32)>,
}

impl Table {
    pub(crate) fn of(arch: Arch) -> Self {
        let mut entries = match arch {
            Arch::X86_64 => x86_64().collect::<Vec<_>>(),
            Arch::X86 => syscalls::x86::Sysno::iter()
                .map(|call| (call.name(), call.id() as u32))
                .chain(X86.iter().copied())
                .collect(),
            Arch::X32 => x32(),
            Arch::Aarch64 => aarch64(),
            Arch::Arm => syscalls::arm::Sysno::iter()
                .map(|call| (call.name(), call.id() as u32))
                .chain(ARM.iter().copied())
                .collect(),
        };
        let number = |n| if arch == Arch::X32 { n | X32_BIT } else { n };
        entries.extend(NEW.iter().map(|(name, n)| (*name, number(*n))));
        // Without their length first the comparison of two names is the cost of a compilation.
        entries.sort_unstable_by_key(|(name, _)| key(name));
        Self { arch, entries }
    }

    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    /// The number of a system call.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let place = self
            .entries
            .binary_search_by_key(&key(name), |(name, _)| key(name));
        Some(self.entries[place.ok()?].1)
    }

    /// The call that stands for `name` too, and the value of its first argument then: x86 had one
    /// system call for all of the sockets', and one for System V IPC.
    pub(crate) fn multiplexed(&self, name: &str) -> Option<(u32, u32)> {
        if self.arch != Arch::X86 {
            return None;
        }
        let find = |list: &[(&str, u32)]| list.iter().find(|(n, _)| *n == name).map(|(_, n)| *n);
        find(SOCKETCALL)
            .map(|call| (102, call))
            .or_else(|| find(IPC).map(|call| (117, call)))
    }
}

fn key(name: &str) -> (usize, &str) {
    (name.len(), name)
}

fn x86_64() -> impl Iterator<Item = (&'static str, u32)> {
    syscalls::x86_64::Sysno::iter()
        .map(|call| (call.name(), call.id() as u32))
        .chain(X86_64.iter().copied())
}

/// x32 has the numbers of x86_64 with a bit set, but its own for calls with pointers in structures.
fn x32() -> Vec<(&'static str, u32)> {
    let own = |name: &str| X32.iter().any(|(n, _)| *n == name);
    x86_64()
        .filter(|(name, _)| !own(name) && !NOT_X32.contains(name))
        .chain(X32.iter().copied())
        .map(|(name, number)| (name, number | X32_BIT))
        .collect()
}

fn aarch64() -> Vec<(&'static str, u32)> {
    syscalls::aarch64::Sysno::iter()
        .map(|call| match call.name() {
            // The crate has the name that arm and powerpc use.
            "sync_file_range2" => ("sync_file_range", call.id() as u32),
            name => (name, call.id() as u32),
        })
        // The calls with 64-bit times are for those whose time had 32.
        .filter(|(_, number)| !(403..=423).contains(number))
        .chain([("newfstatat", 79)])
        .collect()
}

/// Newer than the crate's tables; the same everywhere.
const NEW: &[(&str, u32)] = &[
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
    ("rseq_slice_yield", 471),
];

/// Newer than the crate's table of x86_64, and there only.
const X86_64: &[(&str, u32)] = &[("uretprobe", 335), ("uprobe", 336)];

const X86: &[(&str, u32)] = &[("break", 17)];

/// Private to Arm.
const ARM: &[(&str, u32)] = &[
    ("breakpoint", 0xf_0001),
    ("cacheflush", 0xf_0002),
    ("usr26", 0xf_0003),
    ("usr32", 0xf_0004),
    ("set_tls", 0xf_0005),
    ("get_tls", 0xf_0006),
];

#[rustfmt::skip]
const X32: &[(&str, u32)] = &[
    ("rt_sigaction", 512), ("rt_sigreturn", 513), ("ioctl", 514), ("readv", 515), ("writev", 516),
    ("recvfrom", 517), ("sendmsg", 518), ("recvmsg", 519), ("execve", 520), ("ptrace", 521),
    ("rt_sigpending", 522), ("rt_sigtimedwait", 523), ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525), ("timer_create", 526), ("mq_notify", 527), ("kexec_load", 528),
    ("waitid", 529), ("set_robust_list", 530), ("get_robust_list", 531), ("vmsplice", 532),
    ("move_pages", 533), ("preadv", 534), ("pwritev", 535), ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537), ("sendmmsg", 538), ("process_vm_readv", 539), ("process_vm_writev", 540),
    ("setsockopt", 541), ("getsockopt", 542), ("io_setup", 543), ("io_submit", 544),
    ("execveat", 545), ("preadv2", 546), ("pwritev2", 547),
];

#[rustfmt::skip]
const NOT_X32: &[&str] = &[
    "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms", "get_thread_area",
    "nfsservctl", "query_module", "set_thread_area", "_sysctl", "uselib", "vserver",
];

/// `socketcall(2)`.
#[rustfmt::skip]
const SOCKETCALL: &[(&str, u32)] = &[
    ("socket", 1), ("bind", 2), ("connect", 3), ("listen", 4), ("accept", 5), ("getsockname", 6),
    ("getpeername", 7), ("socketpair", 8), ("send", 9), ("recv", 10), ("sendto", 11),
    ("recvfrom", 12), ("shutdown", 13), ("setsockopt", 14), ("getsockopt", 15), ("sendmsg", 16),
    ("recvmsg", 17), ("accept4", 18), ("recvmmsg", 19), ("sendmmsg", 20),
];

/// `ipc(2)`.
#[rustfmt::skip]
const IPC: &[(&str, u32)] = &[
    ("semop", 1), ("semget", 2), ("semctl", 3), ("semtimedop", 4), ("msgsnd", 11), ("msgrcv", 12),
    ("msgget", 13), ("msgctl", 14), ("shmat", 21), ("shmdt", 22), ("shmget", 23), ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_their_architecture() {
        for (arch, name, number) in [
            (Arch::X86_64, "write", Some(1)),
            (Arch::X86_64, "clone3", Some(435)),
            (Arch::X86_64, "socketcall", None),
            (Arch::X86, "write", Some(4)),
            (Arch::X86, "socketcall", Some(102)),
            (Arch::X86, "socket", Some(359)),
            (Arch::X32, "write", Some(X32_BIT | 1)),
            (Arch::X32, "execve", Some(X32_BIT | 520)),
            (Arch::X32, "listns", Some(X32_BIT | 470)),
            (Arch::X32, "uselib", None),
            (Arch::Aarch64, "write", Some(64)),
            (Arch::Aarch64, "open", None),
            (Arch::Aarch64, "newfstatat", Some(79)),
            (Arch::Aarch64, "futex_time64", None),
            (Arch::Arm, "write", Some(4)),
            (Arch::Arm, "set_tls", Some(0xf_0005)),
            (Arch::Arm, "futex_time64", Some(422)),
            (Arch::X86_64, "", None),
        ] {
            assert_eq!(Table::of(arch).number(name), number, "{arch:?} {name}");
        }
    }

    #[test]
    fn no_name_is_there_twice() {
        for arch in [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm] {
            let table = Table::of(arch);
            for pair in table.entries.windows(2) {
                assert_ne!(pair[0].0, pair[1].0, "{arch:?}");
            }
        }
    }

    #[test]
    fn old_calls_of_x86_stand_for_several() {
        let x86 = Table::of(Arch::X86);
        assert_eq!(x86.multiplexed("socket"), Some((102, 1)));
        assert_eq!(x86.multiplexed("shmctl"), Some((117, 24)));
        assert_eq!(x86.multiplexed("write"), None);
        assert_eq!(Table::of(Arch::X86_64).multiplexed("socket"), None);
    }
}
