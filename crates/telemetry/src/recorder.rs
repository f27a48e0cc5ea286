// SPDX-License-Identifier: Apache-2.0
//! The flight recorder: spans that are under way, and the last ones that have ended.
//!
//! One for the process. Beginning and ending a span is two readings of the clock and two short
//! locks: no allocation once the recorder is on, no system call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ring::{Position, Ring};
use crate::trace::Trace;

/// Ended spans that are kept: those of some six containers' lives. 72 bytes each.
pub const KEPT: usize = 384;
/// Places for spans under way that are made at once; more are made when they are needed.
const ACTIVE: usize = 16;

/// Whose span it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Scope {
    /// The container's id.
    pub container: Box<str>,
    /// The exec's id; empty for the container's init.
    pub exec: Box<str>,
}

/// How a span ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is under way.
    Active,
    /// Well.
    Done,
    /// Not well: a gRPC code or an errno, 0 if there is none.
    Failed(i32),
}

/// One span.
#[derive(Debug, Clone)]
pub struct Record {
    /// Unique in the process, never 0.
    pub id: u64,
    /// The span that this one is a part of, 0 for none.
    pub parent: u64,
    /// What was done.
    pub name: &'static str,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub start: u64,
    /// Nanoseconds; of one under way: 0.
    pub duration: u64,
    /// Whose it is.
    pub scope: Option<Arc<Scope>>,
    /// The trace of whoever asked for it.
    pub trace: Option<Arc<Trace>>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A span under way: what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    place: u32,
    pub(crate) id: u64,
}

impl Handle {
    /// Of a span that is not recorded.
    pub(crate) const NONE: Self = Self { place: 0, id: 0 };
}

struct Spans {
    ended: Ring<Record>,
    active: Vec<Option<Record>>,
    free: Vec<u32>,
}

static ON: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU64 = AtomicU64::new(1);
static SPANS: Mutex<Spans> = Mutex::new(Spans {
    ended: Ring::new(KEPT),
    active: Vec::new(),
    free: Vec::new(),
});

fn lock() -> MutexGuard<'static, Spans> {
    // No code that can panic runs under the lock.
    SPANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins or ends recording for the whole process. What is recorded stays.
pub fn set_recording(on: bool) {
    if on {
        let mut spans = lock();
        spans.ended.reserve();
        spans.active.reserve(ACTIVE);
        spans.free.reserve(ACTIVE);
    }
    ON.store(on, Ordering::Relaxed);
}

/// Whether spans are recorded.
pub fn is_recording() -> bool {
    ON.load(Ordering::Relaxed)
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    sys::clock::monotonic()
}

fn new_id() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Begins a span.
pub(crate) fn begin(
    name: &'static str,
    parent: u64,
    scope: Option<&Arc<Scope>>,
    trace: Option<&Arc<Trace>>,
) -> Handle {
    if !is_recording() {
        return Handle::NONE;
    }
    let id = new_id();
    let record = Record {
        id,
        parent,
        name,
        start: now(),
        duration: 0,
        scope: scope.cloned(),
        trace: trace.cloned(),
        outcome: Outcome::Active,
    };
    let mut spans = lock();
    let place = match spans.free.pop() {
        Some(place) => place,
        None => {
            spans.active.push(None);
            (spans.active.len() - 1) as u32
        }
    };
    spans.active[place as usize] = Some(record);
    Handle { place, id }
}

/// Ends a span. `None` forgets it, and so does a shorter time than `least` nanoseconds.
pub(crate) fn end(handle: Handle, outcome: Option<Outcome>, least: u64) {
    if handle.id == 0 {
        return;
    }
    let now = now();
    let mut spans = lock();
    let Some(slot) = spans.active.get_mut(handle.place as usize) else {
        return;
    };
    let Some(mut record) = slot.take_if(|record| record.id == handle.id) else {
        return;
    };
    spans.free.push(handle.place);
    record.duration = now.saturating_sub(record.start);
    // What is dropped is dropped when nobody waits for the lock.
    let gone = match outcome {
        Some(outcome) if record.duration >= least => {
            record.outcome = outcome;
            spans.ended.push(record).1
        }
        _ => Some(record),
    };
    drop(spans);
    drop(gone);
}

/// Records a span that has ended already; returns its id.
pub(crate) fn add(mut record: Record) -> u64 {
    if !is_recording() {
        return 0;
    }
    let id = new_id();
    record.id = id;
    let gone = lock().ended.push(record).1;
    drop(gone);
    id
}

/// When a span under way began.
pub(crate) fn start_of(id: u64) -> Option<u64> {
    let spans = lock();
    let mut active = spans.active.iter().flatten();
    active.find(|record| record.id == id).map(|r| r.start)
}

/// Ended spans after number `since`, at most `limit`; each with its number.
pub fn ended(
    since: u64,
    limit: usize,
    wanted: impl Fn(&Record) -> bool,
) -> (Vec<(u64, Record)>, Position) {
    lock().ended.read(since, limit, |number, record| {
        wanted(record).then(|| (number, record.clone()))
    })
}

/// Spans under way, the oldest first.
pub fn active() -> Vec<Record> {
    let mut active: Vec<Record> = lock().active.iter().flatten().cloned().collect();
    active.sort_by_key(|record| record.id);
    active
}

/// How many ended spans there ever were, and how many are kept.
pub fn recorded() -> (u64, usize) {
    let spans = lock();
    (spans.ended.total(), spans.ended.len())
}
