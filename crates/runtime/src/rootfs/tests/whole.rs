// SPDX-License-Identifier: Apache-2.0
//! Whole root file systems, from plan to masks.

use super::*;

#[test]
fn the_default_specification_is_mounted_on_every_kernel() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let plan = bundle.plan(default_mounts(), default_linux());
        isolated(|| {
            let prepared = enter_with(&plan, MountApi::without(missing)).unwrap();
            check_mounts();
            check_dev();
            check_masks();
            assert_eq!(
                fs::read_to_string("/etc/passwd").unwrap(),
                "root:x:0:0::/:/bin/sh\n"
            );
            drop(prepared);
        });
        // Nothing is mounted in ours.
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!table.contains(bundle.0.path().to_str().unwrap()));
    }
}

fn check_mounts() {
    for (path, expected_options, fstype, source) in [
        ("/proc", "rw,nosuid,nodev,noexec,relatime", "proc", "proc"),
        ("/dev", "rw,nosuid", "tmpfs", "tmpfs"),
        ("/dev/pts", "rw,nosuid,noexec,relatime", "devpts", "devpts"),
        (
            "/dev/shm",
            "rw,nosuid,nodev,noexec,relatime",
            "tmpfs",
            "shm",
        ),
        (
            "/dev/mqueue",
            "rw,nosuid,nodev,noexec,relatime",
            "mqueue",
            "mqueue",
        ),
        ("/sys", "ro,nosuid,nodev,noexec,relatime", "sysfs", "sysfs"),
        ("/run", "rw,nosuid", "tmpfs", "tmpfs"),
    ] {
        let (options, peers, actual_type, actual_source, _) = mounted(path);
        assert_eq!(
            (options.as_str(), peers.as_str()),
            (expected_options, ""),
            "{path}"
        );
        assert_eq!(
            (actual_type.as_str(), actual_source.as_str()),
            (fstype, source),
            "{path}"
        );
    }
    assert!(mounted("/dev").4.contains("size=65536k,mode=755"));
    assert!(
        mounted("/dev/pts")
            .4
            .contains("gid=5,mode=620,ptmxmode=666")
    );
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert_eq!(
        table
            .lines()
            .filter(|l| l.split(' ').nth(4) == Some("/"))
            .count(),
        1,
        "{table}"
    );
    assert!(!table.contains(" master:"), "{table}");
}

fn check_dev() {
    for (name, number) in [
        ("null", (1, 3)),
        ("zero", (1, 5)),
        ("full", (1, 7)),
        ("random", (1, 8)),
        ("urandom", (1, 9)),
        ("tty", (5, 0)),
    ] {
        let metadata = fs::symlink_metadata(format!("/dev/{name}")).unwrap();
        assert!(metadata.file_type().is_char_device(), "{name}");
        assert_eq!(
            metadata.rdev(),
            rustix::fs::makedev(number.0, number.1),
            "{name}"
        );
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.uid()),
            (0o666, 0),
            "{name}"
        );
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let link = fs::read_link(format!("/dev/{name}")).unwrap();
        assert_eq!(link, Path::new(target));
    }
    assert_eq!(
        fs::metadata("/dev/ptmx").unwrap().rdev(),
        rustix::fs::makedev(5, 2)
    );
    assert_eq!(fs::metadata("/dev/shm").unwrap().mode() & 0o7777, 0o1777);
}

fn check_masks() {
    let masked = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
    ];
    let there: Vec<_> = masked
        .iter()
        .filter_map(|path| Some((path, fs::metadata(path).ok()?)))
        .collect();
    assert!(!there.is_empty());
    for (path, metadata) in there {
        assert_eq!(fs::read(path).unwrap(), b"");
        assert_eq!(metadata.rdev(), rustix::fs::makedev(1, 3));
    }
    assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
    assert!(fs::write("/sys/firmware/x", "").is_err());
    assert!(options("/proc/sys").starts_with("ro,"));
    assert!(options("/proc/sys").contains("nosuid,nodev,noexec"));
    let error = fs::OpenOptions::new()
        .write(true)
        .open("/proc/sys/kernel/domainname");
    assert_eq!(
        error.unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    fs::write("/dev/null", "x").unwrap();
}

#[test]
fn directories_are_masked_by_one_superblock() {
    let bundle = Bundle::new();
    let paths: Vec<String> = (0..5).map(|n| format!("/m{n}")).collect();
    paths
        .iter()
        .for_each(|path| fs::create_dir(bundle.image(&path[1..])).unwrap());
    fs::write(bundle.image("m0/secret"), "x").unwrap();
    fs::write(bundle.image("file"), "secret").unwrap();
    let masked: Vec<&str> = paths
        .iter()
        .map(String::as_str)
        .chain(["/file", "/absent", "/file/absent"])
        .collect();
    for missing in KERNELS {
        let linux = json!({"maskedPaths": masked});
        let plan = bundle.plan(json!([proc(), tmpfs("/dev", &[])]), linux);
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            let devices: Vec<u64> = paths
                .iter()
                .map(|path| fs::metadata(path).unwrap().dev())
                .collect();
            assert!(devices.iter().all(|device| *device == devices[0]));
            assert_eq!(fs::read_dir("/m0").unwrap().count(), 0);
            assert_eq!(fs::read("/file").unwrap(), b"");
            assert!(
                options("/m3").starts_with("ro,nosuid,nodev,noexec"),
                "{}",
                options("/m3")
            );
        });
    }
}

