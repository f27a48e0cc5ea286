// SPDX-License-Identifier: Apache-2.0
//! Hooks: when they are run, where, with what, and what their failure means.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use containerd_client::tonic::Code;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{assert_refused, assert_status, crash};
use crate::container::Builder;
use crate::failure::{Failure, Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::tests;

tests!["hooks";
    hooks_of_the_host_are_told_what_is_being_created,
    a_hook_has_no_environment_but_its_own_and_no_descriptors,
    create_container_hooks_work_on_the_root_from_inside_the_namespaces,
    start_container_hooks_run_inside_as_the_user,
    poststart_and_poststop_hooks_run_after_start_and_delete,
    all_kinds_run_in_their_order,
    a_failing_hook_of_the_host_fails_the_create_with_its_stderr,
    a_failing_hook_in_the_container_fails_the_create,
    a_failing_start_container_hook_fails_the_start,
    a_failing_poststart_hook_ends_the_container,
    a_failing_poststop_hook_fails_nothing,
    a_hook_that_takes_too_long_is_killed,
    a_failed_create_has_its_poststop_too,
    after_the_shim_is_killed_poststop_hooks_are_run,
    a_hook_that_hangs_keeps_no_other_container_waiting,
];

/// Where hooks of a test leave word.
struct Scratch(PathBuf);

impl Scratch {
    fn new(lab: &Lab, builder: &Builder<'_>) -> Outcome<Self> {
        let folder = lab
            .containerd()
            .folder()
            .join(format!("hooks-{}", builder.id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read(&self, name: &str) -> Outcome<String> {
        Ok(fs::read_to_string(self.file(name))?)
    }

    fn json(&self, name: &str) -> Outcome<Value> {
        Ok(serde_json::from_str(&self.read(name)?)?)
    }
}

/// A hook that is a shell script. Scripts find the scratch folder as `$S`.
fn hook(scratch: &Scratch, script: &str) -> Value {
    json!({
        "path": "/bin/sh",
        "args": ["sh", "-c", script],
        "env": [format!("S={}", scratch.0.display()), crate::spec::PATH],
    })
}

fn with<'a>(builder: Builder<'a>, kind: &str, hooks: Value) -> Builder<'a> {
    builder.edit(|spec| spec["hooks"][kind] = hooks)
}

/// The reference is known to do it otherwise.
fn exempt(reason: &str) -> Outcome {
    Err(Failure::Exempt(reason.to_owned()))
}

/// `kind:[number]` of this process.
fn own_namespace(name: &str) -> Outcome<String> {
    let target = fs::read_link(format!("/proc/self/ns/{name}"))?;
    Ok(target.to_string_lossy().into_owned())
}

fn hooks_of_the_host_are_told_what_is_being_created(lab: &Lab) -> Outcome {
    let builder = lab.container(["sleep", "1000"]);
    let scratch = Scratch::new(lab, &builder)?;
    let builder = builder.edit(|spec| spec["annotations"]["org.example.key"] = "value".into());
    let script = |name: &str| {
        format!("cat >$S/{name}; readlink /proc/self/ns/net /proc/self/ns/mnt >$S/{name}.ns")
    };
    let builder = with(
        builder,
        "prestart",
        json!([hook(&scratch, &script("prestart"))]),
    );
    let builder = with(
        builder,
        "createRuntime",
        json!([hook(&scratch, &script("runtime"))]),
    );
    let container = builder.create()?;
    for name in ["prestart", "runtime"] {
        let state = scratch.json(name)?;
        assert_eq!(state["id"], container.id());
        assert_eq!(state["status"], "creating");
        assert_eq!(state["pid"], container.pid());
        let bundle = lab.containerd().bundle(container.id());
        assert_eq!(state["bundle"], bundle.to_string_lossy().as_ref());
        assert_eq!(state["annotations"]["org.example.key"], "value");
        let namespaces = format!("{}\n{}\n", own_namespace("net")?, own_namespace("mnt")?);
        assert_eq!(scratch.read(&format!("{name}.ns"))?, namespaces);
    }
    container.start()?;
    container.kill_and_finish()?;
    Ok(())
}

fn a_hook_has_no_environment_but_its_own_and_no_descriptors(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]);
    let scratch = Scratch::new(lab, &builder)?;
    // The last one in the shell's place: a shell changes signals for the moment of a fork.
    let script = format!(
        "exec >{}/out; tr '\\0' '\\n' </proc/$$/environ; ls -m /proc/$$/fd; \
         exec grep -E '^Sig(Blk|Ign)' /proc/self/status",
        scratch.0.display()
    );
    let list = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["ONLY=this"]}]);
    with(builder, "createRuntime", list).run()?.success()?;
    let text = scratch.read("out")?;
    let (env, rest) = text.split_once('\n').unwrap_or_default();
    assert_eq!(env, "ONLY=this");
    let (descriptors, signals) = rest.split_once('\n').unwrap_or_default();
    assert_eq!(descriptors, "0, 1, 2");
    // SIGRTMIN-2 and -1 are the C library's own: whoever is spawned by it ignores them.
    let mask = signals
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    let set: Vec<u64> = mask.map(|bits| bits & !0x1_8000_0000).collect();
    assert_eq!(set, [0, 0], "{signals}");
    Ok(())
}

