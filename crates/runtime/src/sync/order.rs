// SPDX-License-Identifier: Apache-2.0
//! The order of a conversation, as a pure state machine. The real channel asks it about each message,
//! and a recorded conversation can be replayed against it.
//!
//! Messages have places in one fixed order and only ever move on in it. What the shim sends after the
//! plan answers what init asked last. Failed, and the end of the stream, may come at any point.

use super::Kind;

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The shim.
    ToInit,
    /// Init.
    FromInit,
}

/// A message that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} {} is out of order after {after:?}", match direction {
    Direction::ToInit => "to init",
    Direction::FromInit => "from init",
})]
pub struct Violation {
    /// The message.
    pub kind: Kind,
    /// Who sent it.
    pub direction: Direction,
    /// The message before it.
    pub after: Option<Kind>,
}

/// How far a conversation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    last: Option<Kind>,
}

/// What is known of a kind of message.
struct Rule {
    name: &'static str,
    direction: Direction,
    place: u8,
    /// The question that it answers.
    answers: Option<Kind>,
    /// Whether there may be several.
    repeats: Repeats,
}

/// Whether there may be several messages of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeats {
    /// Just one.
    No,
    /// One after the other.
    InARow,
    /// The next after the answer to the one before.
    Answered,
}

const fn tells(name: &'static str, place: u8) -> Rule {
    Rule {
        name,
        direction: Direction::FromInit,
        place,
        answers: None,
        repeats: Repeats::No,
    }
}

const fn answers(name: &'static str, place: u8, question: Kind) -> Rule {
    Rule {
        name,
        direction: Direction::ToInit,
        place,
        answers: Some(question),
        repeats: Repeats::No,
    }
}

/// The order, one line for each kind.
const fn rule(kind: Kind) -> Rule {
    match kind {
        Kind::Plan => Rule {
            name: "Plan",
            direction: Direction::ToInit,
            place: 1,
            answers: None,
            repeats: Repeats::No,
        },
        Kind::Unmapped => tells("Unmapped", 10),
        Kind::Mapped => answers("Mapped", 11, Kind::Unmapped),
        Kind::Born => tells("Born", 20),
        Kind::Adopted => answers("Adopted", 21, Kind::Born),
        Kind::Placed => tells("Placed", 30),
        Kind::Sources => Rule {
            repeats: Repeats::InARow,
            ..answers("Sources", 31, Kind::Placed)
        },
        Kind::NetDevices => tells("NetDevices", 35),
        Kind::NetDevicesMoved => answers("NetDevicesMoved", 36, Kind::NetDevices),
        Kind::IdMap => Rule {
            repeats: Repeats::Answered,
            ..tells("IdMap", 37)
        },
        Kind::IdMapped => answers("IdMapped", 38, Kind::IdMap),
        Kind::Hooks => tells("Hooks", 40),
        Kind::HooksDone => answers("HooksDone", 41, Kind::Hooks),
        Kind::Console => tells("Console", 80),
        Kind::Seccomp => tells("Seccomp", 90),
        Kind::SeccompDone => answers("SeccompDone", 91, Kind::Seccomp),
        Kind::Ready => tells("Ready", 100),
        Kind::Run => answers("Run", 101, Kind::Ready),
        Kind::Executing => tells("Executing", 120),
        Kind::Failed => tells("Failed", u8::MAX),
    }
}

impl Kind {
    /// The name, as in records.
    pub fn name(self) -> &'static str {
        rule(self).name
    }

    /// Finds a kind by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        (0..=u8::MAX)
            .filter_map(Kind::from_byte)
            .find(|kind| kind.name() == name)
    }
}

