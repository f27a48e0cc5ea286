// SPDX-License-Identifier: Apache-2.0
//! What a process may: identity, rights, limits, descriptors.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::container::Builder;
use crate::failure::Outcome;
use crate::host;
use crate::lab::{Lab, our_shim};
use crate::streams::{Stdin, Stdio};
use crate::tests;

tests!["confine";
    capabilities_are_those_of_the_document,
    a_user_that_is_not_root_has_no_effective_capabilities_unless_ambient,
    no_new_privileges_is_set_and_can_be_left_out,
    user_groups_and_umask_are_those_of_the_document,
    rlimits_are_those_of_the_document,
    oom_score_adj_is_that_of_the_document,
    home_comes_from_the_users_file_unless_given,
    cwd_is_made_when_it_is_missing,
    cwd_is_entered_with_the_runtimes_rights,
    only_stdio_is_open_in_a_container,
    only_stdio_is_open_in_an_exec,
    the_runtimes_program_cannot_be_written_through_proc,
    the_process_can_be_dumped_by_its_user_again,
    signals_are_neither_blocked_nor_ignored,
    the_process_leads_a_session,
    other_devices_than_the_usual_cannot_be_opened,
    a_device_of_the_document_is_made_and_can_be_used,
    the_usual_devices_and_links_are_there,
];

fn with_process<'a>(builder: Builder<'a>, change: impl FnOnce(&mut Value)) -> Builder<'a> {
    builder.edit(|spec| change(&mut spec["process"]))
}

/// The value of a field of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_default()
}

fn capabilities_are_those_of_the_document(lab: &Lab) -> Outcome {
    let builder = with_process(lab.container(["cat", "/proc/self/status"]), |process| {
        process["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_CHOWN"],
            "effective": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"],
        });
    });
    let status = builder.run()?.success()?;
    // execve as root would raise the permitted set to the bounding one, and the effective one to
    // that, but for noNewPrivileges.
    assert_eq!(field(&status, "CapBnd"), "0000000000002021");
    assert_eq!(field(&status, "CapInh"), "0000000000000001");
    assert_eq!(field(&status, "CapPrm"), "0000000000000021");
    assert_eq!(field(&status, "CapEff"), "0000000000000021");
    Ok(())
}

fn a_user_that_is_not_root_has_no_effective_capabilities_unless_ambient(lab: &Lab) -> Outcome {
    let builder = with_process(lab.container(["cat", "/proc/self/status"]), |process| {
        process["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let status = builder.run()?.success()?;
    assert_eq!(field(&status, "CapEff"), "0000000000000000");
    assert_eq!(field(&status, "CapPrm"), "0000000000000000");
    assert_eq!(field(&status, "CapBnd"), "00000000a80425fb");
    let builder = with_process(lab.container(["cat", "/proc/self/status"]), |process| {
        process["user"] = json!({"uid": 1000, "gid": 1000});
        let one = json!(["CAP_NET_BIND_SERVICE"]);
        process["capabilities"] = json!({"bounding": one, "permitted": one, "inheritable": one,
                                         "effective": one, "ambient": one});
    });
    let status = builder.run()?.success()?;
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&status, name), "0000000000000400", "{name}");
    }
    Ok(())
}

fn no_new_privileges_is_set_and_can_be_left_out(lab: &Lab) -> Outcome {
    for (wanted, shown) in [(true, "1"), (false, "0")] {
        let builder = with_process(lab.container(["cat", "/proc/self/status"]), |process| {
            process["noNewPrivileges"] = wanted.into();
        });
        let status = builder.run()?.success()?;
        assert_eq!(field(&status, "NoNewPrivs"), shown);
    }
    Ok(())
}

