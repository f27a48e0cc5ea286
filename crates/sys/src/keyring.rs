// SPDX-License-Identifier: Apache-2.0
//! Session keyrings, `keyctl(2)`.

use std::ffi::{CStr, c_long};

use rustix::io::Errno;

use crate::error::{Error, Result};

const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
const KEYCTL_SETPERM: c_long = 5;
const KEYCTL_DESCRIBE: c_long = 6;

/// A key's serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(i32);

/// Joins, or makes, the session keyring `name`.
///
/// # Errors
/// `keyctl(2)`: `ENOSYS` without keyrings in the kernel, `EDQUOT` when the user has too many.
pub fn join_session(name: &CStr) -> Result<Key> {
    // SAFETY: a NUL-terminated string that lives to the end of the call.
    let ret =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if ret < 0 {
        return Err(failed("KEYCTL_JOIN_SESSION_KEYRING"));
    }
    Ok(Key(ret as i32))
}

/// Adds `bits` to the permissions of `key`, keeping those under `keep`.
///
/// # Errors
/// `keyctl(2)`.
pub fn add_permissions(key: Key, keep: u32, bits: u32) -> Result<()> {
    let mut text = [0u8; 256];
    // SAFETY: the kernel writes at most `text.len()` bytes.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            key.0,
            text.as_mut_ptr(),
            text.len(),
        )
    };
    if ret < 0 {
        return Err(failed("KEYCTL_DESCRIBE"));
    }
    // "type;uid;gid;perm;description"
    let end = usize::try_from(ret).unwrap_or(0).min(text.len());
    let current = std::str::from_utf8(&text[..end])
        .ok()
        .and_then(|text| text.split(';').nth(3))
        .and_then(|perm| u32::from_str_radix(perm, 16).ok())
        .ok_or_else(|| Error::new("keyctl", "KEYCTL_DESCRIBE", Errno::BADMSG))?;
    // SAFETY: plain numbers.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_SETPERM,
            key.0,
            (current & keep) | bits,
        )
    };
    if ret < 0 {
        return Err(failed("KEYCTL_SETPERM"));
    }
    Ok(())
}

fn failed(operation: &'static str) -> Error {
    let errno = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    Error::new("keyctl", operation, Errno::from_raw_os_error(errno))
}
