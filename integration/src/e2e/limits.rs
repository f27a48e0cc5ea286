// SPDX-License-Identifier: Apache-2.0
//! Limits as a process in the container feels them, their changes, and what is counted.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use containerd_client::tonic::Code;
use containerd_shim_protos::cgroups::metrics::Metrics as V1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as V2;
use protobuf::Message as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::container::{Builder, Container};
use crate::failure::{Failure, Outcome, SOON, failed, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::tests;

use super::assert_refused;

tests!["limits";
    memory_above_the_limit_kills,
    an_oom_is_told_before_the_exit,
    too_many_processes_cannot_be_forked,
    a_quota_holds_the_processor_back,
    a_cpuset_confines_to_its_processors,
    writes_to_a_block_device_are_held_back,
    the_smallest_limits_still_run_true,
    a_limit_too_low_for_init_says_so,
    an_update_is_felt,
    an_update_of_devices_is_felt,
    an_update_that_fails_changes_nothing,
    an_update_is_kept_in_the_state,
    a_stopped_container_cannot_be_updated,
    a_paused_container_can_be_updated_and_goes_on,
    metrics_are_the_kernels_numbers,
    cgroups_made_inside_are_removed,
];

const MIB: i64 = 1 << 20;
const BUSY: &str = "while :; do :; done";

fn with_resources<'a>(builder: Builder<'a>, name: &str, value: Value) -> Builder<'a> {
    builder.edit(|spec| spec["linux"]["resources"][name] = value)
}

fn with_memory<'a>(builder: Builder<'a>, limit: i64) -> Builder<'a> {
    with_resources(builder, "memory", json!({"limit": limit, "swap": limit}))
}

/// A file of the container's cgroup, in whichever hierarchy has it.
fn file(lab: &Lab, id: &str, names: &[&str]) -> Outcome<PathBuf> {
    let folders = host::cgroup_folders(&lab.cgroup(id));
    let mut paths = folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    paths
        .find(|path| path.exists())
        .ok_or_else(|| failed(format!("none of {names:?} for {id}")))
}

fn read(lab: &Lab, id: &str, names: &[&str]) -> Outcome<String> {
    Ok(fs::read_to_string(file(lab, id, names)?)?.trim().to_owned())
}

fn memory_above_the_limit_kills(lab: &Lab) -> Outcome {
    let builder = with_memory(lab.script("tail /dev/zero; echo $?"), 16 * MIB);
    assert_eq!(builder.run()?.success()?, "137\n");
    Ok(())
}

fn an_oom_is_told_before_the_exit(lab: &Lab) -> Outcome {
    let container = with_memory(lab.script("exec tail /dev/zero"), 16 * MIB).start()?;
    let id = container.id().to_owned();
    assert_eq!(container.finish()?.status, 137);
    // containerd itself may tell of it as well, and the Go shim tells before 2.3 when it likes.
    let events = lab.events();
    events.wait_for(&id, "oom")?;
    let names = events.names(&id);
    let place = |name: &str| names.iter().position(|n| n == name);
    let ordered = place("start") < place("oom") && place("oom") < place("exit");
    assert!(lab.is_reference() || ordered, "{names:?}");
    Ok(())
}

fn too_many_processes_cannot_be_forked(lab: &Lab) -> Outcome {
    let script = "for i in 1 2 3 4 5 6; do sleep 1000 & done; echo all; exit 0";
    let builder = with_resources(lab.script(script), "pids", json!({"limit": 4}));
    let finished = builder.run()?;
    assert_eq!(finished.stdout, "", "{finished:?}");
    assert!(finished.stderr.contains("fork"), "{finished:?}");
    Ok(())
}

fn a_quota_holds_the_processor_back(lab: &Lab) -> Outcome {
    let quota = json!({"quota": 10_000, "period": 100_000});
    let container = with_resources(lab.script(BUSY), "cpu", quota).start()?;
    let used =
        || -> Outcome<Duration> { Ok(Duration::from_nanos(numbers(lab, container.id())?.cpu)) };
    let (begun, before) = (Instant::now(), used()?);
    thread::sleep(Duration::from_millis(500));
    let (used, time) = (used()? - before, begun.elapsed());
    // A tenth, and one period more at either end.
    assert!(
        used < time / 10 + Duration::from_millis(40),
        "{used:?} in {time:?}"
    );
    container.kill_and_finish()?;
    Ok(())
}

