// SPDX-License-Identifier: Apache-2.0
//! A process as the shim starts it: alone, first of its PID namespace, in new namespaces.

use super::*;

const CHILD: &str = "ROOTFS_TEST_CHILD";

#[test]
fn the_first_process_of_new_namespaces_sees_only_its_own() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let namespaces = ["--pid", "--ipc", "--uts", "--net", "--cgroup", "--fork"];
    again(
        &namespaces,
        "the_first_process_of_new_namespaces_sees_only_its_own",
    );
}

fn child() {
    assert_eq!(std::process::id(), 1);
    let bundle = Bundle::new();
    let plan = bundle.plan(default_mounts(), default_linux());
    let bundle_has_busybox = fs::copy("/bin/busybox", bundle.image("bin/busybox")).is_ok();
    for missing in KERNELS {
        isolated(|| {
            let before = descriptors();
            let prepared = enter_with(&plan, MountApi::without(missing)).unwrap();
            let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<u32>().ok())
            });
            assert_eq!(processes.collect::<Vec<_>>(), [1]);
            let devices = fs::read_dir("/sys/class/net").unwrap();
            let names: Vec<_> = devices.map(|entry| entry.unwrap().file_name()).collect();
            assert!(names.iter().all(|name| name != "eth0"), "{names:?}");
            if bundle_has_busybox {
                run_busybox();
            }
            // Ours to set, and a private procfs can, although /proc/sys is read-only.
            let name = "net.ipv4.ip_unprivileged_port_start";
            let error = prepared
                .procfs()
                .write_sysctl(name, "79")
                .map_err(|e| e.errno());
            let private = Procfs::default();
            private.write_sysctl(name, "80").unwrap();
            let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
            assert_eq!(fs::read_to_string(path).unwrap(), "80\n");
            assert!(
                matches!(error, Ok(()) | Err(Some(Errno::XDEV))),
                "{error:?}"
            );
            let (master, slave) = open_console().unwrap();
            prepared.mount_console(slave.as_fd()).unwrap();
            // Whatever is open is closed by execve(2), and all of ours before that.
            for number in descriptors()
                .into_iter()
                .filter(|number| !before.contains(number))
            {
                let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
                let Ok(info) = info else { continue };
                let flags = info
                    .lines()
                    .find_map(|line| line.strip_prefix("flags:\t"))
                    .unwrap();
                let flags = u32::from_str_radix(flags, 8).unwrap();
                assert!(flags & 0o2_000_000 != 0, "{number}: {info}");
            }
            drop((prepared, private, master, slave));
            assert_eq!(descriptors(), before);
        });
    }
}

/// A real program in the container, if this machine has one that needs no libraries.
fn run_busybox() {
    let run = |script: &str| {
        let output = std::process::Command::new("/bin/busybox")
            .args(["sh", "-c", script])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    assert_eq!(run("ls /"), "bin\ndev\netc\nproc\nrun\nsys\ntmp\nvar\n");
    assert!(run("mount").contains("proc on /proc type proc (rw,nosuid,nodev,noexec,relatime)"));
    assert_eq!(
        run("echo x >/dev/null; head -c 3 /dev/zero | wc -c").trim(),
        "3"
    );
    assert_eq!(run("cd /; cd ../../..; pwd"), "/\n");
    run("! echo x >/proc/sys/kernel/hostname && ! chroot /proc/self/cwd/../.. ls /usr");
}

fn descriptors() -> Vec<u32> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let names = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let mut numbers: Vec<u32> = names.collect();
    numbers.sort_unstable();
    numbers
}

/// Runs this test again in the namespaces that `unshare` is told to make.
fn again(unshare: &[&str], test: &str) {
    // Without the name of the crate.
    let module = module_path!().split_once("::").unwrap().1;
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "unchanged"])
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn flags_that_a_user_namespace_locks_stay_and_devices_are_bound() {
    let test = "flags_that_a_user_namespace_locks_stay_and_devices_are_bound";
    if let Some(source) = std::env::var_os(SOURCE) {
        return locked(Path::new(&source));
    }
    let source = tempfile::tempdir().unwrap();
    isolated(|| {
        let flags = ms::NOSUID | ms::NODEV;
        sys::mount::mount(Some("t"), source.path(), Some("tmpfs"), flags, None).unwrap();
        let path = source.path().to_str().unwrap();
        let env = format!("{SOURCE}={path}");
        let namespaces = ["--user", "--map-root-user", "--pid", "--fork", "env", &env];
        again(&namespaces, test);
    });
}

const SOURCE: &str = "ROOTFS_TEST_SOURCE";

fn locked(source: &Path) {
    for missing in KERNELS {
        let bundle = Bundle::new();
        let refused = bundle.plan(json!([bind("/x", source, &["rbind", "suid"])]), json!({}));
        let mounts = json!([
            proc(),
            tmpfs("/dev", &["mode=755"]),
            bind("/a", source, &["rbind", "noexec"]),
            bind("/b", source, &["rbind", "ro"]),
        ]);
        let plan = bundle.plan(mounts, json!({}));
        isolated(|| {
            let error = prepare_with(&refused, no_help(), MountApi::without(missing)).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::PERM), "{error}");
        });
        isolated(|| {
            enter_with(&plan, MountApi::without(missing)).unwrap();
            assert_eq!(options("/a"), "rw,nosuid,nodev,noexec,relatime");
            assert_eq!(options("/b"), "ro,nosuid,nodev,relatime");
            assert_eq!(mounted("/dev/null").2, "devtmpfs");
            fs::write("/dev/null", "x").unwrap();
        });
    }
}
