// SPDX-License-Identifier: Apache-2.0
//! Further processes of a container.

use integration::mock::api::Status;
use integration::mock::{Code, Event, Spec, StdioKind, Subject};
use serde_json::json;

use crate::scene::{ID, Scene};
use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("exec_life_in_order", exec_life_in_order),
    shared("exec_exit_statuses", exec_exit_statuses),
    shared("exec_runs_in_the_container", exec_runs_in_the_container),
    shared(
        "exec_takes_user_cwd_and_environment",
        exec_takes_user_cwd_and_environment,
    ),
    shared(
        "exec_of_what_cannot_be_executed",
        exec_of_what_cannot_be_executed,
    ),
    shared("exec_deleted_before_start", exec_deleted_before_start),
    shared("execs_end_before_init", execs_end_before_init),
    shared("execs_at_once", execs_at_once),
    shared("no_stray_descriptors", no_stray_descriptors),
    ours(
        "exec_that_failed_leaves_nothing",
        exec_that_failed_leaves_nothing,
    ),
];

fn exec_life_in_order(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let exec = scene
        .container
        .exec("e", &["/bin/sh", "-c", "exit 9"], StdioKind::Null)?;
    assert_eq!(exec.status()?, Status::CREATED);
    let state = scene.shim.task.state(ID, "e")?;
    assert_eq!((state.id.as_str(), state.pid), ("e", 0));
    let pid = exec.start()?;
    assert_eq!(exec.wait()?, 9);
    assert_eq!(exec.status()?, Status::STOPPED);
    let deleted = exec.delete()?;
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 9));
    let events = scene.world.events.wait_exit(ID, "e")?;
    let (id, exec) = (ID.to_owned(), "e".to_owned());
    assert_eq!(
        events[2..],
        [
            Event::ExecAdded {
                id: id.clone(),
                exec: exec.clone()
            },
            Event::ExecStarted {
                id: id.clone(),
                exec: exec.clone(),
                pid
            },
            Event::Exit {
                id,
                process: exec,
                pid,
                status: 9
            },
        ]
    );
    scene.end()
}

fn exec_exit_statuses(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    for status in [0, 1, 2, 126, 127, 137, 255] {
        let exec = format!("exit-{status}");
        let script = format!("exit {status}");
        let exec = scene
            .container
            .exec(&exec, &["/bin/sh", "-c", &script], StdioKind::Null)?;
        assert_eq!(exec.run()?, status);
    }
    let asked = scene
        .container
        .exec("term", &["/bin/sleep", "1000"], StdioKind::Null)?;
    asked.start()?;
    asked.kill(15)?;
    assert_eq!(asked.wait()?, 143);
    asked.delete()?;
    scene.end()
}

fn exec_runs_in_the_container(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let script = "hostname; for n in pid net ipc uts mnt; do readlink /proc/1/ns/$n; \
                  readlink /proc/self/ns/$n; done; tr '\\0' ' ' </proc/1/cmdline; ls /proc/self/cwd/etc";
    let (status, text) = scene
        .container
        .output_of("look", &["/bin/sh", "-c", script])?;
    assert_eq!(status, 0, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "mock");
    for pair in lines[1..11].chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    assert!(text.contains("/bin/sleep 1000000"), "{text}");
    assert!(text.contains("passwd"), "{text}");
    scene.end()
}

fn exec_takes_user_cwd_and_environment(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let mut process = Spec::process(&["/bin/sh", "-c", "id -u; id -g; id -G; pwd; echo $GREETING"]);
    process["user"] = json!({"uid": 1, "gid": 2, "additionalGids": [2, 7]});
    process["cwd"] = json!("/etc");
    process["env"] = json!(["PATH=/bin", "GREETING=hello world"]);
    let exec = scene
        .container
        .exec_process("who", &process, StdioKind::Output)?;
    assert_eq!(exec.run()?, 0);
    assert_eq!(exec.io.out.text()?, "1\n2\n2 7\n/etc\nhello world\n");
    scene.end()
}

