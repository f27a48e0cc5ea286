// SPDX-License-Identifier: Apache-2.0
//! Cgroups, session, keyring, namespaces: where the process belongs.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::thread::{ThreadNameSpaceType, UnshareFlags};
use sys::{Call, Errno};

use super::inside::become_container_root;
use super::{Descriptor, Init, Role, StepError, StepResult};
use crate::lsm;
use crate::namespaces;
use crate::net_devices::Moved;
use crate::process;
use crate::sync::Kind;

impl Init {
    pub(super) fn join_cgroups(&mut self) -> StepResult {
        while let Some(tasks) = self.take(Descriptor::CgroupTasks) {
            rustix::io::write(&tasks, b"0").call("write", || "cgroup tasks, \"0\"")?;
        }
        Ok(())
    }

    pub(super) fn start_session(&mut self) -> StepResult {
        rustix::process::setsid().call("setsid", || "")?;
        Ok(())
    }

    pub(super) fn join_keyring(&mut self) -> StepResult {
        if !self.plan.keyring {
            return Ok(());
        }
        let Ok(name) = CString::new(format!("_ses.{}", self.plan.id)) else {
            return Ok(());
        };
        let label = self.plan.process.attributes.selinux.as_deref();
        if label.is_some() {
            // Else the keyring has the shim's label, and the container may not use it.
            lsm::selinux_on_keys(&self.procfs, label)?;
        }
        let joined = self.make_keyring(&name);
        if label.is_some() {
            lsm::selinux_on_keys(&self.procfs, None)?;
        }
        joined
    }

    fn make_keyring(&self, name: &CStr) -> StepResult {
        match sys::keyring::join_session(name) {
            // Processes that come later may find the keyring by its name: KEY_USR_SEARCH for the
            // user, and for others where the user is another one outside of the user namespace.
            // An exec must not change it.
            Ok(key) if self.container().is_some() => {
                let inside = self.container().is_some_and(|c| c.user_namespace);
                let search = if inside { 0x8 } else { 0x0008_0000 };
                sys::keyring::add_permissions(key, u32::MAX, search)?;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(e) if e.errno() == Errno::NOSYS => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn join_container(&mut self) -> StepResult {
        let Some(init) = self.take(Descriptor::Init) else {
            return Ok(());
        };
        let root = self.take(Descriptor::Root);
        let kinds = self.to_join();
        let user = kinds.contains(&namespaces::Kind::User);
        if user {
            process::raise_rlimits(&self.plan.process);
        }
        // All at once: the kernel checks each by the credentials from before and from after.
        let all = kinds
            .iter()
            .fold(ThreadNameSpaceType::empty(), |all, kind| {
                all | kind.thread_type()
            });
        rustix::thread::move_into_thread_name_spaces(init.as_fd(), all)
            .call("setns", || "namespaces of the container's init")?;
        if let Some(root) = root {
            rustix::process::fchdir(&root).call("fchdir", || "rootfs")?;
            rustix::process::chroot(".").call("chroot", || "\".\"")?;
            rustix::process::chdir("/").call("chdir", || "\"/\"")?;
        }
        if user {
            become_container_root()?;
        }
        if kinds.contains(&namespaces::Kind::Pid) {
            // Only a new process is in it; its session is its own.
            self.let_sibling_go_on(0)?;
            self.start_session()?;
        }
        Ok(())
    }

    pub(super) fn make_cgroup_namespace(&mut self) -> StepResult {
        if self.container().is_some_and(|c| c.new_cgroup_namespace) {
            sys::namespace::unshare(UnshareFlags::NEWCGROUP)?;
        }
        Ok(())
    }

    pub(super) fn loopback_up(&mut self) -> StepResult {
        if self.container().is_some_and(|c| c.new_network_namespace) {
            sys::netdev::loopback_up()?;
        }
        Ok(())
    }

    pub(super) fn set_up_net_devices(&mut self) -> StepResult {
        if !self.container().is_some_and(|c| c.net_devices) {
            return Ok(());
        }
        self.say(Kind::NetDevices)?;
        let message = self.hear(Kind::NetDevicesMoved, 0)?;
        let moved: Vec<Moved> = message.body().map_err(|e| StepError::new(e.to_string()))?;
        for device in &moved {
            device.configure()?;
        }
        Ok(())
    }

    pub(super) fn set_hostname(&mut self) -> StepResult {
        if let Some(name) = self.container().and_then(|c| c.hostname.as_ref()) {
            rustix::system::sethostname(name.as_bytes()).call("sethostname", || name.clone())?;
        }
        Ok(())
    }

    pub(super) fn set_domainname(&mut self) -> StepResult {
        if let Some(name) = self.container().and_then(|c| c.domainname.as_ref()) {
            rustix::system::setdomainname(name.as_bytes())
                .call("setdomainname", || name.clone())?;
        }
        Ok(())
    }

    /// The namespaces of the container that an exec enters itself.
    fn to_join(&self) -> Vec<namespaces::Kind> {
        match &self.plan.role {
            Role::Exec(kinds) => kinds.clone(),
            Role::Init(_) => Vec::new(),
        }
    }
}
