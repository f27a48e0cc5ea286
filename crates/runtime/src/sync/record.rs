// SPDX-License-Identifier: Apache-2.0
//! The last messages of all sync sockets, for those who ask why a container did not start.
//!
//! What is kept is who said what, when, how long it was and what came along: never a body, because
//! arguments and environments hold secrets.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use telemetry::Context;
use telemetry::recorder::{self, Scope};
use telemetry::ring::{Position, Ring};

use super::Kind;
use super::order::{Direction, Order, Violation};

/// Messages kept: those of some 25 starts.
const KEPT: usize = 160;
/// Descriptors of a message whose kinds are kept.
const SHOWN: usize = 12;

/// What a descriptor that came along is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // The names say it.
pub enum FdKind {
    #[default]
    Other,
    Body,
    Stdin,
    Stdout,
    Stderr,
    Log,
    Cgroup,
    Namespace,
    Init,
    Terminal,
}

impl FdKind {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            FdKind::Other => "other",
            FdKind::Body => "body",
            FdKind::Stdin => "stdin",
            FdKind::Stdout => "stdout",
            FdKind::Stderr => "stderr",
            FdKind::Log => "log",
            FdKind::Cgroup => "cgroup",
            FdKind::Namespace => "namespace",
            FdKind::Init => "init",
            FdKind::Terminal => "terminal",
        }
    }
}

/// One message, or the end of a conversation.
#[derive(Debug, Clone)]
pub struct Entry {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// Whose conversation it is.
    pub scope: Option<Arc<Scope>>,
    /// The init's process, 0 if not known.
    pub pid: i32,
    /// Who sent it.
    pub direction: Direction,
    /// What it was; `None` is the end of the stream.
    pub kind: Option<Kind>,
    /// Bytes of its body.
    pub size: u32,
    /// Why sending or receiving failed; 0 if it did not.
    pub errno: i32,
    /// Whether it was out of order.
    pub refused: bool,
    fds: [FdKind; SHOWN],
    fd_count: u8,
}

impl Entry {
    pub(super) fn new(direction: Direction, kind: Option<Kind>, size: usize, pid: i32) -> Self {
        Self {
            time: 0,
            scope: None,
            pid,
            direction,
            kind,
            size: size as u32,
            errno: 0,
            refused: false,
            fds: [FdKind::Other; SHOWN],
            fd_count: 0,
        }
    }

    pub(super) fn with(mut self, fds: impl IntoIterator<Item = FdKind>) -> Self {
        for kind in fds {
            if let Some(place) = self.fds.get_mut(usize::from(self.fd_count)) {
                *place = kind;
            }
            self.fd_count = self.fd_count.saturating_add(1);
        }
        self
    }

    /// Its kind's name; "End" for the end of the stream.
    pub fn kind_name(&self) -> &'static str {
        self.kind.map_or("End", Kind::name)
    }

    /// What came along. More than a dozen are counted: "and 7 more".
    pub fn descriptors(&self) -> Vec<String> {
        let count = usize::from(self.fd_count);
        let shown = self
            .fds
            .iter()
            .take(count)
            .map(|kind| kind.name().to_owned());
        let more = count.saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("and {more} more"));
        shown.chain(more).collect()
    }
}

static RECORD: Mutex<Ring<Entry>> = Mutex::new(Ring::new(KEPT));

fn lock() -> MutexGuard<'static, Ring<Entry>> {
    // No code that can panic runs under the lock.
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a message, as one of what the current thread is doing.
pub(super) fn keep(mut entry: Entry) {
    if !recorder::is_recording() {
        return;
    }
    entry.time = recorder::now();
    entry.scope = Context::current().shared_scope();
    let (_, oldest) = lock().push(entry);
    drop(oldest);
}

/// Kept messages after number `since`, at most `limit`; each with its number.
pub fn entries(
    since: u64,
    limit: usize,
    wanted: impl Fn(&Entry) -> bool,
) -> (Vec<(u64, Entry)>, Position) {
    lock().read(since, limit, |number, entry| {
        wanted(entry).then(|| (number, entry.clone()))
    })
}

/// How many there ever were, how many are kept, and how many are at most.
pub fn counts() -> (u64, usize, usize) {
    let ring = lock();
    (ring.total(), ring.len(), ring.capacity())
}

/// One line of a recorded conversation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// The exec; empty for the container's init.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exec: String,
    /// The init's process.
    pub pid: i32,
    /// "to-init" or "from-init".
    pub direction: String,
    /// What it was.
    pub kind: String,
    /// Bytes of its body.
    pub size: u32,
    /// What came along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<String>,
    /// Why sending or receiving failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub errno: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// The kept messages of a process as lines of JSON, for a file.
