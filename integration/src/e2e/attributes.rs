// SPDX-License-Identifier: Apache-2.0
//! What a process is: how it is scheduled, which memory and devices it has, its ids and names.

use std::fs;
use std::path::Path;
use std::process::Command;

use containerd_client::tonic::Code;
use serde_json::{Value, json};

use super::{assert_refused, assert_status, users};
use crate::failure::{Failure, Outcome, failed};
use crate::lab::Lab;
use crate::tests;

tests!["attributes";
    the_scheduling_policy_is_that_of_the_document,
    impossible_schedulings_are_refused_by_name,
    the_io_priority_is_that_of_the_document,
    a_32_bit_personality_is_set_for_all_processes,
    memory_is_bound_to_a_node,
    an_exec_runs_on_its_processors,
    the_affinity_of_the_shim_is_not_the_containers,
    the_domainname_is_that_of_the_document,
    umask_groups_and_large_ids_are_those_of_the_document,
    of_equal_variables_the_last_counts,
    a_variable_without_a_value_is_refused,
    ambient_capabilities_survive_the_change_of_user,
    a_session_keyring_is_the_containers_own,
    a_network_device_moves_into_the_container,
    a_network_device_moves_into_a_user_namespace_too,
    a_network_device_needs_a_namespace,
    confinement_that_the_kernel_lacks_is_refused_by_name,
    an_apparmor_profile_confines,
    an_selinux_label_confines,
];

/// Not for this kernel, containerd or runc.
fn exempt(reason: &str) -> Outcome {
    Err(Failure::Exempt(reason.to_owned()))
}

fn lacking(reason: &str) -> Outcome {
    Err(Failure::Lacking(reason.to_owned()))
}

/// Is runc too old for what is newer than the specification 1.0?
fn old_runc(lab: &Lab) -> bool {
    lab.is_reference() && !lab.generation.at_least(2, 0)
}

fn set<'a>(process: Value) -> impl FnOnce(&mut Value) + 'a {
    move |spec| {
        for (key, value) in process.as_object().into_iter().flatten() {
            spec["process"][key] = value.clone();
        }
    }
}

/// Fields of `/proc/self/stat` of a process that a shell has executed in its place.
const STAT: &str = "exec cat /proc/self/stat";

fn field(stat: &str, number: usize) -> Outcome<i64> {
    let rest = stat.rsplit_once(") ").ok_or_else(|| failed(stat))?.1;
    let field = rest.split(' ').nth(number - 3);
    Ok(field.ok_or_else(|| failed(stat))?.trim().parse()?)
}

fn the_scheduling_policy_is_that_of_the_document(lab: &Lab) -> Outcome {
    if old_runc(lab) {
        return exempt("runc 1.1 ignores it");
    }
    let scheduler = json!({"scheduler": {"policy": "SCHED_BATCH", "nice": 7}});
    let container = lab.script("cat /proc/self/stat; exec sleep 1000");
    let container = container.edit(set(scheduler)).start()?;
    let stat = container.streams.stdout()?.wait_for("\n")?;
    assert_eq!((field(&stat, 41)?, field(&stat, 19)?), (3, 7), "{stat}");
    // An exec has the container's, or its own.
    let stat = container.shell("inherits", STAT)?;
    assert_eq!((field(&stat, 41)?, field(&stat, 19)?), (3, 7), "{stat}");
    let own = json!({"policy": "SCHED_IDLE"});
    let exec = container.exec("own", ["sh", "-c", STAT]);
    let exec = exec.edit(|process| process["scheduler"] = own);
    let stat = exec.run()?.success()?;
    assert_eq!(field(&stat, 41)?, 5, "{stat}");
    container.kill_and_finish()?;
    Ok(())
}

fn impossible_schedulings_are_refused_by_name(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc does not name the field");
    }
    for (process, text) in [
        (
            json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 99}}),
            "process.scheduler.nice",
        ),
        (
            json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 9}}),
            "process.ioPriority.priority",
        ),
    ] {
        let builder = lab.container(["true"]).edit(set(process));
        let status = builder.expect_create_to_fail()?;
        assert_status(&status, Code::Unknown, text);
    }
    Ok(())
}

fn the_io_priority_is_that_of_the_document(lab: &Lab) -> Outcome {
    if old_runc(lab) {
        return exempt("runc 1.1 ignores it");
    }
    let priority = json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}});
    let builder = lab.script("exec ionice -p 1").edit(set(priority));
    let output = builder.run()?.success()?;
    assert_eq!(output.trim(), "best-effort: prio 6");
    Ok(())
}

