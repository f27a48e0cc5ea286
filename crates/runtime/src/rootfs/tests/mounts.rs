// SPDX-License-Identifier: Apache-2.0
//! Kinds of mounts and their options.

use std::cell::Cell;

use super::*;
use crate::rootfs::plan::Mount;
use crate::rootfs::sources::IdMaps;

#[test]
fn files_and_directories_are_bound_and_their_places_made() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        fs::create_dir(bundle.host("dir")).unwrap();
        fs::write(bundle.host("dir/file"), "in dir").unwrap();
        fs::write(bundle.host("hosts"), "localhost").unwrap();
        let mounts = json!([
            proc(),
            bind(
                "/etc/hosts",
                &bundle.host("hosts"),
                &["rbind", "rprivate", "ro"]
            ),
            bind(
                "/new/deep/dir",
                Path::new("dir"),
                &["rbind", "rprivate", "rw", "nosuid", "noexec"]
            ),
            bind("/etc/passwd", &bundle.host("hosts"), &["bind"]),
        ]);
        let plan = bundle.plan(mounts, json!({}));
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "localhost");
            assert_eq!(fs::read_to_string("/new/deep/dir/file").unwrap(), "in dir");
            assert_eq!(fs::read_to_string("/etc/passwd").unwrap(), "localhost");
            assert_eq!(access("/etc/hosts"), "ro");
            assert!(options("/new/deep/dir").starts_with("rw,nosuid,noexec"));
            assert_eq!(access("/etc/passwd"), "rw");
            assert!(fs::write("/etc/hosts", "x").is_err());
            fs::write("/new/deep/dir/file", "x").unwrap();
            assert_eq!(fs::metadata("/new/deep").unwrap().mode() & 0o7777, 0o755);
        });
        assert_eq!(
            fs::metadata(bundle.image("etc/hosts")).unwrap().mode() & 0o7777,
            0o644
        );
        assert_eq!(
            fs::read_to_string(bundle.host("hosts")).unwrap(),
            "localhost"
        );
    }
}

/// A directory with a mount in it, both with `nosuid` and `nodev`.
fn nested(bundle: &Bundle) -> PathBuf {
    let source = bundle.host("nested");
    let inner = source.join("inner");
    fs::create_dir_all(&source).unwrap();
    let flags = ms::NOSUID | ms::NODEV;
    for path in [&source, &inner] {
        fs::create_dir_all(path).unwrap();
        sys::mount::mount(Some("t"), path, Some("tmpfs"), flags, None).unwrap();
    }
    source
}

#[test]
fn plain_attributes_are_for_one_mount_and_recursive_ones_for_all() {
    for missing in &KERNELS[..1] {
        let bundle = Bundle::new();
        isolated(|| {
            let source = nested(&bundle);
            let mounts = json!([
                proc(),
                bind("/kept", &source, &["rbind"]),
                bind("/rw", &source, &["rbind", "rw"]),
                bind("/ro", &source, &["rbind", "ro", "nosuid"]),
                bind("/rro", &source, &["rbind", "rro", "rnoexec", "rnoatime"]),
                bind("/one", &source, &["bind", "rro", "rsuid"]),
            ]);
            enter_with(&bundle.plan(mounts, json!({})), MountApi::without(missing)).unwrap();
            assert_eq!(options("/kept"), "rw,nosuid,nodev,relatime");
            // Any option at all, and the four flags are as the options say.
            assert_eq!(options("/rw"), "rw,relatime");
            assert_eq!(options("/rw/inner"), "rw,nosuid,nodev,relatime");
            assert_eq!(options("/ro"), "ro,nosuid,relatime");
            assert_eq!(options("/ro/inner"), "rw,nosuid,nodev,relatime");
            assert_eq!(options("/rro"), "ro,nosuid,nodev,noexec,noatime");
            assert_eq!(options("/rro/inner"), "ro,nosuid,nodev,noexec,noatime");
            assert_eq!(options("/one"), "ro,nodev,relatime");
            assert!(
                !Procfs::default()
                    .read_self("mountinfo")
                    .unwrap()
                    .contains("/one/inner")
            );
        });
    }
}

#[test]
fn old_kernels_keep_flags_as_new_ones_do_and_refuse_what_they_cannot() {
    for missing in &KERNELS[1..] {
        let bundle = Bundle::new();
        isolated(|| {
            let source = nested(&bundle);
            let mounts = json!([
                proc(),
                bind("/kept", &source, &["rbind"]),
                bind("/ro", &source, &["rbind", "ro", "nosuid", "noatime"]),
            ]);
            let refused = json!([bind("/rro", &source, &["rbind", "rro"])]);
            let plan = bundle.plan(refused, json!({}));
            isolated(|| {
                let error = prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap_err();
                assert_eq!(error.errno(), Some(Errno::NOSYS), "{error}");
            });
            enter_with(&bundle.plan(mounts, json!({})), MountApi::without(missing)).unwrap();
            assert_eq!(options("/kept"), "rw,nosuid,nodev,relatime");
            assert_eq!(options("/kept/inner"), "rw,nosuid,nodev,relatime");
            assert_eq!(options("/ro"), "ro,nosuid,noatime");
        });
    }
}

