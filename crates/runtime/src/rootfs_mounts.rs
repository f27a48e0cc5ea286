// SPDX-License-Identifier: Apache-2.0
//! The mounts that make a container's root file system, on the host (`CreateTaskRequest.rootfs`).
//!
//! What containerd's own `mount.All` does with the same list, in the shim's mount namespace: the
//! option words of fstab, everything else handed to the file system, a remount for a read-only
//! bind mount, propagation as a second call. An option that we do not have is refused, not ignored.
//! When one mount fails, those before it are undone.
//!
//! [`unmount`] never reads the host's mount table unless something below the root is still mounted.

mod fuse;
mod id_mapped;
mod overlay;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sys::Call;
use sys::loopdev::LoopDevice;
use sys::mount::{MountApi, ms};

use self::fuse::Fuse;
use crate::idmap::Mappings;
use crate::mountinfo::MountInfo;
use crate::resolve::{Links, Root, beneath};
use crate::rootfs::options::{self, Flags, Meaning, Propagation};

/// How long a busy mount is waited for, as containerd does: fifty times.
const BUSY_TRIES: usize = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// The kernel copies at most a page of data; containerd shortens what comes within this of it.
const MARGIN: usize = 512;

/// One mount as containerd describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// The type: `overlay`, `bind`, `ext4`, …
    pub fstype: String,
    /// The source.
    pub source: String,
    /// Where below the root; empty for the root itself.
    pub target: String,
    /// Options.
    pub options: Vec<String>,
}

/// What to do about a mount that is still busy after all waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    /// Say so. Whoever asked can try again.
    Fail,
    /// Take it out of sight (`MNT_DETACH`): its file system lives on until its last user goes.
    Detach,
}

/// A root file system could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that we do not have.
    #[error("mount {fstype} on {target:?}: option {option:?} {reason}")]
    Option {
        /// The mount's type.
        fstype: String,
        /// Where it was to be mounted.
        target: PathBuf,
        /// The option.
        option: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// There is no user namespace for an id-mapped mount.
    #[error("id-mapped mount on {target:?}: {reason}")]
    IdMap {
        /// Where it was to be mounted.
        target: PathBuf,
        /// Why.
        reason: String,
    },
    /// A program of the host could not mount a file system.
    #[error("mount helper {program} on {target:?}: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// Where it was to be mounted.
        target: PathBuf,
        /// What it has said.
        reason: String,
    },
    /// A system call failed.
    #[error("{attempt} {target:?}: {source}")]
    System {
        /// What was attempted.
        attempt: String,
        /// Where.
        target: PathBuf,
        /// Why it failed.
        #[source]
        source: sys::Error,
    },
}

impl Error {
    /// The error number, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::System { source, .. } => Some(source.errno()),
            Self::Option { .. } | Self::IdMap { .. } | Self::Helper { .. } => None,
        }
    }

    fn system(attempt: impl Into<String>, target: &Path) -> impl FnOnce(sys::Error) -> Self {
        let (attempt, target) = (attempt.into(), target.to_owned());
        move |source| Self::System {
            attempt,
            target,
            source,
        }
    }
}

/// Mounts everything, in order, at `rootfs`, which is made if it is missing. An empty list mounts
/// nothing: the root is then somebody else's business.
///
/// # Errors
/// The first mount that is refused or fails; nothing stays mounted then.
pub fn mount(mounts: &[RootfsMount], rootfs: &Path) -> Result<(), Error> {
    mount_with(mounts, rootfs, &MountApi::new())
}

