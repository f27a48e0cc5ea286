// SPDX-License-Identifier: Apache-2.0
//! What a client is told when something cannot be done, and that nothing is left of it.

use std::fs;

use containerd_client::tonic::Code;
use serde_json::json;

use super::{assert_refused, assert_status};
use crate::container::RuncOptions;
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::streams::Stdio;
use crate::tests;

tests!["errors";
    a_missing_program_is_named,
    a_missing_path_is_named,
    a_file_that_is_no_program_is_refused,
    a_folder_is_no_program,
    a_file_in_place_of_a_folder_is_told,
    a_cwd_that_is_a_file_is_refused,
    a_program_missing_for_an_exec_is_named,
    an_exec_without_permission_is_refused,
    a_failed_exec_can_be_deleted_and_the_container_lives_on,
    empty_arguments_are_refused,
    a_relative_cwd_is_refused,
    broken_documents_are_refused,
    an_unknown_namespace_is_refused,
    a_rootfs_that_cannot_be_mounted_is_refused,
    a_mount_source_that_does_not_exist_is_refused,
    a_namespace_path_that_does_not_exist_is_refused,
    an_unknown_runtime_binary_is_named,
    an_unknown_io_scheme_is_refused,
    a_failed_create_in_the_last_step_leaves_nothing,
];

/// Docker takes 127 out of the text.
fn a_missing_program_is_named(lab: &Lab) -> Outcome {
    let status = lab.container(["no-such-program"]).expect_create_to_fail()?;
    let text = "exec: \"no-such-program\": executable file not found in $PATH";
    assert_status(&status, Code::Unknown, text);
    assert_status(&status, Code::Unknown, "OCI runtime create failed: ");
    Ok(())
}

fn a_missing_path_is_named(lab: &Lab) -> Outcome {
    let status = lab
        .container(["/no/such/program"])
        .expect_create_to_fail()?;
    let text = "exec: \"/no/such/program\": stat /no/such/program: no such file or directory";
    assert_status(&status, Code::Unknown, text);
    Ok(())
}

/// Docker takes 126 out of the text.
fn a_file_that_is_no_program_is_refused(lab: &Lab) -> Outcome {
    let status = lab.container(["/etc/passwd"]).expect_create_to_fail()?;
    assert_status(
        &status,
        Code::Unknown,
        "exec: \"/etc/passwd\": permission denied",
    );
    Ok(())
}

fn a_folder_is_no_program(lab: &Lab) -> Outcome {
    let status = lab.container(["/etc"]).expect_create_to_fail()?;
    let text = status.message();
    let told = text.contains("permission denied") || text.contains("is a directory");
    assert!(told && status.code() == Code::Unknown, "{status:?}");
    Ok(())
}

fn a_file_in_place_of_a_folder_is_told(lab: &Lab) -> Outcome {
    let status = lab
        .container(["/etc/passwd/program"])
        .expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "not a directory");
    Ok(())
}

fn a_cwd_that_is_a_file_is_refused(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]);
    let builder = builder.edit(|spec| spec["process"]["cwd"] = "/etc/passwd".into());
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "not a directory");
    Ok(())
}

fn a_program_missing_for_an_exec_is_named(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["no-such-program"]).add()?;
    let text = "exec: \"no-such-program\": executable file not found in $PATH";
    assert_refused(exec.start(), Code::Unknown, text);
    exec.delete()?;
    let exec = container.exec("e", ["/no/such/program"]).add()?;
    assert_refused(exec.start(), Code::Unknown, "OCI runtime exec failed: ");
    exec.delete()?;
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_without_permission_is_refused(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["/etc/passwd"]).add()?;
    assert_refused(exec.start(), Code::Unknown, "permission denied");
    exec.delete()?;
    container.kill_and_finish()?;
    Ok(())
}

fn a_failed_exec_can_be_deleted_and_the_container_lives_on(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    for number in 0..3 {
        let exec = container
            .exec(&format!("bad{number}"), ["no-such-program"])
            .add()?;
        assert!(exec.start().is_err());
        exec.delete()?;
        let good = container.shell(&format!("good{number}"), "echo fine")?;
        assert_eq!(good, "fine\n");
    }
    assert_eq!(lab.client().pids(container.id())?.len(), 1);
    container.kill_and_finish()?;
    Ok(())
}

