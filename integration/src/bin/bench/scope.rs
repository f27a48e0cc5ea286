// SPDX-License-Identifier: Apache-2.0
//! What systemd takes for a scope: alone, and as the manager of a container's cgroup.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dbus::{Address, Connection, Message, Peer, Value};
use integration::mock::{Bundle, StdioKind};

use crate::Error;
use crate::rig::{Rig, ms_since};

/// The measure's name.
pub(crate) const NAME: &str = "scope";

/// Longer than systemd takes.
const LIMIT: Duration = Duration::from_secs(30);
const SLICE: &str = "bench.slice";

const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "/run/dbus/system_bus_socket";

/// `containerd.runc.v1.Options` with nothing but `systemd_cgroup`.
const SYSTEMD_CGROUP: [u8; 2] = [9 << 3, 1];

/// A container of the pod with systemd's driver, with cgroupfs, and a scope without a container.
pub(crate) fn scope(rig: &mut Rig) -> Result<Vec<f64>, Error> {
    let scoped = container(rig, true)?;
    let plain = container(rig, false)?;
    let alone = alone(&format!("bench-{}.scope", rig.next_id()))?;
    Ok(vec![scoped, plain, alone, scoped / (plain + alone)])
}

/// As the measure "pod".
fn container(rig: &mut Rig, scoped: bool) -> Result<f64, Error> {
    let bundle = rig.workload(&["/bin/true"])?;
    let stdio = bundle.stdio(StdioKind::Output)?;
    let mut request = rig.create_request(&bundle, &stdio);
    if scoped {
        name_scope(&bundle, rig.name())?;
        let options = request.options.mut_or_insert_default();
        options.type_url = "containerd.runc.v1.Options".to_owned();
        // Messages are joined by joining their bytes.
        options.value.extend(SYSTEMD_CGROUP);
    }
    let begun = Instant::now();
    rig.pod.rpc.create(&request)?;
    rig.pod.rpc.run(bundle.id(), "")?;
    let taken = ms_since(begun);
    drop(stdio);
    rig.world.remove(bundle);
    Ok(taken)
}

fn name_scope(bundle: &Bundle, subject: &str) -> Result<(), Error> {
    let path = bundle.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    // One subject's unit is not the other's.
    let prefix = subject.replace('+', "-");
    let name = std::process::id();
    let unit = format!("{SLICE}:bench-{prefix}-{name}:{}", bundle.id());
    config["linux"]["cgroupsPath"] = unit.into();
    std::fs::write(&path, config.to_string())?;
    Ok(())
}

/// Starts a scope with a process in it, ends the process, stops the scope. Milliseconds that
/// systemd took.
fn alone(unit: &str) -> Result<f64, Error> {
    let mut child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()?;
    let started = start(unit, &child);
    end(&mut child)?;
    let begun = Instant::now();
    let stopped = stop(unit);
    let taken = started? + ms_since(begun);
    stopped?;
    Ok(taken)
}

fn start(unit: &str, child: &Child) -> Result<f64, Error> {
    let property =
        |name: &str, value: Value| Value::Struct(vec![Value::str(name), value.variant()]);
    let mut properties = vec![
        property("Slice", Value::str(SLICE)),
        property("Delegate", Value::Bool(true)),
        property("CollectMode", Value::str("inactive-or-failed")),
        property("DefaultDependencies", Value::Bool(false)),
        property("DevicePolicy", Value::str("strict")),
        property(
            "PIDs",
            Value::Array("u".to_owned(), vec![Value::U32(child.id())]),
        ),
    ];
    for name in ["Memory", "CPU", "IO", "Tasks"] {
        properties.push(property(&format!("{name}Accounting"), Value::Bool(true)));
    }
    let mut call = manager("StartTransientUnit")
        .with(Value::str(unit))
        .with(Value::str("replace"))
        .with(Value::Array("(sv)".to_owned(), properties))
        .with(Value::Array("(sa(sv))".to_owned(), Vec::new()));
    let begun = Instant::now();
    job(&mut call)?;
    Ok(ms_since(begun))
}

fn stop(unit: &str) -> Result<(), Error> {
    let mut call = manager("StopUnit")
        .with(Value::str(unit))
        .with(Value::str("replace"));
    match job(&mut call) {
        // Collected, because its process has ended.
        Err(error)
            if error
                .remote()
                .is_some_and(|name| name.ends_with("NoSuchUnit")) =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Asks systemd for a job and waits for its end.
fn job(call: &mut Message) -> dbus::Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut connection = Connection::open(&Address::Path(BUS.into()), Peer::Bus, deadline)?;
    connection.keep_signals(MANAGER, "JobRemoved");
    let bus = "org.freedesktop.DBus";
    let rule = format!("type='signal',sender='{DESTINATION}',member='JobRemoved'");
    let subscribe = Message::call(bus, "/org/freedesktop/DBus", bus, "AddMatch");
    connection.send(&mut subscribe.with(Value::Str(rule)))?;
    let answer = connection.call(call, deadline)?;
    let job = answer.text(0).unwrap_or_default();
    while let Some(signal) = connection.signal(deadline)? {
        if signal.text(1) == Some(job) {
            return Ok(());
        }
    }
    Err(dbus::Error::Closed)
}

fn manager(method: &str) -> Message {
    Message::call(DESTINATION, PATH, MANAGER, method)
}

fn end(child: &mut Child) -> Result<(), Error> {
    child.kill()?;
    // The rigs collect whatever ends below this process, and may have been faster.
    let _ = child.wait();
    Ok(())
}
