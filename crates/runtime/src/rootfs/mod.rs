// SPDX-License-Identifier: Apache-2.0
//! The container's root file system, from plan to last mask.
//!
//! | module      | job                                                                     |
//! |-------------|-------------------------------------------------------------------------|
//! | [`plan`]    | parent: the specification, checked and resolved, as plain data           |
//! | `options`   | words like `ro`, `rprivate`, `rnosuid`                                   |
//! | `attach`    | mounts and mount points as descriptors, with fallbacks for old kernels   |
//! | `mounts`    | the mounts of the specification; `cgroup`, `copyup` for two special ones |
//! | [`sources`] | parent: sources of mounts that init may not open itself                  |
//! | `label`     | SELinux labels of new file systems                                      |
//! | `devices`   | nodes and links of `/dev`                                                |
//! | `pivot`     | the change of root                                                       |
//! | `console`   | the terminal                                                             |
//! | `after`     | read-only paths and masks                                                |
//!
//! The child calls, in this order: [`prepare`], [`Prepared::pivot`], [`Prepared::make_cwd`],
//! [`open_console`] and [`Prepared::mount_console`] if it has a terminal, [`Prepared::finalize`],
//! [`Prepared::read_only_paths`], [`Prepared::masked_paths`]. Security depends on the order: masks
//! come after everything that mounts.
//!
//! Invariants: a path below the container's root is resolved once, inside that root, and then used
//! as a descriptor. Every descriptor is close-on-exec, and all of them are closed when [`Prepared`]
//! is dropped. The caller is single-threaded, root, in mount (and PID, IPC, network, cgroup)
//! namespaces of the container. The umask is 0 from [`prepare`] on; setting the process's is the
//! caller's business.

mod after;
mod attach;
mod cgroup;
mod console;
mod copyup;
mod devices;
mod error;
mod label;
mod mounts;
pub(crate) mod options;
mod pivot;
pub mod plan;
pub mod sources;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::Call;
use sys::mount::{Attributes, Extent, MountApi, ms};

pub use self::console::open_console;
pub use self::error::{Cause, Error, PlanError};
pub use self::options::Propagation;
pub use self::plan::{CgroupView, Hierarchy, Host, IdMap, Pivot, Plan};

use self::attach::Builder;
use self::mounts::Done;
use self::pivot::HostPeers;
use self::sources::{Help, Opened};
use crate::procfs::Procfs;
use crate::resolve::Links;

/// A root file system that is being set up: mounted, and on its way to become the root.
#[derive(Debug)]
pub struct Prepared {
    builder: Builder,
    peers: HostPeers,
    pivot: Pivot,
    propagation: Option<Propagation>,
    readonly: bool,
    /// Mounts that are made read-only at the end, and where they are.
    read_only_later: Vec<(PathBuf, OwnedFd)>,
    masked_paths: Vec<PathBuf>,
    readonly_paths: Vec<PathBuf>,
}

/// Mounts everything and fills `/dev`; the host's root is still the root.
///
/// # Errors
/// The first mount, node or other step that failed.
pub fn prepare(plan: &Plan, help: Help<'_>) -> Result<Prepared, Error> {
    prepare_with(plan, help, MountApi::new())
}

/// As [`prepare`], with the mount calls that the kernel is said to have.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(plan: &Plan, help: Help<'_>, api: MountApi) -> Result<Prepared, Error> {
    let mut opened = Opened::new(plan, help)?;
    rustix::process::umask(Mode::empty());
    let peers = match plan.pivot {
        // They are the host's own.
        Pivot::Chroot => HostPeers::None,
        Pivot::PivotRoot | Pivot::MoveMount => leave_host_peers(plan)?,
    };
    let root = bind_root(plan, &api, peers)?;
    let mut builder = Builder {
        api,
        procfs: Procfs::default(),
        root,
        label: plan.mount_label.clone(),
    };
    let mut read_only_later = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        match mounts::mount(&builder, mount, opened.for_mount(index))? {
            Done::Complete => {}
            Done::ReadOnlyLater(fd) => read_only_later.push((mount.destination.clone(), fd)),
            Done::Procfs(fd) => {
                builder.procfs = Procfs::from_mount(fd)
                    .map_err(|e| Error::step("error opening procfs")(e.into()))?;
            }
        }
    }
    if plan.own_dev {
        devices::make(&builder, &plan.devices, &mut opened)?;
    }
    Ok(Prepared {
        builder,
        peers,
        pivot: plan.pivot,
        propagation: plan.propagation,
        readonly: plan.readonly,
        read_only_later,
        masked_paths: plan.masked_paths.clone(),
        readonly_paths: plan.readonly_paths.clone(),
    })
}

impl Prepared {
    /// Makes the root the root.
    ///
    /// # Errors
    /// The call that failed.
    pub fn pivot(&mut self) -> Result<(), Error> {
        match self.pivot {
            Pivot::PivotRoot => pivot::pivot_root(&self.builder, self.peers)
                .map_err(Error::step("error jailing process inside rootfs"))?,
            Pivot::MoveMount => pivot::move_root(&self.builder)
                .map_err(Error::step("error jailing process inside rootfs"))?,
            Pivot::Chroot => pivot::change_root(&self.builder.root)
                .map_err(Error::step("error jailing process inside rootfs"))?,
        }
        match self.propagation {
            Some(propagation) => self
                .builder
                .set_propagation(&self.builder.root, propagation)
                .map_err(Error::step("unable to apply root propagation flags")),
            None => Ok(()),
        }
    }

