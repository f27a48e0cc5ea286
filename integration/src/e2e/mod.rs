// SPDX-License-Identifier: Apache-2.0
//! The tests, one file for each area of behaviour. Each first passed with the Go shim and runc of
//! every containerd generation; where those differ, the test says so.

use std::fmt::Debug;

use containerd_client::tonic::{Code, Status};

use crate::suite::Test;

mod apparmor;
mod attributes;
mod cgroups;
mod confine;
mod crash;
mod ctr;
mod endurance;
mod errors;
mod events;
mod exec;
mod hooks;
mod kill;
mod limits;
mod logging;
mod mounts;
mod namespaces;
mod notify;
mod pods;
mod restart;
mod run;
mod seccomp;
mod service;
mod stdio;
mod systemd;
mod systemd_limits;
mod terminal;
mod users;

/// All tests.
pub fn tests() -> impl Iterator<Item = Test> {
    let areas = [
        run::TESTS,
        exec::TESTS,
        hooks::TESTS,
        events::TESTS,
        service::TESTS,
        errors::TESTS,
        kill::TESTS,
        stdio::TESTS,
        terminal::TESTS,
        logging::TESTS,
        confine::TESTS,
        attributes::TESTS,
        apparmor::TESTS,
        seccomp::TESTS,
        limits::TESTS,
        systemd::TESTS,
        systemd_limits::TESTS,
        notify::TESTS,
        cgroups::TESTS,
        mounts::TESTS,
        namespaces::TESTS,
        users::TESTS,
        pods::TESTS,
        restart::TESTS,
        crash::TESTS,
        ctr::TESTS,
        endurance::TESTS,
    ];
    areas.into_iter().flatten().copied()
}

/// Asserts that a call failed with `code` and a message that contains `text`.
fn assert_refused<T: Debug>(result: Result<T, Status>, code: Code, text: &str) {
    match result {
        Ok(answer) => panic!("expected {code:?} {text:?}, got the answer {answer:?}"),
        Err(status) => assert_status(&status, code, text),
    }
}

/// Asserts that `status` has `code` and a message that contains `text`.
fn assert_status(status: &Status, code: Code, text: &str) {
    assert!(
        status.code() == code && status.message().contains(text),
        "expected {code:?} {text:?}, got {:?} {:?}",
        status.code(),
        status.message()
    );
}