fn mount_with(mounts: &[RootfsMount], rootfs: &Path, api: &MountApi) -> Result<(), Error> {
    if mounts.is_empty() {
        return Ok(());
    }
    // Everything is understood before anything is done.
    let requests = mounts
        .iter()
        .map(|mount| Request::parse(mount, rootfs))
        .collect::<Result<Vec<_>, _>>()?;
    match rustix::fs::mkdir(rootfs, Mode::from_raw_mode(0o711)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => {
            let error = sys::Error::new("mkdir", format!("{rootfs:?}"), errno);
            return Err(Error::system("mkdir", rootfs)(error));
        }
    }
    for request in &requests {
        if let Err(error) = request.run(rootfs, api) {
            // The first error is the one to tell; a busy remainder goes out of sight at least.
            let _ = unmount_or(rootfs, WhenBusy::Detach);
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts everything that is mounted on or below `rootfs`; nothing mounted there is fine.
///
/// # Errors
/// `umount2(2)`; `EBUSY` only after waiting.
pub fn unmount(rootfs: &Path) -> Result<(), Error> {
    unmount_or(rootfs, WhenBusy::Fail)
}

/// As [`unmount`], with a choice for a mount that stays busy.
///
/// Not with `MNT_DETACH`: once `umount2` has succeeded without it, the file system is released, and
/// containerd may at once remove or mount again the snapshot it was made of. The last component is
/// never followed if it is a symlink.
///
/// # Errors
/// `umount2(2)`; `EBUSY` only after waiting and only with [`WhenBusy::Fail`].
pub fn unmount_or(rootfs: &Path, when_busy: WhenBusy) -> Result<(), Error> {
    unmount_within(rootfs, when_busy, BUSY_TRIES)
}

fn unmount_within(rootfs: &Path, when_busy: WhenBusy, tries: usize) -> Result<(), Error> {
    for _ in 0..tries {
        match unmount_once(rootfs, UnmountFlags::NOFOLLOW)? {
            Progress::Nothing => return Ok(()),
            Progress::Some => {}
            Progress::Busy => std::thread::sleep(BUSY_PAUSE),
        }
    }
    match when_busy {
        WhenBusy::Fail => Err(failed_unmount(rootfs, Errno::BUSY)),
        WhenBusy::Detach => {
            let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
            while unmount_once(rootfs, flags)? == Progress::Some {}
            Ok(())
        }
    }
}

/// What became of an attempt to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There was nothing to unmount.
    Nothing,
    /// Something went: mounts can be stacked, so there may be more.
    Some,
    /// Something is in use.
    Busy,
}

fn unmount_once(rootfs: &Path, flags: UnmountFlags) -> Result<Progress, Error> {
    match rustix::mount::unmount(rootfs, flags) {
        Ok(()) => Ok(Progress::Some),
        Err(Errno::NOENT) => Ok(Progress::Nothing),
        // No mount itself; but something in it may be, if there is anything in it.
        Err(Errno::INVAL) if is_empty_or_no_directory(rootfs) => Ok(Progress::Nothing),
        Err(Errno::INVAL) => Ok(unmount_below(rootfs, flags)),
        Err(Errno::BUSY) => Ok(match unmount_below(rootfs, flags) {
            Progress::Some => Progress::Some,
            Progress::Nothing | Progress::Busy => Progress::Busy,
        }),
        Err(errno) => Err(failed_unmount(rootfs, errno)),
    }
}

fn failed_unmount(rootfs: &Path, errno: Errno) -> Error {
    let error = sys::Error::new("umount2", format!("{rootfs:?}"), errno);
    Error::system("unmount", rootfs)(error)
}

fn is_empty_or_no_directory(path: &Path) -> bool {
    let is_directory = path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir());
    !is_directory
        || path
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_none())
}

/// Unmounts what is mounted below, deepest first.
fn unmount_below(rootfs: &Path, flags: UnmountFlags) -> Progress {
    // The table has resolved paths.
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (Ok(real), Ok(table), Ok(root)) = (
        std::fs::canonicalize(rootfs),
        std::fs::read_to_string("/proc/thread-self/mountinfo"),
        rustix::fs::open(rootfs, open, Mode::empty()),
    ) else {
        return Progress::Nothing;
    };
    let Some(real) = real.to_str() else {
        return Progress::Nothing;
    };
    let mut below: Vec<String> = table
        .lines()
        .filter_map(MountInfo::parse)
        .filter(|info| info.is_below(real))
        .filter_map(|info| Some(info.mount_point.strip_prefix(real)?.to_owned()))
        .filter(|path| !path.is_empty())
        .collect();
    // Of equal depth the later ones go first.
    below.reverse();
    below.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    let gone = below
        .iter()
        .filter(|path| unmount_in(&root, path.trim_start_matches('/'), flags).is_ok())
        .count();
    match (below.is_empty(), gone) {
        (true, _) => Progress::Nothing,
        (false, 0) => Progress::Busy,
        (false, _) => Progress::Some,
    }
}