fn a_32_bit_personality_is_set_for_all_processes(lab: &Lab) -> Outcome {
    if old_runc(lab) {
        return exempt("runc 1.1 ignores it");
    }
    // Not by uname: a kernel that runs no 32-bit programs does not pretend to.
    let builder = lab.script("cat /proc/self/personality; exec sleep 1000");
    let builder = builder.edit(|spec| spec["linux"]["personality"] = json!({"domain": "LINUX32"}));
    let container = builder.start()?;
    let init = container.streams.stdout()?.wait_for("\n")?;
    let exec = container.shell("e", "cat /proc/self/personality")?;
    assert_eq!((init.trim(), exec.trim()), ("00000008", "00000008"));
    container.kill_and_finish()?;
    Ok(())
}

fn memory_is_bound_to_a_node(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc before 1.4 ignores it");
    }
    if !Path::new("/proc/self/numa_maps").exists() {
        return exempt("this kernel has no NUMA");
    }
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    let builder = lab.script("exec cat /proc/self/numa_maps");
    let builder = builder.edit(|spec| spec["linux"]["memoryPolicy"] = policy);
    let maps = builder.run()?.success()?;
    assert!(maps.contains(" bind=static:0 "), "{maps}");
    let policy = json!({"mode": "MPOL_BIND", "nodes": "1023"});
    let builder = lab.container(["true"]);
    let builder = builder.edit(|spec| spec["linux"]["memoryPolicy"] = policy);
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "unable to set memory policy");
    Ok(())
}

const PROCESSORS: &str = "exec grep Cpus_allowed_list /proc/self/status";

/// What a process that nobody has confined may run on.
fn all_processors() -> Outcome<String> {
    let status = fs::read_to_string("/proc/1/status")?;
    let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
    Ok(line.unwrap_or_default().to_owned())
}

fn an_exec_runs_on_its_processors(lab: &Lab) -> Outcome {
    if old_runc(lab) {
        return exempt("runc 1.1 ignores it");
    }
    if std::thread::available_parallelism()?.get() < 2 {
        return exempt("there is one processor only");
    }
    let affinity = json!({"execCPUAffinity": {"initial": "0-1", "final": "1"}});
    let container = lab.container(["sleep", "1000"]).edit(set(affinity));
    let container = container.start()?;
    let inherits = container.shell("inherits", PROCESSORS)?;
    assert_eq!(inherits.trim(), "Cpus_allowed_list:\t1");
    let exec = container.exec("own", ["sh", "-c", PROCESSORS]);
    let exec = exec.edit(|process| process["execCPUAffinity"] = json!({"initial": "0"}));
    assert_eq!(exec.run()?.success()?.trim(), "Cpus_allowed_list:\t0");
    // The init is not an exec.
    let own = fs::read_to_string(format!("/proc/{}/status", container.pid()))?;
    assert!(own.contains(&all_processors()?), "{own}");
    container.kill_and_finish()?;
    Ok(())
}

fn the_affinity_of_the_shim_is_not_the_containers(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc before 1.4 passes it on");
    }
    let builder = lab.container(["sleep", "1000"]);
    let pod = builder.id().to_owned();
    let first = builder.in_pod(&pod).start()?;
    let shim = lab.shim_pid(&pod)?.to_string();
    let confined = Command::new("taskset").args(["-acp", "0", &shim]).output();
    match confined {
        Ok(output) if output.status.success() => {}
        _ => return lacking("there is no taskset"),
    }
    let builder = lab.script(PROCESSORS).in_pod(&pod);
    let other = builder.start()?;
    let other_finished = other.finish_process()?;
    assert_eq!(other_finished.success()?.trim(), all_processors()?.trim());
    other.remove()?;
    let exec = first.shell("e", PROCESSORS)?;
    assert_eq!(exec.trim(), all_processors()?.trim());
    first.kill_and_finish()?;
    Ok(())
}

fn the_domainname_is_that_of_the_document(lab: &Lab) -> Outcome {
    if old_runc(lab) {
        return exempt("runc 1.1 ignores it");
    }
    let builder = lab.script("cat /proc/sys/kernel/domainname");
    let builder = builder.edit(|spec| spec["domainname"] = "example.org".into());
    assert_eq!(builder.run()?.success()?, "example.org\n");
    let builder = lab.container(["true"]).sharing("uts");
    let builder = builder.edit(|spec| spec["domainname"] = "example.org".into());
    let status = builder.expect_create_to_fail();
    if !old_runc(lab) {
        assert_status(&status?, Code::Unknown, "domainname");
    }
    Ok(())
}

