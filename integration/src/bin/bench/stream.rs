// SPDX-License-Identifier: Apache-2.0
//! How fast output gets out.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio as ProcessStdio};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use integration::mock::{Process, Spec, Stdio, StdioKind};

use crate::Error;
use crate::measures::exec_request;
use crate::rig::{POD, Rig};

/// Through FIFOs.
const MUCH: u64 = 1 << 30;
/// Through a terminal, which is slower.
const LESS: u64 = 96 << 20;
const BLOCK: u64 = 64 << 10;

/// Writes so many zeros to stdout.
fn writer(bytes: u64) -> [String; 5] {
    [
        "dd".to_owned(),
        "if=/dev/zero".to_owned(),
        format!("bs={BLOCK}"),
        format!("count={}", bytes / BLOCK),
        "status=none".to_owned(),
    ]
}

/// When a reader has enough.
#[derive(Clone, Copy)]
enum Until {
    End,
    Sum(u64),
}

type Reader = JoinHandle<std::io::Result<(u64, Instant)>>;

/// Opens a FIFO and reads it to its end.
fn read_fifo(path: &str) -> Reader {
    let path = path.to_owned();
    std::thread::spawn(move || read(File::open(path)?, Until::End))
}

/// Reads in a thread.
fn read_open(file: File, until: Until) -> Reader {
    std::thread::spawn(move || read(file, until))
}

/// Says how much came, and when the last of it.
fn read(mut file: File, until: Until) -> std::io::Result<(u64, Instant)> {
    let mut buffer = vec![0; 1 << 20];
    let (mut sum, mut last) = (0, Instant::now());
    loop {
        let count = file.read(&mut buffer)? as u64;
        if count == 0 {
            return Ok((sum, last));
        }
        sum += count;
        last = Instant::now();
        if matches!(until, Until::Sum(enough) if sum >= enough) {
            return Ok((sum, last));
        }
    }
}

/// Bytes for each second, and the shim's seconds for each byte.
struct Speed {
    bytes: f64,
    shim: f64,
}

impl Speed {
    /// Of what `reader` got since `begun`.
    fn of(reader: Reader, begun: Instant, wanted: u64) -> Result<Self, Error> {
        let (got, last) = reader.join().map_err(|_| "the reader panicked")??;
        if got != wanted {
            return Err(format!("{got} bytes came of {wanted}").into());
        }
        #[allow(clippy::cast_precision_loss, reason = "a gigabyte or less")]
        let bytes = got as f64 / last.duration_since(begun).as_secs_f64();
        Ok(Self { bytes, shim: 0.0 })
    }

    fn spent(
        mut self,
        shim: &Process,
        before: std::time::Duration,
        wanted: u64,
    ) -> Result<Self, Error> {
        #[allow(clippy::cast_precision_loss, reason = "a gigabyte or less")]
        let wanted = wanted as f64;
        self.shim = (shim.cpu_time()?.saturating_sub(before)).as_secs_f64() / wanted;
        Ok(self)
    }

    /// Milliseconds of the shim for a gigabyte.
    fn cost(&self) -> f64 {
        self.shim * 1e12
    }
}

fn container(rig: &mut Rig, spec: &Spec, kind: StdioKind, bytes: u64) -> Result<Speed, Error> {
    let bundle = rig.bundle(spec)?;
    let stdio = bundle.stdio(StdioKind::Unread)?;
    let mut request = rig.create_request(&bundle, &stdio);
    if kind == StdioKind::Terminal {
        request.terminal = true;
        request.stderr.clear();
    }
    let reader = read_fifo(stdio.stdout());
    let errors = (!request.stderr.is_empty()).then(|| read_fifo(stdio.stderr()));
    rig.pod.rpc.create(&request)?;
    let before = rig.pod.shim.process().cpu_time()?;
    let begun = Instant::now();
    rig.pod.rpc.start(bundle.id(), "")?;
    rig.pod.rpc.finish(bundle.id(), "")?;
    let speed = Speed::of(reader, begun, bytes)?;
    let speed = speed.spent(rig.pod.shim.process(), before, bytes)?;
    if let Some(errors) = errors {
        errors.join().map_err(|_| "the reader panicked")??;
    }
    rig.world.remove(bundle);
    Ok(speed)
}