/// Unmounts what is mounted at a path below a directory. What lies there may be somebody's who puts
/// links in the way meanwhile: none is followed, or it would be the host's mounts that go.
fn unmount_in(root: &OwnedFd, path: &str, flags: UnmountFlags) -> sys::Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let opened = match parent {
        "" => None,
        _ => Some(beneath(root, parent, OFlags::PATH | OFlags::DIRECTORY)?),
    };
    let place = format!(
        "{}/{name}",
        descriptor_path(opened.as_ref().unwrap_or(root))
    );
    rustix::mount::unmount(&*place, flags | UnmountFlags::NOFOLLOW)
        .call("umount2", || format!("{path:?}"))
}

/// A mount with its options understood.
#[derive(Debug)]
struct Request<'a> {
    mount: &'a RootfsMount,
    flags: Flags,
    propagation: Vec<Propagation>,
    params: Vec<&'a str>,
    /// Whose the files shall be.
    id_map: Option<Mappings>,
    /// The source is a file that becomes a block device.
    as_device: Option<sys::loopdev::Options>,
    /// A program serves the file system.
    fuse: Option<Fuse<'a>>,
}

impl<'a> Request<'a> {
    fn parse(mount: &'a RootfsMount, rootfs: &Path) -> Result<Self, Error> {
        let refuse = |option: &str, reason| {
            Err(Error::Option {
                fstype: mount.fstype.clone(),
                target: rootfs.join(mount.target.trim_start_matches('/')),
                option: option.to_owned(),
                reason,
            })
        };
        let mut request = Self {
            mount,
            flags: Flags::default(),
            propagation: Vec::new(),
            params: Vec::new(),
            id_map: None,
            as_device: None,
            fuse: Fuse::of(&mount.fstype),
        };
        let mut mappings = Mappings::default();
        let mut direct_io = false;
        for option in &mount.options {
            if option.starts_with("X-containerd.") {
                return refuse(option, "is containerd's own and should not have come here");
            }
            if request.fuse.is_some() {
                // They mean what the helper and the program take them for.
                continue;
            }
            match options::meaning(option) {
                Some(Meaning::Nothing) => {}
                Some(meaning @ (Meaning::Set(_) | Meaning::Clear(_))) => {
                    request.flags.apply(meaning);
                }
                Some(Meaning::Propagate(propagation)) => request.propagation.push(propagation),
                // Words for the mounts inside a container.
                Some(Meaning::SetAll(_) | Meaning::ClearAll(_) | Meaning::Idmap(_)) => {
                    return refuse(option, "is not supported for a root file system");
                }
                Some(Meaning::CopyUp) => return refuse(option, "is for containers only"),
                None if option == "loop" => request.as_device = Some(Default::default()),
                None if option == "direct-io" => direct_io = true,
                None => {
                    let lists = [
                        ("uidmap=", &mut mappings.uids),
                        ("gidmap=", &mut mappings.gids),
                    ];
                    let found = lists
                        .into_iter()
                        .find_map(|(key, list)| Some((option.strip_prefix(key)?, list)));
                    let Some((text, list)) = found else {
                        request.params.push(option);
                        continue;
                    };
                    match id_mapped::parse(text) {
                        Some(ranges) => *list = ranges,
                        None => return refuse(option, "is no mapping of ids"),
                    }
                }
            }
        }
        match &mut request.as_device {
            Some(options) => {
                options.read_only = request.flags.has(ms::RDONLY);
                options.direct_io = direct_io;
            }
            None if direct_io => return refuse("direct-io", "is for loop devices only"),
            None => {}
        }
        match (mappings.uids.is_empty(), mappings.gids.is_empty()) {
            (true, true) => {}
            (false, false) => request.id_map = Some(mappings),
            (false, true) => return refuse("uidmap", "needs a gidmap as well"),
            (true, false) => return refuse("gidmap", "needs a uidmap as well"),
        }
        Ok(request)
    }

