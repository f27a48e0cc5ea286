// SPDX-License-Identifier: Apache-2.0
//! Hostile containers, images and neighbours against whole containers; docs/security.md says which
//! attack is which. Attacks on single steps are in `runtime::rootfs::tests::attacks`.
//!
//! Each goes on for two seconds, or for twenty with `E2E_SCALE=full`, and says how often it tried.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{Bundle, Lab, OCIRUN, wait_until};
use serde_json::json;

/// What no container may ever get to see or change.
const SECRET: &str = "the-host's-secret";
/// What stands in a file that an attacker wants to have mounted somewhere.
const DECOY: &str = "decoy";

/// Does it again and again, and says how often.
fn again_and_again(attack: &str, mut attempt: impl FnMut(usize)) {
    let long = std::env::var("E2E_SCALE").is_ok_and(|scale| scale == "full");
    let end = Instant::now() + Duration::from_secs(if long { 20 } else { 2 });
    let mut count = 0;
    while Instant::now() < end || count < 5 {
        attempt(count);
        count += 1;
    }
    // Past the capture of the test program: it is wanted when the test passes, too.
    let _ = writeln!(std::io::stderr(), "attack {attack}: {count} attempts");
}

/// Runs `work` while somebody exchanges each pair of names in a directory as fast as they can.
fn while_exchanging(directory: &Path, pairs: &[(&str, &str)], work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    std::thread::scope(|scope| {
        for (one, other) in pairs {
            let done = &done;
            scope.spawn(move || {
                let directory = fs::File::open(directory).unwrap();
                while !done.load(Ordering::Relaxed) {
                    // The other pair may have the name at the moment.
                    let _ = rustix::fs::renameat_with(&directory, *one, &directory, *other, flags);
                }
            });
        }
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _done = Done(&done);
        work();
    });
}

fn volume(bundle: &Bundle, source: &Path, destination: &str) {
    bundle.mount(json!({
        "destination": destination, "type": "bind", "source": source,
        "options": ["rbind", "rw"],
    }));
}

/// A directory of the host that must stay empty.
fn outside(lab: &Lab) -> PathBuf {
    let path = lab.path("outside");
    fs::create_dir_all(&path).unwrap();
    path
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).unwrap().count() == 0
}

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

/// CVE-2024-21626: a directory of the host that the runtime has left open.
#[test]
fn no_descriptor_of_the_runtime_is_a_way_out() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.path("secret"), SECRET).unwrap();
    let secret = lab.path("secret").display().to_string();
    let up = "../../../../../../../..";
    let look = format!("cat .{up}{secret} {up}{secret} 2>/dev/null; pwd; ls");
    let bundle = lab.bundle("b", ["sh", "-c", &look]);
    symlink("/proc/self/cwd", bundle.image("own-cwd")).unwrap();
    let running = lab.start("r", &lab.bundle("r", ["sleep", "1000"]));
    let host = fs::metadata("/").unwrap().ino();
    again_and_again(
        "a working directory and program through descriptors",
        |number| {
            let fd = 3 + number % 40;
            let link = format!("link{fd}");
            for (cwd, program) in [
                (format!("/proc/self/fd/{fd}"), "sh".to_owned()),
                (format!("/proc/self/fd/{fd}/.."), "sh".to_owned()),
                (
                    format!("/proc/thread-self/fd/{fd}/{up}"),
                    "/bin/sh".to_owned(),
                ),
                (format!("/{link}"), "sh".to_owned()),
                ("/own-cwd".to_owned(), "sh".to_owned()),
                ("/".to_owned(), format!("/proc/self/fd/{fd}/{up}/bin/sh")),
            ] {
                if !bundle.image(&link).is_symlink() {
                    symlink(format!("/proc/self/fd/{fd}"), bundle.image(&link)).unwrap();
                }
                bundle.edit(|spec| {
                    spec["process"]["cwd"] = cwd.clone().into();
                    spec["process"]["args"] = json!([program, "-c", look]);
                });
                let finished = lab.ocirun(["run", "-b", bundle.name(), "c"]);
                assert!(
                    !finished.stdout.contains(SECRET),
                    "{cwd} {program}: {finished:?}"
                );
                let finished = lab.ocirun([
                    "exec",
                    "--cwd",
                    &cwd,
                    &running.id,
                    &program,
                    "-c",
                    &format!("{look}; stat -c %i /"),
                ]);
                assert!(
                    !finished.stdout.contains(SECRET),
                    "{cwd} {program}: {finished:?}"
                );
                let last = finished.stdout.lines().last().unwrap_or_default();
                assert_ne!(last, host.to_string(), "{cwd} {program}: {finished:?}");
            }
        },
    );
}

