// SPDX-License-Identifier: Apache-2.0
//! Namespaces of the calling thread.

use rustix::thread::UnshareFlags;

use crate::error::{Call, Result};

/// Leaves shared parts of the execution context behind.
///
/// # Errors
/// `unshare(2)`.
pub fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: rustix marks it unsafe for UnshareFlags::FILES, under which descriptors of other
    // threads would no longer be this thread's; that flag is taken out.
    unsafe { rustix::thread::unshare_unsafe(flags & !UnshareFlags::FILES) }
        .call("unshare", || format!("{flags:?}"))
}
