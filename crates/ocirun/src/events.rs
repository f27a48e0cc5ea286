// SPDX-License-Identifier: Apache-2.0
//! `events`: statistics and OOM kills as lines of JSON, in runc's words.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use runtime::Container;
use runtime::cgroups::oom::{Interest, Look, Oom};
use runtime::cgroups::stats::{Averages, Counter, Pressure};
use runtime::cgroups::{Mode, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value, json};
use sys::Call as _;

use crate::args::Parsed;
use crate::common::Common;
use crate::error::{Error, system};
use crate::{Code, print};

/// How often statistics are printed unless `--interval` says otherwise.
const INTERVAL: Duration = Duration::from_secs(5);
/// After the kernel has said that it is about to kill, until it has.
const KILL_TAKES: Duration = Duration::from_millis(20);

/// `events`.
pub(crate) fn events(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let interval = parsed.value("interval").map_or(Ok(INTERVAL), duration)?;
    let container = common.stored(parsed.id())?.container()?;
    if parsed.is_set("stats") {
        print_stats(&container)?;
        return Ok(0);
    }
    let mut oom = Oom::since(container.oom_kills_before);
    if let Err(e) = oom.watch(&container.cgroup) {
        log::warn!("{e}; looking from time to time");
    }
    let mut next = Instant::now() + interval;
    loop {
        let wake = wait(&container, &oom, next)?;
        if wake == Wake::Memory {
            std::thread::sleep(KILL_TAKES);
        }
        if oom.look(&container.cgroup) == Look::Killed {
            print_event("oom", &container.id, None)?;
        }
        if wake == Wake::Ended {
            return Ok(0);
        }
        if Instant::now() >= next {
            print_stats(&container)?;
            next = Instant::now() + interval;
        }
    }
}

/// Why we go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Ended,
    Memory,
    Time,
}

/// Waits for the container's end, an OOM, or the time of the next statistics.
fn wait(container: &Container, oom: &Oom, until: Instant) -> Result<Wake, Error> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    };
    let pidfd = container.pidfd.as_fd();
    let mut fds = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    if let Some((fd, interest)) = oom.poll() {
        let flags = match interest {
            Interest::Readable => PollFlags::IN,
            Interest::Priority => PollFlags::PRI,
        };
        fds.push(PollFd::from_borrowed_fd(fd, flags));
    }
    let polled = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))
        .call("poll", || "events of a container");
    system("wait for events", polled)?;
    let woken = |place: usize| fds.get(place).is_some_and(|fd| !fd.revents().is_empty());
    Ok(match (woken(0), woken(1)) {
        (true, _) => Wake::Ended,
        (false, true) => Wake::Memory,
        (false, false) => Wake::Time,
    })
}

/// Go's notation of a duration, with one unit.
fn duration(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::Usage(format!("invalid value {text:?} for flag -interval"));
    let unit = text
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(Error::Usage(
            "duration interval must be greater than 0".to_owned(),
        )),
    }
}

fn print_stats(container: &Container) -> Result<(), Error> {
    print_event("stats", &container.id, Some(document(&container.stats())))
}

fn print_event(kind: &str, id: &str, data: Option<Value>) -> Result<(), Error> {
    // The order of the keys is what people grep for.
    let (kind, id) = (json!(kind), json!(id));
    print(&match data {
        Some(data) => format!("{{\"type\":{kind},\"id\":{id},\"data\":{data}}}\n"),
        None => format!("{{\"type\":{kind},\"id\":{id}}}\n"),
    })
}

/// The statistics by runc's names.
fn document(stats: &Stats) -> Value {
    json!({
        "cpu": cpu(stats),
        "cpuset": {},
        "memory": memory(stats),
        "pids": stats.pids.as_ref().map_or(json!({}), |pids| {
            json!({"current": pids.current, "limit": finite(pids.limit)})
        }),
        "blkio": block_io(stats),
        "hugetlb": hugepages(stats),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// runc's 0 is "no limit" for processes.
fn finite(limit: u64) -> u64 {
    if limit == u64::MAX { 0 } else { limit }
}

fn cpu(stats: &Stats) -> Value {
    let cpu = &stats.cpu;
    let mut value = json!({
        "usage": {
            "total": cpu.total,
            "percpu": cpu.per_cpu,
            "kernel": cpu.kernel,
            "user": cpu.user,
        },
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": cpu.throttled,
        },
        "burst": {"burstsPeriods": cpu.bursts, "burstTime": cpu.burst},
    });
    add_pressure(&mut value, cpu.pressure.as_ref());
    value
}

fn memory(stats: &Stats) -> Value {
    let Some(memory) = &stats.memory else {
        return json!({});
    };
    let counter = |counter: &Counter| {
        json!({
            "limit": counter.limit, "usage": counter.usage, "max": counter.peak,
            "failcnt": counter.failures,
        })
    };
    let raw: BTreeMap<&str, u64> = memory.stat().collect();
    let cache = match stats.mode {
        Mode::V2 => "file",
        _ => "cache",
    };
    let mut swap = memory.swap;
    if stats.mode == Mode::V2 {
        // As on v1: memory and swap together.
        swap.usage = swap.usage.saturating_add(memory.usage.usage);
        swap.limit = swap.limit.saturating_add(memory.usage.limit);
    }
    let mut value = json!({
        "cache": memory.stat_of(cache),
        "usage": counter(&memory.usage),
        "swap": counter(&swap),
        "kernel": counter(&memory.kernel),
        "kernelTCP": counter(&memory.kernel_tcp),
        "raw": raw,
    });
    add_pressure(&mut value, memory.pressure.as_ref());
    value
}

fn block_io(stats: &Stats) -> Value {
    let list = |of: fn(&runtime::cgroups::stats::Io) -> u64| -> Vec<Value> {
        let entry = |io: &runtime::cgroups::stats::Io| {
            json!({
                "major": io.major, "minor": io.minor, "op": io.operation.name(), "value": of(io),
            })
        };
        stats.io.entries.iter().map(entry).collect()
    };
    let mut value = json!({});
    if !stats.io.entries.is_empty() {
        value = json!({
            "ioServiceBytesRecursive": list(|io| io.bytes),
            "ioServicedRecursive": list(|io| io.count),
        });
    }
    add_pressure(&mut value, stats.io.pressure.as_ref());
    value
}

fn hugepages(stats: &Stats) -> Value {
    let entries = stats.hugepages.iter().map(|pages| {
        let counters = json!({
            "usage": pages.usage, "max": pages.peak, "failcnt": pages.failures,
        });
        (pages.page_size.clone(), counters)
    });
    Value::Object(entries.collect::<Map<_, _>>())
}

/// Where the kernel measures it.
fn add_pressure(value: &mut Value, pressure: Option<&Pressure>) {
    let averages = |averages: &Averages| {
        json!({
            "avg10": averages.avg10, "avg60": averages.avg60, "avg300": averages.avg300,
            "total": averages.total,
        })
    };
    if let Some(pressure) = pressure {
        value["psi"] = json!({
            "some": pressure.some.as_ref().map(averages),
            "full": pressure.full.as_ref().map(averages),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(duration("100ms").unwrap(), Duration::from_millis(100));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        for text in ["", "5", "s", "5d", "x5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["0s", "-1s"] {
            let error = duration(text).unwrap_err().to_string();
            assert_eq!(error, "duration interval must be greater than 0", "{text}");
        }
    }

    #[test]
    fn an_unlimited_number_of_processes_is_zero() {
        assert_eq!((finite(u64::MAX), finite(7)), (0, 7));
    }
}