#[test]
fn a_tmpfs_inherits_the_permissions_of_what_it_hides() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        fs::set_permissions(bundle.image("var"), fs::Permissions::from_mode(0o2750)).unwrap();
        let mounts = json!([
            proc(),
            tmpfs("/tmp", &[]),
            tmpfs("/var", &["noexec"]),
            tmpfs("/new", &["nosuid"]),
            tmpfs("/etc", &["mode=700", "size=1m", "noatime", "nodiratime"]),
        ]);
        let plan = bundle.plan(mounts, json!({}));
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            let mode = |path| fs::metadata(path).unwrap().mode() & 0o7777;
            assert_eq!((mode("/tmp"), mode("/var")), (0o1777, 0o2750));
            assert_eq!((mode("/new"), mode("/etc")), (0o1777, 0o700));
            assert_eq!(options("/etc"), "rw,noatime,nodiratime");
            assert!(mounted("/etc").4.contains("size=1024k"));
        });
    }
}

#[test]
fn tmpcopyup_copies_what_it_hides() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let etc = |name: &str| bundle.image("etc").join(name);
        fs::create_dir_all(etc("a/b")).unwrap();
        fs::write(etc("a/b/file"), vec![7; 300_000]).unwrap();
        fs::set_permissions(etc("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        std::os::unix::fs::chown(etc("a"), Some(7), Some(8)).unwrap();
        fs::set_permissions(bundle.image("etc"), fs::Permissions::from_mode(0o751)).unwrap();
        symlink("/outside", etc("link")).unwrap();
        let mounts = json!([proc(), tmpfs("/etc", &["tmpcopyup", "ro", "nosuid"])]);
        let plan = bundle.plan(mounts, json!({}));
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            assert_eq!(fs::read("/etc/a/b/file").unwrap(), vec![7; 300_000]);
            assert_eq!(
                fs::metadata("/etc/a/b/file").unwrap().mode() & 0o7777,
                0o4711
            );
            let a = fs::metadata("/etc/a").unwrap();
            assert_eq!((a.uid(), a.gid()), (7, 8));
            assert_eq!(fs::metadata("/etc").unwrap().mode() & 0o7777, 0o751);
            assert_eq!(fs::read_link("/etc/link").unwrap(), Path::new("/outside"));
            assert_eq!(mounted("/etc").2, "tmpfs");
            assert!(options("/etc").starts_with("ro,nosuid"));
        });
    }
}

#[test]
fn a_remount_changes_what_is_there() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let mounts = json!([
            proc(),
            tmpfs("/a", &["size=1m"]),
            {"destination": "/a", "type": "tmpfs", "options": ["remount", "size=2m", "noexec"]},
            bind("/b", &bundle.host("."), &["bind"]),
            bind("/b", &bundle.host("."), &["bind", "remount", "ro"]),
        ]);
        let plan = bundle.plan(mounts, json!({}));
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            assert!(mounted("/a").4.contains("size=2048k") && options("/a").contains("noexec"));
            assert_eq!(access("/b"), "ro");
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert_eq!(table.lines().filter(|l| l.contains(" /b ")).count(), 1);
        });
    }
}

#[test]
fn a_failed_mount_is_told_with_source_place_and_cause() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let file = bundle.image("etc/passwd");
        for (mount, expected) in [
            (
                bind("/x", Path::new("/does/not/exist"), &["bind"]),
                "error mounting \"/does/not/exist\" to rootfs at \"/x\": ",
            ),
            (
                bind("/etc", &file, &["bind"]),
                "not a directory: a directory cannot be mounted on a file",
            ),
            (tmpfs("/x", &["size=lots"]), "invalid argument"),
            (
                json!({"destination": "/x", "type": "nofs", "source": "none"}),
                "no such device",
            ),
        ] {
            let plan = bundle.plan(json!([mount]), json!({}));
            let error = isolated(|| {
                prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap_err()
            });
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.errno().is_some());
        }
    }
}

/// The directory of a v1 hierarchy or of cgroup2 on this host.
fn cgroup_directory(name: &str) -> Option<PathBuf> {
    let path = Path::new("/sys/fs/cgroup").join(name);
    path.join("cgroup.procs").exists().then_some(path)
}

