// SPDX-License-Identifier: Apache-2.0
//! The contract of `start`, as every supported containerd sees it.
#![allow(clippy::unwrap_used, missing_docs)]

mod shim;

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use containerd_shim_protos::bootstrap_api::BootstrapResult;
use protobuf::Message as _;
use shim::{Container, Containerd, accepts, any, wait_until};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn check_server(container: &Container) {
    assert_eq!(
        fs::read_to_string(container.bundle.join("address")).unwrap(),
        container.address()
    );
    assert_eq!(mode(&container.bundle.join("address")), 0o644);
    let socket = container.socket();
    assert!(
        fs::symlink_metadata(&socket)
            .unwrap()
            .file_type()
            .is_socket()
    );
    assert_eq!(mode(&socket), 0o600);
    assert!(accepts(&socket));
    container.server();
}

#[test]
fn containerd_1_6_reads_the_bare_address() {
    let container = Container::new(Containerd::V1_6);
    assert_eq!(
        String::from_utf8(container.started()).unwrap(),
        container.address()
    );
    check_server(&container);
}

#[test]
fn containerd_1_7_and_2_0_read_json_of_version_2() {
    for containerd in [Containerd::V1_7, Containerd::V2_0] {
        let container = Container::new(containerd);
        let reply = String::from_utf8(container.started()).unwrap();
        let address = container.address();
        assert_eq!(
            reply,
            format!(r#"{{"version":2,"address":"{address}","protocol":"ttrpc"}}"#)
        );
        check_server(&container);
    }
}

#[test]
fn containerd_2_3_reads_a_bootstrap_result_of_version_3() {
    let container = Container::new(Containerd::V2_3);
    let address = container.address();
    let mut want = vec![8, 3, 0x12, address.len() as u8];
    want.extend(address.as_bytes());
    want.extend(b"\x1a\x05ttrpc");
    assert_eq!(container.started(), want);
    check_server(&container);
    let environment = fs::read_to_string(format!("/proc/{}/environ", container.server())).unwrap();
    assert!(environment.contains(&format!("TTRPC_ADDRESS={}.ttrpc\0", shim::ADDRESS)));
}

#[test]
fn containerd_2_3_chooses_the_directory_of_sockets() {
    let sockets = tempfile::tempdir().unwrap();
    let mut container = Container::new(Containerd::V2_3);
    container.socket_dir = sockets.path().join("deep/s").to_str().unwrap().into();
    let result = BootstrapResult::parse_from_bytes(&container.started()).unwrap();
    assert_eq!(result.address, container.address());
    assert_eq!(mode(Path::new(&container.socket_dir)), 0o700);
    let link = fs::read_link(container.bundle.join("s")).unwrap();
    assert_eq!(link.to_str().unwrap(), container.socket_dir);
    check_server(&container);

    container.socket_dir = sockets.path().join("x".repeat(60)).to_str().unwrap().into();
    let output = container.start();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("more than 107"),
        "{text}"
    );
}

#[test]
fn options_are_understood_in_every_form_and_a_broken_one_fails_with_nothing_left() {
    for containerd in [Containerd::V2_0, Containerd::V2_3] {
        for options in [
            any("containerd.runc.v1.Options", &[72, 1]),
            any(
                "types.containerd.io/runtimeoptions.v1.Options",
                b"\x1a\x14SystemdCgroup = true",
            ),
        ] {
            let mut container = Container::new(containerd);
            container.options = Some(options);
            container.started();
        }
        let mut container = Container::new(containerd);
        container.options = Some(any("containerd.runc.v1.Options", &[72]));
        let output = container.start();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text.starts_with("io.containerd.rust.v2: options: "),
            "{text}"
        );
        assert!(output.stdout.is_empty() && !container.socket().exists());
    }
}

#[test]
fn the_server_is_a_process_of_its_own_with_nothing_inherited() {
    let mut container = Container::new(Containerd::V2_0);
    container.env.push(("FOO", "bar".into()));
    container.started();
    let proc = format!("/proc/{}", container.server());
    let link = |name: &str| {
        fs::read_link(format!("{proc}/{name}"))
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        fs::read_to_string(format!("{proc}/comm")).unwrap(),
        "containerd-shim\n"
    );
    assert_eq!(link("cwd"), container.bundle.to_str().unwrap());
    for fd in 0..3 {
        assert_eq!(link(&format!("fd/{fd}")), "/dev/null");
    }
    assert!(link("fd/3").starts_with("socket:"));
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    // SIGPIPE, which Rust ignores, and at most what our caller ignores (`nohup`) besides.
    let ignored = |status: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:\t"));
        u64::from_str_radix(line.unwrap(), 16).unwrap()
    };
    const SIGPIPE: u64 = 1 << 12;
    let own = ignored(&fs::read_to_string("/proc/self/status").unwrap());
    assert_eq!(ignored(&status) & !own, 0, "{status}");
    assert_eq!(ignored(&status) & SIGPIPE, SIGPIPE, "{status}");
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[2], container.server().to_string(), "process group");
    let environment = fs::read_to_string(format!("{proc}/environ")).unwrap();
    for entry in [
        "FOO=bar",
        &format!("OTEL_SERVICE_NAME=containerd-shim-{}", container.id),
    ] {
        assert!(environment.split('\0').any(|e| e == entry), "{environment}");
    }
    assert_eq!(
        fs::read_to_string(format!("{proc}/task/{}/children", container.server())).unwrap(),
        ""
    );
}