/// As `ldconfig` hooks do: the program is the host's, the root is reached through the bundle, what
/// is mounted there is the container's, and the root is not read-only yet.
fn create_container_hooks_work_on_the_root_from_inside_the_namespaces(lab: &Lab) -> Outcome {
    let builder = lab.script("cat /hook/file /etc/made-by-hook");
    let scratch = Scratch::new(lab, &builder)?;
    let script = "cat >$S/state; readlink /proc/self/ns/net >$S/net; \
                  root=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/' $S/state)/rootfs; \
                  [ $(pwd -P) = $(cd $root && pwd -P) ] || exit 9; \
                  mkdir $root/hook && mount -t tmpfs none $root/hook && \
                  echo mounted >$root/hook/file && \
                  chroot $root sh -c 'echo inside >/etc/made-by-hook'";
    let builder = builder.edit(|spec| spec["root"]["readonly"] = true.into());
    let id = builder.id().to_owned();
    let list = json!([hook(&scratch, script)]);
    let output = with(builder, "createContainer", list).run()?.success()?;
    assert_eq!(output, "mounted\ninside\n");
    let state = scratch.json("state")?;
    assert_eq!(state["status"], "creating");
    assert_eq!(state["id"], id.as_str());
    assert_ne!(scratch.read("net")?.trim(), own_namespace("net")?);
    Ok(())
}

fn start_container_hooks_run_inside_as_the_user(lab: &Lab) -> Outcome {
    let builder = lab.script("cat /tmp/state; cat /tmp/env");
    let script = "cat >/tmp/state; echo >>/tmp/state; id -u >/tmp/env; echo $FOO >>/tmp/env; \
                  pwd >>/tmp/env";
    let list = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let builder = with(builder, "startContainer", list).edit(|spec| {
        spec["process"]["user"] = json!({"uid": 1234, "gid": 1234});
        spec["process"]["cwd"] = "/etc".into();
        spec["process"]["env"] = json!([crate::spec::PATH, "FOO=bar"]);
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.push(
                json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                               "options": ["mode=1777"]}),
            );
        }
    });
    let output = builder.run()?.success()?;
    let (state, rest) = output.split_once('\n').unwrap_or_default();
    let state: Value = serde_json::from_str(state)?;
    // In the container's own PID namespace.
    assert_eq!(
        (&state["status"], &state["pid"]),
        (&"created".into(), &1.into())
    );
    // Not in the specification: without an environment it has the program's.
    assert_eq!(rest, "1234\nbar\n/etc\n");
    Ok(())
}

fn poststart_and_poststop_hooks_run_after_start_and_delete(lab: &Lab) -> Outcome {
    let builder = lab.container(["sleep", "1000"]);
    let scratch = Scratch::new(lab, &builder)?;
    let cgroup = lab.cgroup(builder.id());
    let builder = with(
        builder,
        "poststart",
        json!([hook(&scratch, "cat >$S/start")]),
    );
    let builder = with(builder, "poststop", json!([hook(&scratch, "cat >$S/stop")]));
    let container = builder.create()?;
    // runc before 1.2 runs it when the container is created.
    let early = lab.is_reference() && scratch.file("start").exists();
    assert!(early || !scratch.file("start").exists());
    container.start()?;
    let state = scratch.json("start")?;
    assert!(early || state["status"] == "running", "{state}");
    assert_eq!(state["pid"], container.pid());
    assert!(!scratch.file("stop").exists());
    container.kill_and_finish()?;
    let state = scratch.json("stop")?;
    assert_eq!(state["status"], "stopped");
    assert!(state.get("pid").is_none(), "{state}");
    assert!(host::cgroup_folders(&cgroup).is_empty());
    Ok(())
}

