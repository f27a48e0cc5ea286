// SPDX-License-Identifier: Apache-2.0
//! What a shim tells about itself.

use integration::mock::diagnostics::v1;
use integration::mock::{Code, Diagnostics, Result, StdioKind, Subject};

use crate::scene::{ID, Scene, assert_refused};
use crate::{Outcome, Test, ours};

pub(crate) const TESTS: &[Test] = &[
    ours("diagnostics_name_the_shim", name_the_shim),
    ours("diagnostics_show_every_process", show_every_process),
];

fn name_the_shim(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let info = diagnostics.call(&v1::InfoRequest::new())?;
    assert_eq!(info.pid as u32, scene.shim.pid());
    assert_eq!(info.id, ID);
    assert!(info.uptime_ns > 0 && info.now_unix_ns > info.started_unix_ns);
    assert_refused(containers(&diagnostics, "nobody"), Code::NOT_FOUND, "");
    scene.end()
}

fn containers(diagnostics: &Diagnostics, id: &str) -> Result<v1::ContainersResponse> {
    let mut request = v1::ContainersRequest::new();
    request.container = id.to_owned();
    diagnostics.call(&request)
}

fn show_every_process(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let diagnostics = scene.shim.diagnostics()?;
    let exec = scene
        .container
        .exec("e1", &["sh", "-c", "exit 3"], StdioKind::Null)?;
    let created = containers(&diagnostics, ID)?;
    assert_eq!(created.containers[0].execs[0].state, "created");
    exec.start()?;
    exec.wait()?;
    let answer = containers(&diagnostics, "")?;
    let [container] = &answer.containers[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(container.id, ID);
    assert_eq!(container.init.state, "running");
    assert_eq!(container.init.pid as u32, scene.container.pid);
    assert!(container.init.started_unix_ns >= container.created_unix_ns);
    assert!(!container.cgroups.is_empty());
    let exec_seen = &container.execs[0];
    assert_eq!(
        (exec_seen.exec.as_str(), exec_seen.state.as_str()),
        ("e1", "stopped")
    );
    assert_eq!(exec_seen.exit_status, 3);
    assert!(exec_seen.exited_unix_ns >= exec_seen.started_unix_ns);
    exec.delete()?;
    scene.end()
}
