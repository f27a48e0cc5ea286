// SPDX-License-Identifier: Apache-2.0
//! Spans: what was done, for whom, for how long, and as a part of what.
//!
//! A [`Call`] is the outermost: it may begin on one thread and end on another. [`span`] begins a
//! part of what the current thread is doing; parts nest by scope. [`Context`] carries what a thread
//! is doing to another thread.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::otlp;
use crate::recorder::{self, Handle, Outcome, Record, Scope};
use crate::trace::Trace;

/// What a thread is doing, and for whom.
#[derive(Debug, Clone, Default)]
pub struct Context {
    parent: u64,
    scope: Option<Arc<Scope>>,
    trace: Option<Arc<Trace>>,
}

thread_local! {
    static CURRENT: RefCell<Context> = const {
        RefCell::new(Context { parent: 0, scope: None, trace: None })
    };
}

impl Context {
    /// What this thread is doing.
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Makes it what this thread is doing, until the guard is dropped.
    #[must_use]
    pub fn enter(self) -> Entered {
        Entered(CURRENT.replace(self))
    }

    /// Whom it is for.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_deref()
    }

    /// A handle to whom it is for.
    pub fn shared_scope(&self) -> Option<Arc<Scope>> {
        self.scope.clone()
    }

    /// Records a part of it that began at `start` (CLOCK_MONOTONIC, ns) and has ended already.
    /// Returns a context in which further spans are parts of that part.
    pub fn add(&self, name: &'static str, start: u64, duration: u64, outcome: Outcome) -> Self {
        let id = recorder::add(Record {
            id: 0,
            parent: self.parent,
            name,
            start,
            duration,
            scope: self.scope.clone(),
            trace: self.trace.clone(),
            outcome,
        });
        Self {
            parent: id,
            ..self.clone()
        }
    }

    /// What has been done since the span of this context began, as one line for an error's log
    /// record: the names and times of its parts, the failed ones marked, the oldest first.
    pub fn trail(&self) -> String {
        let Some(since) = recorder::start_of(self.parent) else {
            return String::new();
        };
        let (records, _) = recorder::ended(0, recorder::KEPT, |record| {
            record.start >= since && record.scope == self.scope
        });
        let mut records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
        records.sort_by_key(|record| (record.start, record.id));
        let mut text = String::new();
        for record in records {
            let separator = if text.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{separator}{} {} us",
                record.name,
                record.duration / 1000
            );
            match record.outcome {
                Outcome::Failed(0) => text.push_str(" FAILED"),
                Outcome::Failed(code) => {
                    let _ = write!(text, " FAILED ({code})");
                }
                Outcome::Done | Outcome::Active => {}
            }
        }
        // The end is what matters.
        match text.char_indices().rev().nth(TRAIL_MAX) {
            Some((cut, _)) => format!("... {}", &text[cut..]),
            None => text,
        }
    }
}

/// Characters of a trail: it shares a log line of 4 KiB with the error.
const TRAIL_MAX: usize = 1500;

/// The thread goes back to what it was doing when this is dropped.
#[derive(Debug)]
pub struct Entered(Context);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(std::mem::take(&mut self.0));
    }
}

/// A part of what the current thread is doing. Dropped before [`Span::done`], it has failed: that is
/// what an early return on an error does.
#[must_use = "a span lasts until it is dropped"]
#[derive(Debug)]
pub struct Span {
    handle: Handle,
    outer: u64,
    outcome: Outcome,
}

/// Begins a part of what this thread is doing.
pub fn span(name: &'static str) -> Span {
    CURRENT.with_borrow_mut(|current| {
        let outer = current.parent;
        let (scope, trace) = (current.scope.as_ref(), current.trace.as_ref());
        let handle = recorder::begin(name, outer, scope, trace);
        if handle != Handle::NONE {
            current.parent = handle.id;
        }
        Span {
            handle,
            outer,
            outcome: Outcome::Failed(0),
        }
    })
}

/// Runs `work` as a part of what this thread is doing; an `Err` makes it a failed one.
///
/// # Errors
/// Those of `work`.
pub fn traced<T, E>(name: &'static str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let span = span(name);
    let value = work()?;
    span.done();
    Ok(value)
}

impl Span {
    /// It has ended well.
    pub fn done(mut self) {
        self.outcome = Outcome::Done;
    }

    /// It has failed, with a gRPC code or an errno.
    pub fn failed(mut self, code: i32) {
        self.outcome = Outcome::Failed(code);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.handle == Handle::NONE {
            return;
        }
        CURRENT.with_borrow_mut(|current| current.parent = self.outer);
        recorder::end(self.handle, Some(self.outcome), 0);
    }
}

/// A call, or something the shim does by itself: the outermost span. Bound to no thread.
#[derive(Debug)]
pub struct Call {
    handle: Handle,
    context: Context,
}

impl Call {
    /// Begins a call about a process. `trace` is the caller's, if it has one.
    pub fn begin(name: &'static str, container: &str, exec: &str, trace: Option<Trace>) -> Self {
        if !recorder::is_recording() {
            return Self::unrecorded(container, exec);
        }
        let scope = Scope::new(container, exec);
        let trace = trace.or_else(otlp::new_trace).map(Arc::new);
        let handle = recorder::begin(name, 0, scope.as_ref(), trace.as_ref());
        let context = Context {
            parent: handle.id,
            scope,
            trace,
        };
        Self { handle, context }
    }

    /// A call that is not recorded. Whose process it is about is still told to the log and to inits.
    pub fn unrecorded(container: &str, exec: &str) -> Self {
        Self {
            handle: Handle::NONE,
            context: Context {
                scope: Scope::new(container, exec),
                ..Context::default()
            },
        }
    }

    /// For what is done in its course.
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// It has ended.
    pub fn end(self, outcome: Outcome) {
        self.end_if_longer(outcome, 0);
    }

    /// It has ended; one that took less than `least` nanoseconds is not worth a record.
    pub fn end_if_longer(self, outcome: Outcome, least: u64) {
        recorder::end(self.handle, Some(outcome), least);
        if self.context.trace.is_some() {
            otlp::poke();
        }
    }

    /// It has ended and is not worth a record.
    pub fn forget(self) {
        recorder::end(self.handle, None, 0);
    }
}

impl Scope {
    fn new(container: &str, exec: &str) -> Option<Arc<Self>> {
        (!container.is_empty()).then(|| {
            Arc::new(Self {
                container: container.into(),
                exec: exec.into(),
            })
        })
    }
}

#[cfg(test)]
mod tests;