fn all_kinds_run_in_their_order(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]);
    let scratch = Scratch::new(lab, &builder)?;
    let mut builder = builder;
    for kind in [
        "poststop",
        "poststart",
        "createContainer",
        "createRuntime",
        "prestart",
    ] {
        let one = |number: u8| hook(&scratch, &format!("echo {kind}{number} >>$S/order"));
        builder = with(builder, kind, json!([one(0), one(1)]));
    }
    builder.run()?.success()?;
    let order = scratch.read("order")?;
    let wanted = [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ];
    let wanted = wanted.map(|kind| format!("{kind}0\n{kind}1\n")).concat();
    assert_eq!(order, wanted);
    Ok(())
}

fn a_failing_hook_of_the_host_fails_the_create_with_its_stderr(lab: &Lab) -> Outcome {
    for kind in ["prestart", "createRuntime"] {
        let builder = lab.container(["true"]);
        let scratch = Scratch::new(lab, &builder)?;
        let list = json!([
            hook(&scratch, "true"),
            hook(&scratch, "echo the reason >&2; exit 3"),
            hook(&scratch, "touch $S/never")
        ]);
        let status = with(builder, kind, list).expect_create_to_fail()?;
        assert_status(&status, Code::Unknown, "OCI runtime create failed: ");
        assert_status(&status, Code::Unknown, "hook #1: ");
        assert_status(&status, Code::Unknown, "exit status 3");
        assert_status(&status, Code::Unknown, "the reason");
        if !lab.is_reference() {
            assert_status(
                &status,
                Code::Unknown,
                &format!("error running {kind} hook #1: "),
            );
        }
        assert!(!scratch.file("never").exists());
    }
    let builder = lab.container(["true"]);
    let list = json!([{"path": "/no/such/hook"}]);
    let status = with(builder, "createRuntime", list).expect_create_to_fail()?;
    assert_status(
        &status,
        Code::Unknown,
        "/no/such/hook: no such file or directory",
    );
    Ok(())
}

fn a_failing_hook_in_the_container_fails_the_create(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]);
    let scratch = Scratch::new(lab, &builder)?;
    let list = json!([hook(&scratch, "echo the reason >&2; exit 4")]);
    let status = with(builder, "createContainer", list).expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "hook #0: ");
    assert_status(&status, Code::Unknown, "exit status 4");
    assert_status(&status, Code::Unknown, "the reason");
    Ok(())
}

/// runc does not notice: its `start` ends before the hooks begin.
fn a_failing_start_container_hook_fails_the_start(lab: &Lab) -> Outcome {
    let list = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo the reason >&2; exit 5"]}]);
    let container = with(lab.script("echo alive"), "startContainer", list).create()?;
    let started = container.start();
    if !lab.is_reference() {
        let status = started
            .err()
            .ok_or_else(|| crate::failure::failed("started"))?;
        let text =
            "error running startContainer hook #0: exit status 5, stdout: , stderr: the reason";
        assert_status(&status, Code::Unknown, text);
    }
    let finished = container.finish()?;
    assert_eq!(finished.stdout, "");
    assert_ne!(finished.status, 0);
    Ok(())
}

fn a_failing_poststart_hook_ends_the_container(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("runc runs these hooks at other times");
    }
    let builder = lab.container(["sleep", "1000"]);
    let scratch = Scratch::new(lab, &builder)?;
    let list = json!([hook(&scratch, "echo the reason >&2; exit 6")]);
    let container = with(builder, "poststart", list).create()?;
    let text = "error running poststart hook #0: exit status 6, stdout: , stderr: the reason";
    assert_refused(container.start(), Code::Unknown, text);
    assert_eq!(container.finish()?.status, 137);
    Ok(())
}

