// SPDX-License-Identifier: Apache-2.0
//! `clock_gettime(2)`.

/// `CLOCK_MONOTONIC` in nanoseconds.
///
/// Not by rustix, which looks for all functions of the vDSO at once and panics where one is missing:
/// User Mode Linux has no `getcpu` there. The C library does without.
#[must_use]
pub fn monotonic() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec where the pointer says; it comes from a mutable
    // reference to one.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    // Only a clock that does not exist is an error, and this one always does.
    debug_assert_eq!(result, 0);
    // Since the start of the machine, so not negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_with_the_standard_librarys() {
        let (begun, first) = (std::time::Instant::now(), monotonic());
        std::thread::sleep(std::time::Duration::from_millis(2));
        let passed = u128::from(monotonic() - first);
        assert!(passed >= 2_000_000 && passed <= begun.elapsed().as_nanos());
    }
}
