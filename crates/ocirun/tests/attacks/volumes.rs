// SPDX-License-Identifier: Apache-2.0
//! Races with somebody who changes a volume, or what is mounted on it, while a container is made.

use super::*;

/// A volume in which a directory changes places with ways out.
fn swapped_volume(lab: &Lab) -> PathBuf {
    let volume = lab.path("volume");
    fs::create_dir_all(volume.join("dir")).unwrap();
    symlink(outside(lab), volume.join("link")).unwrap();
    symlink("../../../../../../..", volume.join("up")).unwrap();
    volume
}

const WAYS_OUT: [(&str, &str); 2] = [("dir", "link"), ("dir", "up")];

/// CVE-2021-30465, CVE-2024-45310: mount points and files on a volume that another container
/// changes meanwhile.
#[test]
fn mount_points_on_a_shared_volume_are_made_in_the_container_or_not_at_all() {
    let Some(lab) = Lab::new() else { return };
    let shared = swapped_volume(&lab);
    let script = "grep -c ' /.*/mnt' /proc/self/mountinfo";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    volume(&bundle, &shared, "/volume");
    bundle.mount(json!({
        "destination": "/volume/dir/a/mnt", "type": "tmpfs", "source": "tmpfs", "options": [],
    }));
    bundle.mount(json!({
        "destination": "/volume/dir/b/mnt", "type": "bind", "source": "/etc/hostname",
        "options": ["bind"],
    }));
    let (mut made, mut refused) = (0, 0);
    while_exchanging(&shared, &WAYS_OUT, || {
        again_and_again("mount points on a swapped volume", |_| {
            let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
            match finished.code {
                // Wherever in the container they are by now: they are there.
                Some(0) => {
                    assert_eq!(finished.stdout.trim(), "2", "{finished:?}");
                    made += 1;
                }
                _ => {
                    assert!(
                        finished.stderr.contains("ocirun run failed"),
                        "{finished:?}"
                    );
                    refused += 1;
                }
            }
            assert!(is_empty(&outside(&lab)), "escaped");
        });
    });
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !table.contains(lab.path("").to_str().unwrap()),
        "left on the host: {table}"
    );
    let _ = writeln!(std::io::stderr(), "  {made} made, {refused} refused");
}

/// CVE-2024-45310: the working directory is made when it is missing.
#[test]
fn a_working_directory_on_a_shared_volume_is_made_in_the_container_or_not_at_all() {
    let Some(lab) = Lab::new() else { return };
    let shared = swapped_volume(&lab);
    let bundle = lab.bundle("b", ["true"]);
    volume(&bundle, &shared, "/volume");
    while_exchanging(&shared, &WAYS_OUT, || {
        again_and_again("a working directory on a swapped volume", |number| {
            bundle.edit(|spec| {
                spec["process"]["cwd"] = format!("/volume/dir/w{number}/x").into();
            });
            // It may fail.
            lab.ocirun(["run", "-b", bundle.name(), "c"]);
            assert!(is_empty(&outside(&lab)), "escaped");
        });
    });
}

/// CVE-2026-41579 as a race: `/dev` is on a volume that another container changes.
#[test]
fn devices_are_made_in_the_container_or_not_at_all() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["true"]);
    let outside = outside(&lab);
    symlink(&outside, bundle.image("dev-out")).unwrap();
    symlink("../../../../../../..", bundle.image("dev-up")).unwrap();
    bundle.edit(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        spec["linux"]["devices"] = json!([
            {"path": "/dev/deep/fuse", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666},
        ]);
    });
    let host: Vec<_> = fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    while_exchanging(
        &bundle.image(""),
        &[("dev", "dev-out"), ("dev", "dev-up")],
        || {
            again_and_again("device nodes in a swapped /dev", |_| {
                // It may fail.
                lab.ocirun(["run", "-b", bundle.name(), "c"]);
                assert!(is_empty(&outside), "escaped");
            });
        },
    );
    let now: Vec<_> = fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(now, host);
}

/// A `/dev` on a volume that an attacker has, with all that a container needs.
fn hostile_dev(lab: &Lab) -> PathBuf {
    let dev = lab.path("hostile-dev");
    fs::create_dir(&dev).unwrap();
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name)).unwrap();
    }
    for (name, minor) in [
        ("null", 3),
        ("zero", 5),
        ("full", 7),
        ("random", 8),
        ("urandom", 9),
    ] {
        let kind = rustix::fs::FileType::CharacterDevice;
        let number = rustix::fs::makedev(1, minor);
        rustix::fs::mknodat(rustix::fs::CWD, dev.join(name), kind, 0o666.into(), number).unwrap();
        fs::set_permissions(dev.join(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    symlink("/etc/decoy", dev.join("decoy")).unwrap();
    dev
}

fn with_hostile_dev(lab: &Lab, bundle: &Bundle) -> PathBuf {
    let dev = hostile_dev(lab);
    fs::write(bundle.image("etc/decoy"), DECOY).unwrap();
    bundle.edit(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for mount in mounts
            .iter_mut()
            .filter(|mount| mount["destination"] == "/dev")
        {
            *mount = json!({
                "destination": "/dev", "type": "bind", "source": dev, "options": ["rbind", "rw"],
            });
        }
    });
    dev
}

/// CVE-2025-31133: `/dev/null` becomes a link while paths are masked with it.
#[test]
fn a_mask_is_the_null_device_or_there_is_no_container() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sh", "-c", "cat /etc/masked /etc/masked2; echo end"]);
    for name in ["etc/masked", "etc/masked2"] {
        fs::write(bundle.image(name), SECRET).unwrap();
    }
    let dev = with_hostile_dev(&lab, &bundle);
    bundle.edit(|spec| spec["linux"]["maskedPaths"] = json!(["/etc/masked", "/etc/masked2"]));
    let mut made = 0;
    while_exchanging(&dev, &[("null", "decoy")], || {
        again_and_again("a /dev/null that is a link while masking", |_| {
            let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
            let output = format!("{}{}", finished.stdout, finished.stderr);
            assert!(
                !output.contains(SECRET) && !finished.stdout.contains(DECOY),
                "{finished:?}"
            );
            if finished.code == Some(0) {
                assert_eq!(finished.stdout, "end\n", "{finished:?}");
                made += 1;
            }
        });
    });
    let _ = writeln!(std::io::stderr(), "  {made} containers");
}

