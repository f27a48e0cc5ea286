// SPDX-License-Identifier: Apache-2.0
//! User namespaces, id-mapped mounts and time namespaces.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use serde_json::{Value, json};

use crate::container::{Builder, Container};
use crate::failure::{Failure, Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::suite::say;
use crate::tests;

tests!["users";
    ids_in_a_user_namespace_are_mapped,
    the_namespaces_of_a_container_belong_to_its_user_namespace,
    an_exec_is_in_the_user_namespace,
    a_terminal_works_in_a_user_namespace,
    devices_and_masks_work_in_a_user_namespace,
    a_source_that_only_root_can_reach_is_mounted,
    locked_flags_of_a_source_stay,
    the_root_of_a_user_namespace_may_be_shared,
    cgroups_are_mounted_in_a_user_namespace,
    there_may_be_hundreds_of_sources,
    nobody_in_a_user_namespace_sees_into_what_enters_it,
    members_of_a_pod_join_its_user_namespace,
    mappings_must_match_a_joined_user_namespace,
    a_user_that_is_not_mapped_is_refused,
    the_layers_of_a_root_file_system_can_be_mapped,
    a_mount_can_be_mapped_like_the_container,
    a_mount_can_be_mapped_without_a_user_namespace,
    clocks_of_a_time_namespace_are_set_off,
    an_exec_is_in_the_time_namespace,
];

/// Host ids of the containers' roots.
pub(super) const FIRST: u32 = 100_000;

fn mappings() -> Value {
    json!([{"containerID": 0, "hostID": FIRST, "size": 65_536}])
}

fn add_namespace(spec: &mut Value, namespace: Value) {
    if let Some(all) = spec["linux"]["namespaces"].as_array_mut() {
        all.push(namespace);
    }
}

/// The container gets a user namespace.
pub(super) fn mapped(builder: Builder<'_>) -> Builder<'_> {
    builder.edit(|spec| {
        add_namespace(spec, json!({"type": "user"}));
        spec["linux"]["uidMappings"] = mappings();
        spec["linux"]["gidMappings"] = mappings();
    })
}

/// Creates the task on a root file system whose own layer belongs to the container's root, as
/// snapshotters make it.
pub(super) fn create(builder: Builder<'_>) -> Outcome<Container<'_>> {
    let mut container = builder.record()?;
    own_layer(&mut container)?;
    container.create()?;
    Ok(container)
}

fn own_layer(container: &mut Container<'_>) -> Outcome {
    for option in container.rootfs_mut().iter().flat_map(|m| &m.options) {
        if let Some(folder) = option.strip_prefix("upperdir=") {
            chown(folder, Some(FIRST), Some(FIRST))?;
        }
    }
    Ok(())
}

/// The same, started.
pub(super) fn start(builder: Builder<'_>) -> Outcome<Container<'_>> {
    let container = create(builder)?;
    container.start()?;
    Ok(container)
}

fn namespace(pid: u32, name: &str) -> Outcome<String> {
    let target = fs::read_link(format!("/proc/{pid}/ns/{name}"))?;
    Ok(target.to_string_lossy().into_owned())
}

/// The line of `/proc/<pid>/status` for a field.
fn status(pid: u32, field: &str) -> Outcome<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    Ok(line
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" "))
}

fn bind(builder: Builder<'_>, mount: Value) -> Builder<'_> {
    builder.edit(|spec| {
        if let Some(all) = spec["mounts"].as_array_mut() {
            all.push(mount);
        }
    })
}

/// A folder on the host with a file `file` in it.
fn source(lab: &Lab, name: &str) -> Outcome<String> {
    let folder = lab.containerd().folder().join("users").join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("file"), "text\n")?;
    Ok(folder.to_string_lossy().into_owned())
}

/// What came with runc 1.2; only the newest containerd of ours comes with such a one.
fn needs_runc_1_2(lab: &Lab) -> Outcome {
    if lab.is_reference() && !lab.generation.at_least(2, 0) {
        return Err(Failure::Exempt("this runc is older than 1.2".to_owned()));
    }
    Ok(())
}

fn ids_in_a_user_namespace_are_mapped(lab: &Lab) -> Outcome {
    let script = "id -u; id -g; tr -s ' ' </proc/self/uid_map; cat /proc/self/setgroups; \
                  touch /made; stat -c %u /made; sleep 1000";
    let container = start(mapped(lab.script(script)))?;
    let wanted = format!("0\n0\n 0 {FIRST} 65536\nallow\n0\n");
    container.streams.stdout()?.wait_for(&wanted)?;
    let first = FIRST.to_string();
    assert_eq!(status(container.pid(), "Uid:")?, [&*first; 4].join(" "));
    assert_eq!(status(container.pid(), "Gid:")?, [&*first; 4].join(" "));
    assert_eq!(status(container.pid(), "Groups:")?, "");
    let rootfs = lab.containerd().bundle(container.id()).join("rootfs");
    let made = fs::metadata(rootfs.join("made"))?;
    assert_eq!((made.uid(), made.gid()), (FIRST, FIRST));
    // Whatever helped to make it has gone.
    let cgroup = lab.cgroup(container.id());
    wait_until(SOON, "the shell to become the sleep", || {
        (host::processes_in_cgroup(&cgroup) == [container.pid()]).then_some(())
    })?;
    container.kill_and_finish()?;
    Ok(())
}

fn the_namespaces_of_a_container_belong_to_its_user_namespace(lab: &Lab) -> Outcome {
    let script = "hostname mine && hostname; mount -t tmpfs t /run && echo mounted; \
                  ip link add name d type dummy 2>/dev/null; \
                  ip addr add 10.9.8.7/32 dev lo && echo address; \
                  chroot / true && echo chroot; mknod /null c 1 3 || echo refused";
    let builder = mapped(lab.script(script)).edit(|spec| {
        add_namespace(spec, json!({"type": "cgroup"}));
        for set in ["bounding", "effective", "permitted"] {
            if let Some(all) = spec["process"]["capabilities"][set].as_array_mut() {
                all.extend(["CAP_SYS_ADMIN".into(), "CAP_NET_ADMIN".into()]);
            }
        }
    });
    let output = start(builder)?.finish()?.success()?;
    assert_eq!(output, "mine\nmounted\naddress\nchroot\nrefused\n");
    Ok(())
}

fn an_exec_is_in_the_user_namespace(lab: &Lab) -> Outcome {
    let container = start(mapped(lab.container(["sleep", "1000"])))?;
    let output = container.shell(
        "e",
        "id -u; tr -s ' ' </proc/self/uid_map; touch /x && echo made",
    )?;
    assert_eq!(output, format!("0\n 0 {FIRST} 65536\nmade\n"));
    let exec = container.exec("f", ["sleep", "1000"]).start()?;
    let pid = exec.state()?.pid;
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_eq!(namespace(pid, name)?, namespace(container.pid(), name)?);
    }
    let first = FIRST.to_string();
    assert_eq!(status(pid, "Uid:")?, [&*first; 4].join(" "));
    assert_eq!(status(pid, "Groups:")?, "");
    exec.kill(rustix::process::Signal::KILL)?;
    exec.finish_process()?;
    container.kill_and_finish()?;
    Ok(())
}

fn a_terminal_works_in_a_user_namespace(lab: &Lab) -> Outcome {
    let script = "tty; stat -c %u $(tty); echo fine >/dev/console";
    let container = start(mapped(lab.script(script)).with_terminal())?;
    let output = container.finish()?.success()?;
    assert_eq!(output, "/dev/pts/0\r\n0\r\nfine\r\n");
    Ok(())
}

fn devices_and_masks_work_in_a_user_namespace(lab: &Lab) -> Outcome {
    let script = "echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; \
                  cat /proc/keys | wc -c; ls /sys/firmware | wc -l; \
                  echo h >/proc/sysrq-trigger || echo refused; rm -f /dev/core; ls /dev";
    let output = start(mapped(lab.script(script)))?.finish()?.success()?;
    let wanted = "3\n5\n0\n0\nrefused\n\
                  fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\n\
                  tty\nurandom\nzero\n";
    assert_eq!(output, wanted);
    Ok(())
}

fn a_source_that_only_root_can_reach_is_mounted(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    let folder = source(lab, "secret/deep")?;
    let secret = lab.containerd().folder().join("users/secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700))?;
    let folder_mount = json!({"destination": "/mnt", "type": "bind", "source": folder,
                              "options": ["rbind", "ro"]});
    let file_mount = json!({"destination": "/file", "type": "bind",
                            "source": format!("{folder}/file"), "options": ["bind"]});
    let builder = bind(
        bind(
            mapped(lab.script("cat /mnt/file /file; touch /mnt/x || echo refused")),
            folder_mount,
        ),
        file_mount,
    );
    let output = start(builder)?.finish()?.success()?;
    assert_eq!(output, "text\ntext\nrefused\n");
    let mount = json!({"destination": "/mnt", "type": "bind", "source": "/nope/nope",
                       "options": ["rbind"]});
    let status = bind(mapped(lab.container(["true"])), mount).expect_create_to_fail()?;
    let text = status.message().to_lowercase();
    assert!(
        text.contains("/nope/nope") && text.contains("no such file"),
        "{text}"
    );
    Ok(())
}

/// What the host has mounted without setuid programs and devices must not come with them.
fn locked_flags_of_a_source_stay(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    let folder = lab.containerd().folder().join("users").join("locked");
    fs::create_dir_all(&folder)?;
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("t", &folder, "tmpfs", flags, None::<&std::ffi::CStr>)?;
    let run = || -> Outcome<String> {
        let mount = json!({"destination": "/mnt", "type": "bind", "source": folder,
                           "options": ["rbind", "noexec"]});
        let script =
            "grep ' /mnt ' /proc/self/mounts; mount -o remount,bind,suid /mnt || echo refused";
        let builder = bind(mapped(lab.script(script)), mount).edit(|spec| {
            for set in ["bounding", "effective", "permitted"] {
                if let Some(all) = spec["process"]["capabilities"][set].as_array_mut() {
                    all.push("CAP_SYS_ADMIN".into());
                }
            }
        });
        start(builder)?.finish()?.success()
    };
    let output = run();
    rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::DETACH)?;
    let output = output?;
    assert!(output.contains("rw,nosuid,nodev,noexec"), "{output}");
    assert!(output.ends_with("refused\n"), "{output}");
    Ok(())
}

fn the_root_of_a_user_namespace_may_be_shared(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    for (word, wanted) in [("shared", "shared:"), ("rslave", "rw,"), ("private", "rw,")] {
        let script = "grep ' / / ' /proc/self/mountinfo";
        let builder = mapped(lab.script(script));
        let builder = builder.edit(|spec| spec["linux"]["rootfsPropagation"] = word.into());
        let output = start(builder)?.finish()?.success()?;
        assert!(output.contains(wanted), "{word}: {output}");
        assert_eq!(output.contains("shared:"), word == "shared", "{output}");
    }
    Ok(())
}

fn cgroups_are_mounted_in_a_user_namespace(lab: &Lab) -> Outcome {
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                       "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]});
    let script = "find /sys/fs/cgroup/ -name cgroup.procs | head -n 1 | grep -o cgroup.procs; \
                  touch /sys/fs/cgroup/x || echo refused";
    for own in [false, true] {
        let builder = bind(mapped(lab.script(script)), mount.clone()).edit(|spec| {
            if own {
                add_namespace(spec, json!({"type": "cgroup"}));
            }
        });
        let output = start(builder)?.finish()?.success()?;
        // runc forgets that the folder of several hierarchies is to be read-only.
        let wanted = match lab.is_reference() {
            true => "cgroup.procs\n",
            false => "cgroup.procs\nrefused\n",
        };
        assert!(output.starts_with(wanted), "{own}: {output}");
    }
    Ok(())
}

/// More than the descriptors that one packet can carry.
fn there_may_be_hundreds_of_sources(lab: &Lab) -> Outcome {
    let folder = source(lab, "many")?;
    let mut builder = mapped(lab.script("cat /many/* | wc -l"));
    for number in 0..300 {
        let mount = json!({"destination": format!("/many/{number}"), "type": "bind",
                           "source": format!("{folder}/file"), "options": ["bind"]});
        builder = bind(builder, mount);
    }
    assert_eq!(start(builder)?.finish()?.success()?, "300\n");
    Ok(())
}

/// Root of the container looks at every process that it sees, while processes come in that begin
/// as the host's root with descriptors of the host (CVE-2016-9962).
fn nobody_in_a_user_namespace_sees_into_what_enters_it(lab: &Lab) -> Outcome {
    let script = "while :; do for p in /proc/[0-9]*; do \
                  x=$(readlink $p/exe); case \"$x\" in */busybox|'') ;; *) echo \"$p: $x\";; esac; \
                  for f in $p/fd/*; do x=$(readlink $f); \
                  case \"$x\" in *cgroup*|*memfd*|*/ns/*) echo \"$f: $x\";; esac; done; \
                  done; n=$((n+1)); echo $n >/tries; done 2>/dev/null";
    let builder = mapped(lab.script(script)).edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            if let Some(all) = spec["process"]["capabilities"][set].as_array_mut() {
                all.extend(["CAP_SYS_PTRACE".into(), "CAP_SYS_ADMIN".into()]);
            }
        }
    });
    let container = start(builder)?;
    let mut tries = 0;
    for number in 0u32.. {
        // Each of these is one that comes in. The file may be empty for a moment.
        let said = container.shell(&format!("e{number}"), "cat /tries; true")?;
        tries = said.trim().parse().unwrap_or(tries);
        if number >= 10 && tries >= 100 {
            say(&format!(
                "attempts: {tries} passes while {number} processes came in"
            ));
            break;
        }
        assert!(number < 1000, "{tries} passes only");
    }
    let seen = container.kill_and_finish()?.stdout;
    assert_eq!(seen, "", "seen by the container's root");
    Ok(())
}