    /// The root, to resolve paths in.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.builder.root.as_fd()
    }

    /// A private procfs: the container's own if it has a whole one, else made when first used.
    pub fn procfs(&self) -> &Procfs {
        &self.builder.procfs
    }

    /// Makes the working directory if it is missing.
    ///
    /// # Errors
    /// The call that failed.
    pub fn make_cwd(&self, cwd: &Path) -> Result<(), Error> {
        self.builder
            .root()
            .mkdir_all(cwd, 0o755.into(), Links::Follow)
            .map(drop)
            .map_err(|e| failed_path("mkdir", cwd, e))
    }

    /// Mounts a terminal on `/dev/console`.
    ///
    /// # Errors
    /// The call that failed, or `/dev/console` is a symlink.
    pub fn mount_console(&self, slave: BorrowedFd<'_>) -> Result<(), Error> {
        console::mount(&self.builder, slave)
    }

    /// Makes read-only what had to be writable until now: tmpfs mounts, `/dev`, at last the root.
    ///
    /// # Errors
    /// The call that failed.
    pub fn finalize(&mut self) -> Result<(), Error> {
        for (path, mount) in self.read_only_later.drain(..) {
            after::read_only(&self.builder, &mount)
                .map_err(Error::path("error remounting read-only", &path))?;
        }
        if self.readonly {
            after::read_only(&self.builder, &self.builder.root)
                .map_err(Error::step("error making rootfs read-only"))?;
        }
        Ok(())
    }

    /// Makes the read-only paths read-only.
    ///
    /// # Errors
    /// The call that failed. A path that does not exist is none.
    pub fn read_only_paths(&self) -> Result<(), Error> {
        self.readonly_paths
            .iter()
            .try_for_each(|path| after::read_only_path(&self.builder, path))
    }

    /// Hides the masked paths.
    ///
    /// # Errors
    /// The call that failed, or `/dev/null` is not the null device. A path that does not exist is
    /// no error.
    pub fn masked_paths(&self) -> Result<(), Error> {
        after::mask(&self.builder, &self.masked_paths)
    }
}

/// Nothing that is mounted from now on may reach the host, unless `rootfsPropagation` asks for it.
fn leave_host_peers(plan: &Plan) -> Result<HostPeers, Error> {
    let propagation = match plan.propagation {
        None => Propagation {
            kind: ms::SLAVE,
            recursive: true,
        },
        // In a user namespace's the kernel has made every mount a slave already. Which it stays for
        // now: the mount that the root is on, perhaps out of reach, must not be shared.
        Some(_) if plan.user_namespace => Propagation {
            kind: ms::SLAVE,
            recursive: true,
        },
        // Nothing unbindable could be bound in the following; it becomes that at last.
        Some(p) if p.kind == ms::UNBINDABLE => Propagation {
            kind: ms::PRIVATE,
            recursive: true,
        },
        Some(propagation) => propagation,
    };
    sys::mount::mount(None, "/", None, propagation.flags(), None)
        .map_err(|e| Error::step("error changing propagation of the host's mounts")(e.into()))?;
    Ok(match propagation {
        Propagation {
            kind,
            recursive: true,
        } if kind != ms::SHARED => HostPeers::None,
        _ => HostPeers::Possible,
    })
}

/// Mounts the root directory on itself: a mount of the container's own, which can become the root.
fn bind_root(plan: &Plan, api: &MountApi, peers: HostPeers) -> Result<OwnedFd, Error> {
    let failed = |e: sys::Error| failed_path("error preparing rootfs", &plan.root, e);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Root of a user namespace may not be able to search the way there: it is there already.
    let place = if plan.user_namespace {
        Path::new(".")
    } else {
        &plan.root
    };
    let directory = rustix::fs::open(place, flags, Mode::empty())
        .call("open", || format!("{place:?}, O_DIRECTORY|O_NOFOLLOW"))
        .map_err(|e| failed_path("invalid rootfs", &plan.root, e))?;
    if peers == HostPeers::Possible {
        make_parent_private(&plan.root).map_err(failed)?;
    }
    // The host's mounts and unmounts on its side of the root do not come in, either.
    let private = Attributes::propagation(ms::PRIVATE);
    match api.clone_fd(directory.as_fd(), Extent::Tree) {
        Ok(root) => {
            api.attach(&root, &directory).map_err(failed)?;
            match api.set_attributes(&root, private, Extent::Mount) {
                Err(e) if e.errno() == Errno::NOSYS => rustix::process::fchdir(&root)
                    .call("fchdir", || "rootfs")
                    .and_then(|()| make_private(Path::new("."))),
                other => other,
            }
            .map_err(failed)?;
            Ok(root)
        }
        Err(e) if e.errno() == Errno::NOSYS => {
            let path = plan.root.to_string_lossy();
            sys::mount::mount(Some(&path), &*path, None, ms::BIND | ms::REC, None)
                .and_then(|()| make_private(&plan.root))
                .map_err(failed)?;
            rustix::fs::open(&plan.root, flags, Mode::empty())
                .call("open", || format!("{path:?}"))
                .map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
}

fn make_private(path: &Path) -> sys::Result<()> {
    sys::mount::mount(None, path, None, ms::PRIVATE, None)
}

/// The mount that the root directory is on must not be shared: `pivot_root(2)` refuses it, and the
/// bind mount would appear on the host.
fn make_parent_private(root: &Path) -> Result<(), sys::Error> {
    for path in root.ancestors() {
        match make_private(path) {
            // Not a mount point: the mount begins further up.
            Err(e) if e.errno() == Errno::INVAL => {}
            other => return other,
        }
    }
    Ok(())
}

fn failed_path(attempt: &'static str, path: &Path, source: sys::Error) -> Error {
    Error::path(attempt, path)(source.into())
}

#[cfg(test)]
pub(crate) mod tests;
