// SPDX-License-Identifier: Apache-2.0
//! The filter on system calls, as a container's processes feel it.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use containerd_client::tonic::Code;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::assert_status;
use crate::container::Builder;
use crate::failure::{Outcome, SOON, failed, wait_until};
use crate::lab::Lab;
use crate::tests;

tests!["seccomp";
    a_filter_is_felt_by_init_and_by_execs,
    containerds_default_profile_runs_a_shell_and_stops_what_it_should,
    a_call_can_kill_its_process,
    arguments_decide,
    a_filter_needs_few_calls_of_the_runtime,
    an_agent_gets_the_listener_of_init_and_of_an_exec,
    without_an_agent_nothing_is_started,
    what_cannot_be_filtered_is_refused,
];

/// `mkdir(2)` and its relatives get this.
fn mkdir(action: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": action, "errnoRet": 28}]})
}

fn with(builder: Builder<'_>, profile: Value, no_new_privileges: bool) -> Builder<'_> {
    builder.edit(|spec| {
        spec["linux"]["seccomp"] = profile;
        spec["process"]["noNewPrivileges"] = no_new_privileges.into();
    })
}

fn a_filter_is_felt_by_init_and_by_execs(lab: &Lab) -> Outcome {
    let script = "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status";
    for no_new_privileges in [true, false] {
        let shell = format!("{script}; sleep 1000");
        let builder = with(
            lab.script(&shell),
            mkdir("SCMP_ACT_ERRNO"),
            no_new_privileges,
        );
        let container = builder.start()?;
        let output = container.streams.stdout()?;
        output.wait_for("Seccomp:\t2")?;
        assert!(
            output.text().contains("No space left on device"),
            "{}",
            output.text()
        );
        let output = container.shell("e", script)?;
        assert!(output.contains("No space left on device"), "{output}");
        assert!(output.contains("Seccomp:\t2"), "{output}");
        container.kill_and_finish()?;
    }
    Ok(())
}

fn containerds_default_profile_runs_a_shell_and_stops_what_it_should(lab: &Lab) -> Outcome {
    let text = include_str!("../../../crates/seccomp/tests/data/containerd.json");
    let profile: Value = serde_json::from_str(text)?;
    let script = "ls / | grep -c proc; echo $(uname -s) $(date +%Y | cut -c 1-2); \
                  unshare -U true || echo refused; sleep 0.01 & wait; mkdir /tmp/x && echo made";
    for no_new_privileges in [true, false] {
        let builder = with(lab.script(script), profile.clone(), no_new_privileges);
        let output = builder.run()?.success()?;
        assert_eq!(output, "1\nLinux 20\nrefused\nmade\n");
    }
    Ok(())
}

fn a_call_can_kill_its_process(lab: &Lab) -> Outcome {
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        // 128 and SIGSYS.
        let script = "(mkdir /tmp/x) 2>/dev/null; echo $?; test -e /tmp/x || echo none";
        let output = with(lab.script(script), mkdir(action), true)
            .run()?
            .success()?;
        assert_eq!(output, "159\nnone\n", "{action}");
    }
    Ok(())
}

fn arguments_decide(lab: &Lab) -> Outcome {
    // The second of chmod's and the third of fchmodat's is the mode.
    let rule = |name: &str, index: u32| {
        json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": [
            {"index": index, "value": 0o7000, "valueTwo": 0o4000, "op": "SCMP_CMP_MASKED_EQ"}]})
    };
    let rules = [rule("chmod", 1), rule("fchmodat", 2), rule("fchmodat2", 2)];
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    // Older runtimes refuse nothing here: a name they do not know is left out.
    let script = "touch /tmp/x; chmod 755 /tmp/x && chmod 4755 /tmp/x 2>&1; stat -c %a /tmp/x";
    let output = with(lab.script(script), profile, true).run()?.success()?;
    assert!(
        output.ends_with("No space left on device\n755\n"),
        "{output}"
    );
    Ok(())
}

/// A profile with all that a static program needs, as people write it for one: the runtime's own
/// calls after the filter are not in it, but for a few.
fn a_filter_needs_few_calls_of_the_runtime(lab: &Lab) -> Outcome {
    let mut names = vec![
        "execve",
        "write",
        "read",
        "close",
        "brk",
        "mmap",
        "munmap",
        "mprotect",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "readlinkat",
        "readlink",
        "getrandom",
        "exit_group",
        "getuid",
        "getpid",
        "setuid",
        "setgid",
        "uname",
        "prctl",
        "rt_sigaction",
        "rt_sigprocmask",
        "ioctl",
        "writev",
        "fstat",
        "newfstatat",
    ];
    if lab.is_reference() {
        // Of Go's runtime, and of the FIFO that it opens.
        names.extend([
            "futex",
            "openat",
            "sigaltstack",
            "gettid",
            "tgkill",
            "rt_sigreturn",
            "nanosleep",
            "epoll_pwait",
            "epoll_ctl",
            "fcntl",
            "madvise",
            "sched_yield",
            "getppid",
            "close_range",
            "clone",
            "clone3",
            "epoll_create1",
            "eventfd2",
            "pipe2",
            "fstatfs",
            "statx",
            "openat2",
            "getdents64",
        ]);
    }
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let output = with(lab.container(["echo", "here"]), profile, true)
        .run()?
        .success()?;
    assert_eq!(output, "here\n");
    Ok(())
}

