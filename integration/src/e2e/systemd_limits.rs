// SPDX-License-Identifier: Apache-2.0
//! Limits, devices and pauses of containers whose cgroups systemd manages: felt, changed, and kept when
//! systemd is reloaded or changes something itself.

use std::fs;

use containerd_client::tonic::Code;
use serde_json::{Value, json};

use super::assert_refused;
use super::systemd::{
    MIB, end, expect_no_scope, on_v2, read, renewals, scoped, sleeper, unit, with_resources,
};
use crate::failure::{Failure, Outcome, SOON, wait_until};
use crate::lab::Lab;
use crate::systemd::{self, systemctl};
use crate::tests;

tests!["systemd_limits";
    limits_of_a_scope_are_felt,
    devices_stay_as_they_are_when_systemd_is_reloaded,
    devices_of_a_scope_can_be_updated,
    an_update_is_systemds_as_well,
    what_an_operator_sets_does_not_undo_an_update,
    an_update_that_systemd_refuses_changes_nothing,
    a_paused_scope_stays_paused_and_goes_on,
];

fn limits_of_a_scope_are_felt(lab: &Lab) -> Outcome {
    systemd::required()?;
    let script = "tail /dev/zero; echo $?; grep Cpus_allowed_list /proc/self/status; \
                  (for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo forked; kill 0) 2>/dev/null";
    let builder = with_resources(
        scoped(lab, lab.script(script)),
        json!({
            "memory": {"limit": 16 * MIB, "swap": 16 * MIB},
            "pids": {"limit": 5},
            "cpu": {"cpus": "0"},
        }),
    );
    let unit = unit(lab, builder.id());
    let finished = builder.run()?;
    let expected = "137\nCpus_allowed_list:\t0\n";
    assert_eq!(finished.stdout, expected, "{finished:?}");
    expect_no_scope(&unit)
}

/// Both systemd's device rules and ours are asked by the kernel.
fn devices_stay_as_they_are_when_systemd_is_reloaded(lab: &Lab) -> Outcome {
    systemd::required()?;
    let container = sleeper(lab).start()?;
    container.shell("made", "mknod /loops c 10 237; mknod /mem c 1 1")?;
    let look = "cat /dev/null && echo x >/dev/full; head -c 1 /dev/zero >/dev/null && echo zero; \
                (: </mem) 2>/dev/null && echo memory; (: </loops) 2>/dev/null && echo loops; \
                mknod /new$$ c 10 200 && echo made";
    assert_eq!(container.shell("before", look)?, "zero\nmade\n");
    for verb in renewals(lab) {
        systemctl(&[verb])?;
        assert_eq!(container.shell(verb, look)?, "zero\nmade\n", "after {verb}");
    }
    end(lab, container)
}

fn devices_of_a_scope_can_be_updated(lab: &Lab) -> Outcome {
    systemd::required()?;
    if lab.is_reference() {
        let reason = "runc's update leaves devices alone".to_owned();
        return Err(Failure::Exempt(reason));
    }
    if !fs::read_to_string("/proc/misc")?.contains("237 loop-control") {
        return Err(Failure::Lacking("no loop devices".to_owned()));
    }
    let container = sleeper(lab).start()?;
    let deny = json!({"allow": false, "access": "rwm"});
    let allow = json!({"allow": true, "type": "c", "major": 10, "minor": 237, "access": "r"});
    let opens = |id: &str| {
        container.shell(
            id,
            "(: </loops) 2>/dev/null && echo yes; (: </dev/null) || echo LOST; true",
        )
    };
    container.shell("made", "mknod /loops c 10 237")?;
    assert_eq!(opens("a")?, "");
    let update = |rules: Value| lab.client().update(container.id(), &rules);
    update(json!({"devices": [deny, allow]}))?;
    assert_eq!(opens("b")?, "yes\n");
    systemctl(&["daemon-reload"])?;
    assert_eq!(opens("c")?, "yes\n");
    update(json!({"devices": [deny]}))?;
    assert_eq!(opens("d")?, "");
    end(lab, container)
}