impl Order {
    /// The next message; an error leaves the state as it was.
    ///
    /// # Errors
    /// It does not fit.
    pub fn next(&mut self, direction: Direction, kind: Kind) -> Result<(), Violation> {
        let next = rule(kind);
        let fits = match self.last {
            None => kind == Kind::Plan,
            // The last word.
            Some(Kind::Failed) => false,
            // A program that was not executed.
            Some(Kind::Executing) => kind == Kind::Failed,
            Some(last) => {
                let again = match next.repeats {
                    Repeats::No => false,
                    Repeats::InARow => kind == last,
                    Repeats::Answered => rule(last).answers == Some(kind),
                };
                let moves = next.place > rule(last).place;
                let answers = next.answers.is_none_or(|question| question == last);
                again || (moves && answers)
            }
        };
        if fits && next.direction == direction {
            self.last = Some(kind);
            return Ok(());
        }
        Err(Violation {
            kind,
            direction,
            after: self.last,
        })
    }

    /// Whether the stream may end here with all said: the program is being executed, or init is told to
    /// run and waits at a gate of the file system.
    pub fn is_complete(&self) -> bool {
        matches!(self.last, Some(Kind::Executing | Kind::Run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{FromInit, ToInit};

    fn run(messages: &[(Direction, Kind)]) -> Result<Order, Violation> {
        let mut order = Order::default();
        for &(direction, kind) in messages {
            order.next(direction, kind)?;
        }
        Ok(order)
    }

    #[test]
    fn conversations_that_happen_are_allowed() {
        let plan = (ToInit, Kind::Plan);
        let console = (FromInit, Kind::Console);
        let (ready, run_) = ((FromInit, Kind::Ready), (ToInit, Kind::Run));
        let executing = (FromInit, Kind::Executing);
        for conversation in [
            &[plan, ready, run_, executing][..],
            &[plan, console, ready, run_, executing],
            &[plan, executing],
            &[plan, console, executing],
            &[
                plan,
                (FromInit, Kind::Unmapped),
                (ToInit, Kind::Mapped),
                (FromInit, Kind::Born),
                (ToInit, Kind::Adopted),
                (FromInit, Kind::Placed),
                (ToInit, Kind::Sources),
                (ToInit, Kind::Sources),
                (FromInit, Kind::IdMap),
                (ToInit, Kind::IdMapped),
                (FromInit, Kind::IdMap),
                (ToInit, Kind::IdMapped),
                ready,
                run_,
            ],
        ] {
            assert!(run(conversation).unwrap().is_complete());
        }
        let failed = (FromInit, Kind::Failed);
        for conversation in [
            &[plan, failed][..],
            &[plan, ready, failed],
            &[plan, ready, run_, executing, failed],
        ] {
            assert!(!run(conversation).unwrap().is_complete());
        }
        assert!(!run(&[]).unwrap().is_complete());
    }

    #[test]
    fn nothing_is_said_twice_unasked_backwards_or_by_the_wrong_side() {
        let plan = (ToInit, Kind::Plan);
        for wrong in [
            &[(FromInit, Kind::Ready)][..],
            &[plan, plan],
            &[plan, (ToInit, Kind::Run)],
            &[plan, (ToInit, Kind::Ready)],
            &[plan, (ToInit, Kind::Sources)],
            &[plan, (FromInit, Kind::Born), (ToInit, Kind::Mapped)],
            &[plan, (FromInit, Kind::IdMap), (FromInit, Kind::IdMap)],
            &[plan, (FromInit, Kind::Hooks), (FromInit, Kind::IdMap)],
            &[plan, (FromInit, Kind::Ready), (FromInit, Kind::Console)],
            &[plan, (FromInit, Kind::Console), (ToInit, Kind::Run)],
            &[plan, (FromInit, Kind::Failed), (FromInit, Kind::Executing)],
            &[plan, (FromInit, Kind::Executing), (FromInit, Kind::Ready)],
            &[(FromInit, Kind::Plan)],
        ] {
            let (last, before) = wrong.split_last().unwrap();
            assert!(run(before).is_ok(), "{before:?}");
            let violation = run(wrong).unwrap_err();
            assert_eq!((violation.direction, violation.kind), *last);
        }
        let text = run(&[plan, plan]).unwrap_err().to_string();
        assert_eq!(text, "Plan to init is out of order after Some(Plan)");
    }
}