fn arguments(words: &[String; 5]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Through a container's FIFO, and what the same costs without a shim.
pub(crate) fn fifo(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let words = writer(MUCH);
    let speed = container(rig, &Spec::new(&arguments(&words)), StdioKind::Output, MUCH)?;
    let bare = bare(rig)?;
    Ok(vec![
        speed.bytes / 1e9,
        speed.bytes / bare.bytes,
        speed.cost(),
    ])
}

/// The same program writes into the same sort of FIFO, and nobody is between.
fn bare(rig: &Rig) -> Result<Speed, Error> {
    let bundle = rig.bundle(&Spec::idle())?;
    let stdio = bundle.stdio(StdioKind::Unread)?;
    let reader = read_fifo(stdio.stdout());
    let fifo = File::options()
        .write(true)
        .open(Path::new(stdio.stdout()))?;
    let begun = Instant::now();
    write_here(rig, fifo.into(), MUCH)?;
    let speed = Speed::of(reader, begun, MUCH)?;
    rig.world.remove(bundle);
    Ok(speed)
}

/// Runs the writer without a shim. It runs in the pod's cgroups: there the kernel accounts for
/// what is in a pipe, and that is slow.
fn write_here(rig: &Rig, stdout: OwnedFd, bytes: u64) -> Result<(), Error> {
    let busybox = rig.world.folder().join("image/bin/busybox");
    let mut script = String::new();
    for folder in rig.world.cgroup_folders(&rig.pod.bundle) {
        script.push_str(&format!("echo $$ >{}/cgroup.procs\n", folder.display()));
    }
    script.push_str("exec \"$0\" \"$@\"");
    let mut command = Command::new(&busybox);
    command
        .args(["sh", "-c", &script])
        .arg(&busybox)
        .args(writer(bytes));
    command.stdout(ProcessStdio::from(stdout));
    Ok(integration::mock::run_to_end(&mut command)?)
}

/// A terminal, and nobody between it and the reader.
fn bare_pty(rig: &Rig) -> Result<Speed, Error> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = File::options()
        .read(true)
        .write(true)
        .open(name.to_str()?)?;
    let reader = read_open(File::from(master), Until::Sum(LESS));
    let begun = Instant::now();
    // What is written last waits in the terminal until it is read: so a second descriptor stays.
    write_here(rig, slave.try_clone()?.into(), LESS)?;
    let speed = Speed::of(reader, begun, LESS)?;
    drop(slave);
    Ok(speed)
}

/// Through an exec's FIFO.
pub(crate) fn fifo_of_exec(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let bundle = rig.bundle(&Spec::idle())?;
    let stdio: Stdio = bundle.stdio(StdioKind::Unread)?;
    let (exec, words) = (rig.next_id(), writer(MUCH));
    let request = exec_request(&exec, &arguments(&words), Some(&stdio));
    let readers = [read_fifo(stdio.stdout()), read_fifo(stdio.stderr())];
    rig.pod.rpc.exec(&request)?;
    let before = rig.pod.shim.process().cpu_time()?;
    let begun = Instant::now();
    rig.pod.rpc.start(POD, &exec)?;
    rig.pod.rpc.finish(POD, &exec)?;
    let [reader, errors] = readers;
    let speed = Speed::of(reader, begun, MUCH)?;
    let speed = speed.spent(rig.pod.shim.process(), before, MUCH)?;
    errors.join().map_err(|_| "the reader panicked")??;
    rig.world.remove(bundle);
    Ok(vec![speed.bytes / 1e9, speed.cost()])
}

/// Through a container's terminal.
pub(crate) fn pty(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let words = writer(LESS);
    let spec = Spec::new(&arguments(&words)).terminal();
    let speed = container(rig, &spec, StdioKind::Terminal, LESS)?;
    let bare = bare_pty(rig)?;
    Ok(vec![
        speed.bytes / 1e6,
        speed.bytes / bare.bytes,
        speed.cost(),
    ])
}
