// SPDX-License-Identifier: Apache-2.0
//! A container's plain life: it runs, says something, exits with a status, is gone.

use rustix::process::Signal;

use crate::failure::Outcome;
use crate::lab::Lab;
use crate::tests;

tests!["run";
    stdout_and_stderr_arrive_apart,
    every_exit_code_is_reported,
];

fn stdout_and_stderr_arrive_apart(lab: &Lab) -> Outcome {
    let finished = lab.script("echo out; echo err >&2; exit 3").run()?;
    assert_eq!(finished.stdout, "out\n");
    assert_eq!(finished.stderr, "err\n");
    assert_eq!(finished.status, 3);
    Ok(())
}

fn every_exit_code_is_reported(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    for code in 0..=255u32 {
        let exec = container.exec(&format!("e{code}"), ["sh", "-c", &format!("exit {code}")]);
        assert_eq!(exec.run()?.status, code);
    }
    let finished = container.kill_and_finish()?;
    assert_eq!(finished.status, 128 + Signal::KILL.as_raw().unsigned_abs());
    Ok(())
}
