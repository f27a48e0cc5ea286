// SPDX-License-Identifier: Apache-2.0
use super::*;
use serde_json::{Value, json};
use sys::mount::attr;

use crate::rootfs::sources::Source;

fn plan_with(cgroups: Option<CgroupView>, spec: Value) -> Result<Plan, PlanError> {
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let host = Host {
        bundle: Path::new("/b"),
        pivot: Pivot::PivotRoot,
        cgroups,
        user: None,
        maker: Maker::Root,
    };
    Plan::from_spec(&spec, &host)
}

fn plan(mounts: Value, linux: Value) -> Result<Plan, PlanError> {
    let root = json!({"path": "rootfs"});
    plan_with(
        None,
        json!({"ociVersion": "1.0.2", "root": root, "mounts": mounts, "linux": linux}),
    )
}

fn refusal(mounts: Value, linux: Value) -> String {
    plan(mounts, linux).unwrap_err().to_string()
}

#[test]
fn the_default_mounts_are_understood() {
    let plan = plan(
        json!([
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/h", "options": ["rbind", "rprivate", "ro"]},
            {"destination": "/data", "type": "none", "source": "d", "options": ["rbind", "rro", "rslave"]},
        ]),
        json!({}),
    )
    .unwrap();
    assert_eq!(plan.root, Path::new("/b/rootfs"));
    assert!(plan.own_dev);
    assert_eq!(plan.devices.len(), 6);
    assert_eq!(
        plan.mounts[0].flags.set,
        ms::NOSUID | ms::NOEXEC | ms::NODEV
    );
    let Kind::Filesystem(dev) = &plan.mounts[1].kind else {
        panic!()
    };
    assert_eq!(dev.params[0], ("mode".into(), Some("755".into())));
    let expected = Kind::Bind {
        source: "/h".into(),
        inside: None,
        recursive: true,
    };
    assert_eq!(plan.mounts[2].kind, expected);
    assert_eq!(
        plan.mounts[2].propagation,
        [Propagation {
            kind: ms::PRIVATE,
            recursive: true
        }]
    );
    let expected = Kind::Bind {
        source: "/b/d".into(),
        inside: None,
        recursive: true,
    };
    assert_eq!(plan.mounts[3].kind, expected);
    assert_eq!(plan.mounts[3].tree.set, attr::RDONLY);
}

/// A source in the root is what an earlier mount has put there, also for init of a user namespace.
#[test]
fn what_is_in_the_root_is_taken_as_the_container_sees_it() {
    let mounts = json!([
        {"destination": "/b/rootfs/../rootfs/x", "source": "/b/rootfs/mnt/./y", "options": ["bind"]},
        {"destination": "/y", "source": "rootfs", "options": ["bind"]},
        {"destination": "/z", "source": "rootfs2/z", "options": ["bind"]},
    ]);
    let paths = json!({"maskedPaths": ["/a", "/a/", "/b/../a", "/c"]});
    let plan = plan(mounts, paths).unwrap();
    assert_eq!(plan.mounts[0].destination, Path::new("/x"));
    let inside: Vec<_> = plan
        .mounts
        .iter()
        .map(|mount| match &mount.kind {
            Kind::Bind { inside, .. } => inside.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(inside, [Some("/mnt/y".into()), Some("/".into()), None]);
    assert_eq!(plan.masked_paths, [Path::new("/a"), Path::new("/c")]);
    let text = refusal(
        json!([{"destination": "/b/rootfs", "type": "tmpfs"}]),
        json!({}),
    );
    assert!(text.contains("mounts[0].destination"), "{text}");
}

#[test]
fn a_plan_travels_in_a_packet() {
    let plan = plan(
        json!([{"destination": "/dev", "type": "tmpfs", "options": ["mode=755", "ro"]}]),
        json!({"maskedPaths": ["/proc/kcore"], "rootfsPropagation": "rshared",
            "devices": [{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}]}),
    )
    .unwrap();
    let bytes = postcard::to_stdvec(&plan).unwrap();
    assert_eq!(postcard::from_bytes::<Plan>(&bytes).unwrap(), plan);
}

#[test]
fn data_of_a_bind_mount_is_ignored_as_the_kernel_does() {
    let mount = |options: Value| json!([{"destination": "/a", "source": "/x", "options": options}]);
    assert_eq!(
        plan(mount(json!(["bind", "mode=755", "size=1k"])), json!({})).unwrap(),
        plan(mount(json!(["bind"])), json!({})).unwrap()
    );
}

#[test]
fn what_cannot_be_done_is_refused_with_its_json_path() {
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    for (mount, expected) in [
        (
            json!({"destination": "/a", "type": "bind", "source": "/x", "options": ["bind"], "uidMappings": ids}),
            "mounts[0].gidMappings: id-mapped mounts must have both uid and gid mappings specified",
        ),
        (
            json!({"destination": "/a", "type": "bind", "source": "/x", "options": ["bind"],
                   "gidMappings": [{"containerID": 0, "hostID": 1, "size": 0}]}),
            "mounts[0].gidMappings: 0 ids from 0 to 1 are no possible mapping",
        ),
        (
            json!({"destination": "/a", "type": "tmpfs", "options": ["idmap"]}),
            "mounts[0]: id-mapped mounts are only supported for bind-mounts",
        ),
        (
            json!({"destination": "/a", "source": "/x", "options": ["rbind", "ridmap"]}),
            "mounts[0].options: an id-mapped mount needs mappings of its own or a user namespace",
        ),
        (
            json!({"destination": "/a", "options": ["bind"]}),
            "mounts[0].source: must not be empty",
        ),
        (
            json!({"destination": "/a"}),
            "mounts[0].type: must not be empty",
        ),
        (
            json!({"destination": "", "type": "tmpfs"}),
            "mounts[0].destination: must not be empty",
        ),
        (
            json!({"destination": "/x/..", "type": "tmpfs"}),
            "mounts[0].destination: must not be the root",
        ),
        (
            json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}),
            "mounts[0].options: tmpcopyup",
        ),
        (
            json!({"destination": "/c", "type": "cgroup"}),
            "mounts[0].type: no cgroups are mounted",
        ),
        (
            json!({"destination": "/proc/sys/net", "source": "/x", "options": ["bind"]}),
            "mounts[0]: \"/proc/sys/net\" cannot be mounted because it is inside /proc",
        ),
        (
            json!({"destination": "/x/../proc/../proc/self", "type": "tmpfs"}),
            "mounts[0]: \"/proc/self\" cannot be mounted because it is inside /proc",
        ),
        (
            json!({"destination": "/proc", "type": "tmpfs"}),
            "mounts[0]: \"/proc\" cannot be mounted because it is not of type proc",
        ),
    ] {
        let error = refusal(json!([mount]), json!({}));
        assert!(error.starts_with(expected), "{error}");
    }
    for (linux, expected) in [
        (
            json!({"rootfsPropagation": "public"}),
            "linux.rootfsPropagation: unknown propagation \"public\"",
        ),
        (
            json!({"devices": [{"path": "/dev/x", "type": "a"}]}),
            "linux.devices[0].type: must be one of",
        ),
        (
            json!({"devices": [{"path": "dev/x", "type": "c"}]}),
            "linux.devices[0].path: must be an absolute path",
        ),
        (
            json!({"devices": [{"path": "/dev/x", "type": "c", "major": -1}]}),
            "linux.devices[0].major: -1 is no device number",
        ),
    ] {
        let error = refusal(json!([]), linux);
        assert!(error.starts_with(expected), "{error}");
    }
    let error = plan_with(None, json!({"ociVersion": "1.0.2"})).unwrap_err();
    assert_eq!(error.field, "root");
}