fn empty_arguments_are_refused(lab: &Lab) -> Outcome {
    let builder = lab.container([]);
    let status = builder.expect_create_to_fail()?;
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    Ok(())
}

fn a_relative_cwd_is_refused(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]);
    let builder = builder.edit(|spec| spec["process"]["cwd"] = "etc".into());
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "absolute");
    Ok(())
}

/// From 2.0 on containerd itself refuses what has wrong types, and then forgets the shim that it
/// has started: there only the rest is asked for.
fn broken_documents_are_refused(lab: &Lab) -> Outcome {
    let wrong_types = [
        json!({"process": 7}),
        json!({"ociVersion": "1.0.2", "root": "rootfs"}),
        json!({"linux": {"namespaces": 1}}),
    ];
    let wrong_values = [
        json!({}),
        json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}}),
        json!({"ociVersion": "1.0.2", "process": {"args": ["true"], "cwd": "/"}}),
        json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"cwd": "/"}}),
    ];
    let skipped = if lab.generation.at_least(2, 0) {
        wrong_types.len()
    } else {
        0
    };
    for broken in wrong_types.into_iter().chain(wrong_values).skip(skipped) {
        let builder = lab.container(["true"]).edit(|spec| *spec = broken);
        let status = builder.expect_create_to_fail()?;
        assert_eq!(status.code(), Code::Unknown, "{status:?}");
    }
    Ok(())
}

fn an_unknown_namespace_is_refused(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]).edit(|spec| {
        spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "nonsense"}]);
    });
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "nonsense");
    Ok(())
}

fn a_rootfs_that_cannot_be_mounted_is_refused(lab: &Lab) -> Outcome {
    let mut container = lab.container(["true"]).record()?;
    container.rootfs_mut()[0].options = vec!["lowerdir=/no/such/folder".to_owned()];
    let status = container.create();
    assert_refused(status, Code::Unknown, "failed to mount rootfs component");
    container.remove()
}

fn a_mount_source_that_does_not_exist_is_refused(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]).edit(|spec| {
        let mount = json!({"destination": "/mnt", "type": "bind", "source": "/no/such/source",
                           "options": ["rbind", "rw"]});
        if let Some(all) = spec["mounts"].as_array_mut() {
            all.push(mount);
        }
    });
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "no such file or directory");
    Ok(())
}

fn a_namespace_path_that_does_not_exist_is_refused(lab: &Lab) -> Outcome {
    let builder = lab.container(["true"]).edit(|spec| {
        crate::spec::join_namespace(spec, "network", "/no/such/namespace");
    });
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "/no/such/namespace");
    Ok(())
}

fn an_unknown_runtime_binary_is_named(lab: &Lab) -> Outcome {
    let options = RuncOptions {
        binary_name: "no-runc".to_owned(),
        ..RuncOptions::default()
    };
    let status = lab
        .container(["true"])
        .options(&options)
        .expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "\"no-runc\"");
    Ok(())
}

fn an_unknown_io_scheme_is_refused(lab: &Lab) -> Outcome {
    let address = Stdio::Address("carrier-pigeon:///tmp/x".to_owned());
    let status = lab
        .container(["true"])
        .stdio(address)
        .expect_create_to_fail()?;
    assert_status(
        &status,
        Code::Unknown,
        "unknown STDIO scheme carrier-pigeon",
    );
    Ok(())
}

/// Everything is set up when the user's program turns out to be missing; many times over, so that
/// a single descriptor or mount that stays would show.
fn a_failed_create_in_the_last_step_leaves_nothing(lab: &Lab) -> Outcome {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").map(|table| table.lines().count());
    let before = mounts()?;
    for _ in 0..10 {
        let builder = lab.container(["no-such-program"]).edit(|spec| {
            spec["hostname"] = "name".into();
            spec["root"]["readonly"] = true.into();
        });
        builder.expect_create_to_fail()?;
    }
    // Other tests run meanwhile, but none piles mounts up.
    let after = mounts()?;
    assert!(after < before + 10, "{before} mounts became {after}");
    Ok(())
}
