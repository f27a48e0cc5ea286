// SPDX-License-Identifier: Apache-2.0
//! `personality(2)` and `set_mempolicy(2)`: what a process inherits from whoever started it.

use std::ffi::{c_int, c_ulong};

use rustix::io::Errno;

use crate::error::{Error, Result};

/// Sets the execution domain of the calling thread.
///
/// # Errors
/// `personality(2)`.
pub fn set_personality(domain: u32) -> Result<()> {
    // SAFETY: a plain number.
    let ret = unsafe { libc::personality(c_ulong::from(domain)) };
    if ret < 0 {
        return Err(failed("personality", format!("{domain:#x}")));
    }
    Ok(())
}

/// Sets the NUMA memory policy of the calling thread; `mode` holds the flags too, `nodes` one bit
/// for each node, in words of the machine.
///
/// # Errors
/// `set_mempolicy(2)`: `EINVAL` for nodes that are not there or not allowed by the cpuset,
/// `ENOSYS` on a kernel without NUMA.
pub fn set_memory_policy(mode: c_int, nodes: &[usize]) -> Result<()> {
    // The kernel reads one bit less than it is told.
    let bits = match nodes.len() {
        0 => 0,
        words => words * usize::BITS as usize + 1,
    };
    let mask = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: the kernel reads `bits - 1` bits of the slice, or nothing.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    if ret < 0 {
        return Err(failed("set_mempolicy", format!("{mode:#x}, {nodes:x?}")));
    }
    Ok(())
}

fn failed(call: &'static str, args: String) -> Error {
    let errno = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    Error::new(call, args, Errno::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_a_thread(work: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    }

    #[test]
    fn a_32_bit_personality_shows() {
        in_a_thread(|| {
            set_personality(8).unwrap();
            let told = std::fs::read_to_string("/proc/thread-self/personality").unwrap();
            assert_eq!(told.trim(), "00000008");
            let machine = rustix::system::uname().machine().to_owned();
            set_personality(0).unwrap();
            let now = rustix::system::uname().machine().to_owned();
            if cfg!(target_arch = "x86_64") {
                // A kernel that runs no 32-bit programs does not pretend to.
                let pretended = [c"i686", c"x86_64"].contains(&machine.as_c_str());
                assert!(
                    pretended && now.as_c_str() == c"x86_64",
                    "{machine:?}, {now:?}"
                );
            }
        });
    }

    #[test]
    fn memory_may_be_bound_to_a_node() {
        in_a_thread(|| {
            match set_memory_policy(2, &[1]) {
                Err(e) if e.errno() == Errno::NOSYS => return eprintln!("skipped: no NUMA"),
                other => other.unwrap(),
            }
            let maps = std::fs::read_to_string("/proc/thread-self/numa_maps").unwrap();
            assert!(maps.contains(" bind:0 "), "{maps}");
            set_memory_policy(0, &[]).unwrap();
            // Node 63 is not there.
            let error = set_memory_policy(2, &[1 << 63]).unwrap_err();
            assert_eq!(error.errno(), Errno::INVAL);
        });
    }
}