fn a_cpuset_confines_to_its_processors(lab: &Lab) -> Outcome {
    let script = "grep Cpus_allowed_list /proc/self/status";
    let builder = with_resources(lab.script(script), "cpu", json!({"cpus": "0"}));
    assert_eq!(builder.run()?.success()?, "Cpus_allowed_list:\t0\n");
    Ok(())
}

fn writes_to_a_block_device_are_held_back(lab: &Lab) -> Outcome {
    use std::os::unix::fs::MetadataExt as _;
    let device = fs::metadata(lab.containerd().folder())?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    if !PathBuf::from(format!("/sys/dev/block/{major}:{minor}")).exists() {
        return Err(Failure::Lacking(
            "containerd's folder is not on a block device".to_owned(),
        ));
    }
    let limited = |rate: u64| -> Outcome<Duration> {
        let rates = json!([{"major": major, "minor": minor, "rate": rate}]);
        let script = "dd if=/dev/zero of=/x bs=64k count=16 oflag=direct 2>/dev/null && echo ok; \
                      rm -f /x";
        let io = json!({"throttleWriteBpsDevice": rates});
        let begun = Instant::now();
        let finished = with_resources(lab.script(script), "blockIO", io).run()?;
        if finished.stdout != "ok\n" {
            let reason = "no direct I/O below containerd's folder".to_owned();
            return Err(Failure::Lacking(reason));
        }
        Ok(begun.elapsed())
    };
    let slow = limited(2 << 20)?;
    // A megabyte at two in a second.
    assert!(slow > Duration::from_millis(400), "{slow:?}");
    Ok(())
}

fn the_smallest_limits_still_run_true(lab: &Lab) -> Outcome {
    let one = with_resources(lab.container(["true"]), "pids", json!({"limit": 1}));
    let zero = with_resources(lab.container(["true"]), "pids", json!({"limit": 0}));
    // runc needs some processes of its own.
    if !lab.is_reference() {
        one.run()?.success()?;
        zero.run()?.success()?;
        let least = json!({"limit": 512 << 10});
        with_resources(lab.container(["true"]), "memory", least)
            .run()?
            .success()?;
    }
    Ok(())
}

fn a_limit_too_low_for_init_says_so(lab: &Lab) -> Outcome {
    let builder = with_memory(lab.container(["sleep", "1000"]), 4096);
    let status = builder.expect_create_to_fail()?;
    let text = status.message();
    // v1 refuses the limit, v2 kills.
    let said = text.contains("memory limit too low")
        || text.contains("unable to set memory limit to 4096")
        || text.contains("device or resource busy");
    assert!(said, "{text}");
    Ok(())
}

fn an_update_is_felt(lab: &Lab) -> Outcome {
    let fork = "exec 2>/dev/null; i=0; while [ $i -lt 25 ]; do sleep 1000 >/dev/null & i=$((i+1)); done; echo forked";
    let script = "read x; dd if=/dev/zero of=/dev/shm/x bs=1M count=24 2>/dev/null; echo $?; cat";
    let builder = with_memory(lab.script(script).with_stdin(), 8 * MIB);
    let container = with_resources(builder, "pids", json!({"limit": 40})).start()?;
    lab.client().update(
        container.id(),
        &json!({
            "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
            "pids": {"limit": 20},
            "cpu": {"cpus": "0", "shares": 512},
        }),
    )?;
    container.streams.stdin()?.write("go\n")?;
    container.streams.stdout()?.wait_for("0\n")?;
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid()))?;
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    let refused = container.exec("e", ["sh", "-c", fork]).run()?;
    assert!(!refused.stdout.contains("forked"), "{refused:?}");
    // What was not given has stayed.
    lab.client()
        .update(container.id(), &json!({"cpu": {"shares": 256}}))?;
    let limit = read(
        lab,
        container.id(),
        &["memory.limit_in_bytes", "memory.max"],
    )?;
    assert_eq!(limit, (64 * MIB).to_string());
    let shares = read(lab, container.id(), &["cpu.shares", "cpu.weight"])?;
    assert!(shares == "256" || !shares.contains("100"), "{shares}");
    container.kill_and_finish()?;
    Ok(())
}

