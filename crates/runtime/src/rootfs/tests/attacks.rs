// SPDX-License-Identifier: Apache-2.0
//! Hostile images and neighbours.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::resolve::Root;

/// A directory of the host that nobody may write to.
fn outside(bundle: &Bundle) -> PathBuf {
    let path = bundle.host("outside");
    fs::create_dir_all(&path).unwrap();
    path
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).unwrap().count() == 0
}

#[test]
fn a_dev_that_is_a_symlink_gets_no_nodes_anywhere() {
    for missing in KERNELS {
        for target in ["/etc", "/../../outside", "outside"] {
            for with_tmpfs in [false, true] {
                let bundle = Bundle::new();
                let outside = outside(&bundle);
                fs::create_dir(bundle.image("outside")).unwrap();
                let target = if target == "outside" {
                    outside.to_str().unwrap()
                } else {
                    target
                };
                symlink(target, bundle.image("dev")).unwrap();
                let mounts = if with_tmpfs {
                    json!([tmpfs("/dev", &[])])
                } else {
                    json!([])
                };
                let plan = bundle.plan(mounts, json!({}));
                let error = isolated(|| {
                    prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap_err()
                });
                assert_eq!(error.errno(), Some(Errno::LOOP), "{error}");
                assert!(is_empty(&outside) && is_empty(&bundle.image("outside")));
                assert_eq!(fs::read_dir(bundle.image("etc")).unwrap().count(), 1);
            }
        }
    }
}

#[test]
fn proc_and_sys_must_be_ordinary_directories() {
    for missing in KERNELS {
        for (name, fstype) in [("proc", "proc"), ("sys", "sysfs"), ("deep/sys", "sysfs")] {
            for kind in ["link", "parent", "file"] {
                let bundle = Bundle::new();
                let top = bundle.image(name.split('/').next().unwrap());
                match kind {
                    "link" => symlink("/etc", &top).unwrap(),
                    "parent" => symlink("../../outside", &top).unwrap(),
                    _ => fs::write(&top, "").unwrap(),
                }
                outside(&bundle);
                let mount =
                    json!({"destination": format!("/{name}"), "type": fstype, "source": fstype});
                let plan = bundle.plan(json!([mount]), json!({}));
                let error = isolated(|| {
                    prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap_err()
                });
                let expected =
                    format!("filesystem {fstype:?} must be mounted on ordinary directory");
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
    }
}

#[test]
fn a_mount_point_never_leaves_the_root() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let outside = outside(&bundle);
        symlink("../../../../../../../../", bundle.image("up")).unwrap();
        symlink(&outside, bundle.image("absolute")).unwrap();
        symlink("/proc/self/root", bundle.image("magic")).unwrap();
        let escape = format!("/up{}", outside.display());
        let mounts = json!([
            tmpfs(&format!("{escape}/a"), &[]),
            tmpfs("/absolute/b", &[]),
            bind("/absolute/c/file", &bundle.image("etc/passwd"), &["bind"]),
            tmpfs("/../../../d", &[]),
            proc(),
        ]);
        let plan = bundle.plan(mounts, json!({}));
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            for name in ["a", "b"] {
                let path = outside.join(name);
                assert_eq!(mounted(path.to_str().unwrap()).2, "tmpfs");
            }
            assert!(outside.join("c/file").exists());
            assert_eq!(mounted("/d").2, "tmpfs");
        });
        assert!(is_empty(&outside));
        let magic = bundle.plan(json!([proc(), tmpfs("/magic/x", &[])]), json!({}));
        let error =
            isolated(|| prepare_with(&magic, no_help(), MountApi::without(missing)).unwrap_err());
        assert_eq!(error.errno(), Some(Errno::LOOP), "{error}");
    }
}

#[test]
fn a_symlink_into_proc_is_no_way_around_the_allowed_list() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        symlink("proc/sys", bundle.image("innocent")).unwrap();
        symlink("/proc", bundle.image("whole")).unwrap();
        for path in ["/innocent/kernel", "/whole", "/whole/cpuinfo"] {
            let plan = bundle.plan(json!([proc(), tmpfs(path, &[])]), json!({}));
            let error = isolated(|| {
                prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap_err()
            });
            assert!(
                error.to_string().ends_with("because it leads into /proc"),
                "{error}"
            );
        }
        let plan = bundle.plan(
            json!([bind("/proc", Path::new("/etc"), &["bind"])]),
            json!({}),
        );
        let error =
            isolated(|| prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap_err());
        assert!(
            error
                .to_string()
                .ends_with("because it is not of type proc"),
            "{error}"
        );
        let plan = bundle.plan(
            json!([bind("/proc", Path::new("/proc"), &["rbind"])]),
            json!({}),
        );
        isolated(|| {
            enter_with(&plan, MountApi::without(missing))
                .map(drop)
                .unwrap()
        });
    }
}

