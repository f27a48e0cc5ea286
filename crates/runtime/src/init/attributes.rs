// SPDX-License-Identifier: Apache-2.0
//! What the process itself is to be: from umask to capabilities.

use sys::{Call, Errno};

use super::{Init, StepError, StepResult};
use crate::process;

impl Init {
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
        process::set_rlimits(&self.plan.process).map_err(|e| StepError {
            message: format!("error setting rlimits for ready process: {e}"),
            errno: Some(e.errno()),
        })
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
        StepError {
            message: format!("chdir to cwd ({cwd:?}) set in config.json failed: {reason}"),
            errno: Some(errno),
        }
    }

    pub(super) fn complete_environment(&mut self) -> StepResult {
        self.environment = process::environment(&self.plan.process);
        Ok(())
    }

    pub(super) fn drop_bounding_set(&mut self) -> StepResult {
        Ok(self.plan.process.capabilities.drop_bounding()?)
    }

    pub(super) fn become_user(&mut self) -> StepResult {
        Ok(process::become_user(&self.plan.process)?)
    }

    pub(super) fn verify_cwd(&mut self) -> StepResult {
        let outside = || StepError {
            message: "current working directory is outside of container mount namespace root -- \
                      possible container breakout detected"
                .to_owned(),
            errno: None,
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
