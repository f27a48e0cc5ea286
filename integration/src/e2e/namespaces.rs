// SPDX-License-Identifier: Apache-2.0
//! Namespaces: new, joined, shared with the host; and what is set in them.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::host;
use crate::lab::Lab;
use crate::tests;

tests!["namespaces";
    a_container_has_new_namespaces_of_the_kinds_it_asks_for,
    a_kind_that_is_not_asked_for_is_shared_with_the_host,
    namespaces_of_a_container_can_be_joined,
    a_new_cgroup_namespace_hides_the_path,
    the_hostname_is_that_of_the_document,
    sysctls_are_those_of_the_document,
    the_loopback_interface_is_up,
    the_container_is_in_its_cgroup,
    processes_of_the_host_are_not_seen,
    a_container_without_a_mount_namespace_leaves_the_host_as_it_was,
];

/// A namespace of a process as `kind:[number]`.
fn namespace(pid: u32, name: &str) -> Outcome<String> {
    let target = fs::read_link(format!("/proc/{pid}/ns/{name}"))?;
    Ok(target.to_string_lossy().into_owned())
}

const KINDS: [(&str, &str); 5] = [
    ("pid", "pid"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("network", "net"),
];

fn a_container_has_new_namespaces_of_the_kinds_it_asks_for(lab: &Lab) -> Outcome {
    let one = lab.container(["sleep", "1000"]).start()?;
    let two = lab.container(["sleep", "1000"]).start()?;
    let own = std::process::id();
    for (_, name) in KINDS {
        let all = [own, one.pid(), two.pid()].map(|pid| namespace(pid, name).unwrap_or_default());
        assert!(
            all[0] != all[1] && all[1] != all[2] && all[0] != all[2],
            "{all:?}"
        );
    }
    assert_eq!(namespace(one.pid(), "user")?, namespace(own, "user")?);
    one.kill_and_finish()?;
    two.kill_and_finish()?;
    Ok(())
}

fn a_kind_that_is_not_asked_for_is_shared_with_the_host(lab: &Lab) -> Outcome {
    for (kind, name) in [
        ("pid", "pid"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("network", "net"),
    ] {
        let builder = lab.container(["sleep", "1000"]).sharing(kind);
        // The kernel mounts neither a sysfs nor an mqueue for namespaces that are not its user's.
        let container = builder.start()?;
        let own = std::process::id();
        assert_eq!(
            namespace(container.pid(), name)?,
            namespace(own, name)?,
            "{kind}"
        );
        container.kill_and_finish()?;
    }
    Ok(())
}

fn namespaces_of_a_container_can_be_joined(lab: &Lab) -> Outcome {
    let first = lab.container(["sleep", "1000"]);
    let first = first
        .edit(|spec| spec["hostname"] = "first".into())
        .start()?;
    let second = lab.script("hostname; sleep 1000");
    let second = second
        .joining("pid", first.pid(), "pid")
        .joining("ipc", first.pid(), "ipc")
        .joining("uts", first.pid(), "uts")
        .joining("network", first.pid(), "net")
        .start()?;
    second.streams.stdout()?.wait_for("first\n")?;
    for name in ["pid", "ipc", "uts", "net"] {
        assert_eq!(
            namespace(first.pid(), name)?,
            namespace(second.pid(), name)?
        );
    }
    assert_ne!(
        namespace(first.pid(), "mnt")?,
        namespace(second.pid(), "mnt")?
    );
    let seen = first.shell("e", "ps | grep -c '[s]leep 1000'")?;
    assert_eq!(seen, "2\n", "both containers' processes are seen");
    second.kill_and_finish()?;
    first.kill_and_finish()?;
    Ok(())
}

fn a_new_cgroup_namespace_hides_the_path(lab: &Lab) -> Outcome {
    let builder = lab.script("cat /proc/self/cgroup").edit(|spec| {
        if let Some(all) = spec["linux"]["namespaces"].as_array_mut() {
            all.push(json!({"type": "cgroup"}));
        }
    });
    let id = builder.id().to_owned();
    let output = builder.run()?.success()?;
    assert!(!output.contains(&id), "{output}");
    let plain = lab.script("cat /proc/self/cgroup");
    let id = plain.id().to_owned();
    let output = plain.run()?.success()?;
    assert!(output.contains(&lab.cgroup(&id)), "{output}");
    Ok(())
}

fn the_hostname_is_that_of_the_document(lab: &Lab) -> Outcome {
    let before = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let builder = lab
        .container(["hostname"])
        .edit(|spec| spec["hostname"] = "my-name".into());
    assert_eq!(builder.run()?.success()?, "my-name\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname")?, before);
    Ok(())
}

fn sysctls_are_those_of_the_document(lab: &Lab) -> Outcome {
    let script =
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    let builder = lab.script(script).edit(|spec| {
        spec["linux"]["sysctl"] = json!({
            "net.ipv4.ip_unprivileged_port_start": "77",
            "kernel.shm_rmid_forced": "1",
        });
    });
    assert_eq!(builder.run()?.success()?, "77\n1\n");
    // What is not of a namespace that the container has for itself would change the host.
    for (key, value) in [("vm.swappiness", "13"), ("kernel.hostname", "x")] {
        let builder = lab.container(["true"]).sharing("uts").edit(|spec| {
            spec["linux"]["sysctl"] = json!({key: value});
        });
        let status = builder.expect_create_to_fail()?;
        assert!(status.message().contains(key), "{status:?}");
    }
    Ok(())
}

fn the_loopback_interface_is_up(lab: &Lab) -> Outcome {
    let script = "ifconfig lo | grep -o UP; (echo hello | nc -l -p 4711 >/dev/null &) ; \
                  i=0; until nc -w 1 127.0.0.1 4711 </dev/null; do \
                  i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.02; done";
    assert_eq!(lab.script(script).run()?.success()?, "UP\nhello\n");
    Ok(())
}

fn the_container_is_in_its_cgroup(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let cgroup = lab.cgroup(container.id());
    let exec = container.exec("e", ["sleep", "1000"]).start()?;
    let exec_pid = exec.state()?.pid;
    for folder in crate::host::cgroup_folders(&cgroup) {
        let text = fs::read_to_string(folder.join("cgroup.procs"))?;
        let mut pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        pids.sort_unstable();
        let mut wanted = [container.pid(), exec_pid];
        wanted.sort_unstable();
        assert_eq!(pids, wanted, "{}", folder.display());
    }
    assert!(!crate::host::cgroup_folders(&cgroup).is_empty());
    exec.kill(rustix::process::Signal::KILL)?;
    exec.finish_process()?;
    container.kill_and_finish()?;
    Ok(())
}

fn processes_of_the_host_are_not_seen(lab: &Lab) -> Outcome {
    let output = lab
        .script("ls -d /proc/[0-9]* | wc -l; echo $$")
        .run()?
        .success()?;
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].parse::<u32>()? <= 3, "{output}");
    assert_eq!(lines[1], "1");
    Ok(())
}