#[test]
fn a_replaced_null_device_masks_nothing_and_is_an_error() {
    for missing in KERNELS {
        for replacement in ["link", "file", "other", "gone"] {
            let bundle = Bundle::new();
            let mounts = json!([proc(), tmpfs("/dev", &["mode=755"])]);
            let plan = bundle.plan(mounts, json!({"maskedPaths": ["/etc/passwd"]}));
            isolated(|| {
                let mut prepared =
                    prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap();
                prepared.pivot().unwrap();
                fs::remove_file("/dev/null").unwrap();
                match replacement {
                    "link" => symlink("/proc/sys/kernel/core_pattern", "/dev/null").unwrap(),
                    "file" => fs::write("/dev/null", "").unwrap(),
                    "other" => {
                        fs::hard_link("/dev/zero", "/dev/null").unwrap();
                    }
                    _ => {}
                }
                let error = prepared.masked_paths().unwrap_err();
                assert!(
                    error
                        .to_string()
                        .starts_with("error masking path \"/etc/passwd\""),
                    "{error}"
                );
                assert_ne!(fs::read("/etc/passwd").unwrap(), b"");
            });
        }
    }
}

#[test]
fn a_terminal_is_not_looked_up_by_name() {
    let bundle = Bundle::new();
    let plan = bundle.plan(default_mounts(), json!({}));
    isolated(|| {
        let mut prepared = prepare(&plan, no_help()).unwrap();
        prepared.pivot().unwrap();
        // Something over what should be the slave: the slave comes from the master all the same.
        let (_keep, _) = open_console().unwrap();
        sys::mount::mount(Some("/etc/passwd"), "/dev/pts/0", None, ms::BIND, None).unwrap();
        let (_master, slave) = open_console().unwrap();
        prepared.mount_console(slave.as_fd()).unwrap();
        let stat = rustix::fs::fstat(&slave).unwrap();
        assert_eq!(fs::metadata("/dev/console").unwrap().rdev(), stat.st_rdev);
    });
    for (path, target) in [("console", "/etc/passwd"), ("pts", "/tmp")] {
        let bundle = Bundle::new();
        fs::create_dir(bundle.image("dev")).unwrap();
        symlink(target, bundle.image("dev").join(path)).unwrap();
        let devpts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["ptmxmode=666"]});
        let plan = bundle.plan(json!([proc(), devpts]), json!({}));
        isolated(|| {
            let mut prepared = prepare(&plan, no_help()).unwrap();
            prepared.pivot().unwrap();
            let error = open_console()
                .and_then(|(_, slave)| prepared.mount_console(slave.as_fd()))
                .unwrap_err();
            assert_eq!(error.errno(), Some(Errno::LOOP), "{error}");
            assert_ne!(fs::read("/etc/passwd").unwrap(), b"");
        });
    }
}

#[test]
fn a_ptmx_that_is_something_else_is_refused() {
    let bundle = Bundle::new();
    fs::create_dir_all(bundle.image("dev/pts")).unwrap();
    fs::write(bundle.image("dev/pts/ptmx"), "").unwrap();
    let plan = bundle.plan(json!([proc()]), json!({}));
    isolated(|| {
        enter(&plan).unwrap();
        let error = open_console().unwrap_err();
        assert!(error.to_string().contains("not the multiplexer"), "{error}");
        fs::remove_file("/dev/pts/ptmx").unwrap();
        let number = rustix::fs::makedev(5, 2);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, "/dev/pts/ptmx", kind, 0o666.into(), number).unwrap();
        assert!(open_console().is_err());
    });
}

#[test]
fn writes_do_not_follow_what_is_mounted_over_proc() {
    let bundle = Bundle::new();
    let plan = bundle.plan(json!([proc(), tmpfs("/dev", &[])]), json!({}));
    isolated(|| {
        let mut prepared = prepare(&plan, no_help()).unwrap();
        prepared.pivot().unwrap();
        // The container's /proc serves us as long as nobody mounts in it; then it fails, closed.
        let name = "kernel.sched_rt_runtime_us";
        let path = "/proc/sys/kernel/sched_rt_runtime_us";
        let value = fs::read_to_string(path).unwrap();
        prepared.procfs().write_sysctl(name, value.trim()).unwrap();
        sys::mount::mount(Some("/etc/passwd"), path, None, ms::BIND, None).unwrap();
        let error = prepared
            .procfs()
            .write_sysctl(name, value.trim())
            .unwrap_err();
        assert_eq!(error.errno(), Some(Errno::XDEV), "{error}");
        // A handle made now does not see the mount at all.
        Procfs::default().write_sysctl(name, value.trim()).unwrap();
        assert!(
            fs::read_to_string("/etc/passwd")
                .unwrap()
                .starts_with("root:")
        );
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let comm = format!("/proc/{}/task/{tid}/comm", std::process::id());
        sys::mount::mount(Some("/etc/passwd"), &*comm, None, ms::BIND, None).unwrap();
        let error = prepared.procfs().write_self("comm", b"x").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::XDEV), "{error}");
        Procfs::default().write_self("comm", b"renamed").unwrap();
        assert_eq!(Procfs::default().read_self("comm").unwrap(), "renamed\n");
    });
}

