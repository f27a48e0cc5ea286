// SPDX-License-Identifier: Apache-2.0
//! Images that lead elsewhere, and what a container sees of the host.

use super::*;

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2026-41579: an image whose `/proc`, `/sys`
/// or `/dev` is a way elsewhere.
#[test]
fn an_image_with_links_for_proc_sys_and_dev_is_refused_and_nothing_is_made_elsewhere() {
    let Some(lab) = Lab::new() else { return };
    let outside = outside(&lab);
    let targets = [
        outside.to_str().unwrap(),
        "../../outside",
        "/etc",
        "/proc/self/root",
    ];
    let mut count = 0;
    for name in ["proc", "sys", "dev"] {
        for target in targets {
            for mounts in ["usual", "without"] {
                let bundle = lab.bundle(&format!("{name}{count}"), ["true"]);
                fs::remove_dir(bundle.image(name)).unwrap();
                symlink(target, bundle.image(name)).unwrap();
                if mounts == "without" {
                    bundle.edit(|spec| {
                        let list = spec["mounts"].as_array_mut().unwrap();
                        // What remains is in /proc only: nodes and links are made without any.
                        list.retain(|mount| {
                            let place = mount["destination"].as_str().unwrap();
                            name != "dev" || !place.starts_with("/dev")
                        });
                    });
                }
                let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
                assert_eq!(finished.code, Some(1), "{name} {target}: {finished:?}");
                assert!(is_empty(&outside), "{name} {target}: escaped");
                let made = fs::read_dir(bundle.image("etc")).unwrap().count();
                assert_eq!(made, 1, "{name} {target}: made in /etc");
                count += 1;
            }
        }
    }
    let _ = writeln!(
        std::io::stderr(),
        "attack links for /proc, /sys, /dev: {count} images"
    );
}

/// CVE-2023-25809 is about rootless containers without a cgroup namespace: what we do not do we
/// refuse. With one, a container sees its own part of the tree, read-only.
#[test]
fn the_hosts_cgroups_are_out_of_reach() {
    let Some(lab) = Lab::new() else { return };
    let script = "for f in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do \
                      test -e $f || continue; (echo 1 >$f) 2>/dev/null && echo WRITTEN $f; \
                  done; mkdir /sys/fs/cgroup/x 2>/dev/null && echo MADE; \
                  grep -v ':/$' /proc/self/cgroup; echo end";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
    assert_eq!(finished.stdout, "end\n", "{finished:?}");
    let refused = lab.ocirun(["--rootless=true", "run", "-b", bundle.name(), "c"]);
    assert!(
        refused
            .stderr
            .contains("rootless container requires user namespaces"),
        "{refused:?}"
    );
}