#[test]
fn the_oom_score_is_one_above_the_callers() {
    let container = Container::new(Containerd::V2_0);
    container.started();
    let score = |pid: &str| -> i32 {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    let ours = score("self");
    assert_eq!(score(&container.server().to_string()), (ours + 1).min(1000));
}

#[test]
fn nobody_can_write_the_executable_through_proc() {
    let container = Container::new(Containerd::V2_0);
    let before = fs::metadata(shim::BINARY).unwrap();
    container.started();
    let exe = format!("/proc/{}/exe", container.server());
    let error = fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
    // Nor once nothing executes it any more: the view outlives the server while it is open.
    let held = fs::File::open(&exe).unwrap();
    container.kill();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let error = fs::OpenOptions::new().write(true).open(path).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
    let after = fs::metadata(shim::BINARY).unwrap();
    assert_eq!(
        (before.mtime(), before.size()),
        (after.mtime(), after.size())
    );
}

#[test]
fn containers_of_a_pod_share_the_server_and_each_bundle_knows_its_address() {
    for annotation in [
        "io.kubernetes.cri.sandbox-id",
        "io.containerd.runc.v2.group",
    ] {
        let pod = Container::new(Containerd::V2_0);
        let member = Container::new(Containerd::V2_0);
        member.spec(&format!(r#"{{"{annotation}":"{}"}}"#, pod.id));
        assert_eq!(pod.started(), member.started());
        assert!(member.servers().is_empty());
        let address = fs::read_to_string(member.bundle.join("address")).unwrap();
        assert_eq!(address, pod.address());
    }
}

#[test]
fn a_bundle_without_a_specification_gets_a_server() {
    let container = Container::new(Containerd::V2_3);
    fs::remove_file(container.bundle.join("config.json")).unwrap();
    container.started();
    check_server(&container);
}

#[test]
fn a_dead_servers_socket_is_taken_over_at_once() {
    let container = Container::new(Containerd::V2_0);
    let first = container.started();
    container.kill();
    assert!(container.socket().exists() && !accepts(&container.socket()));
    assert_eq!(container.started(), first);
    check_server(&container);
}

#[test]
fn starts_at_the_same_time_agree_on_one_server() {
    let container = Container::new(Containerd::V1_6);
    let replies: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| container.started()))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    assert!(
        replies
            .iter()
            .all(|reply| *reply == container.address().as_bytes())
    );
    check_server(&container);
}

/// A shim of somebody else that has one version of the task service only.
fn foreign_shim(socket: &Path, service: &'static str) {
    use std::io::{Read as _, Write as _};
    let _ = fs::remove_file(socket);
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut header = [0; 10];
            while stream.read_exact(&mut header).is_ok() {
                let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let known = body.windows(service.len()).any(|w| w == service.as_bytes());
                // Response{status: Status{code: 12, Unimplemented}}, or an empty one.
                let answer: &[u8] = if known { &[] } else { &[0x0a, 2, 8, 12] };
                header[..4].copy_from_slice(&(answer.len() as u32).to_be_bytes());
                header[8] = 2;
                stream.write_all(&header).unwrap();
                stream.write_all(answer).unwrap();
            }
        }
    });
}

#[test]
fn the_version_of_a_foreign_server_is_what_it_really_speaks() {
    let container = Container::new(Containerd::V2_3);
    foreign_shim(&container.socket(), "containerd.task.v2.Task");
    let result = BootstrapResult::parse_from_bytes(&container.started()).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (2, "ttrpc"));

    let container = Container::new(Containerd::V2_0);
    foreign_shim(&container.socket(), "containerd.task.v3.Task");
    let reply = String::from_utf8(container.started()).unwrap();
    assert!(reply.starts_with(r#"{"version":3,"#), "{reply}");
    assert!(container.servers().is_empty());
}

#[test]
fn a_failure_after_the_server_runs_leaves_neither_server_nor_socket() {
    let mut container = Container::new(Containerd::V2_0);
    // No cgroup can have this name, and it is joined after the server has been executed.
    container.options = Some(any("containerd.runc.v1.Options", b"\x1a\x02/\0"));
    let output = container.start();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.starts_with("io.containerd.rust.v2: move the server to its cgroup: "),
        "{text}"
    );
    assert!(output.stdout.is_empty());
    assert!(container.servers().is_empty());
    assert!(!container.socket().exists());
    assert!(!container.bundle.join("address").exists());
}