    fn run(&self, rootfs: &Path, api: &MountApi) -> Result<(), Error> {
        let place = Place::open(rootfs, &self.mount.target)?;
        if let Some(fuse) = self.fuse {
            return fuse.mount(self.mount, &place);
        }
        let target = place.path();
        let failed = || {
            let what = format!("mount {} ({})", self.mount.source, self.mount.fstype);
            Error::system(what, target)
        };
        // Until it is mounted, the device is there as long as this.
        let device = match self.as_device {
            Some(options) => {
                let file = Path::new(&self.mount.source);
                Some(LoopDevice::of(file, options).map_err(failed())?)
            }
            None => None,
        };
        let source = match &device {
            Some(device) => device.path().to_string_lossy(),
            None => self.mount.source.as_str().into(),
        };
        if let Some(mappings) = &self.id_map {
            self.id_mapped(mappings, &source, rootfs, &place, api)?;
            return self.propagate(&place);
        }
        let data = self.params.join(",");
        if !self.flags.has(ms::REMOUNT) || !data.is_empty() {
            self.first_call(&place, &source, &data, api)
                .map_err(failed())?;
        }
        self.propagate(&place)?;
        if self.flags.has(ms::BIND | ms::RDONLY) {
            // The first call does not look at the flags of a bind mount.
            let flags = self.flags.set | ms::REMOUNT;
            sys::mount::mount(None, &*place.now()?, None, flags, None).map_err(failed())?;
        }
        Ok(())
    }

    fn propagate(&self, place: &Place<'_>) -> Result<(), Error> {
        for propagation in &self.propagation {
            sys::mount::mount(None, &*place.now()?, None, propagation.flags(), None)
                .map_err(Error::system("change propagation of", place.path()))?;
        }
        Ok(())
    }

    fn first_call(
        &self,
        place: &Place<'_>,
        source: &str,
        data: &str,
        api: &MountApi,
    ) -> sys::Result<()> {
        let target = place.before();
        let fstype = self.mount.fstype.as_str();
        let is_long = data.len() + MARGIN >= rustix::param::page_size();
        if is_long && fstype == "overlay" {
            return self.long_overlay(&target, api);
        }
        let data = (!data.is_empty()).then_some(data);
        sys::mount::mount(Some(source), &*target, Some(fstype), self.flags.set, data)
    }
}

/// Where something is mounted: the root itself, by its path, which is ours; or below it, in what
/// may be an image with symlinks, by a descriptor.
#[derive(Debug)]
enum Place<'a> {
    Root(&'a Path),
    Below {
        rootfs: &'a Path,
        path: PathBuf,
        fd: OwnedFd,
    },
}

impl<'a> Place<'a> {
    fn open(rootfs: &'a Path, target: &str) -> Result<Self, Error> {
        if target.trim_matches('/').is_empty() {
            return Ok(Self::Root(rootfs));
        }
        let path = PathBuf::from(target);
        let fd = resolve(rootfs, &path).map_err(Error::system("open", &rootfs.join(target)))?;
        Ok(Self::Below { rootfs, path, fd })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Root(rootfs) => rootfs,
            Self::Below { path, .. } => path,
        }
    }

    /// The path to mount on.
    fn before(&self) -> String {
        match self {
            Self::Root(rootfs) => rootfs.to_string_lossy().into_owned(),
            Self::Below { fd, .. } => descriptor_path(fd),
        }
    }

    /// The path to mount on, for another process.
    fn for_others(&self) -> String {
        match self {
            Self::Root(rootfs) => rootfs.to_string_lossy().into_owned(),
            Self::Below { fd, .. } => {
                let pid = rustix::process::getpid().as_raw_nonzero();
                format!("/proc/{pid}/fd/{}", fd.as_raw_fd())
            }
        }
    }

    /// The path of what has been mounted there.
    fn now(&self) -> Result<Mounted, Error> {
        match self {
            Self::Root(rootfs) => Ok(Mounted::Path(rootfs.to_string_lossy().into_owned())),
            Self::Below { rootfs, path, .. } => {
                let fd = resolve(rootfs, path).map_err(Error::system("open", path))?;
                Ok(Mounted::Descriptor(descriptor_path(&fd), fd))
            }
        }
    }
}

enum Mounted {
    Path(String),
    Descriptor(
        String,
        #[allow(dead_code, reason = "keeps the path valid")] OwnedFd,
    ),
}

impl std::ops::Deref for Mounted {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Path(path) | Self::Descriptor(path, _) => path,
        }
    }
}

fn resolve(rootfs: &Path, path: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, rootfs, flags, Mode::empty())
        .call("open", || format!("{rootfs:?}"))?;
    Root::new(root.as_fd()).open(path, Links::Follow)
}

fn descriptor_path(fd: &OwnedFd) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
#[path = "rootfs_mounts_tests.rs"]
mod tests;
