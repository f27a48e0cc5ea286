// SPDX-License-Identifier: Apache-2.0
//! What a failed call answers: the one table from errors to ttrpc statuses.
//!
//! containerd's clients decide on the code; Docker, the CRI and their tests also match on the
//! text, which in Go ends with the name of the error's class (`…: not found`). The general
//! constructors add that ending, so a caller gives the first part only. State violations
//! carry code `Unknown` and no ending, as they are plain errors in Go.

use std::fmt;

/// A gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)] // The names and meanings are gRPC's.
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The code with this number; one that gRPC does not define is [`Code::Unknown`].
    pub fn from_number(number: i32) -> Self {
        match number {
            0 => Code::Ok,
            1 => Code::Cancelled,
            3 => Code::InvalidArgument,
            4 => Code::DeadlineExceeded,
            5 => Code::NotFound,
            6 => Code::AlreadyExists,
            7 => Code::PermissionDenied,
            8 => Code::ResourceExhausted,
            9 => Code::FailedPrecondition,
            10 => Code::Aborted,
            11 => Code::OutOfRange,
            12 => Code::Unimplemented,
            13 => Code::Internal,
            14 => Code::Unavailable,
            15 => Code::DataLoss,
            16 => Code::Unauthenticated,
            _ => Code::Unknown,
        }
    }
}

/// Why a call failed, as its caller will read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The class of the failure.
    pub code: Code,
    /// The whole text, class ending included.
    pub message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// By class. `what` is the text before the class ending.
impl Status {
    /// A status with exactly this text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    fn classed(code: Code, what: impl fmt::Display, class: &str) -> Self {
        Self {
            code,
            message: format!("{what}: {class}"),
        }
    }

    /// A plain error: what Go makes of an error without a class. The text stays as it is.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    /// `<what>: not found`
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::classed(Code::NotFound, what, "not found")
    }

    /// `<what>: already exists`
    pub fn already_exists(what: impl fmt::Display) -> Self {
        Self::classed(Code::AlreadyExists, what, "already exists")
    }

    /// `<what>: failed precondition`
    pub fn failed_precondition(what: impl fmt::Display) -> Self {
        Self::classed(Code::FailedPrecondition, what, "failed precondition")
    }

    /// `<what>: invalid argument`
    pub fn invalid_argument(what: impl fmt::Display) -> Self {
        Self::classed(Code::InvalidArgument, what, "invalid argument")
    }

    /// `<what>: not implemented`
    pub fn not_implemented(what: impl fmt::Display) -> Self {
        Self::classed(Code::Unimplemented, what, "not implemented")
    }

    /// `<what>: unavailable`
    pub fn unavailable(what: impl fmt::Display) -> Self {
        Self::classed(Code::Unavailable, what, "unavailable")
    }

    /// `<what>: internal`
    pub fn internal(what: impl fmt::Display) -> Self {
        Self::classed(Code::Internal, what, "internal")
    }

    /// Go's text for a call whose deadline passed.
    pub fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }
}

/// The situations of the Task service that clients recognise.
impl Status {
    /// No container with the id of the call is here.
    pub fn container_not_created() -> Self {
        Self::not_found("container not created")
    }

    /// A Create for an id that is in use.
    pub fn container_exists() -> Self {
        Self::already_exists("container with given ID already exists")
    }

    /// The container has no exec process of this id.
    pub fn process_does_not_exist(exec_id: &str) -> Self {
        Self::not_found(format_args!("process does not exist {exec_id}"))
    }

    /// An Exec for an id that is in use or reserved.
    pub fn exec_id_exists(exec_id: &str) -> Self {
        Self::already_exists(format_args!("id {exec_id}"))
    }

    /// Start of an exec after the container's init ended.
    pub fn init_not_running(container_id: &str) -> Self {
        Self::failed_precondition(format_args!(
            "container {container_id} init process is not running"
        ))
    }

    /// Kill of an exec that was never started.
    pub fn process_not_created() -> Self {
        Self::failed_precondition("process not created")
    }

    /// Kill of a process that has ended.
    pub fn process_already_finished() -> Self {
        Self::not_found("process already finished")
    }

    /// Kill of an init whose container is gone.
    pub fn no_such_container() -> Self {
        Self::not_found("no such container")
    }

    /// Delete or Kill of a process that was deleted.
    pub fn deleted_process(operation: Operation) -> Self {
        Self::not_found(format_args!(
            "cannot {} a deleted process",
            operation.verb()
        ))
    }

    /// Stats of a container without a cgroup.
    pub fn no_cgroup() -> Self {
        Self::not_found("cgroup does not exist")
    }

    /// A process in this phase does not allow the operation.
    pub fn refused(operation: Operation, phase: Phase) -> Self {
        use Operation as Op;
        if phase == Phase::Deleted && matches!(operation, Op::Delete | Op::Kill) {
            return Self::deleted_process(operation);
        }
        let (verb, adjective) = (operation.verb(), phase.adjective());
        Self::unknown(match (operation, phase) {
            (Op::Pause | Op::Resume, Phase::Created) => {
                format!("cannot {verb} task in created state")
            }
            (Op::Checkpoint, Phase::Created) => {
                "cannot checkpoint a task in created state".to_owned()
            }
            (Op::Exec, _) => format!("cannot exec in a {adjective} state"),
            (Op::Start | Op::Delete | Op::Kill, _)
            | (_, Phase::Deleted)
            | (Op::Resume, Phase::Running) => format!("cannot {verb} a {adjective} process"),
            (Op::Pause | Op::Resume | Op::Update | Op::Checkpoint | Op::ResizePty, _) => {
                format!("cannot {verb} a {adjective} container")
            }
        })
    }
}

