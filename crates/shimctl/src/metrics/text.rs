// SPDX-License-Identifier: Apache-2.0
//! The OpenMetrics text format, as far as we need it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a family of metrics is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    Counter,
    Histogram,
}

/// Names and values of labels.
pub(crate) type Labels<'a> = [(&'a str, &'a str)];

#[derive(Debug)]
struct Family {
    kind: Kind,
    unit: &'static str,
    help: &'static str,
    lines: Vec<String>,
}

/// All families under construction, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

impl Exposition {
    /// Adds a value. The unit is the last part of the name, or "".
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        (name, unit, help): (&'static str, &'static str, &'static str),
        labels: &Labels<'_>,
        value: f64,
    ) {
        let suffix = if kind == Kind::Counter { "_total" } else { "" };
        let line = format!("{name}{suffix}{} {}", list(labels), number(value));
        self.family(kind, name, unit, help).lines.push(line);
    }

    /// Adds a histogram.
    pub(crate) fn add_histogram(
        &mut self,
        (name, unit, help): (&'static str, &'static str, &'static str),
        labels: &Labels<'_>,
        histogram: &Histogram,
    ) {
        let mut lines = Vec::new();
        let mut sum = 0;
        for (index, count) in histogram.buckets.iter().enumerate() {
            sum += count;
            let bound = BOUNDS
                .get(index)
                .map_or("+Inf".to_owned(), |bound| number(*bound));
            let with = [labels, &[("le", bound.as_str())]].concat();
            lines.push(format!("{name}_bucket{} {sum}", list(&with)));
        }
        lines.push(format!("{name}_count{} {sum}", list(labels)));
        lines.push(format!(
            "{name}_sum{} {}",
            list(labels),
            number(histogram.sum)
        ));
        self.family(Kind::Histogram, name, unit, help)
            .lines
            .extend(lines);
    }

    fn family(
        &mut self,
        kind: Kind,
        name: &'static str,
        unit: &'static str,
        help: &'static str,
    ) -> &mut Family {
        self.families.entry(name).or_insert_with(|| Family {
            kind,
            unit,
            help,
            lines: Vec::new(),
        })
    }

    /// The text, with its end mark.
    pub(crate) fn finish(self) -> String {
        let mut text = String::new();
        for (name, family) in self.families {
            let kind = match family.kind {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
                Kind::Histogram => "histogram",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# TYPE {name} {kind}");
            if !family.unit.is_empty() {
                let _ = writeln!(text, "# UNIT {name} {}", family.unit);
            }
            let _ = writeln!(text, "# HELP {name} {}", family.help);
            for line in family.lines {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text.push_str("# EOF\n");
        text
    }
}

fn list(labels: &Labels<'_>) -> String {
    let mut text = String::new();
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.is_empty() { '{' } else { ',' });
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(text, "{name}=\"{value}\"");
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value:.0}")
    } else {
        format!("{value}")
    }
}

/// Upper bounds of buckets, in seconds: from a tenth of a millisecond to ten seconds.
const BOUNDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// How long things took.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram {
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(crate) fn add(&mut self, ns: u64) {
        let seconds = ns as f64 / 1e9;
        let index = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BOUNDS.len());
        self.buckets[index] += 1;
        self.sum += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_openmetrics() {
        let mut exposition = Exposition::default();
        let cpu = ("c_cpu_seconds", "seconds", "Processor time.");
        exposition.add(Kind::Counter, cpu, &[("id", "a\"b\\\n"), ("pod", "")], 1.5);
        exposition.add(Kind::Counter, cpu, &[("id", "c")], 2.0);
        exposition.add(Kind::Gauge, ("up", "", "Whether it answers."), &[], 1.0);
        let mut histogram = Histogram::default();
        for ns in [50_000, 3_000_000, 20_000_000_000] {
            histogram.add(ns);
        }
        let took = ("took_seconds", "seconds", "How long.");
        exposition.add_histogram(took, &[("op", "exec")], &histogram);
        let text = exposition.finish();
        let expected = "\
# TYPE c_cpu_seconds counter
# UNIT c_cpu_seconds seconds
# HELP c_cpu_seconds Processor time.
c_cpu_seconds_total{id=\"a\\\"b\\\\\\n\"} 1.5
c_cpu_seconds_total{id=\"c\"} 2
# TYPE took_seconds histogram
";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("took_seconds_bucket{op=\"exec\",le=\"0.0001\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("took_seconds_bucket{op=\"exec\",le=\"0.005\"} 2\n"));
        assert!(text.contains("took_seconds_bucket{op=\"exec\",le=\"+Inf\"} 3\n"));
        assert!(text.contains("took_seconds_count{op=\"exec\"} 3\n"));
        assert!(text.ends_with("up 1\n# EOF\n"), "{text}");
    }
}
