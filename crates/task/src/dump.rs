// SPDX-License-Identifier: Apache-2.0
//! The status dump that SIGUSR1 asks for: what the shim holds, in its log.

use crate::container::Process;
use crate::server::Server;

impl Server {
    /// Writes the state of everything to the log.
    pub(crate) fn dump(&self) {
        let (threads, jobs) = self.workers.load();
        let fds = std::fs::read_dir("/proc/self/fd")
            .map(Iterator::count)
            .unwrap_or(0);
        log::info!(
            "dump: up {:?}, {} containers, {} connections, {threads} workers, {jobs} jobs waiting, \
             {} events pending, {fds} descriptors, shutdown wanted: {}",
            self.started.elapsed(),
            self.containers.len(),
            self.connection_count(),
            self.events_pending(),
            self.shutdown_wanted,
        );
        for (id, container) in &self.containers {
            let (running, waiting) = container.operations.load();
            log::info!(
                "dump: container {id}: {}; {running} operations, {waiting} waiting; {} execs running",
                describe(&container.init),
                container.running_execs,
            );
            if let Some(notify) = &container.notify {
                log::info!("dump: container {id}: notify: {:?}", notify.relay.state());
            }
            for (exec_id, exec) in &container.execs {
                log::info!(
                    "dump: container {id}: exec {exec_id}: {}",
                    describe(&exec.process)
                );
            }
        }
    }
}

fn describe(process: &Process) -> String {
    format!(
        "{:?}, pid {}, {} waiting for its end{}{}",
        process.phase,
        process.pid,
        process.waiters.len(),
        if process.draining.is_some() {
            ", draining"
        } else {
            ""
        },
        if process.paths.terminal {
            ", terminal"
        } else {
            ""
        },
    )
}
