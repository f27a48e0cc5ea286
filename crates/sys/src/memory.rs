// SPDX-License-Identifier: Apache-2.0
//! The C library's allocator, tuned for a process that must stay small.

/// One allocation arena for all threads, and freed memory goes back to the kernel early.
///
/// glibc otherwise makes an arena for each thread (132 kB touched, 64 MB reserved).
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TRIM_THRESHOLD, 64 * 1024),
        (libc::M_MMAP_THRESHOLD, 64 * 1024),
    ] {
        // SAFETY: sets a number inside the allocator; called while there is one thread.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives free memory at the heap's end and unused pages inside back to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks and has no precondition.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}
