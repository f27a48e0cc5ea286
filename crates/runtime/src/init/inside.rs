// SPDX-License-Identifier: Apache-2.0
//! Into a user namespace, and what is made inside it.
//!
//! The process begins as the host's root. While it is that, it enters whatever exists already and
//! opens what container root may not reach. Then it enters the user namespace, becomes root there,
//! and makes the other namespaces, so that they belong to it. A new PID namespace needs a new
//! process, which is the shim's child as well and goes on with the steps; the first one ends.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;
use sys::fork::Side;
use sys::{Call, Errno};

use super::{Descriptor, Init, StepError, StepResult};
use crate::namespaces::Kind as Namespace;
use crate::process;
use crate::sync::{Kind, Message};

/// Where the offsets of a new time namespace are written to.
const TIME_OFFSETS: &str = "/proc/self/timens_offsets";

impl Init {
    /// Opens what can only be reached as the host's root.
    pub(super) fn open_as_host(&mut self) -> StepResult {
        let Some(container) = self.container() else {
            return Ok(());
        };
        let root = container
            .user_namespace
            .then(|| container.rootfs.root.clone());
        if container.new_time_namespace && !container.time_offsets.is_empty() {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::open(TIME_OFFSETS, flags, Mode::empty())
                .call("open", || TIME_OFFSETS)?;
            self.time_offsets = Some(file);
        }
        if let Some(root) = root {
            process::raise_rlimits(&self.plan.process);
            // A working directory is taken along into a new mount namespace, and needs no search
            // permission on the way to it.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&root, flags, Mode::empty())
                .call("open", || format!("{root:?}, O_DIRECTORY|O_NOFOLLOW"))
                .map_err(|e| {
                    let message = format!("invalid rootfs {root:?}: {e}");
                    StepError::from(e).saying(message)
                })?;
            rustix::process::fchdir(&directory).call("fchdir", || format!("{root:?}"))?;
        }
        Ok(())
    }

    /// Joins the namespaces that were given by path, but a user namespace: whoever may enter the
    /// others can do it best before. One that lets only its own root in is left for later.
    pub(super) fn join_namespaces(&mut self) -> StepResult {
        let retry = self.container().is_some_and(|c| c.user_namespace);
        self.join(retry)
    }

    /// Joins what could not be joined as the host's root.
    pub(super) fn join_remaining_namespaces(&mut self) -> StepResult {
        self.join(false)
    }