#[test]
fn the_root_and_tmpfs_become_read_only_at_the_end() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let mounts = json!([
            proc(),
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "ro", "nosuid"]},
            tmpfs("/data", &["ro", "noexec"]),
            bind("/data/inner", &bundle.host("."), &["bind", "rw"]),
        ]);
        let mut plan = bundle.plan(mounts, json!({}));
        plan.readonly = true;
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            assert_eq!(access("/"), "ro");
            assert!(
                options("/dev").starts_with("ro,nosuid,relatime"),
                "{}",
                options("/dev")
            );
            assert!(options("/data").starts_with("ro,noexec"));
            assert_eq!(access("/data/inner"), "rw");
            assert!(
                fs::metadata("/dev/null")
                    .unwrap()
                    .file_type()
                    .is_char_device()
            );
            assert!(fs::write("/etc/x", "").is_err() && fs::write("/data/x", "").is_err());
        });
    }
}

#[test]
fn without_pivot_root_the_hosts_proc_and_sys_are_gone() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let mut plan = bundle.plan(default_mounts(), default_linux());
        plan.pivot = Pivot::MoveMount;
        isolated(|| {
            let host_root = fs::File::open("/").unwrap();
            // A procfs that shows only when what covers it is gone.
            sys::mount::mount(Some("cover"), "/proc", Some("tmpfs"), 0, None).unwrap();
            enter_with(&plan, MountApi::without(missing)).unwrap();
            assert!(Path::new("/etc/passwd").exists() && !Path::new("/usr").exists());
            check_mounts();
            check_masks();
            // With a descriptor from before one can see what is below: not a bare procfs.
            let old = rustix::fs::openat(&host_root, "proc", OFlags::PATH, Mode::empty()).unwrap();
            assert!(!attach::is_procfs(&old).unwrap());
        });
        assert!(Path::new("/proc/self").exists());
    }
}

#[test]
fn every_propagation_of_the_root_is_applied() {
    for (word, expected) in [
        ("private", ""),
        ("rprivate", ""),
        ("slave", ""),
        ("rslave", ""),
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        for missing in KERNELS {
            let bundle = Bundle::new();
            let linux = json!({"rootfsPropagation": word});
            let plan = bundle.plan(default_mounts(), linux);
            with_shared_host(&bundle, || {
                enter_with(&plan, MountApi::without(missing)).unwrap();
                let peers = mounted("/").1;
                assert!(peers.starts_with(expected), "{word}: {peers}");
                assert_eq!(peers.is_empty(), expected.is_empty(), "{word}: {peers}");
            });
        }
    }
}

/// Runs a container on a host all of whose mounts are shared, as systemd has it, and checks that
/// the host's mounts are afterwards what they were.
fn with_shared_host(bundle: &Bundle, container: impl FnOnce() + Send) {
    isolated(|| {
        sys::mount::mount(None, "/", None, ms::SHARED | ms::REC, None).unwrap();
        // The root file system is a mount of its own, as with a snapshotter.
        let root = bundle.image("");
        let text = root.to_str().unwrap();
        sys::mount::mount(Some(text), text, None, ms::BIND, None).unwrap();
        sys::mount::mount(None, text, None, ms::SHARED, None).unwrap();
        let table = || Procfs::default().read_self("mountinfo").unwrap();
        let before = table();
        contained(container);
        let after = table();
        // Others on this machine may remove theirs meanwhile; nobody can add any here.
        assert!(
            after.lines().all(|line| before.lines().any(|l| l == line)),
            "{after}"
        );
        for path in [
            "/",
            "/proc",
            "/sys",
            "/dev",
            "/dev/pts",
            text.trim_end_matches('/'),
        ] {
            let is_there = |line: &str| line.split(' ').nth(4) == Some(path);
            assert!(after.lines().any(is_there), "{path} is gone: {after}");
        }
    });
}

#[test]
fn a_shared_bind_mount_carries_mounts_to_the_host_and_a_slave_does_not() {
    for (option, arrives) in [("rshared", true), ("rslave", false), ("rprivate", false)] {
        let bundle = Bundle::new();
        fs::create_dir_all(bundle.host("volume/inner")).unwrap();
        let volume = bundle.host("volume");
        let mounts = json!([proc(), bind("/volume", &volume, &["rbind", option])]);
        let plan = bundle.plan(mounts, json!({"rootfsPropagation": "rshared"}));
        isolated(|| {
            let text = volume.to_str().unwrap();
            sys::mount::mount(Some("tmpfs"), text, Some("tmpfs"), 0, None).unwrap();
            sys::mount::mount(None, text, None, ms::SHARED, None).unwrap();
            fs::create_dir(volume.join("inner")).unwrap();
            contained(|| {
                enter(&plan).unwrap();
                let target = "/volume/inner";
                sys::mount::mount(Some("x"), target, Some("tmpfs"), 0, None).unwrap();
            });
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert_eq!(table.contains("/volume/inner"), arrives, "{option}");
            assert!(mounted(text).1.contains("shared:"));
        });
    }
}

#[test]
fn a_terminal_is_the_containers_own() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let plan = bundle.plan(default_mounts(), default_linux());
        isolated(|| {
            let mut prepared = prepare_with(&plan, no_help(), MountApi::without(missing)).unwrap();
            prepared.pivot().unwrap();
            let (master, slave) = open_console().unwrap();
            prepared.mount_console(slave.as_fd()).unwrap();
            prepared.finalize().unwrap();
            let console = fs::metadata("/dev/console").unwrap();
            let stat = rustix::fs::fstat(&slave).unwrap();
            assert_eq!((console.rdev(), console.ino()), (stat.st_rdev, stat.st_ino));
            assert_eq!(fs::metadata("/dev/pts/0").unwrap().ino(), stat.st_ino);
            fs::write("/dev/console", "hello").unwrap();
            let mut text = [0; 16];
            let size = rustix::io::read(&master, &mut text).unwrap();
            assert_eq!(&text[..size], b"hello");
            assert_eq!(mounted("/dev/console").2, "devpts");
        });
    }
}