/// CVE-2019-5736. While the runtime's program runs in the container, a process there opens it
/// through `/proc/<pid>/exe`, keeps that open, and writes as soon as nobody executes it.
const OVERWRITE: &str = r#"
    echo ready
    while :; do
        for p in /proc/[0-9]*; do
            e=$(readlink $p/exe) || continue
            case $e in ''|*/busybox) continue;; esac
            echo "caught $e"
            (: >$p/exe) && echo WRITTEN
            (
                exec 3<$p/exe || exit
                i=0
                while [ $i -lt 20 ]; do
                    (: >/proc/self/fd/3) && echo WRITTEN
                    i=$((i+1)); sleep 0.01
                done
            )
        done
    done 2>/dev/null"#;

#[test]
fn the_runtimes_program_cannot_be_overwritten_by_exec_or_entrypoint() {
    let Some(lab) = Lab::new() else { return };
    let fingerprint = || {
        let meta = fs::metadata(OCIRUN).unwrap();
        (meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ino())
    };
    let before = fingerprint();
    let bundle = lab.bundle("b", ["sh", "-c", OVERWRITE]);
    // Libraries, where the program is not static: it must run in there to be attacked.
    for library in ["/lib", "/lib64", "/usr/lib"] {
        volume(&bundle, &fs::canonicalize(library).unwrap(), library);
    }
    let running = lab.start("c", &bundle);
    running.wait_for("ready");
    let entry = lab.bundle("e", ["/entry", "--version"]);
    symlink("/proc/self/exe", entry.image("entry")).unwrap();
    fs::write(entry.image("script"), "#!/proc/self/exe\n").unwrap();
    lab::make_executable(&entry.image("script"));
    for library in ["/lib", "/lib64", "/usr/lib"] {
        volume(&entry, &fs::canonicalize(library).unwrap(), library);
    }
    // In the attacker's PID namespace, where it can see it.
    let namespace = format!("/proc/{}/ns/pid", running.pid());
    entry.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        for pid in namespaces
            .iter_mut()
            .filter(|namespace| namespace["type"] == "pid")
        {
            pid["path"] = namespace.clone().into();
        }
    });
    again_and_again("the runtime's program by exec and entrypoint", |number| {
        // Executing oneself may work or not; `init` waits for a socket that is not there.
        running.exec(["/proc/self/exe", "--version"]);
        running.exec(["/proc/self/exe", "init"]);
        let program = if number % 2 == 0 { "/entry" } else { "/script" };
        entry.edit(|spec| spec["process"]["args"] = json!([program, "--version"]));
        lab.ocirun(["run", "-b", entry.name(), "e"]);
    });
    let output = running.output();
    assert!(!output.contains("WRITTEN"), "{output}");
    assert_eq!(fingerprint(), before);
    assert!(lab.ocirun(["--version"]).success());
    let caught = output.matches("caught").count();
    let _ = writeln!(std::io::stderr(), "  caught it {caught} times");
}

/// Looks into every process that is not its own, as root of the container.
const LOOK_INTO: &str = r#"
    echo ready
    while :; do
        ls -l /proc/[0-9]*/fd 2>/dev/null | grep -- '->' | grep -v -e '/proc/[0-9]*/fd$' -e ' /seen$' \
            -e 'pipe:' -e ' /dev/null$' -e '\.out$' -e ' /tmp/[^/ ]*$' && echo SEEN
        for p in /proc/[0-9]*; do
            e=$(readlink $p/exe 2>/dev/null) || echo refused
            case $e in ''|*/busybox) continue;; *) echo "SEEN $e";; esac
        done
        cat /proc/[0-9]*/environ 2>/dev/null | grep CONTAINERD
    done"#;

/// CVE-2016-9962: an exec on its way in has descriptors of the host.
#[test]
fn a_joining_process_shows_the_container_nothing_of_itself() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sh", "-c", LOOK_INTO]);
    let running = lab.start("c", &bundle);
    running.wait_for("ready");
    again_and_again("ptrace and /proc/<pid>/fd of a joining exec", |_| {
        let finished = running.exec(["true"]);
        assert!(finished.success(), "{finished:?}");
    });
    let output = running.output();
    assert!(!output.contains("SEEN"), "{output}");
    let refused = output.matches("refused").count();
    let _ = writeln!(std::io::stderr(), "  met it {refused} times");
}

