// SPDX-License-Identifier: Apache-2.0
//! What most tests begin with, and checks that several share.

use std::time::{Duration, Instant};

use integration::mock::{
    Bundle, Code, Container, Error, Event, Process, Result, Shim, Spec, StdioKind, Subject, World,
};

use crate::Outcome;

/// One container in one shim.
pub(crate) struct Scene {
    pub(crate) container: Container,
    pub(crate) shim: Shim,
    pub(crate) bundle: Bundle,
    pub(crate) world: World,
}

/// The container's name in a scene.
pub(crate) const ID: &str = "main";

impl Scene {
    /// A created container.
    pub(crate) fn created(subject: &Subject, spec: &Spec, kind: StdioKind) -> Result<Self> {
        let world = World::new(subject)?;
        let bundle = world.bundle(ID, spec)?;
        let shim = world.start(&bundle)?;
        let container = shim.create(&bundle, kind)?;
        Ok(Self {
            container,
            shim,
            bundle,
            world,
        })
    }

    /// A running container that does nothing.
    pub(crate) fn idle(subject: &Subject) -> Result<Self> {
        let scene = Self::created(subject, &Spec::idle(), StdioKind::Null)?;
        scene.container.start()?;
        Ok(scene)
    }

    /// Deletes the stopped container, ends the shim, and checks that nothing is left and that
    /// containerd would have taken every event.
    pub(crate) fn finish(self) -> Outcome {
        self.container.delete()?;
        self.world.events.wait_delete(ID)?;
        self.shim.shutdown(ID)?;
        assert!(!self.shim.socket().exists(), "the socket is left");
        self.world.delete(&self.bundle)?;
        assert_nothing_left(&self.world, &self.bundle);
        assert_eq!(self.world.events.refused(), [""; 0], "refused events");
        Ok(())
    }

    /// Kills the container first.
    pub(crate) fn end(self) -> Outcome {
        self.container.kill(9)?;
        self.container.wait()?;
        self.finish()
    }
}

/// No mount, no cgroup.
pub(crate) fn assert_nothing_left(world: &World, bundle: &Bundle) {
    // A cgroup is busy for a moment after its last process.
    let gone = until(Duration::from_secs(3), || world.traces(bundle).is_empty());
    assert!(gone, "left: {:?}", world.traces(bundle));
}

/// Up to 1.7 the reference's `delete` fails where Create has not left its files.
pub(crate) fn can_delete_what_was_never_created(subject: &Subject) -> bool {
    subject.is_ours() || subject.generation.newest_api() > 2
}

/// These events have come, in this order. Under load the reference can swap an event that it had
/// to send twice with the next one, so there only [`crate::lifecycle`] looks at the order.
#[track_caller]
pub(crate) fn assert_events(world: &World, id: &str, expected: &[&str]) -> Outcome {
    let enough = |events: &[Event]| events.len() >= expected.len();
    world.events.wait(id, Duration::from_secs(20), enough)?;
    let (mut texts, mut expected) = (world.events.texts(id), expected.to_vec());
    if !world.subject.is_ours() {
        texts.sort_unstable();
        expected.sort_unstable();
    }
    assert_eq!(texts, expected, "events of {id}");
    Ok(())
}

/// Waits for a condition.
pub(crate) fn until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Waits for a process to end.
pub(crate) fn assert_ends(process: &Process) {
    let result = process.wait_end(Duration::from_secs(10));
    assert!(result.is_ok(), "still there: {result:?}");
}

/// The call was refused with this code, and a text that contains this.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(result: Result<T>, code: Code, text: &str) {
    match result {
        Ok(answer) => panic!("not refused: {answer:?}"),
        Err(error) => assert_error(&error, code, text),
    }
}

#[track_caller]
pub(crate) fn assert_error(error: &Error, code: Code, text: &str) {
    assert_eq!(error.code(), Some(code), "code of {error}");
    assert!(
        error.message().contains(text),
        "{:?} is not in {error}",
        text
    );
}
