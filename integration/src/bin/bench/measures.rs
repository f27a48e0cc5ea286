// SPDX-License-Identifier: Apache-2.0
//! What is measured, in which unit, and what ours may cost at most.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use integration::mock::api::{
    ExecProcessRequest, StateRequest, StateResponse, StatsRequest, StatsResponse,
};
use integration::mock::{Bundle, Spec, StdioKind};
use protobuf::well_known_types::any::Any;

use crate::rig::{POD, Rig, ms_since};
use crate::{Error, scope, stream, syscalls};

/// What ours must keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Budget {
    /// No more than this part of the reference's.
    AtMostOf(f64),
    /// At least this many times the reference's.
    AtLeastOf(f64),
    /// No more than this, whatever the reference does.
    AtMost(f64),
    /// Only shown.
    None,
}

/// One number that a measure yields.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) budget: Budget,
}

/// Something to measure.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Samples that are taken unless the command line says otherwise; of 1, always 1.
    pub(crate) runs: usize,
    pub(crate) columns: &'static [Column],
    /// Takes one sample: a number for each column.
    pub(crate) take: fn(&mut Rig) -> Result<Vec<f64>, Error>,
}

const fn column(label: &'static str, unit: &'static str, budget: Budget) -> Column {
    Column {
        label,
        unit,
        budget,
    }
}

/// All measures, in the order of the table.
pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "start",
        about: "`start` of the binary until a first call is answered",
        runs: 25,
        columns: &[column(
            "start to first answer",
            "ms",
            Budget::AtMostOf(0.30),
        )],
        take: start,
    },
    Measure {
        name: "pod",
        about: "container in a running pod, spec like CRI's: create, start, wait, delete",
        runs: 25,
        columns: &[
            column("container in a pod", "ms", Budget::AtMostOf(0.15)),
            column("  Create", "ms", Budget::None),
            column("  Start until the end", "ms", Budget::None),
            column("  Delete", "ms", Budget::None),
        ],
        take: pod,
    },
    Measure {
        name: "cri",
        about: "the same with all that CRI's default has: 30 masked and read-only paths, the \
                default seccomp profile, 15 mounts",
        runs: 25,
        columns: &[
            column(
                "container with CRI's full spec",
                "ms",
                Budget::AtMostOf(0.15),
            ),
            column("  Create", "ms", Budget::None),
            column("  Start until the end", "ms", Budget::None),
            column("  Delete", "ms", Budget::None),
        ],
        take: cri,
    },
    Measure {
        name: "calls",
        about: "system calls of Create, with CRI's full spec, by shim, runtime and init (strace)",
        runs: 5,
        columns: &[column("system calls of Create", "", Budget::None)],
        take: syscalls::create,
    },
    Measure {
        name: "calls-exec",
        about: "system calls of an exec of /bin/true, until it has ended (strace)",
        runs: 5,
        columns: &[column("system calls of an exec", "", Budget::None)],
        take: syscalls::exec,
    },
    Measure {
        name: "life",
        about: "whole life of a fresh shim that runs /bin/true",
        runs: 20,
        columns: &[
            column("fresh shim, whole life", "ms", Budget::AtMostOf(0.15)),
            column("  `start` to first answer", "ms", Budget::None),
            column("  Create", "ms", Budget::None),
            column("  Start until the end", "ms", Budget::None),
            column("  Delete", "ms", Budget::None),
            column("  Shutdown and `delete`", "ms", Budget::None),
        ],
        take: life,
    },
    Measure {
        name: "exec",
        about: "exec of /bin/true: exec, start, wait, delete",
        runs: 40,
        columns: &[
            column("exec of /bin/true", "ms", Budget::AtMostOf(0.12)),
            column("  Exec", "ms", Budget::None),
            column("  Start until the end", "ms", Budget::None),
            column("  Delete", "ms", Budget::None),
        ],
        take: exec,
    },
    Measure {
        name: "state",
        about: "a hundred State calls after each other",
        runs: 20,
        columns: &[column("State", "µs", Budget::None)],
        take: state,
    },
    Measure {
        name: "stats",
        about: "a hundred Stats calls after each other",
        runs: 20,
        columns: &[column("Stats", "µs", Budget::AtMost(300.0))],
        take: stats,
    },
    Measure {
        name: "memory",
        about: "eight idle shims with a container each: memory and threads of one",
        runs: 3,
        columns: &[
            column("private memory, idle", "kB", Budget::AtMostOf(0.25)),
            column("proportional memory, idle", "kB", Budget::None),
            column("resident set, idle", "kB", Budget::AtMostOf(0.30)),
            column("threads, idle", "", Budget::AtMost(1.0)),
        ],
        take: memory,
    },
    Measure {
        name: "worked",
        about: "the pod's shim after a hundred execs and twenty containers: what it keeps of them",
        runs: 3,
        columns: &[column("private memory, after work", "kB", Budget::None)],
        take: worked,
    },
    Measure {
        name: "parallel",
        about: "40 whole lives, 8 at once",
        runs: 4,
        columns: &[column("40 lives, 8 at once", "1/s", Budget::AtLeastOf(6.0))],
        take: parallel,
    },
    Measure {
        name: "starts",
        about: "40 starts to first answer, 8 at once",
        runs: 4,
        columns: &[column("40 starts, 8 at once", "1/s", Budget::None)],
        take: starts,
    },
    Measure {
        name: "fifo",
        about: "stdout of a container through its FIFO, and what the shim spends on it",
        runs: 5,
        columns: &[
            column("stdout through FIFO", "GB/s", Budget::AtLeastOf(1.0)),
            column("  against no shim at all", "×", Budget::None),
            column("  shim's CPU time for 1 GB", "ms", Budget::AtMost(5.0)),
        ],
        take: stream::fifo,
    },
    Measure {
        name: "fifo-exec",
        about: "the same for an exec",
        runs: 5,
        columns: &[
            column("stdout of an exec", "GB/s", Budget::None),
            column("  shim's CPU time for 1 GB", "ms", Budget::None),
        ],
        take: stream::fifo_of_exec,
    },
    Measure {
        name: "pty",
        about: "stdout of a container through its terminal",
        runs: 5,
        columns: &[
            column("stdout through PTY", "MB/s", Budget::AtLeastOf(2.0)),
            column("  against no shim at all", "×", Budget::None),
            column("  shim's CPU time for 1 GB", "ms", Budget::None),
        ],
        take: stream::pty,
    },
    Measure {
        name: "limit",
        about: "smallest memory limit that runs /bin/true",
        runs: 1,
        columns: &[column(
            "smallest memory limit",
            "KiB",
            Budget::AtMost(512.0),
        )],
        take: limit,
    },
    Measure {
        name: scope::NAME,
        about: "container in a pod with systemd's driver; where systemd runs",
        runs: 25,
        columns: &[
            column("container in a pod, a scope", "ms", Budget::None),
            column("  the same with cgroupfs", "ms", Budget::None),
            column("  systemd alone, for a scope", "ms", Budget::None),
            column("  the first, by the sum of both", "×", Budget::AtMost(1.0)),
        ],
        take: scope::scope,
    },
];

