// SPDX-License-Identifier: Apache-2.0
//! Export of spans to an OpenTelemetry collector, only where the standard `OTEL_*` variables ask for it.
//!
//! | module   | what                                            |
//! |----------|-------------------------------------------------|
//! | `config` | the variables                                   |
//! | `encode` | spans as protobuf or JSON                       |
//! | `http`   | one POST over plain TCP                         |
//!
//! A thread that lives for a moment reads the flight recorder and sends what has ended since the last
//! time. A collector that is slow or away costs spans, never a call: what the recorder has overwritten
//! meanwhile is lost, and counted.

mod config;
mod encode;
mod http;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::config::{Config, Protocol};
use crate::recorder::{self, Record};
use crate::trace::Trace;

/// How long spans are collected before they are sent.
const DELAY: Duration = Duration::from_millis(500);
/// How long the end of the process may wait for the collector.
const FLUSH: Duration = Duration::from_millis(500);
/// Spans in one request.
const BATCH: usize = 256;
/// It formats text and writes to a socket.
const STACK: usize = 128 << 10;

struct Exporter {
    config: Config,
    /// The last span that was sent or given up.
    cursor: AtomicU64,
    running: AtomicBool,
    failing: AtomicBool,
    /// Held while spans are sent.
    sending: Mutex<()>,
}

static EXPORTER: OnceLock<Exporter> = OnceLock::new();

/// Exports from now on. A second call changes nothing.
pub fn start(config: Config) {
    EXPORTER.get_or_init(|| Exporter {
        config,
        cursor: AtomicU64::new(recorder::recorded().0),
        running: AtomicBool::new(false),
        failing: AtomicBool::new(false),
        sending: Mutex::new(()),
    });
}

/// A trace for a call that is part of none, if such calls are exported.
pub(crate) fn new_trace() -> Option<Trace> {
    let exporter = EXPORTER.get()?;
    exporter.config.sample_roots.then(|| Trace {
        id: encode::new_trace_id(),
        parent: [0; 8],
        sampled: true,
    })
}

/// A call has ended: there is something to send, soon.
pub(crate) fn poke() {
    let Some(exporter) = EXPORTER.get() else {
        return;
    };
    if exporter.running.swap(true, Ordering::AcqRel) {
        return;
    }
    let spawned = std::thread::Builder::new()
        .name("otlp".into())
        .stack_size(STACK)
        .spawn(|| {
            loop {
                std::thread::sleep(DELAY);
                if exporter.send_all(exporter.config.timeout) == 0 {
                    break;
                }
            }
            exporter.running.store(false, Ordering::Release);
            // A call may have ended after the last look and before the thread was known to be gone.
            if exporter.cursor.load(Ordering::Acquire) < recorder::recorded().0 {
                poke();
            }
        });
    if let Err(e) = spawned {
        exporter.running.store(false, Ordering::Release);
        log::warn!("start thread for export of traces: {e}");
    }
}

/// Sends what is left, before the process ends. Waits half a second at most: who ends the shim waits, too.
pub fn flush() {
    let Some(exporter) = EXPORTER.get() else {
        return;
    };
    let (done, ended) = std::sync::mpsc::channel::<()>();
    // A thread, because a name server takes as long as it takes.
    let spawned = std::thread::Builder::new()
        .name("otlp".into())
        .spawn(move || {
            exporter.send_all(FLUSH);
            drop(done);
        });
    if spawned.is_ok() {
        // It has ended, or its time is over.
        let _ = ended.recv_timeout(FLUSH);
    }
}

impl Exporter {
    /// Sends what there is, within this time; returns how many spans that were.
    fn send_all(&self, timeout: Duration) -> usize {
        // No code that can panic runs under the lock.
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = 0;
        let deadline = Instant::now() + timeout;
        loop {
            let since = self.cursor.load(Ordering::Acquire);
            let sampled = |record: &Record| record.trace.as_ref().is_some_and(|t| t.sampled);
            let (records, position) = recorder::ended(since, BATCH, sampled);
            self.cursor.store(position.next, Ordering::Release);
            if position.lost > 0 {
                log::warn!(
                    "{} spans were overwritten before they were exported",
                    position.lost
                );
            }
            if records.is_empty() {
                return sent;
            }
            sent += records.len();
            let records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
            self.send(&records, deadline);
        }
    }

    fn send(&self, records: &[Record], deadline: Instant) {
        let offset = unix_offset();
        let body = match self.config.protocol {
            Protocol::Protobuf => encode::protobuf(records, &self.config.resource, offset),
            Protocol::Json => encode::json(records, &self.config.resource, offset),
        };
        match http::post(&self.config, &body, deadline) {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            // Told once for each outage.
            Err(e) if !self.failing.swap(true, Ordering::Relaxed) => {
                log::warn!("export of traces to {}: {e}", self.config.authority);
            }
            Err(_) => {}
        }
    }
}

/// What to add to CLOCK_MONOTONIC to get the wall clock, in nanoseconds.
fn unix_offset() -> u64 {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos() as u64;
    wall.saturating_sub(recorder::now())
}

#[cfg(test)]
mod tests;
