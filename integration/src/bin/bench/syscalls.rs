// SPDX-License-Identifier: Apache-2.0
//! How many system calls Create and an exec take: those of the shim, of the runtime and of the
//! process itself up to the answer, as `strace -f -c` counts them when it is attached to the shim.
//!
//! Not counted is what the daemon does, and what the program does later. An exec counts from the
//! call Exec to the end of `/bin/true`, with the dozen calls of that program.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use integration::mock::StdioKind;

use crate::Error;
use crate::measures::exec_request;
use crate::rig::{POD, Rig};

/// Calls of the shim and of all that it starts, until this is stopped.
struct Counter {
    strace: Child,
    summary: tempfile::NamedTempFile,
}

impl Counter {
    /// Attaches to all threads of a process.
    fn attach(pid: u32) -> Result<Self, Error> {
        let summary = tempfile::NamedTempFile::new()?;
        let mut strace = Command::new("strace")
            .args(["-f", "-c", "-U", "name,calls", "-o"])
            .arg(summary.path())
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let said = strace.stderr.take().ok_or("no standard error")?;
        let mut lines = BufReader::new(said).lines();
        match lines.next().transpose()? {
            Some(line) if line.contains("attached") => {}
            other => return Err(format!("strace: {}", other.unwrap_or_default()).into()),
        }
        // What it says of children that come and go is of no use, but it must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { strace, summary })
    }

    /// Detaches; how many calls there were.
    fn stop(mut self) -> Result<f64, Error> {
        let pid = i32::try_from(self.strace.id())?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        self.strace.wait()?;
        let table = std::fs::read_to_string(self.summary.path())?;
        let total = table.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("total")).then(|| words.next()?.parse().ok())?
        });
        total.ok_or_else(|| format!("strace counted nothing: {table}").into())
    }
}

/// The call Create, for a container like CRI's.
pub(crate) fn create(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let bundle = rig.cri_workload(&["/bin/true"])?;
    let stdio = bundle.stdio(StdioKind::Output)?;
    let request = rig.create_request(&bundle, &stdio);
    let counter = Counter::attach(rig.pod.shim.pid())?;
    let created = rig.pod.rpc.create(&request);
    let calls = counter.stop()?;
    created?;
    rig.pod.rpc.run(bundle.id(), "")?;
    drop(stdio);
    rig.world.remove(bundle);
    Ok(vec![calls])
}

/// The calls Exec and Start, until the program has ended.
pub(crate) fn exec(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let exec = rig.next_id();
    let request = exec_request(&exec, &["/bin/true"], None);
    let counter = Counter::attach(rig.pod.shim.pid())?;
    let ran = rig
        .pod
        .rpc
        .exec(&request)
        .and_then(|()| rig.pod.rpc.run(POD, &exec));
    let calls = counter.stop()?;
    ran?;
    Ok(vec![calls])
}