fn start(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let bundle = rig.bundle(&Spec::idle())?;
    let begun = Instant::now();
    let mut shim = rig.start(&bundle)?;
    let taken = ms_since(begun);
    let process = shim.process()?;
    shim.shutdown(bundle.id());
    process.wait_end(Duration::from_secs(10))?;
    rig.world.remove(bundle);
    Ok(vec![taken])
}

fn pod(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let bundle = rig.workload(&["/bin/true"])?;
    run_in_pod(rig, bundle)
}

fn cri(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let bundle = rig.cri_workload(&["/bin/true"])?;
    run_in_pod(rig, bundle)
}

fn run_in_pod(rig: &mut Rig, bundle: Bundle) -> Result<Vec<f64>, Error> {
    let stdio = bundle.stdio(StdioKind::Output)?;
    let request = rig.create_request(&bundle, &stdio);
    let begun = Instant::now();
    rig.pod.rpc.create(&request)?;
    let created = ms_since(begun);
    let (ran, deleted) = rig.pod.rpc.run(bundle.id(), "")?;
    let taken = ms_since(begun);
    drop(stdio);
    rig.world.remove(bundle);
    Ok(vec![taken, created, ran, deleted])
}

fn life(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    one_life(rig)
}

/// From `start` to the end of `delete`, as the daemon runs it after Shutdown. The whole, and its
/// parts.
fn one_life(rig: &Rig) -> Result<Vec<f64>, Error> {
    let bundle = rig.bundle(&Spec::new(&["/bin/true"]))?;
    let stdio = bundle.stdio(StdioKind::Output)?;
    let request = rig.create_request(&bundle, &stdio);
    let begun = Instant::now();
    let mut shim = rig.start(&bundle)?;
    let started = ms_since(begun);
    let process = shim.process()?;
    shim.rpc.create(&request)?;
    let created = ms_since(begun) - started;
    let (ran, deleted) = shim.rpc.run(bundle.id(), "")?;
    let last = Instant::now();
    shim.shutdown(bundle.id());
    rig.world.delete(&bundle)?;
    let (taken, last) = (ms_since(begun), ms_since(last));
    process.wait_end(Duration::from_secs(10))?;
    rig.world.remove(bundle);
    Ok(vec![taken, started, created, ran, deleted, last])
}

fn exec(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let exec = rig.next_id();
    let request = exec_request(&exec, &["/bin/true"], None);
    let begun = Instant::now();
    rig.pod.rpc.exec(&request)?;
    let added = ms_since(begun);
    let (ran, deleted) = rig.pod.rpc.run(POD, &exec)?;
    Ok(vec![ms_since(begun), added, ran, deleted])
}

