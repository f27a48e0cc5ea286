// SPDX-License-Identifier: Apache-2.0
//! A world with a shim in it, and `shimctl` called as a person calls it.

use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use integration::mock::{Bundle, Container, Shim, Spec, StdioKind, Subject, World, run_for_output};
use serde_json::Value;

/// The shim to look at.
pub(crate) fn subject() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| {
        let subject = Subject::from_environment().expect("a shim: see scripts/build");
        assert!(subject.is_ours(), "only ours can be looked at");
        subject
    })
}

/// A shim with one container.
pub(crate) struct Scene {
    pub(crate) container: Container,
    pub(crate) shim: Shim,
    pub(crate) bundle: Bundle,
    pub(crate) world: World,
}

impl Scene {
    /// A running container of this specification, in a world that may be changed first.
    pub(crate) fn of(id: &str, spec: &Spec, change: impl FnOnce(&mut World)) -> Self {
        let mut world = World::new(subject()).unwrap();
        change(&mut world);
        let bundle = world.bundle(id, spec).unwrap();
        let shim = world.start(&bundle).unwrap();
        let container = shim.create(&bundle, StdioKind::Null).unwrap();
        container.start().unwrap();
        Self {
            container,
            shim,
            bundle,
            world,
        }
    }

    /// One that sleeps.
    pub(crate) fn idle(id: &str) -> Self {
        Self::of(id, &Spec::idle(), |_| ())
    }

    /// Calls `shimctl`; only shims of this world are looked at.
    pub(crate) fn shimctl(&self, arguments: &[&str]) -> Said {
        said(self.world.namespace(), arguments)
    }
}

/// What `shimctl` said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) status: i32,
    pub(crate) took: Duration,
}

/// `shimctl`, for the shims of one namespace. A busy machine gets more time than the default.
pub(crate) fn command(namespace: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shimctl"));
    command.args(["--namespace", namespace]).args(arguments);
    if !arguments.contains(&"--timeout") {
        command.args(["--timeout", "5s"]);
    }
    command
}

/// Calls it, and waits for its end.
pub(crate) fn said(namespace: &str, arguments: &[&str]) -> Said {
    let begun = Instant::now();
    // Not by the standard library's `output`: the mock's world reaps every child.
    let output: Output = run_for_output(&mut command(namespace, arguments)).unwrap();
    Said {
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap_or(-1),
        took: begun.elapsed(),
    }
}

impl Said {
    /// It went well: what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }

    /// It went well and printed one document of JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// It went well and printed a document in each line.
    #[track_caller]
    pub(crate) fn lines(self) -> Vec<Value> {
        let text = self.ok();
        let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        text.lines().map(line).collect()
    }
}

/// Looks until it is so.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