/// What an agent has been told, and the listener.
fn accept(socket: &UnixListener) -> Outcome<(Value, OwnedFd)> {
    let (stream, _) = wait_until(SOON, "a connection to the agent", || socket.accept().ok())?;
    stream.set_nonblocking(false)?;
    receive(stream)
}

fn receive(mut stream: UnixStream) -> Outcome<(Value, OwnedFd)> {
    let mut data = [0; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut data)];
    let size = recvmsg(&stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let mut text = data[..size].to_vec();
    stream.read_to_end(&mut text)?;
    let listener = fds.ok_or_else(|| failed("the agent got no descriptor"))?;
    Ok((serde_json::from_slice(&text)?, listener))
}

fn wait_for_call(listener: &OwnedFd) -> Outcome {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let timeout = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    match poll(&mut fds, Some(&timeout))? {
        0 => Err(failed("no call has reached the agent")),
        _ => Ok(()),
    }
}

fn notifying(path: &Path) -> Value {
    let mut profile = mkdir("SCMP_ACT_NOTIFY");
    profile["listenerPath"] = json!(path);
    profile["listenerMetadata"] = "words for the agent".into();
    profile
}

fn an_agent_gets_the_listener_of_init_and_of_an_exec(lab: &Lab) -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("agent.sock");
    let socket = UnixListener::bind(&path)?;
    socket.set_nonblocking(true)?;
    for no_new_privileges in [true, false] {
        let script = "mkdir /tmp/x 2>&1; echo over; sleep 1000";
        let builder = with(lab.script(script), notifying(&path), no_new_privileges);
        let id = builder.id().to_owned();
        let container = builder.start()?;
        let (state, listener) = accept(&socket)?;
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "words for the agent");
        assert_eq!(state["pid"], container.pid());
        assert_eq!(state["state"]["id"], id);
        assert_eq!(state["state"]["status"], "creating");
        wait_for_call(&listener)?;
        assert!(!container.streams.stdout()?.text().contains("over"));
        // Nobody decides any more.
        drop(listener);
        container.streams.stdout()?.wait_for("over")?;
        let text = container.streams.stdout()?.text();
        assert!(text.contains("Function not implemented"), "{text}");
        let exec = container.exec("e", ["mkdir", "/tmp/y"]).start()?;
        let (state, listener) = accept(&socket)?;
        assert_eq!(state["state"]["status"], "running");
        assert_eq!(state["state"]["pid"], container.pid());
        assert_ne!(state["pid"], container.pid());
        wait_for_call(&listener)?;
        drop(listener);
        exec.finish_process()?;
        container.kill_and_finish()?;
    }
    Ok(())
}

fn without_an_agent_nothing_is_started(lab: &Lab) -> Outcome {
    let profile = notifying(Path::new("/nowhere/agent.sock"));
    let status = with(lab.script("true"), profile, true).expect_create_to_fail()?;
    assert_status(
        &status,
        Code::Unknown,
        "failed to connect with seccomp agent",
    );
    Ok(())
}

fn what_cannot_be_filtered_is_refused(lab: &Lab) -> Outcome {
    let refused = |profile: Value, text: &str| -> Outcome {
        let status = with(lab.script("true"), profile, true).expect_create_to_fail()?;
        assert_status(&status, Code::Unknown, text);
        Ok(())
    };
    let mut flag = mkdir("SCMP_ACT_ERRNO");
    flag["flags"] = json!(["SECCOMP_FILTER_FLAG_OF_TOMORROW"]);
    // Old versions of runc know no flags at all.
    let named = match lab.is_reference() {
        true => "seccomp flag",
        false => "SECCOMP_FILTER_FLAG_OF_TOMORROW",
    };
    refused(flag, named)?;
    let mut write = notifying(Path::new("/nowhere/agent.sock"));
    write["syscalls"][0]["names"] = json!(["write"]);
    refused(
        write,
        "SCMP_ACT_NOTIFY cannot be used for the write syscall",
    )?;
    let mut default = notifying(Path::new("/nowhere/agent.sock"));
    default["defaultAction"] = "SCMP_ACT_NOTIFY".into();
    refused(default, "SCMP_ACT_NOTIFY cannot be used as default action")?;
    // runc 1.1 does not say "seccomp" before it.
    refused(mkdir("SCMP_ACT_NOTIFY"), "listenerPath is not set")
}