fn exec_of_what_cannot_be_executed(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    for (exec, program, text) in [
        (
            "missing",
            "no-such-program",
            "executable file not found in $PATH",
        ),
        ("absolute", "/no/such/program", "no such file or directory"),
        ("plain", "/etc/plain", "permission denied"),
    ] {
        let exec = scene.container.exec(exec, &[program], StdioKind::Null)?;
        let Err(error) = exec.start() else {
            return Err(format!("{program} started").into());
        };
        assert_eq!(error.code(), Some(Code::UNKNOWN), "{error}");
        assert!(error.message().contains(text), "{error}");
        assert!(error.message().contains(program), "{error}");
    }
    assert_eq!(
        scene.container.output_of("well", &["/bin/echo", "fine"])?,
        (0, "fine\n".to_owned())
    );
    let texts = scene.world.events.texts(ID);
    assert!(
        !texts.iter().any(|text| text == "started missing"),
        "{texts:?}"
    );
    scene.end()
}

/// In the reference the second Start of such an exec can end the shim.
fn exec_that_failed_leaves_nothing(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let before = scene.shim.process().usage()?.descriptors;
    for _ in 0..5 {
        let exec = scene
            .container
            .exec("bad", &["/no/such/program"], StdioKind::Full)?;
        assert!(exec.start().is_err());
        assert!(exec.start().is_err());
        exec.delete()?;
        std::fs::remove_dir_all(scene.world.folder().join("io/main/bad"))?;
    }
    assert_eq!(scene.shim.process().usage()?.descriptors, before);
    assert_eq!(scene.shim.task.pids(ID)?, [scene.container.pid]);
    let texts = scene.world.events.texts(ID);
    assert!(!texts.iter().any(|text| text.contains("exit")), "{texts:?}");
    scene.end()
}

fn exec_deleted_before_start(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let exec = scene
        .container
        .exec("never", &["/bin/true"], StdioKind::Full)?;
    assert_eq!(exec.delete()?.exit_status, 0);
    assert_eq!(
        scene.container.output_of("next", &["/bin/echo", "on"])?,
        (0, "on\n".to_owned())
    );
    scene.end()
}

/// A container that ends takes its execs along; their exits are told first.
fn execs_end_before_init(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let execs: Vec<_> = (0..4)
        .map(|number| {
            let exec = format!("e{number}");
            let exec = scene
                .container
                .exec(&exec, &["/bin/sleep", "1000"], StdioKind::Null)?;
            exec.start()?;
            Ok(exec)
        })
        .collect::<integration::mock::Result<_>>()?;
    scene.container.kill(9)?;
    assert_eq!(scene.container.wait()?, 137);
    for exec in &execs {
        assert_eq!(exec.wait()?, 137);
    }
    scene.world.events.wait_exit(ID, ID)?;
    let texts = scene.world.events.texts(ID);
    assert_eq!(
        texts.last().map(String::as_str),
        Some("exit 137"),
        "{texts:?}"
    );
    let exits = texts
        .iter()
        .filter(|text| text.starts_with("exit of e"))
        .count();
    assert_eq!(exits, 4, "{texts:?}");
    scene.finish()
}

fn execs_at_once(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let outcome: Result<Vec<()>, integration::mock::Error> = std::thread::scope(|scope| {
        let run = |number: u32| {
            let container = &scene.container;
            move || {
                let script = format!("echo {number}; exit {number}");
                let (status, text) =
                    container.output_of(&format!("e{number}"), &["/bin/sh", "-c", &script])?;
                assert_eq!((status, text), (number, format!("{number}\n")));
                Ok(())
            }
        };
        let threads: Vec<_> = (0..24).map(|number| scope.spawn(run(number))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    outcome?;
    for number in 0..24 {
        let events = scene.world.events.wait_exit(ID, &format!("e{number}"))?;
        let texts: Vec<String> = events
            .iter()
            .map(ToString::to_string)
            .filter(|text| text.split(' ').any(|word| word == format!("e{number}")))
            .collect();
        let expected = [
            format!("added e{number}"),
            format!("started e{number}"),
            format!("exit of e{number} {number}"),
        ];
        assert_eq!(texts, expected);
    }
    scene.end()
}

fn no_stray_descriptors(subject: &Subject) -> Outcome {
    let script = "echo up; while :; do sleep 1; done";
    let scene = Scene::created(subject, &Spec::shell(script), StdioKind::Full)?;
    scene.container.start()?;
    scene.container.io.out.wait_text("up")?;
    // The last one is the folder's, while it is being read.
    let (_, text) = scene
        .container
        .output_of("own", &["/bin/ls", "/proc/self/fd"])?;
    assert_eq!(text, "0\n1\n2\n3\n", "of the exec");
    let (_, text) = scene
        .container
        .output_of("other", &["/bin/ls", "/proc/1/fd"])?;
    assert_eq!(text, "0\n1\n2\n", "of init");
    scene.end()
}