#[test]
fn the_files_that_lxcfs_emulates_may_be_mounted() {
    for name in ["cpuinfo", "meminfo", "sys/crypto/fips_enabled"] {
        let destination = format!("/proc/{name}");
        let mount = json!({"destination": destination, "source": "/x", "options": ["bind"]});
        plan(json!([mount]), json!({})).unwrap();
    }
}

#[test]
fn devices_of_the_specification_replace_default_ones() {
    let plan = plan(
        json!([]),
        json!({"devices": [
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20600, "uid": 5},
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
            {"path": "/dev/fifo", "type": "p"},
        ]}),
    )
    .unwrap();
    assert_eq!(plan.devices.len(), 7);
    assert_eq!((plan.devices[0].mode, plan.devices[0].uid), (0o600, 5));
    assert_eq!(plan.devices[1].kind, DeviceKind::Fifo);
}

#[test]
fn a_bind_over_dev_leaves_dev_alone() {
    let mount = json!({"destination": "/dev/", "source": "/dev", "options": ["rbind"]});
    assert!(!plan(json!([mount]), json!({})).unwrap().own_dev);
}

#[test]
fn the_sources_of_id_mapped_mounts_are_opened_by_the_shim_and_with_a_user_namespace_all_are() {
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let bind = |more: Value| {
        let mut mount = json!({"destination": "/a", "type": "bind", "source": "/x"});
        for (key, value) in more.as_object().unwrap() {
            mount[key] = value.clone();
        }
        mount
    };
    let mounts = json!([
        bind(json!({"options": ["rbind"]})),
        {"destination": "/b", "type": "tmpfs"},
        bind(json!({"options": ["rbind", "ridmap"], "uidMappings": ids, "gidMappings": ids})),
        bind(json!({"options": ["rbind"], "uidMappings": ids, "gidMappings": ids})),
    ]);
    let without = plan(mounts.clone(), json!({})).unwrap();
    let places = |plan: &Plan| -> Vec<usize> {
        let sources = plan.sources();
        let mounts = sources.iter().filter_map(|source| match source {
            Source::Mount(index, _) => Some(*index),
            Source::Device(..) => None,
        });
        mounts.collect()
    };
    assert_eq!(places(&without), [2, 3]);
    assert_eq!(without.sources().len(), 2);
    let recursive = |index: usize| without.mounts[index].id_map.as_ref().unwrap().recursive;
    assert!(recursive(2) && !recursive(3));

    let ranges = vec![crate::idmap::Range {
        container: 0,
        host: 7,
        size: 1,
    }];
    let user = Mappings {
        uids: ranges.clone(),
        gids: ranges,
    };
    let mounts = json!([
        bind(json!({"options": ["rbind"]})),
        bind(json!({"options": ["bind", "idmap"]}))
    ]);
    let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": mounts});
    let host = Host {
        bundle: Path::new("/b"),
        pivot: Pivot::PivotRoot,
        cgroups: None,
        user: Some(&user),
        maker: Maker::Root,
    };
    let within = Plan::from_spec(&serde_json::from_value(spec).unwrap(), &host).unwrap();
    assert_eq!(places(&within), [0, 1]);
    // And the six default devices.
    assert_eq!(within.sources().len(), 8);
    assert_eq!(within.mounts[1].id_map.as_ref().unwrap().mappings, user);
}