#[test]
fn several_hierarchies_are_bound_in_a_small_tmpfs() {
    let hierarchies: Vec<Hierarchy> = ["memory", "pids", "cpu", "systemd", "unified"]
        .iter()
        .filter_map(|name| Some((name, cgroup_directory(name)?)))
        .map(|(name, own)| {
            // As if two controllers shared a hierarchy.
            let name = if *name == "cpu" { "cpu,cpuacct" } else { name };
            Hierarchy {
                name: name.into(),
                own,
            }
        })
        .collect();
    if hierarchies.is_empty() {
        assert!(cgroup_directory("").is_some(), "no cgroups on this host");
        return;
    }
    for missing in KERNELS {
        let bundle = Bundle::new();
        let options_of = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        let mounts = json!([
            proc(),
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options_of},
        ]);
        let view = CgroupView::Split(hierarchies.clone());
        let plan = bundle.plan_with(mounts, json!({}), Some(view));
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            assert_eq!(options("/sys/fs/cgroup"), "ro,nosuid,nodev,noexec,relatime");
            assert_eq!(mounted("/sys/fs/cgroup").2, "tmpfs");
            for hierarchy in &hierarchies {
                let path = format!("/sys/fs/cgroup/{}", hierarchy.name);
                let expected = if hierarchy.name == "unified" {
                    "cgroup2"
                } else {
                    "cgroup"
                };
                assert_eq!(mounted(&path).2, expected);
                assert_eq!(options(&path), "ro,nosuid,nodev,noexec,relatime");
            }
            let link = fs::read_link("/sys/fs/cgroup/cpuacct").unwrap();
            assert_eq!(link, Path::new("cpu,cpuacct"));
            assert!(Path::new("/sys/fs/cgroup/cpu/cgroup.procs").exists());
        });
    }
}

#[test]
fn one_hierarchy_is_mounted_in_a_cgroup_namespace_and_bound_without() {
    let Some(root) = cgroup_directory("unified").or_else(|| cgroup_directory("")) else {
        panic!("no cgroup2 on this host");
    };
    let own = root.join(format!("fs-test-{}", std::process::id()));
    fs::create_dir(&own).unwrap();
    fs::create_dir(own.join("inner")).unwrap();
    for (private_namespace, shows_inner) in [(true, false), (false, true)] {
        for missing in KERNELS {
            let bundle = Bundle::new();
            let view = CgroupView::Unified {
                mount_point: own.clone(),
                own: own.join("inner"),
                private_namespace,
            };
            let mounts = json!([proc(), {"destination": "/cg", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]}]);
            let plan = bundle.plan_with(mounts, json!({}), Some(view));
            isolated(|| {
                if private_namespace {
                    // It shows the whole hierarchy, as this thread is in its root.
                    sys::namespace::unshare(rustix::thread::UnshareFlags::NEWCGROUP).unwrap();
                }
                enter_with(&plan, MountApi::without(missing)).unwrap();
                assert_eq!(mounted("/cg").2, "cgroup2");
                assert!(options("/cg").starts_with("ro,nosuid"));
                assert_eq!(Path::new("/cg/inner").exists(), shows_inner);
            });
        }
    }
    fs::remove_dir(own.join("inner")).unwrap();
    fs::remove_dir(&own).unwrap();
}

#[test]
fn classes_of_access_times_and_nosymfollow_are_applied() {
    let bundle = Bundle::new();
    let mounts = json!([
        proc(),
        tmpfs("/a", &["strictatime"]),
        tmpfs("/b", &["noatime", "nosymfollow"]),
        tmpfs("/c", &["relatime", "sync", "dirsync", "lazytime"]),
        tmpfs("/d", &["iversion", "silent"]),
        bind("/e", &bundle.host("."), &["bind", "noatime", "nosymfollow"]),
        bind(
            "/f",
            &bundle.host("."),
            &["bind", "strictatime", "nodiratime"]
        ),
    ]);
    let plan = bundle.plan(mounts, json!({}));
    isolated(|| {
        enter(&plan).unwrap();
        assert_eq!(options("/a"), "rw");
        assert_eq!(options("/b"), "rw,noatime,nosymfollow");
        assert_eq!(options("/c"), "rw,relatime");
        assert!(
            mounted("/c").4.starts_with("rw,sync,dirsync,lazytime"),
            "{}",
            mounted("/c").4
        );
        assert_eq!(options("/e"), "rw,noatime,nosymfollow");
        assert_eq!(options("/f"), "rw,nodiratime");
        assert_ne!(attr::NOSYMFOLLOW, 0);
    });
}