/// runc leaves devices alone.
fn an_update_of_devices_is_felt(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return Err(Failure::Exempt(
            "runc's update leaves devices alone".to_owned(),
        ));
    }
    let misc = fs::read_to_string("/proc/misc")?;
    if !misc.contains("237 loop-control") {
        return Err(Failure::Lacking("no loop devices".to_owned()));
    }
    let script = "mknod /loops c 10 237; while :; do \
                      (: </loops) 2>/dev/null && echo open; \
                      (: </dev/zero) || echo LOST; sleep 0.01; \
                  done";
    let container = lab.script(script).start()?;
    thread::sleep(Duration::from_millis(50));
    assert_eq!(container.streams.stdout()?.text(), "");
    let rules = |access: &str| {
        json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 237, "access": access},
        ]})
    };
    lab.client().update(container.id(), &rules("r"))?;
    container.streams.stdout()?.wait_for("open\n")?;
    lab.client().update(
        container.id(),
        &json!({"devices": [{"allow": false, "access": "rwm"}]}),
    )?;
    let opened = || -> Outcome<usize> { Ok(container.streams.stdout()?.text().lines().count()) };
    thread::sleep(Duration::from_millis(50));
    let then = opened()?;
    thread::sleep(Duration::from_millis(100));
    assert_eq!(opened()?, then, "the device can still be opened");
    let text = container.streams.stdout()?.text();
    assert!(!text.contains("LOST"), "/dev/zero was refused in between");
    container.kill_and_finish()?;
    Ok(())
}