fn members_of_a_pod_join_its_user_namespace(lab: &Lab) -> Outcome {
    let builder = mapped(lab.container(["sleep", "1000"]));
    let id = builder.id().to_owned();
    let pod = start(builder.in_pod(&id))?;
    let kinds = [
        ("user", "user"),
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
    ];
    let script = "id -u; hostname mine || echo refused; touch /x && echo made; sleep 1000";
    let mut member = lab.script(script).in_pod(&id).edit(|spec| {
        // As containerd does: the path and the mappings, too.
        spec["linux"]["uidMappings"] = mappings();
        spec["linux"]["gidMappings"] = mappings();
    });
    for (kind, name) in kinds {
        member = member.joining(kind, pod.pid(), name);
    }
    let member = start(member)?;
    member.streams.stdout()?.wait_for("0\nrefused\nmade\n")?;
    for (_, name) in kinds {
        assert_eq!(
            namespace(pod.pid(), name)?,
            namespace(member.pid(), name)?,
            "{name}"
        );
    }
    for name in ["pid", "mnt"] {
        assert_ne!(
            namespace(pod.pid(), name)?,
            namespace(member.pid(), name)?,
            "{name}"
        );
    }
    assert_eq!(member.shell("e", "id -u; echo $$ | grep -c .")?, "0\n1\n");
    member.kill_and_finish()?;
    pod.kill_and_finish()?;
    Ok(())
}