fn a_failing_poststop_hook_fails_nothing(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt(
            "runc's delete fails when such a hook does; the specification says otherwise",
        );
    }
    let builder = lab.container(["true"]);
    let scratch = Scratch::new(lab, &builder)?;
    let list = json!([hook(&scratch, "exit 7"), hook(&scratch, "touch $S/second")]);
    with(builder, "poststop", list).run()?.success()?;
    assert!(scratch.file("second").exists());
    Ok(())
}

fn a_hook_that_takes_too_long_is_killed(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]);
    let scratch = Scratch::new(lab, &builder)?;
    let mut slow = hook(&scratch, "echo $$ >$S/pid; exec sleep 1000");
    slow["timeout"] = 1.into();
    let begin = Instant::now();
    let status = with(builder, "createRuntime", json!([slow])).expect_create_to_fail()?;
    assert_status(
        &status,
        Code::Unknown,
        "hook ran past specified timeout of 1.0s",
    );
    assert!(begin.elapsed().as_secs() < 10);
    let pid = scratch.read("pid")?.trim().parse()?;
    wait_until(SOON, "the hook's end", || (!host::alive(pid)).then_some(()))
}

fn a_failed_create_has_its_poststop_too(lab: &Lab) -> Outcome {
    let builder = lab.container(["no-such-program"]);
    let scratch = Scratch::new(lab, &builder)?;
    let list = json!([hook(&scratch, "cat >$S/stop")]);
    with(builder, "poststop", list).expect_create_to_fail()?;
    assert_eq!(scratch.json("stop")?["status"], "stopped");
    Ok(())
}

fn after_the_shim_is_killed_poststop_hooks_are_run(lab: &Lab) -> Outcome {
    let builder = lab.container(["sleep", "1000"]);
    let scratch = Scratch::new(lab, &builder)?;
    let builder = builder.edit(|spec| spec["annotations"]["org.example.key"] = "value".into());
    let list = json!([hook(&scratch, "cat >>$S/stop")]);
    let container = with(builder, "poststop", list).start()?;
    let id = container.id().to_owned();
    host::signal(lab.shim_pid(&id)?, Signal::KILL);
    lab.events().wait_for(&id, "delete")?;
    crash::remove(lab, container)?;
    let state = scratch.json("stop")?;
    assert_eq!(
        (&state["status"], &state["id"]),
        (&"stopped".into(), &id.as_str().into())
    );
    assert_eq!(state["annotations"]["org.example.key"], "value");
    Ok(())
}

fn a_hook_that_hangs_keeps_no_other_container_waiting(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        return exempt("the Go shim creates one container of a pod after the other");
    }
    let builder = lab.container(["sleep", "1000"]);
    let pod = builder.id().to_owned();
    let sandbox = builder.in_pod(&pod).start()?;
    let builder = lab.container(["true"]);
    let scratch = Scratch::new(lab, &builder)?;
    let gate = scratch.file("gate");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &gate,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )?;
    let script = "echo >$S/begun; cat $S/gate";
    let builder = with(builder, "createRuntime", json!([hook(&scratch, script)])).in_pod(&pod);
    let mut container = builder.record()?;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            container.create()?;
            container.start()?;
            container.wait()
        });
        let others = (|| {
            wait_until(SOON, "the hook", || {
                scratch.file("begun").exists().then_some(())
            })?;
            assert_eq!(sandbox.state()?.status().as_str_name(), "RUNNING");
            assert_eq!(sandbox.shell("e", "echo fine")?, "fine\n");
            let other = lab.script("exit 3").in_pod(&pod).start()?;
            assert_eq!(other.wait()?, 3);
            other.delete()?;
            assert!(!waiting.is_finished());
            other.remove()
        })();
        open(&gate)?;
        let status = waiting
            .join()
            .map_err(|_| crate::failure::failed("panicked"))??;
        assert_eq!(status, 0);
        others
    })?;
    container.delete()?;
    container.remove()?;
    sandbox.kill_and_finish()?;
    Ok(())
}

/// Lets whoever reads the FIFO go on.
fn open(gate: &Path) -> Outcome {
    fs::OpenOptions::new().write(true).open(gate)?;
    Ok(())
}
