// SPDX-License-Identifier: Apache-2.0
//! Attacks on processes that enter a container, and on what they bring along.

use super::*;

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
const OVERWRITE: &str = include_str!("../../../../integration/src/e2e/overwrite.sh");

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
    // Where the attacker can see it.
    share_pids(&entry, &running);
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

/// Puts a container into the PID namespace of another.
fn share_pids(bundle: &Bundle, with: &Running<'_>) {
    let namespace = format!("/proc/{}/ns/pid", with.pid());
    bundle.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        for pid in namespaces.iter_mut().filter(|one| one["type"] == "pid") {
            pid["path"] = namespace.clone().into();
        }
    });
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
    share_pids(&bundle, &neighbour);
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