fn mappings_must_match_a_joined_user_namespace(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    let first = start(mapped(lab.container(["sleep", "1000"])))?;
    let other = lab
        .container(["true"])
        .joining("user", first.pid(), "user")
        .edit(|spec| {
            spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 5, "size": 10}]);
            spec["linux"]["gidMappings"] = mappings();
        });
    let status = other.expect_create_to_fail()?;
    assert!(
        status.message().contains("non-matching mapping"),
        "{status:?}"
    );
    first.kill_and_finish()?;
    Ok(())
}

fn a_user_that_is_not_mapped_is_refused(lab: &Lab) -> Outcome {
    let builder = mapped(lab.container(["true"]));
    let builder = builder.edit(|spec| spec["process"]["user"]["uid"] = 70_000.into());
    let status = builder.expect_create_to_fail()?;
    for wanted in ["unmapped u", "in user namespace"] {
        assert!(status.message().contains(wanted), "{status:?}");
    }
    Ok(())
}

/// What a snapshotter asks for that does not copy an image for every mapping.
fn the_layers_of_a_root_file_system_can_be_mapped(lab: &Lab) -> Outcome {
    if lab.is_reference() && !lab.generation.at_least(2, 0) {
        return Err(Failure::Exempt(
            "this containerd cannot map layers".to_owned(),
        ));
    }
    let script = "stat -c '%u %g' /bin/busybox /; touch /bin/new; stat -c %u /bin/new";
    let mut container = mapped(lab.script(script)).record()?;
    for mount in container.rootfs_mut() {
        for kind in ["uidmap", "gidmap"] {
            mount.options.push(format!("{kind}=0:{FIRST}:65536"));
        }
    }
    own_layer(&mut container)?;
    container.create()?;
    container.start()?;
    let rootfs = lab.containerd().bundle(container.id()).join("rootfs");
    let busybox = fs::metadata(rootfs.join("bin/busybox"));
    let output = container.finish()?.success()?;
    assert_eq!(output, "0 0\n0 0\n0\n");
    if let Ok(metadata) = busybox {
        assert_eq!(metadata.uid(), FIRST);
    }
    Ok(())
}

