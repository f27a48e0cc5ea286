// SPDX-License-Identifier: Apache-2.0

use super::*;

const V1: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:12 - cgroup cgroup rw,memory
";
const V1_CGROUP: &str = "\
4:cpu,cpuacct:/user.slice
3:memory:/user.slice
1:name=systemd:/user.slice/session-1.scope
";
const UNIFIED: &str =
    "35 31 0:32 / /sys/fs/cgroup/unified rw,nosuid shared:13 - cgroup2 cgroup2 rw,nsdelegate\n";
const V2: &str = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

fn controllers(names: &[&str]) -> Kind {
    Kind::Controllers(names.iter().map(|&n| n.to_owned()).collect())
}

fn summary(found: &[Found]) -> Vec<(Kind, &str, &str)> {
    found
        .iter()
        .map(|f| {
            let mount = f.mounts[0].mount_point.as_str();
            (f.kind.clone(), mount, f.own.as_str())
        })
        .collect()
}

#[test]
fn v1_with_co_mounted_controllers() {
    let (mode, found) = arrange(V1, V1_CGROUP);
    assert_eq!(mode, Mode::V1);
    let systemd = Kind::Named("name=systemd".to_owned());
    let session = "/user.slice/session-1.scope";
    assert_eq!(
        summary(&found),
        [
            (
                controllers(&["cpu", "cpuacct"]),
                "/sys/fs/cgroup/cpu,cpuacct",
                "/user.slice"
            ),
            (
                controllers(&["memory"]),
                "/sys/fs/cgroup/memory",
                "/user.slice"
            ),
            (systemd, "/sys/fs/cgroup/systemd", session),
        ]
    );
    assert_eq!(found[0].mounts[0].device, (0, 30));
}

#[test]
fn hybrid_has_v1_and_the_unified_one() {
    let (mode, found) = arrange(
        &format!("{V1}{UNIFIED}"),
        &format!("{V1_CGROUP}0::/init.scope\n"),
    );
    assert_eq!(mode, Mode::Hybrid);
    assert_eq!(found.len(), 4);
    assert_eq!(
        summary(&found)[3],
        (Kind::Unified, "/sys/fs/cgroup/unified", "/init.scope")
    );
}

#[test]
fn pure_v2_ignores_a_v1_controller_that_a_program_mounted_for_itself() {
    let stray = "36 31 0:40 / /sys/fs/cgroup/net_cls rw - cgroup net_cls rw,net_cls\n";
    for (mountinfo, cgroup) in [
        (V2.to_owned(), "0::/user.slice\n"),
        (format!("{V2}{stray}"), "5:net_cls:/\n0::/user.slice\n"),
    ] {
        let (mode, found) = arrange(&mountinfo, cgroup);
        assert_eq!(mode, Mode::V2);
        assert_eq!(
            summary(&found),
            [(Kind::Unified, "/sys/fs/cgroup", "/user.slice")]
        );
    }
}

#[test]
fn mounts_of_containers_do_not_win_over_the_hosts_own() {
    let inner =
        "90 80 0:31 /docker/1 /run/rootfs/sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let (_, found) = arrange(&format!("{inner}{V1}"), V1_CGROUP);
    let memory = &found[1].mounts;
    assert_eq!(memory.len(), 2);
    assert_eq!(memory[0].mount_point, "/sys/fs/cgroup/memory");
    assert_eq!(memory[1].root, "/docker/1");
}

#[test]
fn a_hierarchy_that_is_not_mounted_is_left_out() {
    let (mode, found) = arrange(V1, "7:pids:/\n3:memory:/\n0::/\n");
    assert_eq!(mode, Mode::V1);
    assert_eq!(found.len(), 1);
    assert_eq!(arrange("", "0::/\n").1, []);
}

#[test]
fn broken_lines_and_escapes_do_no_harm() {
    assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
    assert_eq!(unescape(r"/a\04"), r"/a\04");
    assert_eq!(unescape(r"\777\"), r"\777\");
    for line in [
        "",
        " - cgroup",
        "1 2 x / /m - cgroup c rw",
        "1 2 0:1 / - cgroup c rw",
        "garbage",
    ] {
        assert_eq!(mount(line), None, "{line:?}");
    }
    assert_eq!(hierarchy("12", &[]), None);
}