#[test]
fn dangling_symlinks_are_followed_inside_the_root() {
    let bundle = Bundle::new();
    symlink("/run", bundle.image("var/run")).unwrap();
    symlink("../lib/x", bundle.image("var/relative")).unwrap();
    symlink("/made/file", bundle.image("etc/file")).unwrap();
    symlink("loop", bundle.image("loop")).unwrap();
    let fd = rustix::fs::open(bundle.image(""), OFlags::PATH, Mode::empty()).unwrap();
    let root = Root::new(fd.as_fd());
    let mkdir = |path: &str, links| root.mkdir_all(Path::new(path), 0o750.into(), links);
    mkdir("/var/run/secrets/x", Links::Follow).unwrap();
    mkdir("/var/relative/y", Links::Follow).unwrap();
    root.create_file(Path::new("/etc/file"), 0o640.into(), Links::Follow)
        .unwrap();
    assert!(bundle.image("run/secrets/x").is_dir());
    assert!(bundle.image("lib/x/y").is_dir());
    assert!(bundle.image("made/file").is_file());
    for (path, links, errno) in [
        ("/loop/x", Links::Follow, Errno::LOOP),
        ("/var/run2/../x", Links::Follow, Errno::NOENT),
        ("/etc/passwd/x", Links::Follow, Errno::NOTDIR),
        ("/var/run/other", Links::Refuse, Errno::LOOP),
        ("/etc/file2/../..", Links::Follow, Errno::NOENT),
    ] {
        assert_eq!(mkdir(path, links).unwrap_err().errno(), errno, "{path}");
    }
}

/// Somebody swaps a directory and a symlink that leads out as fast as they can.
fn while_swapping(bundle: &Bundle, work: impl Fn(usize)) {
    let outside = outside(bundle);
    let volume = bundle.image("volume");
    fs::create_dir_all(volume.join("dir")).unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    symlink("../../../../../..", volume.join("up")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for other in ["link", "up"] {
            let (volume, done) = (&volume, &done);
            scope.spawn(move || {
                let directory = fs::File::open(volume).unwrap();
                while !done.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(
                        &directory,
                        "dir",
                        &directory,
                        other,
                        rustix::fs::RenameFlags::EXCHANGE,
                    );
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(700);
        let mut round = 0;
        while Instant::now() < end || round < 50 {
            work(round);
            round += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(is_empty(&outside), "escaped");
}

#[test]
fn directories_and_files_are_not_made_outside_during_a_race() {
    let bundle = Bundle::new();
    let fd = rustix::fs::open(bundle.image(""), OFlags::PATH, Mode::empty()).unwrap();
    let root = Root::new(fd.as_fd());
    let inode = fs::metadata(bundle.host("")).unwrap().ino();
    while_swapping(&bundle, |round| {
        let path = PathBuf::from(format!("/volume/dir/d{}/e", round % 50));
        let made = [
            root.mkdir_all(&path, 0o755.into(), Links::Follow),
            root.create_file(&path.with_file_name("f"), 0o644.into(), Links::Follow),
        ];
        // It may fail. It may end up anywhere in the root. Nowhere else.
        for fd in made.into_iter().flatten() {
            assert_ne!(rustix::fs::fstat(&fd).unwrap().st_ino, inode);
        }
        if round % 50 == 49 {
            let _ = fs::remove_dir_all(bundle.image("volume/dir/d0"));
        }
    });
}

#[test]
fn mounts_do_not_land_outside_during_a_race() {
    for missing in [KERNELS[0], KERNELS[2]] {
        let bundle = Bundle::new();
        let plan = bundle.plan(json!([tmpfs("/volume/dir/mnt", &[])]), json!({}));
        let outside = outside(&bundle);
        let attempt = || {
            let Ok(prepared) = prepare_with(&plan, no_help(), MountApi::without(missing)) else {
                return;
            };
            let table = Procfs::default().read_self("mountinfo").unwrap();
            let escaped = |line: &&str| {
                let path = line.split(' ').nth(4).unwrap_or_default();
                path.starts_with(outside.to_str().unwrap())
            };
            assert_eq!(table.lines().find(escaped), None);
            drop(prepared);
        };
        while_swapping(&bundle, |_| isolated(attempt));
    }
}