fn a_mount_can_be_mapped_like_the_container(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    let folder = source(lab, "mapped")?;
    chown(format!("{folder}/file"), Some(1000), Some(1000))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let mount = json!({"destination": "/mnt", "type": "bind", "source": folder,
                       "options": ["rbind", "ridmap"]});
    let script = "stat -c '%u %g' /mnt /mnt/file; touch /mnt/new; stat -c '%u %g' /mnt/new";
    let builder = bind(mapped(lab.script(script)), mount);
    let output = start(builder)?.finish()?.success()?;
    assert_eq!(output, "0 0\n1000 1000\n0 0\n");
    assert_eq!(fs::metadata(format!("{folder}/new"))?.uid(), 0);
    Ok(())
}

fn a_mount_can_be_mapped_without_a_user_namespace(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    let folder = source(lab, "own-mapping")?;
    let ids = json!([{"containerID": 0, "hostID": 77, "size": 100}]);
    let mount = json!({"destination": "/mnt", "type": "bind", "source": folder,
                       "options": ["rbind", "ro"], "uidMappings": ids, "gidMappings": ids});
    let script = "stat -c '%u %g' /mnt/file; cat /mnt/file; touch /mnt/x || echo refused";
    let output = bind(lab.script(script), mount).run()?.success()?;
    assert_eq!(output, "77 77\ntext\nrefused\n");
    Ok(())
}

