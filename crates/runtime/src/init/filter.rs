// SPDX-License-Identifier: Apache-2.0
//! Putting the container's seccomp filter on init.
//!
//! Without no_new_privs that takes `CAP_SYS_ADMIN`, so it is done while there is one, and the filter
//! must let the rest of the steps through. With no_new_privs it is done last. What init does from
//! there on: `write` and `read` at the gate, `close`, `close_range`, `execve`.

use std::os::fd::AsRawFd;

use super::{Init, StepError, StepResult};
use crate::seccomp_filter::Filter;
use crate::sync::{Channel, Kind};

impl Init {
    pub(super) fn load_filter_with_privileges(&mut self) -> StepResult {
        match &self.plan.seccomp {
            Some(filter) if !self.plan.process.no_new_privileges => load(filter, &self.channel),
            _ => Ok(()),
        }
    }

    /// The filter to be loaded last, if it is not loaded yet.
    pub(super) fn take_last_filter(&mut self) -> Option<Filter> {
        let last = self.plan.process.no_new_privileges;
        self.plan.seccomp.take().filter(|_| last)
    }
}

/// Loads a filter; hands its listener to the shim.
pub(super) fn load(filter: &Filter, channel: &Channel) -> StepResult {
    let program: Vec<_> = filter
        .instructions
        .iter()
        .map(|&(code, jt, jf, k)| sys::seccomp::Instruction { code, jt, jf, k })
        .collect();
    let loaded = sys::seccomp::load(&program, filter.flags).map_err(|e| {
        let text = format!("unable to init seccomp: error loading seccomp filter into kernel: {e}");
        StepError::from(e).saying(text)
    })?;
    let Some(listener) = loaded else {
        return Ok(());
    };
    // From here to the answer only write: it alone cannot be made to wait for the agent.
    channel
        .send(Kind::Seccomp, &listener.as_raw_fd(), &[])
        .map_err(|e| StepError::new(e.to_string()))?;
    match channel.receive_signal() {
        Ok(Some(Kind::SeccompDone)) => Ok(()),
        Ok(None) => sys::exec::exit_now(1),
        Ok(Some(kind)) => Err(StepError::new(format!(
            "received {kind:?} instead of SeccompDone"
        ))),
        Err(e) => Err(StepError::new(e.to_string())),
    }
}
