// SPDX-License-Identifier: Apache-2.0
//! The contract of `delete`: silent, quick, repeatable, whatever is left of the container.
#![allow(clippy::unwrap_used, missing_docs)]

mod shim;

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message as _;
use shim::{Container, Containerd, accepts};

fn check(output: &Output) -> DeleteResponse {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(response.exit_status, 137);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64;
    assert!((now - 60..=now).contains(&response.exited_at.seconds));
    response
}

#[test]
fn with_nothing_left_it_answers_at_once_and_again() {
    let container = Container::new(Containerd::V2_0);
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(check(&container.delete()).pid, 0);
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_pid_file_and_options_of_a_go_shim_are_read() {
    let container = Container::new(Containerd::V1_7);
    fs::write(container.bundle.join("init.pid"), "4194200").unwrap();
    for options in [
        "{}",
        r#"{"binary_name":"runc","criu_path":"/usr/sbin/criu"}"#,
        "null",
    ] {
        fs::write(container.bundle.join("options.json"), options).unwrap();
        assert_eq!(check(&container.delete()).pid, 4_194_200);
    }
}

#[test]
fn a_killed_servers_socket_goes_and_a_live_ones_stays() {
    let container = Container::new(Containerd::V2_0);
    container.started();
    check(&container.delete());
    assert!(accepts(&container.socket()));
    container.kill();
    assert!(container.socket().exists());
    check(&container.delete());
    assert!(!container.socket().exists());
    check(&container.delete());
}

#[test]
fn the_bundle_is_found_beside_the_working_directory() {
    let container = Container::new(Containerd::V2_0);
    fs::write(container.bundle.join("init.pid"), "4194201").unwrap();
    let sibling = container.root.path().join("sibling");
    fs::create_dir(&sibling).unwrap();
    let mut command = container.command("delete");
    assert_eq!(
        check(&command.current_dir(&sibling).output().unwrap()).pid,
        4_194_201
    );
}

#[test]
fn a_working_directory_that_is_gone_is_fine() {
    let container = Container::new(Containerd::V2_0);
    let script =
        r#"rm -r "$PWD" && exec "$0" -namespace contract-test -id "$1" -bundle "$PWD" delete"#;
    let output = Command::new("/bin/sh")
        .args(["-c", script, shim::BINARY, &container.id])
        .current_dir(&container.bundle)
        .output()
        .unwrap();
    check(&output);
}

#[test]
fn an_id_that_is_a_path_is_refused() {
    let container = Container::new(Containerd::V2_0);
    let output = Command::new(shim::BINARY)
        .args(["-namespace", "n", "-id", "../x", "delete"])
        .current_dir(&container.bundle)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}
