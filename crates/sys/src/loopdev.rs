// SPDX-License-Identifier: Apache-2.0
//! Loop devices: a file as a block device, `loop(4)`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};

const CONTROL: &str = "/dev/loop-control";
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
/// Linux 5.8.
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often somebody else may take the free device before we do.
const TRIES: usize = 100;

/// How a file becomes a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Nobody can write to it.
    pub read_only: bool,
    /// It goes around the page cache of the file.
    pub direct_io: bool,
}

/// A loop device; the kernel frees it once it is neither open nor mounted.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    #[allow(dead_code, reason = "keeps the device until it is mounted")]
    device: OwnedFd,
}

#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

impl LoopDevice {
    /// Makes a free loop device one of `file`.
    ///
    /// # Errors
    /// The file cannot be opened (for writing, unless read-only), or there are no loop devices.
    pub fn of(file: &Path, options: Options) -> Result<Self> {
        let access = if options.read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let backing = open(file, access)?;
        let control = open(Path::new(CONTROL), OFlags::RDWR)?;
        for _ in 0..TRIES {
            // SAFETY: a request without an argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(Error::new("ioctl", "LOOP_CTL_GET_FREE", last_errno()));
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path, access)?;
            match configure(&device, &backing, file, options) {
                Ok(()) => return Ok(Self { path, device }),
                // Somebody was faster.
                Err(e) if e.errno() == Errno::BUSY => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::new("ioctl", "LOOP_CONFIGURE", Errno::BUSY))
    }

    /// Its path, `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn open(path: &Path, access: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())
        .call("open", || format!("{path:?}, {access:?}"))
}

fn configure(device: &OwnedFd, backing: impl AsFd, file: &Path, options: Options) -> Result<()> {
    // SAFETY: all-zero is a valid value of each of its fields, all plain numbers.
    let mut config: Config = unsafe { std::mem::zeroed() };
    config.fd = backing.as_fd().as_raw_fd() as u32;
    config.info.flags = LO_FLAGS_AUTOCLEAR;
    if options.read_only {
        config.info.flags |= LO_FLAGS_READ_ONLY;
    }
    if options.direct_io {
        config.info.flags |= LO_FLAGS_DIRECT_IO;
    }
    // What `losetup` shows; the last byte stays 0.
    let name = file.as_os_str().as_encoded_bytes();
    let length = name.len().min(config.info.file_name.len() - 1);
    config.info.file_name[..length].copy_from_slice(&name[..length]);
    // SAFETY: the kernel reads one structure of this layout, which lives to the end of the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
        0 => Ok(()),
        _ => Err(Error::new(
            "ioctl",
            format!("LOOP_CONFIGURE, {file:?}"),
            last_errno(),
        )),
    }
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let error = LoopDevice::of(Path::new("/nope"), Options::default()).unwrap_err();
        assert_eq!((error.call(), error.errno()), ("open", Errno::NOENT));
    }
}