fn an_update_is_systemds_as_well(lab: &Lab) -> Outcome {
    systemd::required()?;
    let builder = with_resources(
        sleeper(lab),
        json!({
            "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
            "pids": {"limit": 25},
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 1024},
        }),
    );
    let container = builder.start()?;
    let unit = unit(lab, container.id());
    lab.client().update(
        container.id(),
        &json!({
            "memory": {"limit": 96 * MIB, "swap": 96 * MIB},
            "pids": {"limit": 20},
            "cpu": {"quota": 30_000, "period": 100_000, "shares": 512},
        }),
    )?;
    systemd::expect(
        &unit,
        &[("TasksMax", "20"), ("CPUQuotaPerSecUSec", "300ms")],
    )?;
    if on_v2() {
        systemd::expect(&unit, &[("MemoryMax", &(96 * MIB).to_string())])?;
        assert_ne!(systemd::property(&unit, "CPUWeight")?, "100");
    }
    let in_force = || -> Outcome<[String; 4]> {
        Ok([
            read(&unit, &["memory.max", "memory.limit_in_bytes"])?,
            read(&unit, &["pids.max"])?,
            read(&unit, &["cpu.max", "cpu.cfs_quota_us"])?,
            read(&unit, &["cpu.weight", "cpu.shares"])?,
        ])
    };
    let before = in_force()?;
    assert_eq!(before[0], (96 * MIB).to_string());
    assert_eq!(before[1], "20");
    assert!(before[2].starts_with("30000"), "{before:?}");
    for verb in renewals(lab) {
        systemctl(&[verb])?;
        assert_eq!(in_force()?, before, "after {verb}");
    }
    let fork = "exec 2>/dev/null; i=0; while [ $i -lt 25 ]; do sleep 1000 >/dev/null & i=$((i+1)); \
                done; echo forked";
    let refused = container.exec("e", ["sh", "-c", fork]).run()?;
    assert!(!refused.stdout.contains("forked"), "{refused:?}");
    end(lab, container)
}

/// systemd writes all files of a controller when one of its properties changes: those that it has
/// been told before as well.
fn what_an_operator_sets_does_not_undo_an_update(lab: &Lab) -> Outcome {
    systemd::required()?;
    if !on_v2() {
        return Err(Failure::Lacking("cgroup v2 alone".to_owned()));
    }
    let container = sleeper(lab).start()?;
    let unit = unit(lab, container.id());
    lab.client().update(
        container.id(),
        &json!({
            "memory": {"limit": 96 * MIB, "reservation": 32 * MIB},
            "cpu": {"quota": 30_000, "period": 50_000, "cpus": "0"},
        }),
    )?;
    let set = ["MemoryHigh=80M", "CPUWeight=77", "TasksMax=31"];
    systemctl(&[&["set-property", "--runtime", &unit], &set[..]].concat())?;
    assert_eq!(read(&unit, &["memory.high"])?, (80 * MIB).to_string());
    assert_eq!(read(&unit, &["memory.max"])?, (96 * MIB).to_string());
    assert_eq!(read(&unit, &["memory.low"])?, (32 * MIB).to_string());
    assert_eq!(read(&unit, &["cpu.weight"])?, "77");
    assert_eq!(read(&unit, &["cpu.max"])?, "30000 50000");
    assert_eq!(read(&unit, &["pids.max"])?, "31");
    assert_eq!(read(&unit, &["cpuset.cpus"])?, "0");
    end(lab, container)
}

fn an_update_that_systemd_refuses_changes_nothing(lab: &Lab) -> Outcome {
    systemd::required()?;
    if lab.is_reference() {
        let reason = "runc takes nothing back in an update under systemd".to_owned();
        return Err(Failure::Exempt(reason));
    }
    let container = with_resources(sleeper(lab), json!({"pids": {"limit": 25}})).start()?;
    let unit = unit(lab, container.id());
    // Huge pages of no size: what comes last fails, when systemd has been told of the rest.
    let result = lab.client().update(
        container.id(),
        &json!({"pids": {"limit": 20}, "hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}),
    );
    assert_refused(result, Code::Unknown, "OCI runtime update failed");
    systemd::expect(&unit, &[("TasksMax", "25")])?;
    assert_eq!(read(&unit, &["pids.max"])?, "25");
    end(lab, container)
}

fn a_paused_scope_stays_paused_and_goes_on(lab: &Lab) -> Outcome {
    systemd::required()?;
    let container = scoped(lab, lab.script("while :; do echo x; sleep 0.01; done")).start()?;
    let unit = unit(lab, container.id());
    let client = lab.client();
    let frozen = || match on_v2() {
        true => Ok::<_, Failure>(read(&unit, &["cgroup.freeze"])? == "1"),
        false => Ok(read(&unit, &["freezer.state"])? == "FROZEN"),
    };
    client.pause(container.id())?;
    assert!(frozen()?);
    client.update(container.id(), &json!({"pids": {"limit": 17}}))?;
    assert_eq!(read(&unit, &["pids.max"])?, "17");
    assert!(frozen()?, "thawed by an update");
    systemctl(&["daemon-reload"])?;
    assert!(frozen()?, "thawed by a reload");
    client.resume(container.id())?;
    assert!(!frozen()?);
    let said = container.streams.stdout()?.text().len();
    wait_until(SOON, "the container to go on", || {
        let now = container.streams.stdout().ok()?.text().len();
        (now > said).then_some(())
    })?;
    end(lab, container)
}