/// CVE-2025-52565: `/dev/console` and `/dev/pts` become links while the terminal is mounted.
#[test]
fn a_terminal_is_mounted_on_the_console_or_nowhere() {
    let Some(lab) = Lab::new() else { return };
    let script = "cat /etc/decoy; grep -c /etc/decoy /proc/self/mountinfo; tty; echo end";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    let dev = with_hostile_dev(&lab, &bundle);
    fs::write(dev.join("console"), "").unwrap();
    bundle.edit(|spec| spec["process"]["terminal"] = true.into());
    let path = lab.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut made = 0;
    while_exchanging(&dev, &[("console", "decoy")], || {
        again_and_again("a /dev/console that is a link", |_| {
            let socket = path.to_str().unwrap();
            let finished = lab.ocirun([
                "run",
                "-d",
                "--console-socket",
                socket,
                "-b",
                bundle.name(),
                "c",
            ]);
            let connection = listener.accept();
            if finished.code == Some(0) {
                let (socket, _) = connection.unwrap();
                let mut name = [0; 64];
                let (_, mut fds) = sys::packet::receive(socket.as_fd(), &mut name, 1).unwrap();
                let text = read_terminal(fs::File::from(fds.pop().unwrap()));
                assert!(text.starts_with(&format!("{DECOY}0\r\n")), "{text:?}");
                made += 1;
            }
            assert!(lab.ocirun(["delete", "-f", "c"]).success());
        });
    });
    let _ = writeln!(std::io::stderr(), "  {made} containers");
}

fn read_terminal(mut master: fs::File) -> String {
    let mut text = String::new();
    let mut bytes = [0; 256];
    // The end is EIO: nobody has the other side open any more.
    while let Ok(count) = master.read(&mut bytes) {
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    text
}

/// CVE-2019-16884, CVE-2025-52881: kernel parameters and labels are written to procfs, and not to
/// what an image, a volume or a mount puts in its place.
#[test]
fn sysctls_go_to_the_kernel_whatever_is_at_proc() {
    let Some(lab) = Lab::new() else { return };
    let decoy = lab.path("decoy");
    fs::create_dir_all(decoy.join("sys/net/ipv4")).unwrap();
    let file = decoy.join("sys/net/ipv4/ip_default_ttl");
    fs::write(&file, DECOY).unwrap();
    // Over /proc as a whole, over a part of it, and through a link of the image.
    for (destination, source) in [
        ("/proc", decoy.clone()),
        ("/proc/sys", decoy.join("sys")),
        ("/proc/sys/net/ipv4/ip_default_ttl", file.clone()),
        ("/innocent", file.clone()),
    ] {
        let bundle = lab.bundle("b", ["true"]);
        let link = bundle.image("innocent");
        if !link.is_symlink() {
            symlink("/proc/sys/net/ipv4/ip_default_ttl", link).unwrap();
        }
        bundle.edit(|spec| {
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77"});
        });
        volume(&bundle, &source, destination);
        let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
        assert_eq!(finished.code, Some(1), "{destination}: {finished:?}");
        assert!(
            finished.stderr.contains("/proc"),
            "{destination}: {finished:?}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), DECOY, "{destination}");
    }
    // The same while a neighbour swaps what lies where the mount is to be.
    let shared = lab.path("shared");
    fs::create_dir_all(shared.join("dir")).unwrap();
    symlink("/proc/sys/net/ipv4", shared.join("link")).unwrap();
    let bundle = lab.bundle("s", ["cat", "/proc/sys/net/ipv4/ip_default_ttl"]);
    volume(&bundle, &shared, "/shared");
    volume(&bundle, &file, "/shared/dir/ip_default_ttl");
    bundle.edit(|spec| spec["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77"}));
    while_exchanging(&shared, &[("dir", "link")], || {
        again_and_again("a mount redirected over a sysctl", |_| {
            let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
            if finished.code == Some(0) {
                assert_eq!(finished.stdout, "77\n");
            }
            assert_eq!(fs::read_to_string(&file).unwrap(), DECOY);
        });
    });
}
