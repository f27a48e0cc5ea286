// SPDX-License-Identifier: Apache-2.0
//! Containers whose cgroups systemd manages. Nearly all of it wants a machine that systemd runs.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::{fs, thread};

use containerd_client::tonic::Code;
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use protobuf::Message as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::assert_status;
use crate::container::{Builder, Container, RuncOptions};
use crate::failure::{Failure, Outcome, SOON, failed, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::systemd::{self, Ended, systemctl};
use crate::tests;

tests!["systemd";
    without_systemd_its_driver_is_refused,
    a_container_is_a_scope_with_its_limits,
    an_exec_is_in_the_scope,
    an_oom_is_told_although_the_scope_is_gone,
    stats_are_served_when_the_scope_is_gone,
    a_scope_stopped_by_an_operator_is_a_container_that_has_ended,
    a_scope_killed_by_an_operator_is_a_container_that_was_killed,
    annotations_are_properties_of_the_scope,
    an_annotation_that_systemd_does_not_know_is_refused,
    a_unit_of_somebody_else_is_left_alone,
    a_failed_unit_of_the_same_name_is_forgotten,
    containers_of_a_pod_are_scopes_of_their_own,
    many_scopes_come_and_go_at_once,
    a_killed_shim_leaves_no_scope,
    systemd_may_execute_itself_anew_while_containers_come_and_go,
];

pub(super) const MIB: i64 = 1 << 20;
const SLICE: &str = "shim-e2e.slice";
/// Where systemd has that slice.
const SLICE_PATH: &str = "/shim.slice/shim-e2e.slice";

/// The unit of a container. Other labs have the same ids at the same time.
pub(super) fn unit(lab: &Lab, id: &str) -> String {
    format!("{}-{id}.scope", lab.containerd().namespace())
}

/// Lets systemd manage the container's cgroup.
pub(super) fn scoped<'a>(lab: &Lab, builder: Builder<'a>) -> Builder<'a> {
    let options = RuncOptions {
        systemd_cgroup: true,
        ..RuncOptions::default()
    };
    let path = format!("{SLICE}:{}:{}", lab.containerd().namespace(), builder.id());
    let builder = builder.options(&options);
    builder.edit(|spec| spec["linux"]["cgroupsPath"] = path.into())
}

pub(super) fn sleeper(lab: &Lab) -> Builder<'_> {
    scoped(lab, lab.container(["sleep", "1000"]))
}

pub(super) fn with_resources<'a>(builder: Builder<'a>, resources: Value) -> Builder<'a> {
    builder.edit(|spec| {
        if let Value::Object(resources) = resources {
            for (name, value) in resources {
                spec["linux"]["resources"][name] = value;
            }
        }
    })
}