fn user_groups_and_umask_are_those_of_the_document(lab: &Lab) -> Outcome {
    let builder = with_process(lab.container(["cat", "/proc/self/status"]), |process| {
        process["user"] = json!({
            "uid": 1000, "gid": 29, "additionalGids": [10, 4711], "umask": 0o77,
        });
    });
    let status = builder.run()?.success()?;
    assert_eq!(field(&status, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(field(&status, "Gid"), "29\t29\t29\t29");
    assert_eq!(field(&status, "Groups").trim(), "10 4711");
    assert_eq!(field(&status, "Umask"), "0077");
    Ok(())
}

fn rlimits_are_those_of_the_document(lab: &Lab) -> Outcome {
    let builder = with_process(lab.container(["cat", "/proc/self/limits"]), |process| {
        process["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152},
        ]);
    });
    let limits = builder.run()?.success()?;
    let limit = |name: &str| -> Vec<String> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap_or_default().split_whitespace();
        words.take(2).map(ToOwned::to_owned).collect()
    };
    assert_eq!(limit("Max open files"), ["123", "456"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max stack size"), ["1048576", "2097152"]);
    Ok(())
}

fn oom_score_adj_is_that_of_the_document(lab: &Lab) -> Outcome {
    let builder = with_process(
        lab.container(["cat", "/proc/self/oom_score_adj"]),
        |process| {
            process["oomScoreAdj"] = 500.into();
        },
    );
    assert_eq!(builder.run()?.success()?, "500\n");
    Ok(())
}

fn home_comes_from_the_users_file_unless_given(lab: &Lab) -> Outcome {
    let home = |uid: u32, given: Option<&str>| -> Outcome<String> {
        let builder = with_process(lab.script("echo $HOME"), |process| {
            process["user"] = json!({"uid": uid, "gid": uid});
            if let (Some(given), Some(env)) = (given, process["env"].as_array_mut()) {
                env.push(format!("HOME={given}").into());
            }
        });
        builder.run()?.success()
    };
    assert_eq!(home(0, None)?, "/root\n");
    assert_eq!(home(1000, None)?, "/home/tester\n");
    assert_eq!(home(1000, Some("/chosen"))?, "/chosen\n");
    assert_eq!(home(4711, None)?, "/\n");
    Ok(())
}

fn cwd_is_made_when_it_is_missing(lab: &Lab) -> Outcome {
    let builder = with_process(lab.script("pwd"), |process| {
        process["cwd"] = "/new/folder/here".into();
    });
    assert_eq!(builder.run()?.success()?, "/new/folder/here\n");
    Ok(())
}

fn cwd_is_entered_with_the_runtimes_rights(lab: &Lab) -> Outcome {
    let builder = with_process(lab.script("pwd; ls || echo refused"), |process| {
        process["user"] = json!({"uid": 1000, "gid": 1000});
        process["cwd"] = "/root".into();
    });
    assert_eq!(builder.run()?.success()?, "/root\nrefused\n");
    Ok(())
}

fn only_stdio_is_open_in_a_container(lab: &Lab) -> Outcome {
    for script in ["sleep 1000", "true; sleep 1000"] {
        let container = lab.script(script).with_stdin().start()?;
        check_descriptors(container.pid())?;
        container.kill_and_finish()?;
    }
    let container = lab.script("sleep 1000").with_terminal().start()?;
    check_descriptors(container.pid())?;
    container.kill_and_finish()?;
    Ok(())
}

/// Looks from outside: nothing has to be opened for it inside.
fn check_descriptors(pid: u32) -> Outcome {
    host::wait_for_program(pid, "sleep")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        names.push(format!(
            "{} {}",
            entry.file_name().to_string_lossy(),
            target.display()
        ));
    }
    names.sort();
    let numbers: Vec<_> = names
        .iter()
        .filter_map(|name| name.split(' ').next())
        .collect();
    assert_eq!(numbers, ["0", "1", "2"], "{names:?}");
    Ok(())
}

fn only_stdio_is_open_in_an_exec(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sleep", "1000"]).start()?;
    check_descriptors(exec.state()?.pid)?;
    exec.kill(Signal::KILL)?;
    exec.finish_process()?;
    container.kill_and_finish()?;
    Ok(())
}

/// CVE-2019-5736. The container executes `/proc/self/exe`: while that is the runtime's program, a
/// process inside opens it through `/proc/<pid>/exe`, and then tries to write to it.
const ATTACK: &str = include_str!("overwrite.sh");

fn the_runtimes_program_cannot_be_written_through_proc(lab: &Lab) -> Outcome {
    let program = match lab.is_reference() {
        true => lab.generation.bin.join("runc"),
        false => our_shim()?,
    };
    let fingerprint = |path: &Path| -> Outcome<(u64, i64, i64, u64)> {
        let meta = fs::metadata(path)?;
        Ok((meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ino()))
    };
    let before = fingerprint(&program)?;
    let container = lab.script(ATTACK).start()?;
    container.streams.stdout()?.wait_for("ready")?;
    for number in 0..40 {
        // Ours waits on stdin for options; runc prints its version. Errors are fine: it may refuse.
        let exec = container.exec(&format!("e{number}"), ["/proc/self/exe", "-info"]);
        let exec = exec.stdio(Stdio::Fifos(Stdin::Open)).add()?;
        if exec.start().is_ok() {
            let caught = container.streams.stdout()?.text().contains("caught");
            thread::sleep(Duration::from_millis(if caught { 0 } else { 50 }));
            exec.close_stdin()?;
            // It may have ended by itself.
            let _ = exec.kill(Signal::KILL);
            exec.wait()?;
        }
        exec.delete()?;
    }
    let output = container.streams.stdout()?.text();
    container.kill_and_finish()?;
    assert!(!output.contains("WRITTEN"), "{output}");
    assert_eq!(fingerprint(&program)?, before);
    Ok(())
}

/// After execve the process is an ordinary one again: its files in procfs belong to its user.
fn the_process_can_be_dumped_by_its_user_again(lab: &Lab) -> Outcome {
    let builder = with_process(lab.script("stat -c %u /proc/self/environ"), |process| {
        process["user"] = json!({"uid": 1000, "gid": 1000});
    });
    assert_eq!(builder.run()?.success()?, "1000\n");
    Ok(())
}

fn signals_are_neither_blocked_nor_ignored(lab: &Lab) -> Outcome {
    let container = lab
        .container(["cat", "/proc/self/status"])
        .run()?
        .success()?;
    let running = lab.container(["sleep", "1000"]).start()?;
    let exec = running
        .exec("e", ["cat", "/proc/self/status"])
        .run()?
        .success()?;
    running.kill_and_finish()?;
    for status in [container, exec] {
        assert_eq!(field(&status, "SigBlk"), "0000000000000000");
        // Go's runtime leaves SIGCANCEL of the C library ignored.
        let ignored = field(&status, "SigIgn");
        let by_go = lab.is_reference() && ignored == "0000000080000000";
        assert!(by_go || ignored == "0000000000000000", "{ignored}");
    }
    Ok(())
}

fn the_process_leads_a_session(lab: &Lab) -> Outcome {
    // Fields 5 and 6: process group and session.
    let script = "set -- $(cat /proc/1/stat); echo $5 $6";
    assert_eq!(lab.script(script).run()?.success()?, "1 1\n");
    Ok(())
}

fn other_devices_than_the_usual_cannot_be_opened(lab: &Lab) -> Outcome {
    let script = "for d in null zero full random urandom tty; do \
                      test -c /dev/$d || echo no $d; done; \
                  mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg && echo opened; true";
    let finished = lab.script(script).run()?;
    assert_eq!(finished.stdout, "", "{finished:?}");
    assert!(finished.stderr.contains("not permitted"), "{finished:?}");
    Ok(())
}

fn a_device_of_the_document_is_made_and_can_be_used(lab: &Lab) -> Outcome {
    let script = "stat -c '%F %t:%T %a %u %g' /dev/my-zero; head -c 3 /dev/my-zero | wc -c";
    let builder = lab.script(script).edit(|spec| {
        spec["linux"]["devices"] = json!([{
            "path": "/dev/my-zero", "type": "c", "major": 1, "minor": 5,
            "fileMode": 0o640, "uid": 1000, "gid": 29,
        }]);
        spec["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"},
        ]);
    });
    let output = builder.run()?.success()?;
    assert_eq!(output, "character special file 1:5 640 1000 29\n3\n");
    Ok(())
}

fn the_usual_devices_and_links_are_there(lab: &Lab) -> Outcome {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; \
                  for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done";
    let output = lab.script(script).run()?.success()?;
    let wanted = [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), wanted);
    Ok(())
}
