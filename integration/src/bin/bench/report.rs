// SPDX-License-Identifier: Apache-2.0
//! The table, and the samples as JSON.

use std::path::Path;

use serde_json::{Value, json};

use crate::Error;
use crate::measures::{Budget, Column, Measure};
use crate::subjects::{OURS, REFERENCE, SILENT};

/// All that was measured.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) subjects: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// The samples of one measure.
pub(crate) struct Row {
    measure: &'static Measure,
    /// For each column, for each subject.
    samples: Vec<Vec<Vec<f64>>>,
    /// For each subject, why it could not be measured.
    pub(crate) failures: Vec<Option<String>>,
}

impl Row {
    /// Without samples yet.
    pub(crate) fn new(measure: &'static Measure, subjects: usize) -> Self {
        let samples = vec![vec![Vec::new(); subjects]; measure.columns.len()];
        Self {
            measure,
            samples,
            failures: vec![None; subjects],
        }
    }

    /// Adds a sample: a value for each column.
    pub(crate) fn add(&mut self, subject: usize, values: &[f64]) {
        for (column, value) in self.samples.iter_mut().zip(values) {
            column[subject].push(*value);
        }
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lower, upper) = (
        sorted.get(sorted.len().checked_sub(1)? / 2)?,
        sorted.get(sorted.len() / 2)?,
    );
    Some(f64::midpoint(*lower, *upper))
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}

fn cell(value: Option<f64>, unit: &str) -> String {
    value.map_or_else(
        || "n/a".to_owned(),
        |value| format!("{} {unit}", number(value)),
    )
}

/// What the budget allows, and whether it is kept.
fn verdict(column: &Column, ours: Option<f64>, reference: Option<f64>) -> (String, &'static str) {
    let unit = column.unit;
    let (text, kept) = match column.budget {
        Budget::AtMostOf(part) => {
            let kept = ours
                .zip(reference)
                .map(|(ours, reference)| ours <= part * reference);
            (format!("≤ {part:.2} ×"), kept)
        }
        Budget::AtLeastOf(times) => {
            let kept = ours
                .zip(reference)
                .map(|(ours, reference)| ours >= times * reference);
            (format!("≥ {times:.2} ×"), kept)
        }
        Budget::AtMost(value) => (
            format!("≤ {} {unit}", number(value)),
            ours.map(|ours| ours <= value),
        ),
        Budget::None => return (String::new(), ""),
    };
    (
        text,
        kept.map_or("", |kept| if kept { "met" } else { "MISSED" }),
    )
}

impl Report {
    fn index(&self, name: &str) -> Option<usize> {
        self.subjects.iter().position(|subject| subject == name)
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let mut head = vec!["median".to_owned()];
        head.extend(self.subjects.iter().cloned());
        head.extend(["ratio", "budget", ""].map(str::to_owned));
        let mut lines = vec![head];
        for row in &self.rows {
            for (column, samples) in row.measure.columns.iter().zip(&row.samples) {
                let medians: Vec<Option<f64>> = samples.iter().map(|all| median(all)).collect();
                let of = |name: &str| self.index(name).and_then(|index| medians[index]);
                let (ours, reference) = (of(OURS), of(REFERENCE));
                let ratio = ours
                    .zip(reference.or(of(SILENT)))
                    .filter(|(_, reference)| *reference > 0.0);
                let ratio = ratio.map(|(ours, reference)| format!("{:.3}", ours / reference));
                let (budget, kept) = verdict(column, ours, reference);
                let mut line = vec![column.label.to_owned()];
                line.extend(medians.iter().map(|median| cell(*median, column.unit)));
                line.extend([ratio.unwrap_or_default(), budget, kept.to_owned()]);
                lines.push(line);
            }
        }
        lines
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let lines = self.lines();
        let width = |index: usize| {
            lines
                .iter()
                .map(|line| line[index].chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        for line in &lines {
            let mut text = String::new();
            for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                // Names to the left, numbers to the right.
                let (before, after) = if index == 0 {
                    ("", padding)
                } else {
                    (&*padding, String::new())
                };
                text.push_str(&format!("{before}{cell}{after}  "));
            }
            out(text.trim_end());
        }
        for row in &self.rows {
            for (subject, why) in self.subjects.iter().zip(&row.failures) {
                if let Some(why) = why {
                    out(&format!("n/a: {} of {subject}: {why}", row.measure.name));
                }
            }
        }
    }

    /// Writes all samples.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), Error> {
        let mut rows: Vec<Value> = Vec::new();
        for row in &self.rows {
            for (column, samples) in row.measure.columns.iter().zip(&row.samples) {
                for (subject, samples) in self.subjects.iter().zip(samples) {
                    rows.push(json!({
                        "measure": row.measure.name,
                        "column": column.label.trim(),
                        "unit": column.unit,
                        "subject": subject,
                        "median": median(samples),
                        "samples": samples,
                    }));
                }
            }
        }
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
        Ok(())
    }
}

#[allow(clippy::print_stdout, reason = "the result")]
fn out(text: &str) {
    println!("{text}");
}

/// To the person who waits.
#[allow(clippy::print_stderr, reason = "progress and errors")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