/// A file of a scope's cgroup, where there is one.
pub(super) fn read(unit: &str, names: &[&str]) -> Outcome<String> {
    let folders = systemd::folders(SLICE_PATH, unit);
    let mut paths = folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    let path = paths.find(|path| path.exists());
    let path = path.ok_or_else(|| failed(format!("{unit}: none of {names:?} in {folders:?}")))?;
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// Neither systemd nor the kernel has anything of it left.
pub(super) fn expect_no_scope(unit: &str) -> Outcome {
    systemd::wait_gone(unit)?;
    wait_until(SOON, format!("no cgroup of {unit}"), || {
        systemd::folders(SLICE_PATH, unit).is_empty().then_some(())
    })
}

/// Kills, deletes, and looks for what is left.
pub(super) fn end(lab: &Lab, container: Container<'_>) -> Outcome {
    let unit = unit(lab, container.id());
    container.kill_and_finish()?;
    expect_no_scope(&unit)
}

/// Whether cgroup v2 has all controllers.
pub(super) fn on_v2() -> bool {
    PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// How systemd is renewed beside containers. That it executes itself anew is too much for runc in the
/// tests that run at the same time.
pub(super) fn renewals(lab: &Lab) -> &'static [&'static str] {
    match lab.is_reference() {
        true => &["daemon-reload"],
        false => &["daemon-reload", "daemon-reexec"],
    }
}

fn without_systemd_its_driver_is_refused(lab: &Lab) -> Outcome {
    if systemd::is_running() {
        return Err(Failure::Exempt("systemd runs here".to_owned()));
    }
    let status = sleeper(lab).expect_create_to_fail()?;
    let text = "systemd not running on this host, cannot use systemd cgroups manager";
    assert_status(&status, Code::Unknown, text);
    Ok(())
}

fn a_container_is_a_scope_with_its_limits(lab: &Lab) -> Outcome {
    systemd::required()?;
    let builder = with_resources(
        sleeper(lab),
        json!({
            "memory": {"limit": 64 * MIB, "reservation": 32 * MIB},
            "pids": {"limit": 25},
            "cpu": {"quota": 50_500, "period": 100_000},
        }),
    );
    let container = builder.start()?;
    let unit = unit(lab, container.id());
    systemd::expect(
        &unit,
        &[
            ("ActiveState", "active"),
            ("Slice", SLICE),
            ("Delegate", "yes"),
            ("TasksMax", "25"),
            // systemd counts in whole percents.
            ("CPUQuotaPerSecUSec", "510ms"),
            ("ControlGroup", &format!("{SLICE_PATH}/{unit}")),
        ],
    )?;
    if !lab.is_reference() {
        // Gone when it has ended, however it has.
        systemd::expect(&unit, &[("CollectMode", "inactive-or-failed")])?;
    }
    if on_v2() {
        systemd::expect(&unit, &[("MemoryMax", &(64 * MIB).to_string())])?;
        systemd::expect(&unit, &[("MemoryLow", &(32 * MIB).to_string())])?;
        // Exact all the same, until systemd is reloaded: which another test may do at any time.
        let quota = read(&unit, &["cpu.max"])?;
        assert!(
            ["50500 100000", "51000 100000"].contains(&&*quota),
            "{quota}"
        );
    }
    let limit = read(&unit, &["memory.max", "memory.limit_in_bytes"])?;
    assert_eq!(limit, (64 * MIB).to_string());
    let own = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()))?;
    assert!(own.contains(&format!("{SLICE_PATH}/{unit}")), "{own}");
    end(lab, container)
}

fn an_exec_is_in_the_scope(lab: &Lab) -> Outcome {
    systemd::required()?;
    let container = sleeper(lab).start()?;
    let unit = unit(lab, container.id());
    let exec = container.exec("e", ["sleep", "1000"]).start()?;
    let pid = exec.state()?.pid;
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    assert!(own.contains(&format!("{SLICE_PATH}/{unit}")), "{own}");
    exec.kill(Signal::KILL)?;
    exec.finish_process()?;
    end(lab, container)
}

