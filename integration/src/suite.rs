// SPDX-License-Identifier: Apache-2.0
//! Runs every test for every containerd and shim, as `<containerd>::<shim>::<area>::<sentence>`.
//!
//! `cargo test -p integration --test e2e -- [FILTER]` takes the arguments of any Rust test, and
//!
//! | variable | meaning |
//! |---|---|
//! | `E2E_SHIMS` | `reference,ours` (default), or one of them |
//! | `E2E_CONTAINERDS` | versions, as `1.6,2.1`; default all that `scripts/setup` fetched |
//! | `E2E_SCALE=full` | the long forms of the repeated tests |
//! | `E2E_LOG` | containerd's log level, default debug |
//! | `SHIM` | our shim's executable; default what `scripts/build` makes |
//! | `RUNC` | the runtime of the reference shim (`ocirun`), instead of the runc that came with it |
//! | `CI` | what the machine lacks is a failure |

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::cache::{self, Generation};
use crate::containerd;
use crate::e2e;
use crate::failure::{Failure, Outcome};
use crate::host;
use crate::lab::{self, Lab, Shim};

/// Lines of containerd's log that are shown with a failure.
const LOG_LINES: usize = 60;

/// One test; it runs in any lab.
#[derive(Clone, Copy)]
pub struct Test {
    /// The file it is in.
    pub area: &'static str,
    /// What it shows, as a sentence.
    pub sentence: &'static str,
    /// The test.
    pub run: fn(&Lab) -> Outcome,
}

/// The tests of an area: functions whose names are sentences.
#[macro_export]
macro_rules! tests {
    ($area:literal; $($name:ident),+ $(,)?) => {
        pub(super) const TESTS: &[$crate::suite::Test] = &[$($crate::suite::Test {
            area: $area,
            sentence: stringify!($name),
            run: $name,
        }),+];
    };
}

/// A lab that starts when the first test needs it.
struct Slot {
    generation: Generation,
    shim: Shim,
    lab: OnceLock<Result<Lab, String>>,
}

impl Slot {
    fn lab(&self) -> Result<&Lab, Failed> {
        let made = self.lab.get_or_init(|| {
            Lab::start(&self.generation, self.shim).map_err(|failure| failure.to_string())
        });
        made.as_ref().map_err(Failed::from)
    }

    fn run(&self, test: &Test, times: &Times) -> Result<Completion, Failed> {
        let lab = self.lab()?;
        let begun = Instant::now();
        let outcome = self.judge(test, lab);
        let name = format!("{}::{}", self.name(), test.sentence);
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        times.push((begun.elapsed(), name));
        outcome
    }

    fn name(&self) -> String {
        format!("{}::{}", self.generation, self.shim)
    }

    fn judge(&self, test: &Test, lab: &Lab) -> Result<Completion, Failed> {
        let position = lab.containerd().log_position();
        let outcome = catch_unwind(AssertUnwindSafe(|| (test.run)(lab)));
        let text = match outcome {
            Ok(Ok(())) => return Ok(Completion::Completed),
            Ok(Err(Failure::Exempt(reason))) => return Ok(Completion::ignored_with(reason)),
            Ok(Err(Failure::Lacking(reason))) if env::var_os("CI").is_none() => {
                return Ok(Completion::ignored_with(reason));
            }
            Ok(Err(failure)) => failure.to_string(),
            // What an assertion says has been printed where it panicked; here it is repeated.
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
                text.unwrap_or_else(|| "panicked".to_owned())
            }
        };
        let log = lab.containerd().log_since(position);
        let lines: Vec<_> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        Err(Failed::from(format!(
            "{text}\n--- containerd's log:\n{shown}"
        )))
    }
}

/// How long each test took.
type Times = Mutex<Vec<(Duration, String)>>;

fn say_slowest(times: &Times) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort();
    let slow = times
        .iter()
        .rev()
        .take(5)
        .filter(|(time, _)| *time > Duration::from_secs(5));
    for (time, name) in slow {
        say(&format!("e2e: {:.1} s: {name}", time.as_secs_f64()));
    }
}

/// Has the long form of repeated tests been asked for?
#[must_use]
pub fn full_scale() -> bool {
    env::var("E2E_SCALE").is_ok_and(|scale| scale == "full")
}

fn chosen(variable: &str, name: &str) -> bool {
    env::var(variable).map_or(true, |list| {
        list.split(',').any(|entry| entry.trim() == name)
    })
}

/// Runs what the arguments and variables choose.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut slots = Vec::new();
    for generation in cache::generations() {
        for shim in [Shim::Reference, Shim::Ours] {
            if chosen("E2E_CONTAINERDS", &generation.to_string())
                && chosen("E2E_SHIMS", &shim.to_string())
            {
                slots.push(Arc::new(Slot {
                    generation: generation.clone(),
                    shim,
                    lab: OnceLock::new(),
                }));
            }
        }
    }
    if slots.is_empty() {
        let folder = cache::folder();
        say(&format!(
            "e2e: nothing to run with in {}: run scripts/setup",
            folder.display()
        ));
        return ExitCode::FAILURE;
    }
    let times = Arc::new(Times::default());
    let trials = slots.iter().flat_map(|slot| trials_of(slot, &times));
    let trials = trials.collect();
    if !arguments.list {
        containerd::sweep_stale();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    say_slowest(&times);
    let left = end(slots);
    if left.is_empty() {
        return conclusion.exit_code();
    }
    say(&format!("e2e: left when all tests had ended: {left:#?}"));
    ExitCode::FAILURE
}

fn trials_of(slot: &Arc<Slot>, times: &Arc<Times>) -> Vec<Trial> {
    let trials = e2e::tests().map(|test| {
        let name = format!("{}::{}::{}", slot.name(), test.area, test.sentence);
        let (slot, times) = (slot.clone(), times.clone());
        Trial::ignorable_test(name, move || slot.run(&test, &times))
    });
    trials.collect()
}

/// Ends the labs. Returns the shims that were still there: failed tests and leaks.
fn end(slots: Vec<Arc<Slot>>) -> Vec<String> {
    let labs = slots
        .iter()
        .filter_map(|slot| slot.lab.get()?.as_ref().ok());
    let left = labs.flat_map(|lab| {
        let address = lab.containerd().address();
        let found = host::processes_with(&format!("-address {}", address.display()));
        found.into_iter().map(|process| process.command)
    });
    let left = left.collect();
    drop(slots);
    // There is none unless our shim was tested.
    let _ = fs::remove_dir_all(lab::programs_folder());
    left
}

pub(crate) fn say(text: &str) {
    // Nobody to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}