fn umask_groups_and_large_ids_are_those_of_the_document(lab: &Lab) -> Outcome {
    if old_runc(lab) {
        return exempt("runc 1.1 refuses ids above 2^31");
    }
    let user = json!({"uid": 3_000_000_000u32, "gid": 4_000_000_000u32,
                      "additionalGids": [7, 3_500_000_000u32], "umask": 0o27});
    let script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status; umask; exec sleep 1000";
    let container = lab.script(script).edit(set(json!({"user": user})));
    let container = container.start()?;
    let output = container.streams.stdout()?.wait_for("0027\n")?;
    for wanted in ["Uid:\t3000000000\t", "Gid:\t4000000000\t", "7 3500000000"] {
        assert!(output.contains(wanted), "{output}");
    }
    container.kill_and_finish()?;
    let user = json!({"uid": 4_294_967_295u32, "gid": 0});
    let builder = lab.container(["true"]).edit(set(json!({"user": user})));
    if lab.is_reference() {
        return Ok(());
    }
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "process.user.uid");
    Ok(())
}

fn of_equal_variables_the_last_counts(lab: &Lab) -> Outcome {
    let env = json!({"env": [crate::spec::PATH, "A=1", "B=2", "A=3", "EMPTY="]});
    // Not through a shell, which would do it itself.
    let builder = lab.container(["env"]);
    let output = builder.edit(set(env)).run()?.success()?;
    let count = |text: &str| output.lines().filter(|line| line.starts_with(text)).count();
    assert_eq!(
        (count("A="), count("A=3"), count("B=2"), count("EMPTY=")),
        (1, 1, 1, 1)
    );
    assert_eq!(count("HOME=/root"), 1, "{output}");
    Ok(())
}

fn a_variable_without_a_value_is_refused(lab: &Lab) -> Outcome {
    let env = json!({"env": [crate::spec::PATH, "NOTHING"]});
    let builder = lab.container(["true"]).edit(set(env));
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "invalid environment variable");
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["true"]);
    let exec = exec.edit(|process| process["env"] = json!(["=x"])).add()?;
    assert_refused(exec.start(), Code::Unknown, "");
    exec.delete()?;
    container.kill_and_finish()?;
    Ok(())
}

fn ambient_capabilities_survive_the_change_of_user(lab: &Lab) -> Outcome {
    let caps = ["CAP_NET_BIND_SERVICE", "CAP_KILL"];
    let process = json!({
        "user": {"uid": 1000, "gid": 1000},
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps,
                         "inheritable": caps, "ambient": ["CAP_NET_BIND_SERVICE"]},
    });
    let builder = lab.script("exec grep ^Cap /proc/self/status");
    let output = builder.edit(set(process)).run()?.success()?;
    for wanted in [
        "CapInh:\t0000000000000420",
        "CapPrm:\t0000000000000400",
        "CapEff:\t0000000000000400",
        "CapBnd:\t0000000000000420",
        "CapAmb:\t0000000000000400",
    ] {
        assert!(output.contains(wanted), "{wanted}: {output}");
    }
    Ok(())
}

/// `/proc/keys` shows the keys that a process possesses.
fn a_session_keyring_is_the_containers_own(lab: &Lab) -> Outcome {
    if !Path::new("/proc/keys").exists() {
        return exempt("this kernel has no keys");
    }
    let builder = lab.script("exec cat /proc/keys");
    let id = builder.id().to_owned();
    let builder = builder.edit(|spec| spec["linux"]["maskedPaths"] = json!([]));
    let output = builder.run()?.success()?;
    assert!(output.contains(&format!("_ses.{id}")), "{output}");
    Ok(())
}

/// `ip`, as far as tests need it.
fn ip(args: &str) -> Result<String, Failure> {
    match Command::new("ip").args(args.split(' ')).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(Failure::Lacking(format!("ip {args}: {text}")))
        }
        Err(e) => Err(Failure::Lacking(format!("ip: {e}"))),
    }
}

fn a_network_device_moves_into_the_container(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc before 1.4 ignores it");
    }
    let builder = lab.script("ip link show eth7; ip addr show eth7; [ ! -e /sys/class/net/none ]");
    let number = std::process::id() % 10_000;
    let (device, peer) = (
        format!("e{number}{}", builder.id()),
        format!("p{number}{}", builder.id()),
    );
    ip(&format!("link add {device} type veth peer name {peer}"))?;
    ip(&format!("addr add 10.77.3.2/24 dev {device}"))?;
    let wanted = json!({ device.as_str(): {"name": "eth7"} });
    let outcome = builder
        .edit(|spec| spec["linux"]["netDevices"] = wanted)
        .run();
    // It is gone with the namespace; if not, it is still here.
    let _ = ip(&format!("link del {peer}"));
    let output = outcome?.success()?;
    assert!(output.contains("eth7") && output.contains("UP"), "{output}");
    assert!(output.contains("inet 10.77.3.2/24"), "{output}");
    let builder = lab.container(["true"]);
    let builder = builder.edit(|spec| spec["linux"]["netDevices"] = json!({"nope0": {}}));
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "moving network device nope0");
    assert_status(&status, Code::Unknown, "no such device");
    Ok(())
}

