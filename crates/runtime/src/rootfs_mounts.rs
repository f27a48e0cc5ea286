// SPDX-License-Identifier: Apache-2.0
//! The mounts that make a container's root file system, on the host (`CreateTaskRequest.rootfs`).
//!
//! What containerd's own `mount.All` does with the same list, in the shim's mount namespace: the
//! option words of fstab, everything else handed to the file system, a remount for a read-only
//! bind mount, propagation as a second call. An option that we do not have is refused, not ignored.
//! When one mount fails, those before it are undone.
//!
//! [`unmount`] never reads the host's mount table unless something below the root is still mounted.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sys::Call;
use sys::mount::{Feature, MAX_PARAM_VALUE, MountApi, Param, ms};

use crate::mountinfo::MountInfo;
use crate::resolve::{Links, Root};
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
            Self::Option { .. } => None,
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
    let (Ok(real), Ok(table)) = (
        std::fs::canonicalize(rootfs),
        std::fs::read_to_string("/proc/thread-self/mountinfo"),
    ) else {
        return Progress::Nothing;
    };
    let Some(real) = real.to_str() else {
        return Progress::Nothing;
    };
    let mut below: Vec<String> = table
        .lines()
        .filter_map(MountInfo::parse)
        .filter(|info| info.is_below(real) && info.mount_point != real)
        .map(|info| info.mount_point)
        .collect();
    // Of equal depth the later ones go first.
    below.reverse();
    below.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    let gone = below
        .iter()
        .filter(|path| rustix::mount::unmount(path.as_str(), flags).is_ok())
        .count();
    match (below.is_empty(), gone) {
        (true, _) => Progress::Nothing,
        (false, 0) => Progress::Busy,
        (false, _) => Progress::Some,
    }
}

