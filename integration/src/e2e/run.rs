// SPDX-License-Identifier: Apache-2.0
//! A container's plain life: it runs, says something, exits with a status, is gone.

use serde_json::json;

use crate::client::Reach;
use crate::failure::Outcome;
use crate::host;
use crate::lab::Lab;
use crate::streams::Stdio;
use crate::suite;
use crate::tests;

tests!["run";
    stdout_and_stderr_arrive_apart,
    every_exit_code_is_reported,
    death_by_signal_n_is_reported_as_128_plus_n,
    init_gets_its_arguments_and_environment_unchanged,
    a_container_without_stdio_runs,
    a_process_that_exits_at_once_is_never_missed,
    containers_run_at_the_same_time,
];

fn stdout_and_stderr_arrive_apart(lab: &Lab) -> Outcome {
    let finished = lab.script("echo out; echo err >&2; exit 3").run()?;
    assert_eq!(finished.stdout, "out\n");
    assert_eq!(finished.stderr, "err\n");
    assert_eq!(finished.status, 3);
    Ok(())
}

/// A few as init, all as exec: the way of the status is the same, and an exec is cheaper.
fn every_exit_code_is_reported(lab: &Lab) -> Outcome {
    for code in [0u32, 1, 126, 127, 255] {
        let status = lab.script(&format!("exit {code}")).run()?.status;
        assert_eq!(status, code);
    }
    let container = lab.container(["sleep", "1000"]).start()?;
    for code in 0..=255u32 {
        let exec = container.exec(&format!("e{code}"), ["sh", "-c", &format!("exit {code}")]);
        assert_eq!(exec.run()?.status, code);
    }
    assert_eq!(container.kill_and_finish()?.status, 137);
    Ok(())
}

fn death_by_signal_n_is_reported_as_128_plus_n(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    for signal in [
        1u32, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 31, 34, 64,
    ] {
        let exec = container
            .exec(&format!("s{signal}"), ["sleep", "1000"])
            .edit(|process| {
                process["rlimits"] = json!([{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]);
            });
        let exec = exec.add()?;
        host::wait_for_program(exec.start()?, "sleep")?;
        exec.kill_raw(i32::try_from(signal)?, Reach::One)?;
        assert_eq!(exec.finish_process()?.status, 128 + signal);
    }
    assert_eq!(container.kill_and_finish()?.status, 137);
    Ok(())
}

fn init_gets_its_arguments_and_environment_unchanged(lab: &Lab) -> Outcome {
    let args = [
        "sh",
        "-c",
        "tr '\\0' '|' </proc/self/cmdline; env",
        "zero",
        "",
        "a b",
        "\u{e4}",
    ];
    let builder = lab.container(args).edit(|spec| {
        let path = spec["process"]["env"][0].clone();
        spec["process"]["env"] = json!([path, "EMPTY=", "TWO=a=b c", "UML=\u{e4}"]);
    });
    let output = builder.run()?.success()?;
    assert!(output.contains("; env|zero||a b|\u{e4}|"), "{output}");
    for line in ["EMPTY=", "TWO=a=b c", "UML=\u{e4}", "HOME=/root"] {
        assert!(
            output.lines().any(|other| other == line),
            "no {line} in {output}"
        );
    }
    Ok(())
}

fn a_container_without_stdio_runs(lab: &Lab) -> Outcome {
    let container = lab
        .container(["sleep", "1000"])
        .stdio(Stdio::Null)
        .start()?;
    let look = "for n in 0 1 2; do readlink /proc/1/fd/$n; done";
    assert_eq!(
        container.shell("look", look)?,
        "/dev/null\n/dev/null\n/dev/null\n"
    );
    container.kill_and_finish()?;
    Ok(())
}

/// `true` has exited before the shim can look: still there is a pid, one exit event, a status.
fn a_process_that_exits_at_once_is_never_missed(lab: &Lab) -> Outcome {
    let many = !lab.is_reference() && (lab.generation.version == (1, 7) || suite::full_scale());
    for _ in 0..if many { 1000 } else { 40 } {
        let container = lab.container(["true"]).stdio(Stdio::Null).start()?;
        let (id, pid) = (container.id().to_owned(), container.pid());
        assert_ne!(pid, 0);
        assert_eq!(container.wait()?, 0);
        let deleted = container.delete()?;
        assert_eq!((deleted.pid, deleted.exit_status), (pid, 0));
        container.remove()?;
        lab.expect_events(&id, "create start exit delete")?;
        let events = lab.events().of(&id);
        assert!(events.iter().all(|event| event.pid == pid), "{events:?}");
    }
    Ok(())
}

fn containers_run_at_the_same_time(lab: &Lab) -> Outcome {
    let all: Result<Vec<_>, _> = std::thread::scope(|scope| {
        let one = |number: u32| {
            let script = format!("echo {number}; exit {number}");
            move || -> Outcome {
                let finished = lab.script(&script).run()?;
                assert_eq!(finished.status, number);
                assert_eq!(finished.stdout, format!("{number}\n"));
                Ok(())
            }
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(one(number))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| crate::fail!("see above")))
            .collect()
    });
    all?;
    Ok(())
}