/// The same for a container's first process, seen by another container of its PID namespace.
#[test]
fn an_init_at_the_gate_holds_nothing_of_the_host_and_shows_nothing() {
    let Some(lab) = Lab::new() else { return };
    let neighbour = lab.start("n", &lab.bundle("n", ["sleep", "1000"]));
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    let namespace = format!("/proc/{}/ns/pid", neighbour.pid());
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        for pid in namespaces
            .iter_mut()
            .filter(|namespace| namespace["type"] == "pid")
        {
            pid["path"] = namespace.clone().into();
        }
    });
    assert!(lab.ocirun(["create", "-b", bundle.name(), "c"]).success());
    let pid = lab.state("c")["pid"].as_i64().unwrap();
    let mut links = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        links.push(
            fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string(),
        );
    }
    let fifo = lab.root().join("c/exec.fifo").display().to_string();
    let harmless = |link: &String| {
        ["pipe:", "socket:", "/dev/null", "/tmp/.tmp"]
            .iter()
            .any(|start| link.starts_with(start))
            || *link == fifo
            || (link.starts_with("/proc/") && link.ends_with("/fd"))
    };
    assert!(links.iter().all(harmless), "{links:?}");
    // The pid in the namespace of both is the last of NSpid.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("NSpid:"))
        .unwrap();
    let inside = line.split_whitespace().last().unwrap();
    let script = format!(
        "for f in fd exe cwd root environ mem maps; do \
             ls -l /proc/{inside}/$f/ 2>/dev/null | grep -e '->'; \
             readlink /proc/{inside}/$f 2>/dev/null; \
             head -c 1 /proc/{inside}/$f 2>/dev/null && echo read $f; \
         done; echo done"
    );
    let finished = neighbour.exec(["sh", "-c", &script]);
    assert_eq!(finished.stdout, "done\n", "{finished:?}");
}

/// CVE-2022-29162: rights that a program gets through its file's inheritable capabilities.
#[test]
fn nothing_is_inheritable_unless_the_document_says_so() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    let running = lab.start("c", &bundle);
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
    for user in ["0", "1000"] {
        let finished = lab.ocirun([
            "exec",
            "--cap",
            "CAP_SYS_ADMIN",
            "--cap",
            "CAP_NET_RAW",
            "--user",
            user,
            "c",
            "cat",
            "/proc/self/status",
        ]);
        let status = finished.stdout;
        assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
        assert!(status.contains("CapAmb:\t0000000000000000"), "{status}");
        if user != "0" {
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        }
    }
}

/// CVE-2026-30892: half a number is somebody else's id.
#[test]
fn a_user_that_is_no_number_is_nobody() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.start("c", &lab.bundle("b", ["sleep", "1000"]));
    for user in [
        "1000x",
        "0x3e8",
        "1e3",
        " 1000",
        "-1",
        "4294967295",
        "4294967296",
        "1000:0x",
        "user",
    ] {
        let finished = running
            .lab
            .ocirun(["exec", &format!("--user={user}"), "c", "id"]);
        assert_eq!(
            (finished.code, finished.stdout.as_str()),
            (Some(255), ""),
            "{user}"
        );
    }
}

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
        refused.stderr.contains("--rootless=true is not supported"),
        "{refused:?}"
    );
}

/// Rules distilled: containers that share a PID namespace do not share what runtimes hold; one that
/// is created, entered and deleted while its neighbour ends it leaves nothing.
#[test]
fn a_container_that_is_killed_meanwhile_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    again_and_again("the end of a container during an exec", |number| {
        let running = lab.start("c", &bundle);
        let pid = running.pid();
        let exec = lab.command(["exec", "c", "sleep", "1000"]).spawn().unwrap();
        let exec = lab::Killed(exec);
        std::thread::sleep(Duration::from_millis(number as u64 % 12));
        assert!(lab.ocirun(["kill", "c", "KILL"]).success());
        drop(exec);
        drop(running);
        wait_until("its end", || has_ended(pid));
        assert!(!lab.root().join("c").exists());
    });
}

fn has_ended(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}
