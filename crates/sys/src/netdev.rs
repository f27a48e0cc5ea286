// SPDX-License-Identifier: Apache-2.0
//! Network interfaces.

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Call, Error, Result};

/// Sets the loopback interface of the calling thread's network namespace up.
///
/// # Errors
/// `socket(2)`, or `ioctl(2)` `SIOCSIFFLAGS` (`CAP_NET_ADMIN` in the namespace's owner).
pub fn loopback_up() -> Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .call("socket", || "AF_INET, SOCK_DGRAM")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOOPBACK) as i16;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    let ret = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if ret < 0 {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        return Err(Error::new(
            "ioctl",
            "\"lo\", SIOCSIFFLAGS",
            Errno::from_raw_os_error(errno),
        ));
    }
    Ok(())
}
