// SPDX-License-Identifier: Apache-2.0
//! What the process itself is to be: from processors to capabilities.

use sys::{Call, Errno};

use super::{Init, StepError, StepResult};
use crate::attributes::Set;
use crate::lsm;
use crate::process;
use crate::procfs::Procfs;

/// Says what was attempted, in runc's words where it has any.
fn failed(attempt: &str, source: impl Into<StepError>) -> StepError {
    let source = source.into();
    let message = format!("{attempt}: {}", source.message);
    source.saying(message)
}

impl Init {
    /// The shim may be confined to some processors, and since Linux 6.2 the kernel remembers that
    /// over the change of the cgroup. What cannot be undone is no reason to fail.
    pub(super) fn reset_affinity(&mut self) -> StepResult {
        if let Err(e) = sys::sched::set_affinity(Set::all().words()) {
            log::warn!("the process may inherit the shim's CPU affinity: {e}");
        }
        Ok(())
    }

    pub(super) fn set_initial_affinity(&mut self) -> StepResult {
        match &self.plan.process.attributes.initial_affinity {
            Some(set) => sys::sched::set_affinity(set.words())
                .map_err(|e| failed("error setting initial CPU affinity", e)),
            None => Ok(()),
        }
    }

    pub(super) fn set_final_affinity(&mut self) -> StepResult {
        let attributes = &self.plan.process.attributes;
        match (&attributes.initial_affinity, &attributes.final_affinity) {
            (_, Some(set)) => sys::sched::set_affinity(set.words())
                .map_err(|e| failed("error setting final CPU affinity", e)),
            (Some(_), None) => Ok(()),
            (None, None) => self.reset_affinity(),
        }
    }

    /// That of the container if there is one already.
    fn procfs(&self) -> &Procfs {
        self.rootfs
            .as_ref()
            .map_or(&self.procfs, |rootfs| rootfs.procfs())
    }

    pub(super) fn set_apparmor_profile(&mut self) -> StepResult {
        match &self.plan.process.attributes.apparmor {
            Some(profile) => lsm::apparmor_on_exec(self.procfs(), profile)
                .map_err(|e| failed("unable to apply apparmor profile", e)),
            None => Ok(()),
        }
    }

    pub(super) fn set_selinux_label(&mut self) -> StepResult {
        match &self.plan.process.attributes.selinux {
            Some(label) => lsm::selinux_on_exec(self.procfs(), label)
                .map_err(|e| failed("can't set process label", e)),
            None => Ok(()),
        }
    }

    pub(super) fn set_scheduler(&mut self) -> StepResult {
        let Some(scheduler) = &self.plan.process.attributes.scheduler else {
            return Ok(());
        };
        scheduler.apply().map_err(|e| {
            let hint = scheduler.hint(e.errno());
            let mut error = failed("error setting scheduler", e);
            if let Some(hint) = hint {
                error.message = format!("{} ({hint})", error.message);
            }
            error
        })
    }

    pub(super) fn set_io_priority(&mut self) -> StepResult {
        match self.plan.process.attributes.io_priority {
            Some(priority) => sys::sched::set_io_priority(priority)
                .map_err(|e| failed("failed to set io priority", e)),
            None => Ok(()),
        }
    }

    pub(super) fn set_personality(&mut self) -> StepResult {
        match self.plan.process.attributes.personality {
            Some(domain) => Ok(sys::persona::set_personality(domain)?),
            None => Ok(()),
        }
    }

    pub(super) fn set_memory_policy(&mut self) -> StepResult {
        match &self.plan.process.attributes.memory_policy {
            Some(policy) => policy
                .apply()
                .map_err(|e| failed("unable to set memory policy", e)),
            None => Ok(()),
        }
    }

    pub(super) fn set_umask(&mut self) -> StepResult {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(self.plan.process.umask));
        Ok(())
    }

    pub(super) fn set_no_new_privileges(&mut self) -> StepResult {
        if self.plan.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).call("prctl", || "PR_SET_NO_NEW_PRIVS")?;
        }
        Ok(())
    }

    pub(super) fn set_rlimits(&mut self) -> StepResult {
        process::set_rlimits(&self.plan.process)
            .map_err(|e| failed("error setting rlimits for ready process", e))
    }

    pub(super) fn change_directory(&mut self) -> StepResult {
        match rustix::process::chdir(&*self.plan.process.cwd) {
            Ok(()) => Ok(()),
            Err(Errno::ACCESS | Errno::PERM) => {
                self.cwd_deferred = true;
                Ok(())
            }
            Err(errno) => Err(self.chdir_error(errno)),
        }
    }

    pub(super) fn change_directory_again(&mut self) -> StepResult {
        if !self.cwd_deferred {
            return Ok(());
        }
        rustix::process::chdir(&*self.plan.process.cwd).map_err(|errno| self.chdir_error(errno))
    }

    pub(super) fn chdir_error(&self, errno: Errno) -> StepError {
        let cwd = &self.plan.process.cwd;
        let reason = sys::error::describe(errno);
        let message = format!("chdir to cwd ({cwd:?}) set in config.json failed: {reason}");
        StepError::from(sys::Error::new("chdir", cwd.clone(), errno)).saying(message)
    }

    pub(super) fn complete_environment(&mut self) -> StepResult {
        self.environment = process::environment(&self.plan.process);
        Ok(())
    }

    pub(super) fn drop_bounding_set(&mut self) -> StepResult {
        Ok(self.plan.process.capabilities.drop_bounding()?)
    }

    pub(super) fn become_user(&mut self) -> StepResult {
        process::become_user(&self.plan.process).map_err(|e| {
            let user = &self.plan.process;
            // The kernel's word for ids that a user namespace does not have; runc's for the same.
            let unmapped = match (e.call(), e.errno()) {
                ("setgroups", Errno::INVAL) => {
                    format!("cannot set groups {:?}: not all are mapped", user.groups)
                }
                ("setresgid", Errno::INVAL) => {
                    format!("cannot setgid to unmapped gid {}", user.gid)
                }
                ("setresuid", Errno::INVAL) => {
                    format!("cannot setuid to unmapped uid {}", user.uid)
                }
                _ => return e.into(),
            };
            StepError::from(e).saying(format!("{unmapped} in user namespace"))
        })
    }

    pub(super) fn verify_cwd(&mut self) -> StepResult {
        let outside = || {
            StepError::new(
                "current working directory is outside of container mount namespace root -- \
                 possible container breakout detected",
            )
        };
        match rustix::process::getcwd(Vec::new()) {
            Ok(cwd) if cwd.as_bytes().starts_with(b"/") => Ok(()),
            Ok(_) | Err(Errno::NOENT) => Err(outside()),
            Err(errno) => Err(sys::Error::new("getcwd", "", errno).into()),
        }
    }

    pub(super) fn apply_capabilities(&mut self) -> StepResult {
        Ok(self.plan.process.capabilities.apply()?)
    }

    pub(super) fn find_program(&mut self) -> StepResult {
        let name = self.plan.process.args.first().map_or("", String::as_str);
        self.program = process::look_path(name, &self.environment)?;
        Ok(())
    }
}
