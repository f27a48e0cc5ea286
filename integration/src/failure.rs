// SPDX-License-Identifier: Apache-2.0
//! Why a test failed: a sentence. Whatever went wrong converts into it with `?`.

use std::fmt;
use std::time::{Duration, Instant};

/// Why a test did not pass.
pub enum Failure {
    /// Something is wrong.
    Failed(String),
    /// The machine cannot run this test. In CI that is wrong too.
    Lacking(String),
    /// The test does not apply to this shim or containerd: a known defect of the reference.
    Exempt(String),
}

/// A failure, with the sentence that says what is wrong.
pub fn failed(text: impl Into<String>) -> Failure {
    Failure::Failed(text.into())
}

/// What tests and the harness return.
pub type Outcome<T = ()> = Result<T, Failure>;

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::Failed(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Lacking(text) | Self::Exempt(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How long a test waits for what should come soon. Generous: machines are busy.
pub const SOON: Duration = Duration::from_secs(20);

/// Asks `probe` again and again, until it has something or `limit` is over.
///
/// # Errors
/// When the time is over, with `what` was waited for.
pub fn wait_until<T>(
    limit: Duration,
    what: impl fmt::Display,
    mut probe: impl FnMut() -> Option<T>,
) -> Outcome<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= end {
            return Err(failed(format!("waited {limit:?} for {what}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails the test with a formatted sentence.
#[macro_export]
macro_rules! fail {
    ($($argument:tt)*) => {
        return Err($crate::failure::failed(format!($($argument)*)))
    };
}