/// Adds a time namespace in which the machine seems to have run for much longer.
fn set_off(builder: Builder<'_>) -> Builder<'_> {
    builder.edit(|spec| {
        add_namespace(spec, json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({
            "boottime": {"secs": 100_000_000},
            "monotonic": {"secs": 200_000_000, "nanosecs": 5},
        });
    })
}

fn clocks_of_a_time_namespace_are_set_off(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    let script = "tr -s ' ' </proc/self/timens_offsets; cut -d. -f 1 /proc/uptime";
    for with_users in [false, true] {
        let mut builder = set_off(lab.script(script));
        if with_users {
            builder = mapped(builder);
        }
        let output = start(builder)?.finish()?.success()?;
        let (offsets, uptime) = output.trim_end().rsplit_once('\n').unwrap_or_default();
        assert_eq!(offsets, "monotonic 200000000 5\nboottime 100000000 0");
        assert!(uptime.parse::<u64>()? > 100_000_000, "{output}");
    }
    let builder = lab.container(["true"]).edit(|spec| {
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}});
    });
    let status = builder.expect_create_to_fail()?;
    assert!(status.message().contains("time namespace"), "{status:?}");
    Ok(())
}

fn an_exec_is_in_the_time_namespace(lab: &Lab) -> Outcome {
    needs_runc_1_2(lab)?;
    let container = start(set_off(lab.container(["sleep", "1000"])))?;
    let exec = container.exec("e", ["sh", "-c", "cut -d. -f 1 /proc/uptime; sleep 1000"]);
    let exec = exec.start()?;
    exec.streams.stdout()?.wait_for("\n")?;
    let pid = exec.state()?.pid;
    assert_eq!(namespace(pid, "time")?, namespace(container.pid(), "time")?);
    assert_ne!(
        namespace(pid, "time")?,
        namespace(std::process::id(), "time")?
    );
    exec.kill(rustix::process::Signal::KILL)?;
    let uptime = exec.finish_process()?.stdout;
    assert!(uptime.trim().parse::<u64>()? > 100_000_000, "{uptime}");
    // One that joins it by path.
    let script = "cut -d. -f 1 /proc/uptime";
    let other = lab.script(script).joining("time", container.pid(), "time");
    let uptime = other.run()?.success()?;
    assert!(uptime.trim().parse::<u64>()? > 100_000_000, "{uptime}");
    container.kill_and_finish()?;
    Ok(())
}
