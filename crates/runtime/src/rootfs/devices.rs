// SPDX-License-Identifier: Apache-2.0
//! The container's `/dev`: nodes, and links into `/proc` and devpts.
//!
//! `/dev` is opened once, as an ordinary directory, and everything is made beneath that
//! descriptor: an image whose `/dev` is a symlink leads nowhere (CVE-2026-41579). The umask is 0
//! meanwhile, so that a node has its mode from the beginning.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use sys::Call;

use super::attach::{BindSource, Builder, Shape};
use super::error::{Cause, Error};
use super::options::Flags;
use super::plan::{Device, DeviceKind, below_dev};
use super::sources::Opened;
use crate::resolve::{Links, Root, beneath};

/// Makes the nodes and links. What is opened already is mounted instead of made.
pub(super) fn make(
    builder: &Builder,
    devices: &[Device],
    opened: &mut Opened,
) -> Result<(), Error> {
    let dev_path = Path::new("/dev");
    let dev = builder
        .root()
        .mkdir_all(dev_path, 0o755.into(), Links::Refuse)
        .map_err(|e| Error::device(dev_path)(e.into()))?;
    for (index, device) in devices.iter().enumerate() {
        match opened.device(index) {
            Some(host) => cover(builder, device, BindSource::Tree(host)),
            None => node(builder, &dev, device),
        }
        .map_err(Error::device(&device.path))?;
    }
    ptmx(&dev).map_err(|e| Error::device(Path::new("/dev/ptmx"))(e.into()))?;
    links(&dev)
}

fn node(builder: &Builder, dev: &OwnedFd, device: &Device) -> Result<(), Cause> {
    let (top, path, links) = match below_dev(&device.path) {
        Some(rest) => (dev, rest, Links::Refuse),
        None => (&builder.root, device.path.as_path(), Links::Follow),
    };
    let name = path.file_name().unwrap_or(OsStr::new("."));
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") && parent != Path::new("/") => {
            Some(Root::new(top.as_fd()).mkdir_all(parent, 0o755.into(), links)?)
        }
        _ => None,
    };
    let directory = parent.as_ref().unwrap_or(top);
    let (file_type, number) = type_and_number(device.kind);
    match mknodat(
        directory,
        name,
        file_type,
        Mode::from_raw_mode(device.mode),
        number,
    ) {
        Ok(()) => own(directory, name, device),
        // Part of the image, or bound there by a mount.
        Err(Errno::EXIST) => keep_or_cover(builder, directory, name, device),
        // A device cgroup or a user namespace forbids it.
        Err(Errno::PERM) if device.kind != DeviceKind::Fifo => bind(builder, device),
        Err(errno) => {
            let args = format!("{name:?}, {file_type:?}, {:#o}", device.mode);
            Err(sys::Error::new("mknodat", args, errno).into())
        }
    }
}

fn type_and_number(kind: DeviceKind) -> (FileType, u64) {
    match kind {
        DeviceKind::Char(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
        DeviceKind::Block(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        DeviceKind::Fifo => (FileType::Fifo, 0),
    }
}

fn own(directory: &OwnedFd, name: &OsStr, device: &Device) -> Result<(), Cause> {
    if device.uid == 0 && device.gid == 0 {
        return Ok(());
    }
    let fd = beneath(directory, name, OFlags::PATH)?;
    if !is_device(&fd, device.kind)? {
        return Err(Cause::Unsafe("the node was replaced meanwhile"));
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .call("fchownat", || {
            format!("{name:?}, {}, {}", device.uid, device.gid)
        })?;
    Ok(())
}

/// What is there already is right, or the host's node is mounted over it.
fn keep_or_cover(
    builder: &Builder,
    directory: &OwnedFd,
    name: &OsStr,
    device: &Device,
) -> Result<(), Cause> {
    let fd = beneath(directory, name, OFlags::PATH)?;
    match is_device(&fd, device.kind)? {
        true => Ok(()),
        false if device.kind == DeviceKind::Fifo => {
            Err(Cause::Unsafe("exists already and is no named pipe"))
        }
        false => bind(builder, device),
    }
}

/// Mounts the host's node of the same path, if it is the same device.
fn bind(builder: &Builder, device: &Device) -> Result<(), Cause> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = rustix::fs::open(&device.path, flags, Mode::empty())
        .call("open", || format!("{:?}, O_PATH", device.path))?;
    must_be(&host, device.kind)?;
    cover(builder, device, builder.bind_source_fd(&host, false)?)
}

/// Mounts a node of the host.
fn cover(builder: &Builder, device: &Device, host: BindSource) -> Result<(), Cause> {
    let links = match below_dev(&device.path) {
        Some(_) => Links::Refuse,
        None => Links::Follow,
    };
    let target = builder.target(&device.path, Shape::file, links)?;
    builder.bind(host, Flags::default(), &target)?;
    Ok(())
}

/// Refuses another device than the one that is meant.
pub(super) fn must_be(fd: &OwnedFd, kind: DeviceKind) -> Result<(), Cause> {
    match is_device(fd, kind)? {
        true => Ok(()),
        false => Err(Cause::Unsafe("is another device on the host")),
    }
}

fn is_device(fd: &OwnedFd, kind: DeviceKind) -> Result<bool, Cause> {
    let stat = rustix::fs::fstat(fd).call("fstat", || fd.as_raw_fd().to_string())?;
    let (file_type, number) = type_and_number(kind);
    let is_pipe = kind == DeviceKind::Fifo;
    Ok(FileType::from_raw_mode(stat.st_mode) == file_type && (is_pipe || stat.st_rdev == number))
}

/// `/dev/ptmx` is the one of the container's devpts, whatever the image brings.
fn ptmx(dev: &OwnedFd) -> sys::Result<()> {
    let link = || symlinkat("pts/ptmx", dev, "ptmx");
    match link() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(dev, "ptmx", AtFlags::empty()).call("unlinkat", || "\"ptmx\"")?;
            link()
        }
        other => other,
    }
    .call("symlinkat", || "\"pts/ptmx\", \"ptmx\"")
}

fn links(dev: &OwnedFd) -> Result<(), Error> {
    let mut links = vec![
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ];
    if rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok() {
        links.push(("/proc/kcore", "core"));
    }
    for (target, name) in links {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                let error = sys::Error::new("symlinkat", format!("{target:?}, {name:?}"), errno);
                return Err(Error::device(&Path::new("/dev").join(name))(error.into()));
            }
        }
    }
    Ok(())
}