/// A container that runs out of memory at once.
fn greedy(lab: &Lab) -> Builder<'_> {
    with_resources(
        scoped(lab, lab.script("exec tail /dev/zero")),
        json!({"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}),
    )
}

/// When the last process has been killed for memory, systemd removes the cgroup with its counters as soon
/// as it comes to it. The shim hears at the same time and is nearly always first, but where there is one
/// slow processor for both and much else.
fn some_time(mut attempt: impl FnMut() -> Outcome<bool>) -> Outcome {
    for _ in 0..5 {
        if attempt()? {
            return Ok(());
        }
    }
    Err(failed("systemd was first each time".to_owned()))
}

fn an_oom_is_told_although_the_scope_is_gone(lab: &Lab) -> Outcome {
    systemd::required()?;
    some_time(|| {
        let container = greedy(lab).start()?;
        let (id, unit) = (container.id().to_owned(), unit(lab, container.id()));
        assert_eq!(container.wait()?, 137);
        // Nobody has deleted the container yet.
        expect_no_scope(&unit)?;
        let events = lab.events();
        events.wait_for(&id, "exit")?;
        container.finish()?;
        // The Go shim before 2.3 tells when it likes, or not at all.
        if lab.is_reference() {
            return Ok(true);
        }
        let names = events.names(&id);
        let ooms = names.iter().filter(|name| *name == "oom").count();
        let place = |name: &str| names.iter().position(|n| n == name);
        let ordered = place("start") < place("oom") && place("oom") < place("exit");
        assert!(ooms == 0 || (ooms == 1 && ordered), "{names:?}");
        Ok(ooms == 1)
    })
}

fn stats_are_served_when_the_scope_is_gone(lab: &Lab) -> Outcome {
    systemd::required()?;
    if lab.is_reference() || !on_v2() {
        let reason = "the Go shim has no Stats of a container that has ended".to_owned();
        return Err(Failure::Exempt(reason));
    }
    some_time(|| {
        let container = greedy(lab).start()?;
        let unit = unit(lab, container.id());
        container.wait()?;
        expect_no_scope(&unit)?;
        let data = lab.client().metrics(container.id())?;
        let metrics = Metrics::parse_from_bytes(&data.value).map_err(|e| failed(e.to_string()))?;
        container.finish()?;
        assert!(metrics.memory_events.oom_kill <= 1, "{metrics:?}");
        Ok(metrics.memory_events.oom_kill == 1)
    })
}

fn a_scope_stopped_by_an_operator_is_a_container_that_has_ended(lab: &Lab) -> Outcome {
    systemd::required()?;
    let script = "trap 'exit 3' TERM; echo ready; sleep 1000 & wait";
    let container = scoped(lab, lab.script(script)).start()?;
    let (id, unit) = (container.id().to_owned(), unit(lab, container.id()));
    container.streams.stdout()?.wait_for("ready")?;
    systemctl(&["stop", &unit])?;
    assert_eq!(container.finish()?.status, 3);
    lab.expect_events(&id, "create start exit delete")?;
    expect_no_scope(&unit)
}

fn a_scope_killed_by_an_operator_is_a_container_that_was_killed(lab: &Lab) -> Outcome {
    systemd::required()?;
    let container = sleeper(lab).start()?;
    let (id, unit) = (container.id().to_owned(), unit(lab, container.id()));
    systemctl(&["kill", "--signal", "KILL", &unit])?;
    assert_eq!(container.finish()?.status, 137);
    lab.expect_events(&id, "create start exit delete")?;
    expect_no_scope(&unit)
}

fn annotations_are_properties_of_the_scope(lab: &Lab) -> Outcome {
    systemd::required()?;
    let builder = sleeper(lab).edit(|spec| {
        spec["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "uint64 7",
            "org.systemd.property.MemoryHigh": "uint64 83886080",
            "org.systemd.property.DefaultDependencies": "true",
        });
    });
    let container = builder.start()?;
    systemd::expect(
        &unit(lab, container.id()),
        &[
            ("TimeoutStopUSec", "7s"),
            ("MemoryHigh", "83886080"),
            ("DefaultDependencies", "yes"),
        ],
    )?;
    end(lab, container)
}

fn an_annotation_that_systemd_does_not_know_is_refused(lab: &Lab) -> Outcome {
    systemd::required()?;
    let builder = sleeper(lab).edit(|spec| {
        spec["annotations"]["org.systemd.property.NoSuchThing"] = "true".into();
    });
    let unit = unit(lab, builder.id());
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "NoSuchThing");
    expect_no_scope(&unit)
}

/// A scope that is not ours, with a process in it.
fn foreign(unit: &str, properties: &[&str]) -> Outcome<(Child, Ended)> {
    let child = Command::new("systemd-run")
        .args(["--quiet", "--scope", "--unit", unit])
        .args(properties)
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()?;
    Ok((child, Ended(unit.to_owned())))
}

/// runc 1.1.5, which came with containerd 1.6, takes a unit of the same name for the one it has asked for.
fn foreign_units_are_seen(lab: &Lab) -> Outcome {
    match lab.is_reference() && !lab.generation.at_least(1, 7) {
        true => Err(Failure::Exempt(
            "this runc takes any unit for its own".to_owned(),
        )),
        false => Ok(()),
    }
}

fn a_unit_of_somebody_else_is_left_alone(lab: &Lab) -> Outcome {
    systemd::required()?;
    foreign_units_are_seen(lab)?;
    let builder = sleeper(lab);
    let unit = unit(lab, builder.id());
    let (mut theirs, ended) = foreign(&unit, &[])?;
    systemd::wait_for(&unit, "ActiveState", "active")?;
    if lab.is_reference() {
        // It stops the unit in its own clean-up.
        builder.expect_create_to_fail()?;
        drop(ended);
        theirs.wait()?;
        return Ok(());
    }
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, &unit);
    systemd::expect(&unit, &[("ActiveState", "active")])?;
    assert!(theirs.try_wait()?.is_none(), "their process was ended");
    drop(ended);
    theirs.wait()?;
    expect_no_scope(&unit)
}