/// There the network namespace is made late, and belongs to the container's root.
fn a_network_device_moves_into_a_user_namespace_too(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc before 1.4 ignores it");
    }
    let builder = users::mapped(lab.script("exec ip addr show eth7"));
    let device = format!("u{}{}", std::process::id() % 10_000, builder.id());
    ip(&format!("link add {device} type veth peer name {device}p"))?;
    ip(&format!("addr add 10.77.4.2/24 dev {device}"))?;
    let wanted = json!({ device.as_str(): {"name": "eth7"} });
    let builder = builder.edit(|spec| spec["linux"]["netDevices"] = wanted);
    let outcome = users::start(builder).and_then(|container| container.finish());
    // It is gone with the namespace; if not, it is still here.
    let _ = ip(&format!("link del {device}p"));
    let output = outcome?.success()?;
    assert!(output.contains("inet 10.77.4.2/24"), "{output}");
    Ok(())
}

fn a_network_device_needs_a_namespace(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc before 1.4 ignores it");
    }
    let builder = lab.container(["true"]).sharing("network");
    let builder = builder.edit(|spec| spec["linux"]["netDevices"] = json!({"lo": {}}));
    let status = builder.expect_create_to_fail()?;
    let text = "unable to move network devices without a NET namespace";
    assert_status(&status, Code::Unknown, text);
    Ok(())
}

fn apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.first() == Some(&b'Y'))
}

fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn confinement_that_the_kernel_lacks_is_refused_by_name(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc fails otherwise, or not at all");
    }
    let mut fields = Vec::new();
    if !apparmor() {
        fields.push((
            "/process/apparmorProfile",
            json!("x"),
            "process.apparmorProfile",
        ));
    }
    if !selinux() {
        fields.push(("/process/selinuxLabel", json!("x"), "process.selinuxLabel"));
        fields.push(("/linux/mountLabel", json!("x"), "linux.mountLabel"));
    }
    if !Path::new("/sys/fs/resctrl/schemata").exists() {
        fields.push(("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"));
    }
    if fields.is_empty() {
        return exempt("this kernel has everything");
    }
    for (pointer, value, text) in fields {
        let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
        let builder = lab.container(["true"]).edit(|spec| {
            if let Some(parent) = spec.pointer_mut(parent) {
                parent[name] = value;
            }
        });
        let status = builder.expect_create_to_fail()?;
        assert_status(&status, Code::Unknown, text);
    }
    Ok(())
}

fn an_apparmor_profile_confines(lab: &Lab) -> Outcome {
    if !apparmor() {
        return exempt("this kernel has no AppArmor");
    }
    let profile = format!("e2e-{}", std::process::id());
    let text = format!("profile {profile} {{ file, capability, signal, deny /etc/passwd r, }}");
    let path = lab.containerd().folder().join("profile");
    fs::write(&path, text)?;
    let load = |option: &str| {
        Command::new("apparmor_parser")
            .arg(option)
            .arg(&path)
            .output()
    };
    match load("-r") {
        Ok(output) if output.status.success() => {}
        _ => return exempt("a profile cannot be loaded"),
    }
    let script = "cat /proc/self/attr/current; cat /etc/passwd && exit 9; exec sleep 1000";
    let set = |spec: &mut Value| spec["process"]["apparmorProfile"] = profile.clone().into();
    let outcome = (|| {
        let container = lab.script(script).edit(set).start()?;
        let seen = container.streams.stdout()?.wait_for("\n")?;
        assert!(seen.contains(&profile), "{seen}");
        let exec = container.shell("e", "cat /proc/self/attr/current")?;
        assert!(exec.contains(&profile), "{exec}");
        container.kill_and_finish()?;
        let missing = |spec: &mut Value| spec["process"]["apparmorProfile"] = "no-such".into();
        let status = lab
            .container(["true"])
            .edit(missing)
            .expect_create_to_fail()?;
        assert_status(&status, Code::Unknown, "apparmor");
        Ok(())
    })();
    // Whether it is unloaded or stays matters to nobody.
    let _ = load("-R");
    outcome
}

fn an_selinux_label_confines(lab: &Lab) -> Outcome {
    if !selinux() {
        return exempt("this kernel has no SELinux");
    }
    let label = "system_u:system_r:container_t:s0:c1,c2";
    let files = "system_u:object_r:container_file_t:s0:c1,c2";
    let script = "cat /proc/self/attr/current; ls -Zd /dev/shm";
    let builder = lab.script(script).edit(|spec| {
        spec["process"]["selinuxLabel"] = label.into();
        spec["linux"]["mountLabel"] = files.into();
    });
    let output = builder.run()?.success()?;
    assert!(output.contains(label) && output.contains(files), "{output}");
    Ok(())
}