#[test]
fn the_server_joins_the_cgroup_that_the_options_name() {
    let mut container = Container::new(Containerd::V2_0);
    let cgroup = format!("/shim-contract-{}", container.id);
    let mut options = vec![0x1a, cgroup.len() as u8];
    options.extend(cgroup.as_bytes());
    container.options = Some(any("containerd.runc.v1.Options", &options));
    // On pure v2 it must exist.
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let v2 = format!("/sys/fs/cgroup{cgroup}");
    if unified {
        fs::create_dir(&v2).unwrap();
    }
    container.started();
    let joined = fs::read_to_string(format!("/proc/{}/cgroup", container.server())).unwrap();
    container.kill();
    for line in joined.lines().filter(|line| line.ends_with(&cgroup)) {
        let name = line.split(':').nth(1).unwrap().trim_start_matches("name=");
        let _ = fs::remove_dir(format!("/sys/fs/cgroup/{name}{cgroup}"));
    }
    assert!(
        joined.lines().any(|line| line.ends_with(&cgroup)),
        "{joined}"
    );
}

#[test]
fn debug_adds_a_second_socket() {
    let mut container = Container::new(Containerd::V2_0);
    container.flags.push("-debug");
    container.started();
    check_server(&container);
    let debug = container.socket_of(&container.id, "/debug");
    assert_eq!(mode(&debug), 0o600);
    let link = fs::read_link(format!("/proc/{}/fd/4", container.server())).unwrap();
    assert!(link.to_str().unwrap().starts_with("socket:"));
}

#[test]
fn the_server_logs_to_the_fifo_and_does_not_mind_a_full_one() {
    use std::io::Read as _;
    let mut container = Container::new(Containerd::V2_0);
    let log = container.bundle.join("log");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut options = fs::OpenOptions::new();
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
    let mut fifo = options.read(true).write(true).open(&log).unwrap();
    while std::io::Write::write(&mut fifo, &[b'\n'; 4096]).is_ok() {}
    container.flags.push("-debug");
    container.started();

    // Make room; whatever the server says next arrives.
    let mut text = Vec::new();
    let mut drain = || {
        let mut buffer = [0; 65_536];
        while let Ok(n @ 1..) = fifo.read(&mut buffer) {
            text.extend_from_slice(&buffer[..n]);
        }
    };
    drain();
    container.kill();
    container.started();
    drain();
    let text = String::from_utf8(text).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("msg=serving"))
        .unwrap();
    assert!(line.starts_with("time=\""), "{line}");
    let id = &container.id;
    let end = format!(" level=debug msg=serving runtime=io.containerd.rust.v2 container={id}");
    assert!(line.ends_with(&end), "{line}");
}

#[test]
fn cores_are_shared_only_if_asked_and_only_where_the_kernel_can() {
    let mut container = Container::new(Containerd::V2_0);
    container.env.push(("SCHED_CORE", "1".into()));
    let output = container.start();
    if output.status.success() {
        let pid = rustix::process::Pid::from_raw(container.server()).unwrap();
        let scope = rustix::thread::CoreSchedulingScope::Thread;
        assert_ne!(
            rustix::thread::core_scheduling_cookie(pid, scope).unwrap(),
            0
        );
    } else {
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("SCHED_CORE") && !container.socket().exists(),
            "{text}"
        );
    }
}

#[test]
fn a_command_line_that_makes_no_sense_fails_with_gos_text() {
    let failure = |args: &[&str]| {
        let output = std::process::Command::new(shim::BINARY)
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        failure(&["-id", "x", "start"]),
        "io.containerd.rust.v2: shim namespace cannot be empty\n"
    );
    assert_eq!(
        failure(&["-nonsense"]),
        "io.containerd.rust.v2: flag provided but not defined: -nonsense\n"
    );
    let text = failure(&["-namespace", "n", "-id", "x"]);
    assert!(
        text.starts_with("io.containerd.rust.v2: no listener"),
        "{text}"
    );
}

#[test]
fn sigterm_ends_the_server_in_order() {
    let container = Container::new(Containerd::V2_0);
    container.started();
    let pid = container.server();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    wait_until("the server ends", || shim::is_gone(pid));
    assert!(!container.socket().exists());
}
