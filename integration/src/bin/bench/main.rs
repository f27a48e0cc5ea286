// SPDX-License-Identifier: Apache-2.0
//! Compares shims: what containers cost with ours, and with the Go shim.
//!
//! All subjects are measured in one run, in turns (A B A B …), so that a busy moment of the
//! machine hits all of them. The table shows medians, ratios to the Go shim with runc, and the
//! project's budgets. `scripts/bench` builds what is measured and calls this.

mod args;
mod measures;
mod report;
mod rig;
mod scope;
mod stream;
mod subjects;
mod syscalls;

use std::process::ExitCode;

use args::Args;
use measures::{MEASURES, Measure};
use report::{Report, Row};
use rig::Rig;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match Args::parse().and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    let subjects = subjects::find(args)?;
    let mut rigs = Vec::new();
    let mut report = Report::default();
    for subject in subjects {
        report.subjects.push(subject.name.clone());
        match Rig::new(&subject) {
            Ok(rig) => rigs.push(Some(rig)),
            Err(error) => {
                report::say(&format!("bench: {} is not measured: {error}", subject.name));
                rigs.push(None);
            }
        }
    }
    let possible =
        |measure: &&Measure| measure.name != scope::NAME || integration::systemd::is_running();
    let wanted = MEASURES.iter().filter(|measure| args.wants(measure.name));
    for measure in wanted.filter(possible) {
        report::say(&format!("bench: {} …", measure.name));
        report.rows.push(sample(measure, &mut rigs, args.runs));
    }
    report.print();
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    Ok(())
}

/// Takes samples of one measure, in turns.
fn sample(measure: &'static Measure, rigs: &mut [Option<Rig>], runs: Option<usize>) -> Row {
    let mut row = Row::new(measure, rigs.len());
    let runs = runs.map_or(measure.runs, |runs| runs.min(measure.runs.max(1) * 10));
    let runs = if measure.runs == 1 { 1 } else { runs };
    // One round that does not count fills caches.
    for round in 0..=runs {
        for turn in 0..rigs.len() {
            let index = (turn + round) % rigs.len();
            let Some(rig) = rigs[index]
                .as_mut()
                .filter(|_| row.failures[index].is_none())
            else {
                continue;
            };
            match (measure.take)(rig) {
                Ok(values) if round > 0 || measure.runs == 1 => row.add(index, &values),
                Ok(_) => {}
                Err(error) => {
                    report::say(&format!("bench: {}: {}: {error}", measure.name, rig.name()));
                    row.failures[index] = Some(error.to_string());
                }
            }
        }
        if measure.runs == 1 {
            break;
        }
    }
    row
}