    fn join(&mut self, retry: bool) -> StepResult {
        for kind in Namespace::ALL {
            if kind == Namespace::User {
                continue;
            }
            let Some(fd) = self.take(Descriptor::Namespace(kind)) else {
                continue;
            };
            let joined =
                rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind.link_type()));
            match joined {
                Err(Errno::PERM) if retry => self.fds.push((Descriptor::Namespace(kind), fd)),
                other => other.call("setns", || format!("{} namespace", kind.proc_name()))?,
            }
        }
        Ok(())
    }

    /// Enters the user namespace, a new one or one that exists, and becomes root in it.
    pub(super) fn enter_user_namespace(&mut self) -> StepResult {
        if !self.container().is_some_and(|c| c.user_namespace) {
            return Ok(());
        }
        if let Some(fd) = self.take(Descriptor::Namespace(Namespace::User)) {
            let kind = Namespace::User.link_type();
            rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind))
                .call("setns", || "user namespace")?;
        } else {
            let root = rustix::process::geteuid().is_root();
            sys::namespace::unshare(UnshareFlags::NEWUSER)?;
            if !root {
                // A shim that is not root may write our mappings only if our files in procfs are
                // not root's, and newuidmap(1) looks for that, too.
                rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
                    .call("prctl", || "PR_SET_DUMPABLE, 1")?;
            }
            self.say(Kind::Unmapped)?;
            self.hear(Kind::Mapped, 0)?;
        }
        become_container_root()
    }

    /// Makes a time namespace, sets its clocks and enters it.
    pub(super) fn make_time_namespace(&mut self) -> StepResult {
        let Some(container) = self.container().filter(|c| c.new_time_namespace) else {
            return Ok(());
        };
        sys::namespace::unshare(UnshareFlags::NEWTIME)?;
        if let Some(file) = &self.time_offsets {
            let offsets = &container.time_offsets;
            // One write: the file takes all clocks or none.
            rustix::io::write(file, offsets.as_bytes())
                .call("write", || format!("{TIME_OFFSETS}, {offsets:?}"))?;
        }
        self.time_offsets = None;
        // So far it is only our children's. Nobody is in it yet, so its clocks could be set.
        let path = "/proc/self/ns/time_for_children";
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .call("open", || path)?;
        rustix::thread::move_into_link_name_space(fd.as_fd(), Some(Namespace::Time.link_type()))
            .call("setns", || "new time namespace")?;
        Ok(())
    }

    /// Makes the namespaces that belong to the user namespace.
    pub(super) fn make_namespaces(&mut self) -> StepResult {
        let flags = self.container().map_or(0, |c| c.inside);
        if flags == 0 {
            return Ok(());
        }
        if flags & Namespace::Pid.clone_flag() == 0 {
            let flags = u32::try_from(flags).map_or(UnshareFlags::empty(), |bits| {
                UnshareFlags::from_bits_retain(bits)
            });
            return Ok(sys::namespace::unshare(flags)?);
        }
        self.let_sibling_go_on(flags)
    }

    /// Goes on as a new process, born into new namespaces of these kinds (`CLONE_NEW*`) and into
    /// those that were entered for children.
    pub(super) fn let_sibling_go_on(&self, flags: u64) -> StepResult {
        match sys::fork::sibling(flags)? {
            // Not a word before the shim has heard of us: both of us could be heard.
            Side::Copy => self.hear(Kind::Adopted, 0).map(drop),
            Side::Original(child) => {
                // The shim takes over from here. If it is gone the copy will notice, too.
                let told = self.channel.signal(Kind::Born, &[child.pidfd.as_fd()]);
                sys::exec::exit_now(i32::from(told.is_err()))
            }
        }
    }

    /// Receives the sources of mounts that the shim opens, now that it can do so in our mount
    /// namespace.
    pub(super) fn receive_sources(&mut self) -> StepResult {
        let wanted = self.container().map_or(0, |c| c.rootfs.sources().len());
        if wanted == 0 {
            return Ok(());
        }
        self.say(Kind::Placed)?;
        while self.sources.len() < wanted {
            let most = sys::packet::MAX_DESCRIPTORS - 1;
            let message = self.hear(Kind::Sources, most)?;
            self.sources.extend(message.fds);
        }
        Ok(())
    }

    pub(super) fn say(&self, kind: Kind) -> StepResult {
        let said = self.channel.signal(kind, &[]);
        said.map_err(|e| StepError::new(e.to_string()))
    }

    /// Waits for what the shim says next. If it is gone there is nobody left to tell.
    pub(super) fn hear(&self, kind: Kind, max_fds: usize) -> Result<Message, StepError> {
        match self.channel.receive(max_fds) {
            Ok(Some(message)) if message.kind == kind => Ok(message),
            Ok(Some(other)) => Err(StepError::new(format!(
                "received {:?} instead of {kind:?}",
                other.kind
            ))),
            Ok(None) => sys::exec::exit_now(1),
            Err(e) => Err(StepError::new(e.to_string())),
        }
    }
}

/// The ids of the host's root mean nobody in a user namespace: those of its own root.
pub(super) fn become_container_root() -> StepResult {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).call("setresgid", || "0")?;
    process::set_groups(&[])?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).call("setresuid", || "0")?;
    // A change of credentials may have set it to what fs.suid_dumpable says.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .call("prctl", || "PR_SET_DUMPABLE, 0")?;
    Ok(())
}