fn a_failed_unit_of_the_same_name_is_forgotten(lab: &Lab) -> Outcome {
    systemd::required()?;
    foreign_units_are_seen(lab)?;
    let builder = sleeper(lab);
    let unit = unit(lab, builder.id());
    let properties = ["--property=RuntimeMaxSec=50ms"];
    let (mut theirs, _ended) = foreign(&unit, &properties)?;
    theirs.wait()?;
    systemd::wait_for(&unit, "ActiveState", "failed")?;
    let container = builder.start()?;
    systemd::expect(&unit, &[("ActiveState", "active")])?;
    end(lab, container)
}

fn containers_of_a_pod_are_scopes_of_their_own(lab: &Lab) -> Outcome {
    systemd::required()?;
    let builder = sleeper(lab);
    let pod = builder.id().to_owned();
    let sandbox = builder.in_pod(&pod).start()?;
    let member = sleeper(lab).in_pod(&pod).start()?;
    let units = [unit(lab, sandbox.id()), unit(lab, member.id())];
    for unit in &units {
        systemd::expect(unit, &[("ActiveState", "active")])?;
    }
    member.kill(Signal::KILL)?;
    member.wait()?;
    member.delete()?;
    expect_no_scope(&units[1])?;
    systemd::expect(&units[0], &[("ActiveState", "active")])?;
    sandbox.kill(Signal::KILL)?;
    sandbox.wait()?;
    sandbox.delete()?;
    member.remove()?;
    sandbox.remove()?;
    expect_no_scope(&units[0])
}

fn many_scopes_come_and_go_at_once(lab: &Lab) -> Outcome {
    systemd::required()?;
    let failures: Vec<Failure> = thread::scope(|scope| {
        let threads: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    let builder = scoped(lab, lab.script("echo here"));
                    let unit = unit(lab, builder.id());
                    assert_eq!(builder.run()?.success()?, "here\n");
                    expect_no_scope(&unit)
                })
            })
            .collect();
        let outcomes = threads.into_iter().map(|thread| thread.join());
        let outcomes = outcomes.map(|outcome| outcome.unwrap_or_else(|_| Err(failed("panicked"))));
        outcomes.filter_map(Result::err).collect()
    });
    assert!(failures.is_empty(), "{failures:?}");
    Ok(())
}

fn a_killed_shim_leaves_no_scope(lab: &Lab) -> Outcome {
    systemd::required()?;
    let container = scoped(lab, lab.script("sleep 1000 & sleep 1000")).start()?;
    let (id, unit) = (container.id().to_owned(), unit(lab, container.id()));
    host::signal(lab.shim_pid(&id)?, Signal::KILL);
    let status = lab.events().wait_for(&id, "delete")?.status;
    // runc waits for systemd as long as that takes, and containerd does not wait for runc.
    assert!(status == 137 || lab.is_reference(), "{status}");
    wait_until(SOON, "containerd to forget it", || {
        container.state().is_err().then_some(())
    })?;
    expect_no_scope(&unit)?;
    super::crash::remove(lab, container)
}

/// runc waits half a minute for a word that is lost then.
fn systemd_may_execute_itself_anew_while_containers_come_and_go(lab: &Lab) -> Outcome {
    systemd::required()?;
    if lab.is_reference() {
        let reason = "runc waits in vain when systemd executes itself anew".to_owned();
        return Err(Failure::Exempt(reason));
    }
    thread::scope(|scope| {
        let anew = scope.spawn(|| -> Outcome {
            for _ in 0..2 {
                systemctl(&["daemon-reexec"])?;
            }
            Ok(())
        });
        let mut outcome = Ok(());
        let mut lives = 0;
        while outcome.is_ok() && (lives < 3 || !anew.is_finished()) {
            let builder = scoped(lab, lab.container(["true"]));
            let unit = unit(lab, builder.id());
            outcome = builder.run().and_then(|finished| {
                finished.success()?;
                expect_no_scope(&unit)
            });
            lives += 1;
        }
        outcome.and(anew.join().unwrap_or_else(|_| Err(failed("panicked"))))
    })
}
