// SPDX-License-Identifier: Apache-2.0
//! Several containers in one shim.

use integration::mock::api::Status;
use integration::mock::{Container, Shim, Spec, StdioKind, Subject, World};

use crate::scene::{assert_events, assert_nothing_left};
use crate::{Outcome, Test, shared};

pub(crate) const TESTS: &[Test] = &[
    shared(
        "pod_shares_a_shim_and_namespaces",
        pod_shares_a_shim_and_namespaces,
    ),
    shared(
        "containers_of_a_pod_are_independent",
        containers_of_a_pod_are_independent,
    ),
    shared("pod_group_annotation", pod_group_annotation),
];

const POD: &str = "pod";

fn sandbox(world: &World) -> Result<(Shim, Container), Box<dyn std::error::Error>> {
    let bundle = world.bundle(POD, &Spec::pod_sandbox(POD))?;
    let shim = world.start(&bundle)?;
    let container = shim.create(&bundle, StdioKind::Null)?;
    container.start()?;
    Ok((shim, container))
}

fn pod_shares_a_shim_and_namespaces(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let (shim, pause) = sandbox(&world)?;
    let files = world.pod_files().display().to_string();
    let script = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; hostname; \
                  mount | wc -l; ls /sys/fs/cgroup | wc -l";
    let spec = Spec::pod_workload(POD, pause.pid, &["/bin/sh", "-c", script], &files);
    let bundle = world.bundle("work", &spec)?;
    let second = world.start(&bundle)?;
    assert_eq!(second.reply().address, shim.reply().address);
    assert_eq!(second.pid(), shim.pid());
    let container = second.create(&bundle, StdioKind::Output)?;
    assert_eq!(container.run()?, 0);
    let text = container.io.out.text()?;
    let lines: Vec<&str> = text.lines().collect();
    let of_pause = |name: &str| std::fs::read_link(format!("/proc/{}/ns/{name}", pause.pid));
    for (line, name) in lines.iter().zip(["net", "ipc", "uts"]) {
        assert_eq!(*line, of_pause(name)?.display().to_string());
    }
    for (line, name) in lines[3..].iter().zip(["pid", "mnt"]) {
        assert_ne!(*line, of_pause(name)?.display().to_string());
    }
    assert_eq!(lines[5], "mock");
    assert!(lines[6].parse::<u32>()? >= 13, "mounts: {text}");
    container.delete()?;
    assert_events(&world, "work", &["create", "start", "exit 0", "delete 0"])?;
    assert_nothing_left(&world, &bundle);
    assert_eq!(pause.status()?, Status::RUNNING);
    pause.end()?;
    shim.shutdown(POD)?;
    Ok(())
}

fn containers_of_a_pod_are_independent(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let (shim, pause) = sandbox(&world)?;
    let make = |id: &str, script: &str| -> Result<Container, Box<dyn std::error::Error>> {
        let spec = Spec::shell(script).annotation("io.kubernetes.cri.sandbox-id", POD);
        let bundle = world.bundle(id, &spec)?;
        Ok(world.start(&bundle)?.create(&bundle, StdioKind::Output)?)
    };
    let one = make("one", "sleep 1000")?;
    let two = make("two", "read x; exit 5")?;
    one.start()?;
    two.start()?;
    pause.kill(9)?;
    assert_eq!(pause.wait()?, 137);
    assert_eq!(pause.delete()?.exit_status, 137);
    assert_eq!(one.status()?, Status::RUNNING);
    assert_eq!(two.wait()?, 5);
    assert_eq!(one.status()?, Status::RUNNING);
    // The shim was asked while others still lived.
    shim.task.shutdown(POD)?;
    two.delete()?;
    assert_eq!(
        one.output_of("e", &["/bin/echo", "still"])?,
        (0, "still\n".to_owned())
    );
    one.end()?;
    for (id, expected) in [
        (
            "pod",
            ["create", "start", "exit 137", "delete 137"].as_slice(),
        ),
        ("two", &["create", "start", "exit 5", "delete 5"]),
    ] {
        assert_events(&world, id, expected)?;
    }
    world.events.wait_delete("one")?;
    // Asked once more, now that nobody is left. It may be on its way already.
    let _ = shim.task.shutdown(POD);
    shim.process().wait_end(std::time::Duration::from_secs(5))?;
    Ok(())
}

fn pod_group_annotation(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let spec =
        |args: &[&str]| Spec::new(args).annotation("io.containerd.runc.v2.group", "together");
    let first = world.bundle("first", &spec(&["/bin/sleep", "1000"]))?;
    let second = world.bundle("second", &spec(&["/bin/true"]))?;
    let shim = world.start(&first)?;
    let holder = shim.create(&first, StdioKind::Null)?;
    let again = world.start(&second)?;
    assert_eq!(again.pid(), shim.pid());
    let container = again.create(&second, StdioKind::Null)?;
    assert_eq!(container.run()?, 0);
    container.delete()?;
    holder.end()?;
    shim.shutdown("first")?;
    Ok(())
}
