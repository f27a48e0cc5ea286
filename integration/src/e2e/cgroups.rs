// SPDX-License-Identifier: Apache-2.0
//! Cgroups that containers make below their own, and whether they may.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::users;
use crate::container::Builder;
use crate::failure::{Failure, Outcome, failed};
use crate::host;
use crate::lab::Lab;
use crate::tests;

tests!["cgroups";
    an_exec_follows_init_into_a_cgroup_below,
    a_writable_cgroup_belongs_to_the_containers_root,
    a_read_only_cgroup_belongs_to_the_host,
];

/// The container's v2 directory.
fn unified(lab: &Lab, id: &str) -> Outcome<PathBuf> {
    let folders = host::cgroup_folders(&lab.cgroup(id));
    let found = folders
        .into_iter()
        .find(|folder| folder.join("cgroup.subtree_control").exists());
    found.ok_or_else(|| Failure::Lacking("no cgroup v2".to_owned()))
}

fn is_pure_v2() -> bool {
    PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A cgroup that lets those below it have controllers takes no processes itself.
fn an_exec_follows_init_into_a_cgroup_below(lab: &Lab) -> Outcome {
    let builder = lab.container(["sleep", "1000"]);
    let builder = match is_pure_v2() {
        true => builder,
        false if lab.is_reference() => {
            return Err(Failure::Exempt(
                "runc is not in the v2 cgroup of a hybrid".to_owned(),
            ));
        }
        // On a hybrid few controllers are on v2; this limit brings one into the container's cgroup.
        false => builder.edit(|spec| {
            let limits = json!([{"pageSize": "2MB", "limit": 0}]);
            spec["linux"]["resources"]["hugepageLimits"] = limits;
        }),
    };
    let container = builder.start()?;
    let folder = unified(lab, container.id())?;
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    fs::write(inner.join("cgroup.procs"), container.pid().to_string())?;
    let controllers = fs::read_to_string(folder.join("cgroup.controllers"))?;
    let Some(controller) = controllers.split_whitespace().next() else {
        return Err(Failure::Lacking("no controller on v2".to_owned()));
    };
    let enable = format!("+{controller}");
    fs::write(folder.join("cgroup.subtree_control"), enable)?;
    let seen = container.shell("e", "cat /proc/self/cgroup")?;
    let own = seen.lines().find_map(|line| line.strip_prefix("0::"));
    assert!(own.is_some_and(|own| own.ends_with("/inner")), "{seen}");
    container.kill_and_finish()?;
    Ok(())
}

/// With a user and a cgroup namespace of its own, and its cgroup to be seen.
fn with_cgroup<'a>(builder: Builder<'a>, access: &str) -> Builder<'a> {
    users::mapped(builder).edit(|spec| {
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
            namespaces.push(json!({"type": "cgroup"}));
        }
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
            let options = ["nosuid", "noexec", "nodev", access];
            let mount: Value = json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                                      "source": "cgroup", "options": options});
            mounts.push(mount);
        }
    })
}

fn a_writable_cgroup_belongs_to_the_containers_root(lab: &Lab) -> Outcome {
    if !is_pure_v2() {
        return Err(Failure::Exempt("for pure cgroup v2 only".to_owned()));
    }
    if lab.is_reference() {
        let reason = "runc gives the cgroup away with the systemd driver only";
        return Err(Failure::Exempt(reason.to_owned()));
    }
    let script = "cd /sys/fs/cgroup && mkdir inner && echo $$ >inner/cgroup.procs && \
                  cat /proc/self/cgroup; (echo max >pids.max) 2>/dev/null || echo refused; \
                  exec sleep 1000";
    let container = users::create(with_cgroup(lab.script(script), "rw"))?;
    let folder = unified(lab, container.id())?;
    assert_eq!(fs::metadata(&folder)?.uid(), users::FIRST);
    container.start()?;
    container.streams.stdout()?.wait_for("refused\n")?;
    let text = container.streams.stdout()?.text();
    assert_eq!(text, "0::/inner\nrefused\n");
    assert_eq!(fs::metadata(folder.join("inner"))?.uid(), users::FIRST);
    assert_eq!(fs::metadata(folder.join("pids.max"))?.uid(), 0);
    // What enters it later is where its init is, or above.
    container.shell("e", "cat /proc/self/cgroup")?;
    container.kill_and_finish()?;
    Ok(())
}

fn a_read_only_cgroup_belongs_to_the_host(lab: &Lab) -> Outcome {
    if !is_pure_v2() {
        return Err(Failure::Exempt("for pure cgroup v2 only".to_owned()));
    }
    let script = "mkdir /sys/fs/cgroup/inner 2>/dev/null || echo refused";
    let container = users::create(with_cgroup(lab.script(script), "ro"))?;
    let folder = unified(lab, container.id())?;
    assert_eq!(fs::metadata(&folder)?.uid(), 0);
    container.start()?;
    let finished = container.finish()?;
    match finished.stdout.as_str() {
        "refused\n" => Ok(()),
        other => Err(failed(format!("{other:?}"))),
    }
}