/// A mount with its options understood.
#[derive(Debug)]
struct Request<'a> {
    mount: &'a RootfsMount,
    flags: Flags,
    propagation: Vec<Propagation>,
    params: Vec<&'a str>,
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
        };
        if mount.fstype.starts_with("fuse.") || mount.fstype.starts_with("fuse3.") {
            return refuse(&mount.fstype, "needs a mount helper: not supported yet");
        }
        for option in &mount.options {
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
                None if option == "loop" => {
                    return refuse(option, "(loop device) is not supported yet");
                }
                None if option.starts_with("X-containerd.") => {
                    return refuse(option, "is containerd's own and should not have come here");
                }
                None if option.starts_with("uidmap=") || option.starts_with("gidmap=") => {
                    return refuse(option, "(id-mapped mount) is not supported yet");
                }
                None => request.params.push(option),
            }
        }
        Ok(request)
    }

    fn run(&self, rootfs: &Path, api: &MountApi) -> Result<(), Error> {
        let place = Place::open(rootfs, &self.mount.target)?;
        let target = place.path();
        let failed = || {
            let what = format!("mount {} ({})", self.mount.source, self.mount.fstype);
            Error::system(what, target)
        };
        let data = self.params.join(",");
        if !self.flags.has(ms::REMOUNT) || !data.is_empty() {
            self.first_call(&place, &data, api).map_err(failed())?;
        }
        for propagation in &self.propagation {
            sys::mount::mount(None, &*place.now()?, None, propagation.flags(), None)
                .map_err(failed())?;
        }
        if self.flags.has(ms::BIND | ms::RDONLY) {
            // The first call does not look at the flags of a bind mount.
            let flags = self.flags.set | ms::REMOUNT;
            sys::mount::mount(None, &*place.now()?, None, flags, None).map_err(failed())?;
        }
        Ok(())
    }

    fn first_call(&self, place: &Place<'_>, data: &str, api: &MountApi) -> sys::Result<()> {
        let target = place.before();
        let fstype = self.mount.fstype.as_str();
        let is_long = data.len() + MARGIN >= rustix::param::page_size();
        if is_long && fstype == "overlay" {
            return self.long_overlay(&target, api);
        }
        let data = (!data.is_empty()).then_some(data);
        sys::mount::mount(
            Some(&self.mount.source),
            &*target,
            Some(fstype),
            self.flags.set,
            data,
        )
    }

    /// An overlay of more layers than fit in a page: one by one if the kernel can, else by shorter
    /// names.
    fn long_overlay(&self, target: &str, api: &MountApi) -> sys::Result<()> {
        let mut layers = Vec::new();
        let mut others = Vec::new();
        for param in &self.params {
            match param.strip_prefix("lowerdir=") {
                Some(list) => layers = split_layers(list),
                None => others.push(*param),
            }
        }
        let plain = layers
            .iter()
            .all(|layer| !layer.is_empty() && layer.len() <= MAX_PARAM_VALUE)
            && others.iter().all(|param| param.len() <= MAX_PARAM_VALUE)
            && self.flags.set & ms::I_VERSION == 0;
        if plain && api.has(Feature::Detached) && api.has(Feature::AppendLowerdir) {
            match self.append_layers(&layers, &others, target, api) {
                // Before Linux 6.7: no such parameter.
                Err(e) if matches!(e.errno(), Errno::INVAL | Errno::NOSYS) => {}
                other => return other,
            }
        }
        self.overlay_from_common_directory(layers, &others, target)
    }

    fn append_layers(
        &self,
        layers: &[String],
        others: &[&str],
        target: &str,
        api: &MountApi,
    ) -> sys::Result<()> {
        let mut params = vec![Param::Value("source", &self.mount.source)];
        params.extend(layers.iter().map(|layer| Param::Value("lowerdir+", layer)));
        params.extend(others.iter().map(|param| match param.split_once('=') {
            Some((key, value)) => Param::Value(key, value),
            None => Param::Flag(param),
        }));
        if self.flags.has(ms::RDONLY) {
            params.push(Param::Flag("ro"));
        }
        let mount = api.filesystem("overlay", &params, self.flags.for_new_mount())?;
        let onto = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .call("open", || format!("{target:?}"))?;
        api.attach(&mount, &onto)
    }

    /// Names relative to the directory that all layers are in; a working directory is needed for
    /// that, so a thread of its own goes there.
    fn overlay_from_common_directory(
        &self,
        layers: Vec<String>,
        others: &[&str],
        target: &str,
    ) -> sys::Result<()> {
        let directory = common_directory(&layers);
        let names: Vec<String> = layers
            .iter()
            .map(|layer| escape_layer(&layer[directory.len()..]))
            .collect();
        let mut data = vec![format!("lowerdir={}", names.join(":"))];
        data.extend(others.iter().map(|param| (*param).to_owned()));
        let data = data.join(",");
        if data.len() >= rustix::param::page_size() {
            let args = format!("overlay with {} layers", layers.len());
            return Err(sys::Error::new("mount", args, Errno::TOOBIG));
        }
        let (source, flags) = (self.mount.source.as_str(), self.flags.set);
        let work = move || -> sys::Result<()> {
            sys::namespace::unshare(rustix::thread::UnshareFlags::FS)?;
            rustix::process::chdir(&*directory).call("chdir", || format!("{directory:?}"))?;
            sys::mount::mount(Some(source), target, Some("overlay"), flags, Some(&data))
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("mount".into())
                .stack_size(64 * 1024)
                .spawn_scoped(scope, work)
                .call("clone", || "mount thread")?;
            let died = || sys::Error::new("clone", "mount thread", Errno::CANCELED);
            thread.join().unwrap_or_else(|_| Err(died()))
        })
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

/// Layers are separated by colons; a backslash takes the meaning from what follows it.
fn split_layers(list: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        let last = layers.len() - 1;
        match c {
            ':' => layers.push(String::new()),
            '\\' => layers[last].extend(chars.next()),
            other => layers[last].push(other),
        }
    }
    layers
}

fn escape_layer(layer: &str) -> String {
    layer.chars().fold(String::new(), |mut out, c| {
        if matches!(c, ':' | '\\' | ',') {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// The longest directory that all paths are below, with a slash at its end.
fn common_directory(paths: &[String]) -> String {
    let Some((first, rest)) = paths.split_first() else {
        return String::new();
    };
    // The last name of a path stays: a layer cannot have an empty one.
    let mut length = first
        .trim_end_matches('/')
        .rfind('/')
        .map_or(0, |at| at + 1);
    for path in rest {
        let equal = first
            .bytes()
            .zip(path.trim_end_matches('/').bytes())
            .take(length)
            .take_while(|(a, b)| a == b)
            .count();
        length = first[..equal].rfind('/').map_or(0, |at| at + 1);
    }
    first[..length].to_owned()
}

#[cfg(test)]
#[path = "rootfs_mounts_tests.rs"]
mod tests;
