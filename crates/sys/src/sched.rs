// SPDX-License-Identifier: Apache-2.0
//! How the calling process is scheduled: policy, processors, I/O priority.

use std::ffi::c_long;

use rustix::io::Errno;

use crate::error::{Error, Result};

/// What `sched_setattr(2)` takes, `struct sched_attr` without its size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, for `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// 1 to 99, for `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// `struct sched_attr` since Linux 5.3.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// Sets the scheduling policy of the calling thread.
///
/// # Errors
/// `sched_setattr(2)`: `EPERM` without `CAP_SYS_NICE`, or with `SCHED_DEADLINE` in a cpuset.
pub fn set_attributes(attributes: &Attributes) -> Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
        runtime: attributes.runtime,
        deadline: attributes.deadline,
        period: attributes.period,
        util_min: 0,
        util_max: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says, all of them initialised.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    check(ret, "sched_setattr", || format!("{attributes:?}"))
}

/// Sets the processors on which the calling thread may run, one bit for each, in words of the
/// machine. The kernel leaves out those that it does not have or that the cpuset does not allow.
///
/// # Errors
/// `sched_setaffinity(2)`: `EINVAL` when none is left.
pub fn set_affinity(mask: &[usize]) -> Result<()> {
    // SAFETY: the kernel reads so many bytes of the slice.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(mask),
            mask.as_ptr(),
        )
    };
    check(ret, "sched_setaffinity", || describe(mask))
}

/// Sets the I/O priority of the calling process; `priority` is class and level as
/// `ioprio_set(2)` packs them.
///
/// # Errors
/// `ioprio_set(2)`: `EPERM` for the real-time class without `CAP_SYS_NICE`.
pub fn set_io_priority(priority: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: c_long = 1;
    // SAFETY: plain numbers.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            c_long::from(priority),
        )
    };
    check(ret, "ioprio_set", || {
        format!("class {}, level {}", priority >> 13, priority & 7)
    })
}

fn describe(mask: &[usize]) -> String {
    let words: Vec<String> = mask
        .iter()
        .take(4)
        .map(|word| format!("{word:#x}"))
        .collect();
    let more = if mask.len() > words.len() {
        ", ..."
    } else {
        ""
    };
    format!("[{}{more}]", words.join(", "))
}

fn check(ret: c_long, call: &'static str, args: impl FnOnce() -> String) -> Result<()> {
    if ret >= 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    Err(Error::new(call, args(), Errno::from_raw_os_error(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    fn stat_field(number: usize) -> i64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let rest = stat.rsplit_once(") ").unwrap().1;
        // The state is field 3.
        rest.split(' ').nth(number - 3).unwrap().parse().unwrap()
    }

    #[test]
    fn a_thread_gets_the_policy_it_asks_for() {
        in_a_thread(|| {
            let batch = Attributes {
                policy: 3,
                nice: 7,
                ..Attributes::default()
            };
            set_attributes(&batch).unwrap();
            assert_eq!((stat_field(41), stat_field(19)), (3, 7));
            let iso = Attributes {
                policy: 4,
                ..Attributes::default()
            };
            let error = set_attributes(&iso).unwrap_err();
            assert_eq!(error.errno(), Errno::INVAL, "{error}");
        });
    }

    #[test]
    fn a_thread_runs_where_it_is_told_to() {
        in_a_thread(|| {
            let allowed = || {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
                line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
            };
            let before = allowed();
            set_affinity(&[1]).unwrap();
            assert_eq!(allowed(), "0");
            // Far more than there are: the kernel takes those that exist.
            set_affinity(&[usize::MAX; 1024]).unwrap();
            assert_eq!(allowed(), before);
            assert_eq!(set_affinity(&[0]).unwrap_err().errno(), Errno::INVAL);
        });
    }

    #[test]
    fn a_thread_gets_the_io_priority_it_asks_for() {
        in_a_thread(|| {
            set_io_priority((2 << 13) | 6).unwrap();
            // SAFETY: plain numbers.
            let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
            assert_eq!(priority, (2 << 13) | 6);
            let error = set_io_priority(7 << 13).unwrap_err();
            assert_eq!(
                error.to_string(),
                "ioprio_set(class 7, level 0): invalid argument"
            );
        });
    }
}
