// SPDX-License-Identifier: Apache-2.0
//! Where processes are: in which root, cgroup, user namespace.

use super::*;

/// In a mount namespace of the test's own, which stands for the host's.
#[test]
fn a_container_without_a_mount_namespace_is_changed_into_its_root() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    fs::write(bundle.image("marker"), "").unwrap();
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
        spec["linux"]["maskedPaths"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
        spec["root"]["readonly"] = json!(true);
    });
    let look = "ls -d /marker /proc/1/status; cat /proc/1/comm; pwd";
    let script = format!(
        "ocirun() {{ {OCIRUN} --root {root} \"$@\"; }}\n\
         table() {{ grep -e ' / / ' -e ' {lab}' /proc/self/mountinfo; }}\n\
         before=$(table)\n\
         ocirun run -d -b {bundle} c\n\
         ocirun exec c sh -c '{look}'\n\
         ocirun exec c sh -c 'echo x >/marker2' 2>&1 | grep -o Read-only\n\
         grep -c ' {bundle}/rootfs/' /proc/self/mountinfo | grep -vx 0 >/dev/null && echo mounted\n\
         ocirun delete --force c\n\
         test \"$(table)\" = \"$before\" && echo undone\n\
         ocirun create -b {bundle} --console-socket /nope c 2>/dev/null\n\
         ocirun run --no-pivot -b {bundle} c 2>&1 | grep -o 'no_pivot_root is not possible'\n\
         test \"$(table)\" = \"$before\" && echo clean\n",
        // Others may mount and unmount elsewhere meanwhile.
        lab = lab.path("").display(),
        root = lab.root().display(),
        bundle = bundle.name(),
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let finished = lab.finish(&mut command);
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "/marker",
            "/proc/1/status",
            "sleep",
            "/",
            "Read-only",
            "mounted",
            "undone",
            "no_pivot_root is not possible",
            "clean",
        ],
        "{finished:?}"
    );
}

#[test]
fn an_exec_can_be_placed_below_the_cgroup_and_nowhere_else() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.start("c", &lab.bundle("c", ["sleep", "1000"]));
    let state = fs::read(lab.root().join("c/state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    for path in state["cgroup_paths"].as_object().unwrap().values() {
        let path = std::path::PathBuf::from(path.as_str().unwrap());
        let sub = path.join("sub");
        if sub.exists() {
            continue;
        }
        fs::create_dir(&sub).unwrap();
        // On v1 nobody may go where there are no processors.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (true, Ok(all)) = (sub.join(file).exists(), fs::read(path.join(file))) {
                let _ = fs::write(sub.join(file), all);
            }
        }
    }
    let cgroups = |wanted: &str| {
        let mut command =
            lab.command(["exec", "--cgroup", wanted, "c", "cat", "/proc/self/cgroup"]);
        lab.finish(&mut command)
    };
    let placed = cgroups("/sub");
    let elsewhere = |line: &&str| !line.ends_with(":/sub") && !line.contains("::/../");
    let others: Vec<&str> = placed.stdout.lines().filter(elsewhere).collect();
    // Hierarchies of which containers are no part.
    let known = |line: &&&str| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        let paths = state["cgroup_paths"].as_object().unwrap();
        controllers
            .split(',')
            .any(|controller| paths.contains_key(controller))
    };
    assert_eq!(others.iter().filter(known).count(), 0, "{placed:?}");
    assert!(placed.stdout.contains(":/sub\n"), "{placed:?}");
    for wanted in ["..", "sub/../../x", "/nope", "nope:sub"] {
        let refused = cgroups(wanted);
        assert_eq!(
            (refused.code, &*refused.stdout),
            (Some(255), ""),
            "{refused:?}"
        );
    }
    drop(running);
}

#[test]
fn a_user_that_is_not_mapped_is_an_error_that_says_so() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("c", ["sleep", "1000"]);
    bundle.edit(|spec| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
    });
    let running = lab.start("c", &bundle);
    for (flags, part) in [
        (
            ["--user", "50"],
            "cannot setuid to unmapped uid 50 in user namespace",
        ),
        (
            ["--user", "5:50"],
            "cannot setgid to unmapped gid 50 in user namespace",
        ),
        (
            ["--additional-gids", "50"],
            "cannot set groups [50]: not all are mapped in user namespace",
        ),
    ] {
        let finished = lab.finish(lab.command(["exec"]).args(flags).args(["c", "true"]));
        assert!(finished.stderr.contains(part), "{finished:?}");
        assert_eq!(finished.code, Some(255));
    }
    assert_eq!(running.exec(["id", "-u"]).stdout, "0\n");
}

/// Mounts whose sources are there only once earlier mounts of the container are.
#[test]
fn what_earlier_mounts_have_brought_can_be_id_mapped_in_a_user_namespace() {
    let Some(lab) = Lab::new() else { return };
    let volume = lab.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "text").unwrap();
    std::os::unix::fs::chown(volume.join("file"), Some(1000), Some(1000)).unwrap();
    let script = "stat -c '%u %g' /b/file /c/file; cat /c/file";
    let bundle = lab.bundle("c", ["sh", "-c", script]);
    for place in ["b", "c"] {
        fs::create_dir(bundle.image(place)).unwrap();
    }
    let mapped = |destination: &str, source: &str, from: u32| {
        let ids = json!([{"containerID": from, "hostID": 100_000, "size": 10}]);
        json!({"destination": destination, "type": "bind", "source": bundle.image(source),
               "options": ["rbind"], "uidMappings": ids, "gidMappings": ids})
    };
    bundle.edit(|spec| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.extend([
            json!({"destination": "/b", "source": volume, "options": ["bind"]}),
            mapped("/c", "b", 1000),
        ]);
    });
    let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
    let wanted = "65534 65534\n0 0\ntext";
    assert_eq!(finished.stdout, wanted, "{finished:?}");

    // A file system that cannot be: an error in the words of its mount.
    bundle.edit(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(mapped("/etc", "proc", 0));
    });
    let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
    for part in [
        "rootfs at \\\"/etc\\\": mount_setattr",
        "maybe its file system cannot be id-mapped",
    ] {
        assert!(finished.stderr.contains(part), "{finished:?}");
    }
    assert_eq!(fs::read_dir(lab.root()).unwrap().count(), 0);
}