/// An operation that not every phase of a process allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are those of the Task service's methods.
pub enum Operation {
    Start,
    Delete,
    Kill,
    Exec,
    Pause,
    Resume,
    Update,
    Checkpoint,
    ResizePty,
}

impl Operation {
    fn verb(self) -> &'static str {
        match self {
            Operation::Start => "start",
            Operation::Delete => "delete",
            Operation::Kill => "kill",
            Operation::Exec => "exec",
            Operation::Pause => "pause",
            Operation::Resume => "resume",
            Operation::Update => "update",
            Operation::Checkpoint => "checkpoint",
            Operation::ResizePty => "resize",
        }
    }
}

/// Where a process is in its life, as far as an error text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Created (or to be restored from a checkpoint), not started.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Ended, not deleted.
    Stopped,
    /// Deleted.
    Deleted,
}

impl Phase {
    fn adjective(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Stopped => "stopped",
            Phase::Deleted => "deleted",
        }
    }
}

/// An error with its causes, `: ` between them. Some errors print their cause themselves.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// A failed system call has no class in Go either.
impl From<sys::Error> for Status {
    fn from(error: sys::Error) -> Self {
        Self::unknown(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_clients_match_on() {
        let table = [
            (
                Status::container_not_created(),
                Code::NotFound,
                "container not created: not found",
            ),
            (
                Status::process_does_not_exist("e1"),
                Code::NotFound,
                "process does not exist e1: not found",
            ),
            (
                Status::exec_id_exists("e1"),
                Code::AlreadyExists,
                "id e1: already exists",
            ),
            (
                Status::init_not_running("c1"),
                Code::FailedPrecondition,
                "container c1 init process is not running: failed precondition",
            ),
            (
                Status::process_not_created(),
                Code::FailedPrecondition,
                "process not created: failed precondition",
            ),
            (
                Status::process_already_finished(),
                Code::NotFound,
                "process already finished: not found",
            ),
            (
                Status::no_such_container(),
                Code::NotFound,
                "no such container: not found",
            ),
            (
                Status::refused(Operation::Delete, Phase::Deleted),
                Code::NotFound,
                "cannot delete a deleted process: not found",
            ),
            (
                Status::refused(Operation::Kill, Phase::Deleted),
                Code::NotFound,
                "cannot kill a deleted process: not found",
            ),
            (
                Status::no_cgroup(),
                Code::NotFound,
                "cgroup does not exist: not found",
            ),
        ];
        for (status, code, text) in table {
            assert_eq!((status.code, status.message.as_str()), (code, text));
        }
    }

    #[test]
    fn state_violations_read_like_the_go_shims() {
        use Operation::*;
        let table = [
            (Start, Phase::Running, "cannot start a running process"),
            (Start, Phase::Stopped, "cannot start a stopped process"),
            (Start, Phase::Paused, "cannot start a paused process"),
            (Start, Phase::Deleted, "cannot start a deleted process"),
            (Delete, Phase::Running, "cannot delete a running process"),
            (Delete, Phase::Paused, "cannot delete a paused process"),
            (Exec, Phase::Created, "cannot exec in a created state"),
            (Exec, Phase::Paused, "cannot exec in a paused state"),
            (Exec, Phase::Stopped, "cannot exec in a stopped state"),
            (Exec, Phase::Deleted, "cannot exec in a deleted state"),
            (Pause, Phase::Created, "cannot pause task in created state"),
            (Pause, Phase::Paused, "cannot pause a paused container"),
            (Pause, Phase::Stopped, "cannot pause a stopped container"),
            (
                Resume,
                Phase::Created,
                "cannot resume task in created state",
            ),
            (Resume, Phase::Running, "cannot resume a running process"),
            (Resume, Phase::Stopped, "cannot resume a stopped container"),
            (Update, Phase::Stopped, "cannot update a stopped container"),
            (
                Checkpoint,
                Phase::Created,
                "cannot checkpoint a task in created state",
            ),
            (
                Checkpoint,
                Phase::Stopped,
                "cannot checkpoint a stopped container",
            ),
            (
                ResizePty,
                Phase::Stopped,
                "cannot resize a stopped container",
            ),
            (Pause, Phase::Deleted, "cannot pause a deleted process"),
            (Update, Phase::Deleted, "cannot update a deleted process"),
        ];
        for (operation, phase, text) in table {
            assert_eq!(Status::refused(operation, phase), Status::unknown(text));
        }
    }

    #[test]
    fn every_code_survives_its_number() {
        for number in 0..=16 {
            assert_eq!(Code::from_number(number).number(), number as u32);
        }
        assert_eq!(Code::from_number(17), Code::Unknown);
        assert_eq!(Code::from_number(-1), Code::Unknown);
    }
}
