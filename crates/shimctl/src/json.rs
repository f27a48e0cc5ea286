// SPDX-License-Identifier: Apache-2.0
//! What `--json` prints: `docs/shimctl.md` describes it. Members are only ever added.
//!
//! Moments are RFC 3339 in UTC with nanoseconds; a moment that has not come is left out. Durations
//! are nanoseconds (`_ns`), sizes bytes.

use diagnostics::v1::{
    Container, ContainerStats, Event, LogLine, Pressure, Process, QueuesResponse, Span, SyncMessage,
};
use serde_json::{Map, Value, json};

use crate::discover::Shim;
use crate::units;

/// A moment, or nothing.
pub(crate) fn moment(unix_ns: i64) -> Value {
    match unix_ns {
        0 => Value::Null,
        ns => units::time(ns, 9).into(),
    }
}

/// Removes members without a value.
pub(crate) fn compact(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect::<Map<_, _>>(),
        ),
        other => other,
    }
}

/// What is not empty.
fn text(text: &str) -> Value {
    match text {
        "" => Value::Null,
        text => text.into(),
    }
}

/// What is not zero.
fn count(number: u64) -> Value {
    match number {
        0 => Value::Null,
        number => number.into(),
    }
}

pub(crate) fn shim(shim: &Shim) -> Value {
    compact(json!({
        "namespace": shim.namespace,
        "id": shim.id,
        "pid": if shim.pid == 0 { Value::Null } else { shim.pid.into() },
        "socket": shim.socket.as_ref().map(|path| path.display().to_string()),
    }))
}

pub(crate) fn container(container: &Container) -> Value {
    let notify = container.notify.as_ref().map(|notify| {
        compact(json!({
            "ready": notify.ready,
            "reloading": notify.reloading,
            "stopping": notify.stopping,
            "status": text(&notify.status),
            "errno": if notify.errno == 0 { Value::Null } else { notify.errno.into() },
            "main_pid": if notify.main_pid == 0 { Value::Null } else { notify.main_pid.into() },
            "last": moment(notify.last_unix_ns),
        }))
    });
    let mut labels: Vec<_> = container.labels.iter().collect();
    labels.sort();
    let labels: Map<String, Value> = labels
        .into_iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    compact(json!({
        "id": container.id,
        "bundle": text(&container.bundle),
        "created": moment(container.created_unix_ns),
        "init": container.init.as_ref().map(process),
        "execs": container.execs.iter().map(process).collect::<Vec<_>>(),
        "cgroups": container.cgroups,
        "private_pid_namespace": container.private_pid_namespace,
        "operations_running": container.operations_running,
        "operations_waiting": container.operations_waiting,
        "oom_kills": container.oom_kills,
        "restarts": container.restarts,
        "memory_pressure": container.memory_pressure.as_ref().map(|pressure| json!({
            "low": pressure.low,
            "medium": pressure.medium,
            "critical": pressure.critical,
            "source": pressure.source,
        })),
        "paused": container.paused,
        "labels": labels,
        "notify": notify,
    }))
}

fn process(process: &Process) -> Value {
    let stopped = process.state == "stopped";
    compact(json!({
        "exec": text(&process.exec),
        "state": process.state,
        "pid": if process.pid == 0 { Value::Null } else { process.pid.into() },
        "started": moment(process.started_unix_ns),
        "exit_status": stopped.then_some(process.exit_status),
        "exited": moment(process.exited_unix_ns),
        "terminal": process.terminal,
        "waiters": process.waiters,
        "draining": process.draining,
        "exit_held_back": process.exit_held_back,
        "stdin": text(&process.stdin),
        "stdout": text(&process.stdout),
        "stderr": text(&process.stderr),
    }))
}

pub(crate) fn queues(queues: &QueuesResponse) -> Value {
    let publisher = queues.publisher.as_ref().map(|publisher| {
        compact(json!({
            "pending": publisher.pending,
            "state": publisher.state,
            "published": publisher.published,
            "delivered": publisher.delivered,
            "failures": publisher.failures,
            "refused": publisher.refused,
            "oom_dropped": publisher.oom_dropped,
            "outage_ns": count(publisher.outage_ns),
            "last_failure": text(&publisher.last_failure),
            "next_topic": text(&publisher.next_topic),
        }))
    });
    let workers = queues.workers.as_ref().map(|workers| {
        json!({
            "threads": workers.threads,
            "idle": workers.idle,
            "waiting": workers.waiting,
            "most": workers.most,
        })
    });
    let rings: Vec<Value> = queues
        .rings
        .iter()
        .map(|ring| {
            json!({
                "name": ring.name,
                "items": ring.items,
                "capacity": ring.capacity,
                "total": ring.total,
            })
        })
        .collect();
    compact(json!({
        "publisher": publisher,
        "workers": workers,
        "connections": queues.connections,
        "calls": queues.calls,
        "timers": queues.timers,
        "rings": rings,
        "ending": queues.ending,
    }))
}