fn an_update_that_fails_changes_nothing(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let names = ["cpu.shares", "cpu.weight"];
    let before = read(lab, container.id(), &names)?;
    let result = lab.client().update(
        container.id(),
        &json!({"cpu": {"shares": 512}, "pids": {"limit": 77}, "cpus": "x",
                "hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}),
    );
    if lab.is_reference() && result.is_ok() {
        container.kill_and_finish()?;
        return Err(Failure::Exempt(
            "runc ignores huge pages in an update".to_owned(),
        ));
    }
    assert_refused(result, Code::Unknown, "OCI runtime update failed");
    assert_eq!(read(lab, container.id(), &names)?, before);
    assert_eq!(read(lab, container.id(), &["pids.max"])?, "max");
    container.kill_and_finish()?;
    Ok(())
}

fn an_update_is_kept_in_the_state(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let memory = json!({"limit": 64 * MIB, "swap": 64 * MIB});
    lab.client()
        .update(container.id(), &json!({"memory": memory}))?;
    let namespace = lab.containerd().namespace();
    let path = format!(
        "/run/containerd/runc/{namespace}/{}/state.json",
        container.id()
    );
    let state: Value = serde_json::from_slice(&fs::read(path)?)?;
    assert_eq!(state["config"]["cgroups"]["memory"], 64 * MIB);
    container.kill_and_finish()?;
    Ok(())
}

fn a_stopped_container_cannot_be_updated(lab: &Lab) -> Outcome {
    let container = lab.container(["true"]).start()?;
    container.wait()?;
    let result = lab
        .client()
        .update(container.id(), &json!({"pids": {"limit": 7}}));
    assert_refused(result, Code::Unknown, "cannot update a stopped container");
    container.finish()?;
    Ok(())
}

fn a_paused_container_can_be_updated_and_goes_on(lab: &Lab) -> Outcome {
    let container = lab.script("while :; do sleep 0.01; done").start()?;
    let client = lab.client();
    client.pause(container.id())?;
    client.update(container.id(), &json!({"pids": {"limit": 7}}))?;
    assert_eq!(read(lab, container.id(), &["pids.max"])?, "7");
    let used = || -> Outcome<u64> { Ok(numbers(lab, container.id())?.cpu) };
    let paused = used()?;
    thread::sleep(Duration::from_millis(50));
    assert_eq!(used()?, paused);
    client.resume(container.id())?;
    wait_until(SOON, "the container to go on", || {
        used().is_ok_and(|now| now > paused).then_some(())
    })?;
    container.kill_and_finish()?;
    Ok(())
}

/// What Metrics says of a container, in bytes and nanoseconds.
#[derive(Debug, PartialEq, Eq)]
struct Numbers {
    cpu: u64,
    memory: u64,
    peak: u64,
    files: u64,
    pids: u64,
    pids_limit: u64,
}

fn numbers(lab: &Lab, id: &str) -> Outcome<Numbers> {
    let data = lab.client().metrics(id)?;
    let broken = |e: protobuf::Error| failed(e.to_string());
    if data.type_url.ends_with("io.containerd.cgroups.v1.Metrics") {
        let metrics = V1::parse_from_bytes(&data.value).map_err(broken)?;
        return Ok(Numbers {
            cpu: metrics.cpu.usage.total,
            memory: metrics.memory.usage.usage,
            peak: metrics.memory.usage.max,
            files: metrics.memory.total_cache,
            pids: metrics.pids.current,
            pids_limit: metrics.pids.limit,
        });
    }
    let metrics = V2::parse_from_bytes(&data.value).map_err(broken)?;
    Ok(Numbers {
        cpu: metrics.cpu.usage_usec * 1000,
        memory: metrics.memory.usage,
        peak: metrics.memory.max_usage,
        files: metrics.memory.file,
        pids: metrics.pids.current,
        pids_limit: metrics.pids.limit,
    })
}

/// The same for both shims, so theirs are the same as each other's. Frozen, nothing changes
/// between the looks.
fn metrics_are_the_kernels_numbers(lab: &Lab) -> Outcome {
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=16 2>/dev/null; echo ready; \
                  sleep 1000 & wait";
    let builder = with_resources(lab.script(script), "pids", json!({"limit": 9}));
    let container = builder.start()?;
    container.streams.stdout()?.wait_for("ready")?;
    lab.client().pause(container.id())?;
    let number = |names: &[&str]| -> Outcome<u64> {
        Ok(read(lab, container.id(), names)?
            .parse()
            .unwrap_or_default())
    };
    let kernels = |seen: &Numbers| -> Outcome<Numbers> {
        let stat = read(lab, container.id(), &["memory.stat"])?;
        let of = |name: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
        };
        Ok(Numbers {
            cpu: match file(lab, container.id(), &["cpuacct.usage"]) {
                Ok(_) => number(&["cpuacct.usage"])?,
                Err(_) => seen.cpu,
            },
            memory: number(&["memory.usage_in_bytes", "memory.current"])?,
            // The Go shim of older releases does not know v2's peak.
            peak: match file(lab, container.id(), &["memory.max_usage_in_bytes"]) {
                Ok(_) => number(&["memory.max_usage_in_bytes"])?,
                Err(_) => seen.peak,
            },
            files: of("total_cache ")
                .or_else(|| of("file "))
                .unwrap_or_default(),
            pids: number(&["pids.current"])?,
            pids_limit: 9,
        })
    };
    let last = std::cell::RefCell::new(None);
    // Memory of the kernel's own comes and goes for a moment.
    let same = wait_until(SOON, "equal numbers", || {
        let seen = numbers(lab, container.id()).ok()?;
        let kernels = kernels(&seen).ok()?;
        let same = seen == kernels;
        *last.borrow_mut() = Some((seen, kernels));
        same.then_some(())
    });
    assert!(same.is_ok(), "{:?}", last.borrow());
    assert!(
        last.borrow()
            .as_ref()
            .is_some_and(|(seen, _)| seen.files > 16_000_000)
    );
    lab.client().resume(container.id())?;
    container.kill_and_finish()?;
    Ok(())
}

fn cgroups_made_inside_are_removed(lab: &Lab) -> Outcome {
    let container: Container<'_> = lab.container(["sleep", "1000"]).start()?;
    for folder in host::cgroup_folders(&lab.cgroup(container.id())) {
        fs::create_dir_all(folder.join("a/b/c"))?;
    }
    container.kill(Signal::KILL)?;
    container.finish()?;
    Ok(())
}
