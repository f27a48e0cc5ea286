// SPDX-License-Identifier: Apache-2.0
//! Tests of a shim without containerd: the mock plays it. Fast, part of every `cargo test`.
//!
//! `SHIM=/path/to/containerd-shim-runc-v2 cargo test -p integration --test mock` judges another
//! shim. A test of shared behaviour has passed there first; where ours is better on purpose,
//! the test is marked "ours only" and ignored for others.

mod crash;
mod diagnostics;
mod events;
mod exec;
mod lifecycle;
mod notify;
mod observe;
mod pod;
mod pressure;
mod resources;
mod scene;
mod service;
mod state;
mod stdio;
mod steady;
mod storm;

use std::process::ExitCode;

use integration::mock::{Spec, Subject, World};
use libtest_mimic::{Arguments, Failed, Trial};

/// What a test returns. Not finding something out is as bad as finding it wrong.
pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Whose behaviour a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Every shim's.
    Shared,
    /// Only ours: the reference does worse, or another thing.
    Ours,
}

/// A test.
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) about: About,
    pub(crate) run: fn(&Subject) -> Outcome,
}

/// A test of everyone.
pub(crate) const fn shared(name: &'static str, run: fn(&Subject) -> Outcome) -> Test {
    Test {
        name,
        about: About::Shared,
        run,
    }
}

/// A test of our shim.
pub(crate) const fn ours(name: &'static str, run: fn(&Subject) -> Outcome) -> Test {
    Test {
        name,
        about: About::Ours,
        run,
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of the time is waiting for processes.
    arguments.test_threads.get_or_insert(4);
    let all = [
        lifecycle::TESTS,
        pressure::TESTS,
        storm::TESTS,
        state::TESTS,
        exec::TESTS,
        stdio::TESTS,
        service::TESTS,
        events::TESTS,
        notify::TESTS,
        crash::TESTS,
        pod::TESTS,
        diagnostics::TESTS,
        observe::TESTS,
        resources::TESTS,
        steady::TESTS,
    ];
    let all = || all.iter().copied().flatten();
    let trials: Vec<Trial> = match subject() {
        Ok(subject) => all().map(|test| trial(&subject, test)).collect(),
        Err(error) if std::env::var_os("SHIM").is_none() => {
            complain(&format!(
                "ALL TESTS SKIPPED, our shim cannot start yet: {error}"
            ));
            all().map(|test| skipped(test.name)).collect()
        }
        Err(error) => {
            complain(&format!("the shim cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The shim to judge, if it can at least start.
fn subject() -> Result<Subject, Box<dyn std::error::Error>> {
    let subject = Subject::from_environment()?;
    probe(&subject)?;
    Ok(subject)
}

fn probe(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle("probe", &Spec::idle())?;
    world.start(&bundle)?;
    Ok(())
}

fn trial(subject: &Subject, test: &Test) -> Trial {
    let (subject, run) = (subject.clone(), test.run);
    let ignored = test.about == About::Ours && !subject.is_ours();
    let trial = Trial::test(test.name, move || {
        run(&subject).map_err(|error| Failed::from(error.to_string()))
    });
    let kind = if test.about == About::Ours {
        "ours only"
    } else {
        ""
    };
    trial.with_kind(kind).with_ignored_flag(ignored)
}

fn skipped(name: &'static str) -> Trial {
    Trial::test(name, || Ok(()))
        .with_kind("no shim")
        .with_ignored_flag(true)
}

#[allow(clippy::print_stderr, reason = "for the person who runs the tests")]
pub(crate) fn complain(text: &str) {
    eprintln!("mock: {text}");
}