pub fn lines(container: &str, exec: &str) -> String {
    let ours = |entry: &Entry| {
        let scope = entry.scope.as_deref();
        scope.is_some_and(|scope| &*scope.container == container && &*scope.exec == exec)
    };
    let (entries, _) = entries(0, KEPT, ours);
    let mut text = String::new();
    for (_, entry) in entries {
        let line = Line {
            time: entry.time,
            exec: exec.to_owned(),
            pid: entry.pid,
            direction: match entry.direction {
                Direction::ToInit => "to-init",
                Direction::FromInit => "from-init",
            }
            .to_owned(),
            kind: entry.kind_name().to_owned(),
            size: entry.size,
            descriptors: entry.descriptors(),
            errno: entry.errno,
        };
        if let Ok(line) = serde_json::to_string(&line) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// Why a recorded conversation cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is none of ours.
    #[error("line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A message is out of order.
    #[error("line {line}: {violation}")]
    Order {
        /// Counted from 1.
        line: usize,
        /// The message.
        violation: Violation,
    },
}

/// Runs recorded conversations through the state machine: one for each process of the record.
/// Returns how many were complete, and how many there were.
///
/// # Errors
/// A line that cannot be read, or a message that is out of order.
pub fn replay(record: &str) -> Result<(usize, usize), ReplayError> {
    let mut orders: Vec<(i32, Order)> = Vec::new();
    for (index, text) in record.lines().enumerate() {
        let at = index + 1;
        let wrong = |why: String| ReplayError::Line { line: at, why };
        let line: Line = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let direction = match line.direction.as_str() {
            "to-init" => Direction::ToInit,
            "from-init" => Direction::FromInit,
            other => return Err(wrong(format!("direction {other:?}"))),
        };
        if line.kind == "End" {
            continue;
        }
        let kind =
            Kind::by_name(&line.kind).ok_or_else(|| wrong(format!("kind {:?}", line.kind)))?;
        let place = orders.iter().position(|(pid, _)| *pid == line.pid);
        let place = place.unwrap_or_else(|| {
            orders.push((line.pid, Order::default()));
            orders.len() - 1
        });
        orders[place]
            .1
            .next(direction, kind)
            .map_err(|violation| ReplayError::Order {
                line: at,
                violation,
            })?;
    }
    let complete = orders.iter().filter(|(_, order)| order.is_complete());
    Ok((complete.count(), orders.len()))
}

#[cfg(test)]
mod tests {
    use super::super::{Channel, Kind};
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_conversation_is_recorded_without_bodies_and_can_be_replayed() {
        recorder::set_recording(true);
        let call = telemetry::Call::begin("Create", "recorded", "", None);
        let _entered = call.context().enter();
        let (shim, init) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let secret = "PASSWORD=swordfish".to_owned();
        shim.send_labelled(
            Kind::Plan,
            &secret,
            &[null.as_fd(), null.as_fd()],
            &[FdKind::Stdin, FdKind::Log],
        )
        .unwrap();
        init.signal(Kind::Ready, &[]).unwrap();
        shim.expect(&[Kind::Ready]).unwrap().unwrap();
        shim.signal(Kind::Run, &[]).unwrap();
        init.signal(Kind::Executing, &[]).unwrap();
        shim.expect(&[Kind::Executing]).unwrap().unwrap();
        drop(init);
        assert!(shim.expect(&[]).unwrap().is_none());
        drop(_entered);
        call.forget();

        let record = lines("recorded", "");
        assert!(!record.contains("swordfish"));
        // What init sent is in the record as well here: both ends are in this process.
        let of_shim: Vec<Line> = record
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let plan = &of_shim[0];
        assert_eq!(
            (plan.kind.as_str(), plan.direction.as_str()),
            ("Plan", "to-init")
        );
        assert_eq!(plan.descriptors, ["stdin", "log"]);
        assert_eq!(plan.size as usize, secret.len() + 1);
        assert_eq!(of_shim.last().unwrap().kind, "End");
        assert_eq!(replay(&record).unwrap(), (1, 1));
    }

    #[test]
    fn a_record_out_of_order_names_its_line() {
        let line = |kind: &str, direction: &str| {
            format!(r#"{{"time":1,"pid":7,"direction":"{direction}","kind":"{kind}","size":0}}"#)
        };
        let record = [line("Plan", "to-init"), line("Run", "to-init")].join("\n");
        let error = replay(&record).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2: Run to init is out of order after Some(Plan)"
        );
        assert!(replay(&line("Nonsense", "to-init")).is_err());
        assert!(replay("x").is_err());
    }
}