#[test]
fn an_id_mapped_source_is_what_was_opened_whatever_its_path_becomes() {
    let bundle = Bundle::new();
    let (source, secret) = (bundle.host("source"), bundle.host("secret"));
    for (folder, name) in [(&source, "file"), (&secret, "key")] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join(name), name).unwrap();
    }
    let ids = json!([{"containerID": 0, "hostID": 4000, "size": 10}]);
    let mut mount = bind("/x", &source, &["rbind", "ro"]);
    mount["uidMappings"] = ids.clone();
    mount["gidMappings"] = ids;
    let plan = bundle.plan(json!([mount, bind("/y", &source, &["rbind"])]), json!({}));

    let init = rustix::process::getpid();
    let init = rustix::process::pidfd_open(init, rustix::process::PidfdFlags::empty()).unwrap();
    let opened = sources::open(&plan, init.as_fd()).unwrap();
    assert_eq!(opened.len(), 1);
    fs::rename(&source, bundle.host("moved")).unwrap();
    symlink(&secret, &source).unwrap();
    isolated(|| {
        enter_with_sources(&plan, opened).unwrap();
        let metadata = fs::metadata("/x/file").unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (4000, 4000));
        assert!(!Path::new("/x/key").exists());
        assert_eq!(access("/x"), "ro");
        // One that is not id-mapped is found by its path when it is mounted.
        assert_eq!(fs::metadata("/y/key").unwrap().uid(), 0);
    });
    // Sources that do not fit the plan are not taken for others.
    let error = isolated(|| prepare(&plan, no_help()).unwrap_err());
    assert!(error.to_string().contains("not as many"), "{error}");
    let missing = bundle.plan(
        json!([{"destination": "/x", "type": "bind", "source": "/nope/nope", "options": ["bind"],
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}]),
        json!({}),
    );
    let error = sources::open(&missing, init.as_fd()).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOENT));
    assert!(
        error
            .to_string()
            .starts_with("error mounting \"/nope/nope\" to rootfs at \"/x\"")
    );
}

/// A bind mount whose files belong to others.
fn id_mapped(destination: &str, source: &Path) -> Value {
    let ids = json!([{"containerID": 0, "hostID": 4000, "size": 10}]);
    let mut mount = bind(destination, source, &["rbind"]);
    mount["uidMappings"] = ids.clone();
    mount["gidMappings"] = ids;
    mount
}

/// As [`enter`], with somebody who id-maps what is in the container's root; says how often.
fn enter_mapping(plan: &Plan) -> Result<usize, Error> {
    let mounts: Vec<&Mount> = plan.mapped_in_turn().collect();
    let done = Cell::new(0);
    let map_ids = |tree: BorrowedFd<'_>| {
        let mount = mounts[done.replace(done.get() + 1)];
        let tree = tree.try_clone_to_owned().unwrap();
        let mapped = IdMaps::default().map(mount, &tree);
        mapped.map_err(|e| e.to_string())
    };
    let help = Help {
        sources: Vec::new(),
        map_ids: &map_ids,
    };
    steps_after(prepare(plan, help)?)?;
    Ok(done.get())
}

#[test]
fn what_an_earlier_mount_has_brought_can_be_id_mapped() {
    let bundle = Bundle::new();
    let source = bundle.host("source");
    fs::create_dir_all(source.join("deep")).unwrap();
    fs::write(source.join("deep/file"), "").unwrap();
    let mounts = json!([
        bind("/b", &source, &["bind"]),
        id_mapped("/c", &bundle.image("b/deep")),
        id_mapped("/d", &bundle.image("etc")),
    ]);
    let plan = bundle.plan(mounts, json!({}));
    assert!(plan.sources().is_empty());
    isolated(|| {
        assert_eq!(enter_mapping(&plan).unwrap(), 2);
        let owner = |path: &str| fs::metadata(path).unwrap().uid();
        assert_eq!((owner("/b/deep/file"), owner("/c/file")), (0, 4000));
        assert_eq!((owner("/etc"), owner("/d")), (0, 4000));
    });
}

#[test]
fn an_id_mapped_source_in_the_root_leads_nowhere_else() {
    let bundle = Bundle::new();
    fs::create_dir(bundle.host("secret")).unwrap();
    fs::write(bundle.host("secret/key"), "").unwrap();
    symlink("../../../secret", bundle.image("etc/out")).unwrap();
    symlink("/tmp", bundle.image("etc/in")).unwrap();
    let out = bundle.plan(
        json!([id_mapped("/x", &bundle.image("etc/out"))]),
        json!({}),
    );
    let error = isolated(|| enter_mapping(&out).unwrap_err());
    assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
    let inside = bundle.plan(json!([id_mapped("/x", &bundle.image("etc/in"))]), json!({}));
    isolated(|| {
        assert_eq!(enter_mapping(&inside).unwrap(), 1);
        assert_eq!(fs::metadata("/x").unwrap().uid(), 4000);
        assert_eq!(fs::metadata("/tmp").unwrap().uid(), 0);
    });
    // Who cannot be helped has no container.
    let refused = isolated(|| prepare(&inside, no_help()).unwrap_err());
    let text = refused.to_string();
    assert!(text.ends_with("id-mapped mount: not expected"), "{text}");
}