/// Not for the Go shim: runc changes the propagation of the host's own "/" then, and leaves it so.
fn a_container_without_a_mount_namespace_leaves_the_host_as_it_was(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        let reason = "it would change the mounts of this machine";
        return Err(Failure::Exempt(reason.to_owned()));
    }
    let root = || -> Outcome<String> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let line = table
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"));
        Ok(line.unwrap_or_default().to_owned())
    };
    let before = root()?;
    let builder = lab
        .container(["sleep", "1000"])
        .sharing("mount")
        .edit(|spec| {
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
        });
    let container = builder.start()?;
    let own = std::process::id();
    assert_eq!(namespace(container.pid(), "mnt")?, namespace(own, "mnt")?);
    let said = container.shell(
        "e",
        "pwd; ls -d /bin/busybox; cat /proc/1/comm; ls /dev/pts",
    )?;
    assert_eq!(said, "/\n/bin/busybox\nsleep\nptmx\n");
    let bundle = lab.containerd().bundle(container.id());
    let mounts = host::mounts_below(&bundle);
    assert!(mounts.contains(&bundle.join("rootfs/proc")), "{mounts:?}");
    container.kill_and_finish()?;
    assert_eq!(host::mounts_below(&bundle), Vec::<PathBuf>::new());
    assert_eq!(root()?, before);
    Ok(())
}
