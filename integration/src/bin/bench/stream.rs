// SPDX-License-Identifier: Apache-2.0
//! How fast output gets out.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio as ProcessStdio};
use std::thread::JoinHandle;
use std::time::Instant;

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

/// Reads a FIFO to its end in a thread; says how much came, and when the last of it.
fn read_all(path: &str) -> JoinHandle<std::io::Result<(u64, Instant)>> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        let (mut sum, mut last) = (0, Instant::now());
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((sum, last)),
                count => {
                    sum += count as u64;
                    last = Instant::now();
                }
            }
        }
    })
}

/// Bytes for each second, and the shim's seconds for each byte.
struct Speed {
    bytes: f64,
    shim: f64,
}

impl Speed {
    /// Of what `reader` got since `begun`.
    fn of(
        reader: JoinHandle<std::io::Result<(u64, Instant)>>,
        begun: Instant,
        wanted: u64,
    ) -> Result<Self, Error> {
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
    let reader = read_all(stdio.stdout());
    let errors = (!request.stderr.is_empty()).then(|| read_all(stdio.stderr()));
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
    let reader = read_all(stdio.stdout());
    let fifo = File::options()
        .write(true)
        .open(Path::new(stdio.stdout()))?;
    let busybox = rig.world.folder().join("image/bin/busybox");
    let mut command = Command::new(busybox);
    command.args(writer(MUCH)).stdout(ProcessStdio::from(fifo));
    let begun = Instant::now();
    integration::mock::run_to_end(&mut command)?;
    drop(command);
    let speed = Speed::of(reader, begun, MUCH)?;
    rig.world.remove(bundle);
    Ok(speed)
}

/// Through an exec's FIFO.
pub(crate) fn fifo_of_exec(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let bundle = rig.bundle(&Spec::idle())?;
    let stdio: Stdio = bundle.stdio(StdioKind::Unread)?;
    let (exec, words) = (rig.next_id(), writer(MUCH));
    let request = exec_request(&exec, &arguments(&words), Some(&stdio));
    let readers = [read_all(stdio.stdout()), read_all(stdio.stderr())];
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
    Ok(vec![speed.bytes / 1e6, speed.cost()])
}