/// A further process of the sandbox. `stdout` is a FIFO's path.
pub(crate) fn exec_request(
    exec: &str,
    arguments: &[&str],
    stdout: Option<&integration::mock::Stdio>,
) -> ExecProcessRequest {
    let mut spec = Any::new();
    spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned();
    spec.value = Spec::process(arguments).to_string().into_bytes();
    ExecProcessRequest {
        id: POD.to_owned(),
        exec_id: exec.to_owned(),
        stdout: stdout
            .map(|stdio| stdio.stdout().to_owned())
            .unwrap_or_default(),
        stderr: stdout
            .map(|stdio| stdio.stderr().to_owned())
            .unwrap_or_default(),
        spec: Some(spec).into(),
        ..Default::default()
    }
}

fn state(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let request = StateRequest {
        id: POD.to_owned(),
        ..Default::default()
    };
    let begun = Instant::now();
    for _ in 0..100 {
        rig.pod.rpc.call::<StateResponse>("State", &request)?;
    }
    Ok(vec![ms_since(begun) * 10.0])
}

fn stats(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let request = StatsRequest {
        id: POD.to_owned(),
        ..Default::default()
    };
    let begun = Instant::now();
    for _ in 0..100 {
        rig.pod.rpc.call::<StatsResponse>("Stats", &request)?;
    }
    Ok(vec![ms_since(begun) * 10.0])
}

/// Several at once, so that what they share is not counted as private.
fn memory(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    const COUNT: u32 = 8;
    let mut shims = Vec::new();
    for _ in 0..COUNT {
        let bundle = rig.bundle(&Spec::idle())?;
        let shim = rig.world.start(&bundle)?;
        let container = shim.create(&bundle, StdioKind::Output)?;
        container.start()?;
        shims.push((bundle, shim, container));
    }
    std::thread::sleep(Duration::from_secs(1));
    // The pod's shim is one more.
    let sum = rig.world.shim_usage()?;
    let each = f64::from(COUNT + 1);
    for (bundle, shim, container) in shims {
        container.end()?;
        shim.shutdown(bundle.id())?;
        rig.world.remove(bundle);
    }
    #[allow(clippy::cast_precision_loss, reason = "kilobytes of a process")]
    let of = |value: u64| value as f64 / each;
    let threads = u64::try_from(sum.threads)?;
    Ok(vec![of(sum.private), of(sum.pss), of(sum.rss), of(threads)])
}

/// What a shim keeps of what it has done: its rings are full then.
fn worked(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    for _ in 0..100 {
        exec(rig)?;
    }
    for _ in 0..20 {
        pod(rig)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    #[allow(clippy::cast_precision_loss, reason = "kilobytes of a process")]
    let private = rig.pod.shim.process().usage()?.private as f64;
    Ok(vec![private])
}

fn parallel(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    at_once(rig, |rig| one_life(rig).map(drop))
}

fn starts(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    at_once(rig, |rig| {
        let bundle = rig.bundle(&Spec::idle())?;
        let mut shim = rig.start(&bundle)?;
        shim.shutdown(bundle.id());
        Ok(())
    })
}

/// Forty times, by eight threads. Returns how many in a second.
fn at_once(rig: &Rig, work: impl Fn(&Rig) -> Result<(), Error> + Sync) -> Result<Vec<f64>, Error> {
    const THREADS: usize = 8;
    const EACH: usize = 5;
    let begun = Instant::now();
    let outcome: Result<Vec<()>, String> = std::thread::scope(|scope| {
        let run = || {
            (0..EACH)
                .try_for_each(|_| work(rig))
                .map_err(|error| error.to_string())
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        };
        threads.into_iter().map(join).collect()
    });
    outcome?;
    #[allow(clippy::cast_precision_loss, reason = "forty")]
    let count = (THREADS * EACH) as f64;
    Ok(vec![count / begun.elapsed().as_secs_f64()])
}

/// From small to large, until one works.
fn limit(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let mut last = None;
    for kib in [
        256_u32, 512, 1024, 2048, 4096, 6144, 8192, 12288, 16384, 32768,
    ] {
        let bytes = u64::from(kib) * 1024;
        let spec = Spec::new(&["/bin/true"]).with(
            "/linux/resources/memory",
            serde_json::json!({"limit": bytes}),
        );
        let bundle = rig.bundle(&spec)?;
        let stdio = bundle.stdio(StdioKind::Null)?;
        let request = rig.create_request(&bundle, &stdio);
        let rpc = &mut rig.pod.rpc;
        let created = rpc.create(&request);
        if created.is_ok() && !is_limited(&rig.world.cgroup_folders(&bundle), bytes) {
            return Err("the limit is not in force".into());
        }
        match created.and_then(|_| rig.pod.rpc.run(bundle.id(), "")) {
            Ok(_) => return Ok(vec![f64::from(kib)]),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| "no limit was tried".into()))
}

/// Does one of these cgroups have this memory limit, as v1 or v2 tell it?
fn is_limited(cgroups: &[PathBuf], bytes: u64) -> bool {
    let files = ["memory.limit_in_bytes", "memory.max"];
    let limits = cgroups
        .iter()
        .flat_map(|cgroup| files.map(|file| cgroup.join(file)));
    let mut limits = limits.filter_map(|file| std::fs::read_to_string(file).ok());
    limits.any(|limit| limit.trim() == bytes.to_string())
}