pub(crate) fn event(shim: &Shim, event: &Event) -> Value {
    compact(json!({
        "time": moment(event.time_unix_ns),
        "namespace": shim.namespace,
        "shim": shim.id,
        "number": event.number,
        "kind": event.kind,
        "container": text(&event.container),
        "exec": text(&event.exec),
        "pid": if event.pid == 0 { Value::Null } else { event.pid.into() },
        "exit_status": (event.kind == "exit").then_some(event.exit_status),
        "text": text(&event.text),
    }))
}

pub(crate) fn log_line(shim: &Shim, line: &LogLine) -> Value {
    compact(json!({
        "time": moment(line.time_unix_ns),
        "namespace": shim.namespace,
        "shim": shim.id,
        "number": line.number,
        "level": line.level,
        "container": text(&line.container),
        "exec": text(&line.exec),
        "message": line.message,
        "line": line.line,
    }))
}

/// `to_unix` turns the shim's monotonic clock into moments.
pub(crate) fn span(span: &Span, to_unix: impl Fn(u64) -> i64) -> Value {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    compact(json!({
        "id": span.id,
        "parent": count(span.parent),
        "name": span.name,
        "start": moment(to_unix(span.start_mono_ns)),
        "duration_ns": span.duration_ns,
        "container": text(&span.container),
        "exec": text(&span.exec),
        "failed": span.failed,
        "code": if span.code == 0 { Value::Null } else { span.code.into() },
        "trace_id": text(&hex(&span.trace_id)),
        "remote_parent": text(&hex(&span.remote_parent)),
    }))
}

pub(crate) fn sync_message(message: &SyncMessage, to_unix: impl Fn(u64) -> i64) -> Value {
    compact(json!({
        "number": message.number,
        "time": moment(to_unix(message.time_mono_ns)),
        "container": text(&message.container),
        "exec": text(&message.exec),
        "pid": if message.pid == 0 { Value::Null } else { message.pid.into() },
        "from": if message.from_init { "init" } else { "shim" },
        "kind": message.kind,
        "size": message.size,
        "descriptors": message.descriptors,
        "errno": if message.errno == 0 { Value::Null } else { message.errno.into() },
        "refused": message.refused,
    }))
}

pub(crate) fn stats(shim: &Shim, stats: &ContainerStats) -> Value {
    let cpu = stats.cpu.as_ref().map(|cpu| {
        json!({
            "usage_ns": cpu.usage_ns,
            "user_ns": cpu.user_ns,
            "system_ns": cpu.system_ns,
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_ns": cpu.throttled_ns,
        })
    });
    let memory = stats.memory.as_ref().map(|memory| {
        compact(json!({
            "usage": memory.usage,
            "peak": count(memory.peak),
            "limit": count(memory.limit),
            "swap_usage": memory.swap_usage,
            "swap_limit": count(memory.swap_limit),
            "working_set": memory.working_set,
            "cache": memory.cache,
            "anonymous": memory.anonymous,
            "kernel": memory.kernel,
            "oom_kills": memory.oom_kills,
            "max_events": memory.max_events,
            "high_events": memory.high_events,
            "major_faults": memory.major_faults,
        }))
    });
    let pids = stats
        .pids
        .as_ref()
        .map(|pids| compact(json!({"current": pids.current, "limit": count(pids.limit)})));
    let io: Vec<Value> = stats
        .io
        .iter()
        .map(|io| {
            json!({
                "device": format!("{}:{}", io.major, io.minor),
                "read_bytes": io.read_bytes,
                "written_bytes": io.written_bytes,
                "reads": io.reads,
                "writes": io.writes,
            })
        })
        .collect();
    let interfaces: Vec<Value> = stats
        .interfaces
        .iter()
        .map(|interface| {
            json!({
                "name": interface.name,
                "received_bytes": interface.received_bytes,
                "received_packets": interface.received_packets,
                "received_errors": interface.received_errors,
                "received_dropped": interface.received_dropped,
                "sent_bytes": interface.sent_bytes,
                "sent_packets": interface.sent_packets,
                "sent_errors": interface.sent_errors,
                "sent_dropped": interface.sent_dropped,
            })
        })
        .collect();
    compact(json!({
        "time": moment(stats.time_unix_ns),
        "namespace": shim.namespace,
        "shim": shim.id,
        "container": stats.container,
        "cpu": cpu,
        "memory": memory,
        "pids": pids,
        "io": io,
        "pressure": compact(json!({
            "cpu": stats.cpu_pressure.as_ref().map(pressure),
            "memory": stats.memory_pressure.as_ref().map(pressure),
            "io": stats.io_pressure.as_ref().map(pressure),
        })),
        "interfaces": interfaces,
        "error": text(&stats.error),
    }))
}

fn pressure(pressure: &Pressure) -> Value {
    let line = |line: &diagnostics::v1::PressureLine| {
        json!({
            "avg10": line.avg10,
            "avg60": line.avg60,
            "avg300": line.avg300,
            "total_ns": line.total_ns,
        })
    };
    compact(json!({
        "some": pressure.some.as_ref().map(line),
        "full": pressure.full.as_ref().map(line),
    }))
}
