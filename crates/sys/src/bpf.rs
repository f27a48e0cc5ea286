// SPDX-License-Identifier: Apache-2.0
//! Device programs of cgroup v2, `bpf(2)`.
//!
//! Only what they need: loading, attaching, asking which are attached. The kernel verifies a
//! program when it is loaded, so that any sequence of instructions is safe to hand over.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Error, Result};

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_DETACH: u32 = 9;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_PROG_QUERY: u32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The verifier gives up when a signal is pending (`EAGAIN`).
const LOAD_TRIES: u32 = 5;
/// Programs on one cgroup: the kernel allows no more (`BPF_CGROUP_MAX_PROGS`).
const MOST_PROGRAMS: usize = 64;
/// Asked for; no helper that wants a licence of the kernel's kind is used.
const LICENCE: &CStr = c"Apache-2.0";

/// One instruction of a program, `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// Puts one together. Of the register numbers the low four bits count.
    pub const fn new(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        let (dst, src) = (dst & 0xf, src & 0xf);
        Self {
            code,
            // Two bit fields, which C lays out by the machine's byte order.
            registers: if cfg!(target_endian = "little") {
                src << 4 | dst
            } else {
                dst << 4 | src
            },
            offset,
            immediate,
        }
    }

    /// Operation code.
    pub const fn code(&self) -> u8 {
        self.code
    }

    /// Number of the destination register.
    pub const fn dst(&self) -> u8 {
        if cfg!(target_endian = "little") {
            self.registers & 0xf
        } else {
            self.registers >> 4
        }
    }

    /// Number of the source register.
    pub const fn src(&self) -> u8 {
        if cfg!(target_endian = "little") {
            self.registers >> 4
        } else {
            self.registers & 0xf
        }
    }

    /// Distance of a jump, or offset of an access to memory.
    pub const fn offset(&self) -> i16 {
        self.offset
    }

    /// Immediate operand.
    pub const fn immediate(&self) -> i32 {
        self.immediate
    }
}

// The members of `union bpf_attr` that are used, up to their last field in use. None has padding
// that is not a field. The kernel takes a shorter union than its own as filled up with zeros.

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetFdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads a program that decides on device access in a cgroup. It lives as long as a descriptor or
/// a cgroup refers to it.
///
/// # Errors
/// `bpf(2)`: `EINVAL` or `EACCES` when the verifier refuses it, `EPERM` without the right to, and
/// before Linux 5.11 also when `RLIMIT_MEMLOCK` is exhausted.
pub fn load_device_program(instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        // More than the kernel takes (E2BIG).
        insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: instructions.as_ptr() as u64,
        license: LICENCE.as_ptr() as u64,
        prog_name: *b"device_rules\0\0\0\0",
        ..LoadAttr::default()
    };
    let mut tries = 1;
    loop {
        // SAFETY: attr is the member for this command; it points to `insn_cnt` instructions and a
        // NUL-terminated string, which outlive the call and are only read.
        match unsafe { bpf(BPF_PROG_LOAD, &mut attr) } {
            Err(Errno::AGAIN) if tries < LOAD_TRIES => tries += 1,
            Err(errno) => {
                let args = format!(
                    "BPF_PROG_LOAD, cgroup device, {} instructions",
                    instructions.len()
                );
                return Err(Error::new("bpf", args, errno));
            }
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}

/// Attaches a device program to a cgroup, beside others: access needs the consent of all. With
/// `replace` it takes the place of that one, with no moment in between.
///
/// # Errors
/// `bpf(2)`: `EPERM` if a program above does not allow more, `ENOENT` if the one to be replaced
/// is not attached.
pub fn attach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
    replace: Option<&OwnedFd>,
) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: number(&cgroup),
        attach_bpf_fd: number(&program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | replace.map_or(0, |_| BPF_F_REPLACE),
        replace_bpf_fd: replace.map_or(0, number),
    };
    // SAFETY: attr is the member for this command and points nowhere.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }
        .map(drop)
        .map_err(|errno| Error::new("bpf", "BPF_PROG_ATTACH, BPF_CGROUP_DEVICE", errno))
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// `bpf(2)`: `ENOENT` if it is not attached there.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: number(&cgroup),
        attach_bpf_fd: number(&program),
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    // SAFETY: attr is the member for this command and points nowhere.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }
        .map(drop)
        .map_err(|errno| Error::new("bpf", "BPF_PROG_DETACH, BPF_CGROUP_DEVICE", errno))
}

/// The ids of the device programs that are attached to a cgroup itself.
///
/// # Errors
/// `bpf(2)`.
pub fn attached_device_programs(cgroup: impl AsFd) -> Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: number(&cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_count: MOST_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    // SAFETY: attr is the member for this command; it points to `prog_count` numbers, which
    // outlive the call, and of which the kernel writes no more.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }
        .map_err(|errno| Error::new("bpf", "BPF_PROG_QUERY, BPF_CGROUP_DEVICE", errno))?;
    ids.truncate(usize::try_from(attr.prog_count).unwrap_or(MOST_PROGRAMS));
    Ok(ids)
}

/// A descriptor of a loaded program.
///
/// # Errors
/// `bpf(2)`: `ENOENT` if it is gone.
pub fn open_program(id: u32) -> Result<OwnedFd> {
    let mut attr = GetFdAttr {
        prog_id: id,
        ..GetFdAttr::default()
    };
    // SAFETY: attr is the member for this command and points nowhere.
    match unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) } {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(errno) => {
            let args = format!("BPF_PROG_GET_FD_BY_ID, {id}");
            Err(Error::new("bpf", args, errno))
        }
    }
}

/// # Safety
/// `A` is the member of `union bpf_attr` for `command`, and whatever it points to may be accessed
/// in the way the command does.
unsafe fn bpf<A>(command: u32, attr: &mut A) -> std::result::Result<i32, Errno> {
    // SAFETY: the kernel reads and writes at most the size given; the rest is the caller's promise.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) };
    if ret < 0 {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno));
    }
    // A descriptor or 0: it fits.
    Ok(ret as i32)
}

/// Descriptors are never negative.
fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `r0 = value; exit`
    fn constant(value: i32) -> [Instruction; 2] {
        [
            Instruction::new(0xb4, 0, 0, 0, value),
            Instruction::new(0x95, 0, 0, 0, 0),
        ]
    }

    // Requires the right to load programs. Attaching is tested where cgroups are made.
    #[test]
    fn a_good_program_is_loaded_and_a_bad_one_refused() {
        load_device_program(&constant(1)).unwrap();
        // No exit.
        let error = load_device_program(&constant(1)[..1]).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL, "{error}");
        // Neither 0 nor 1.
        let error = load_device_program(&constant(2)).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL, "{error}");
        let error = load_device_program(&[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bpf(BPF_PROG_LOAD, cgroup device, 0 instructions): argument list too long"
        );
        assert_eq!(open_program(u32::MAX).unwrap_err().errno(), Errno::NOENT);
    }

    #[test]
    fn an_instruction_keeps_its_parts() {
        let instruction = Instruction::new(0x61, 2, 1, -4, 7);
        assert_eq!(size_of::<Instruction>(), 8);
        assert_eq!((instruction.code(), instruction.dst()), (0x61, 2));
        assert_eq!((instruction.src(), instruction.offset()), (1, -4));
        assert_eq!(instruction.immediate(), 7);
    }
}
