// SPDX-License-Identifier: Apache-2.0
//! The drawing: operations, messages, events and use, one below the other on one time axis.

use std::fmt::{Display, Write as _};

use super::axis::Axis;
use super::record::{Record, Sample};
use super::tree::{Node, end, operations};
use crate::show::events::details;
use crate::show::sync;
use crate::units;

/// The whole width.
pub(crate) const WIDTH: f64 = 1200.0;
/// Where the axis begins; names stand left of it.
const LEFT: f64 = 224.0;
const RIGHT: f64 = WIDTH - 20.0;
const ROW: f64 = 19.0;
/// How far apart ticks are at least.
const TICKS: f64 = 78.0;

/// An SVG document under construction.
struct Canvas {
    body: String,
    y: f64,
}

/// Text as XML takes it: what cannot be in a document is replaced.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in crate::style::clean(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

impl Canvas {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#
        ));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    /// A bar that tells more when pointed at.
    fn bar(&mut self, class: &str, from: f64, to: f64, y: f64, tip: &str) {
        let width = (to - from).max(1.5);
        let tip = escape(tip);
        self.add(format_args!(
            r#"<rect class="{class}" x="{from:.1}" y="{y:.1}" width="{width:.1}" height="13" rx="2"><title>{tip}</title></rect>"#
        ));
    }

    fn title(&mut self, title: &str) {
        self.y += 26.0;
        let y = self.y;
        self.text("title", 8.0, y, title);
        self.y += 10.0;
    }
}

/// The record as an SVG document.
pub(crate) fn svg(record: &Record) -> String {
    let axis = Axis::new(&intervals(record), watched(record), LEFT, RIGHT);
    let mut canvas = Canvas {
        body: String::new(),
        y: 4.0,
    };
    axis_labels(&mut canvas, record, &axis);
    spans(&mut canvas, record, &axis);
    messages(&mut canvas, record, &axis);
    events(&mut canvas, record, &axis);
    curves(&mut canvas, record, &axis);
    let height = canvas.y + 16.0;
    let grid = grid(&axis, height);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n{grid}{}</svg>\n",
        escape(&record.name),
        canvas.body
    )
}

/// Light, and dark where the browser wants it.
const STYLE: &str = "\
svg{background:#fff}text{fill:#222}.title{font-weight:600;font-size:13px}.dim{fill:#6b6b6b;font-size:11px}\
.mid{text-anchor:middle}.end{text-anchor:end}.name{text-anchor:end}\
.tick{stroke:#e6e6e6}.base{stroke:#bbb}.fold{fill:#f3f1ea}\
.s0{fill:#2b6cb0}.s1{fill:#63a4dc}.s2{fill:#a9cdec}.bad{fill:#c53030}.active{fill:#d69e2e}\
.on{fill:#fff;font-size:11px}.out{stroke:#2b6cb0;stroke-width:1.3}.in{stroke:#2f855a;stroke-width:1.3}\
.outhead{fill:#2b6cb0}.inhead{fill:#2f855a}.mark{fill:#555}.markbad{fill:#c53030}.markgood{fill:#2f855a}\
.lead{stroke:#ccc;stroke-dasharray:2 3}.curve{fill:none;stroke:#6b46c1;stroke-width:1.5}\
.area{fill:#6b46c1;opacity:.12}.dot{fill:#6b46c1}\
@media (prefers-color-scheme:dark){\
svg{background:#1b1d21}text{fill:#dcdde0}.dim{fill:#9a9da4}.tick{stroke:#2c2f35}.base{stroke:#555a63}\
.fold{fill:#24262b}.s0{fill:#5aa0ea}.s1{fill:#4a80bb}.s2{fill:#40699a}.bad{fill:#e5534b}.on{fill:#fff}\
.out{stroke:#4a90d9}.in{stroke:#4cb782}.outhead{fill:#4a90d9}.inhead{fill:#4cb782}.mark{fill:#9a9da4}\
.markbad{fill:#e5534b}.markgood{fill:#4cb782}.lead{stroke:#4a4e56}.curve{stroke:#a78bfa}\
.area{fill:#a78bfa}.dot{fill:#a78bfa}}";

/// Whatever must be seen.
fn intervals(record: &Record) -> Vec<(u64, u64)> {
    let spans = record
        .spans
        .iter()
        .map(|span| (span.start_mono_ns, end(span)));
    let messages = record
        .messages
        .iter()
        .map(|m| (m.time_mono_ns, m.time_mono_ns));
    let events = record
        .events
        .iter()
        .map(|e| (e.time_mono_ns, e.time_mono_ns));
    spans.chain(messages).chain(events).collect()
}

/// From when to when the use was looked at.
fn watched(record: &Record) -> Option<(u64, u64)> {
    let (first, last) = record.samples.first().zip(record.samples.last())?;
    (last.mono_ns > first.mono_ns).then_some((first.mono_ns, last.mono_ns))
}

fn axis_labels(canvas: &mut Canvas, record: &Record, axis: &Axis) {
    canvas.y += 14.0;
    let y = canvas.y;
    let begun = units::time(record.clock.unix(axis.begin()), 6);
    canvas.text("dim", 8.0, y, &format!("{} UTC", &begun[11..26]));
    for piece in &axis.pieces {
        if piece.folded {
            let middle = (piece.left + piece.right) / 2.0;
            let idle = units::duration_ns(piece.to - piece.from);
            canvas.text("dim mid", middle, y, &idle);
            continue;
        }
        for (index, tick) in Axis::ticks(piece, TICKS).into_iter().enumerate() {
            let x = axis.x(tick);
            let label = match (index, piece.from == axis.begin()) {
                // The first one of a later piece stands for the wall clock.
                (0, false) => units::time_of_day(record.clock.unix(tick)),
                (0, true) => "0".to_owned(),
                _ => format!("+{}", units::duration_ns(tick - piece.from)),
            };
            if x + 40.0 < piece.right || index == 0 {
                canvas.text("dim", x + 2.0, y, &label);
            }
        }
    }
    canvas.y += 4.0;
}

fn grid(axis: &Axis, height: f64) -> String {
    let mut canvas = Canvas {
        body: String::new(),
        y: 0.0,
    };
    for piece in &axis.pieces {
        if piece.folded {
            let (x, width, tall) = (piece.left, piece.right - piece.left, height - 24.0);
            canvas.add(format_args!(
                r#"<rect class="fold" x="{x:.1}" y="24" width="{width:.1}" height="{tall:.1}"/>"#
            ));
            continue;
        }
        for tick in Axis::ticks(piece, TICKS) {
            let x = axis.x(tick);
            canvas.line("tick", (x, 24.0), (x, height));
        }
    }
    canvas.body
}

fn spans(canvas: &mut Canvas, record: &Record, axis: &Axis) {
    canvas.title("Operations");
    if record.spans.is_empty() {
        canvas.y += ROW;
        let y = canvas.y;
        canvas.text(
            "dim",
            LEFT,
            y,
            "no spans are kept: they are overwritten after a while",
        );
    }
    for operation in operations(&record.spans) {
        let operation = operation.without_short();
        for node in &operation.nodes {
            span(canvas, axis, node);
        }
        canvas.y += 5.0;
    }
}

fn span(canvas: &mut Canvas, axis: &Axis, node: &Node<'_>) {
    let span = &node.span;
    let (from, to) = (axis.x(span.start_mono_ns), axis.x(end(span)));
    let y = canvas.y;
    let class = match (span.failed, span.number, node.depth) {
        (true, _, _) => "bad",
        (_, 0, _) => "active",
        (_, _, 0) => "s0",
        (_, _, 1) => "s1",
        _ => "s2",
    };
    let mut name = span.name.clone();
    if node.depth == 0 && !span.exec.is_empty() {
        name = format!("{name} {}", span.exec);
    }
    let took = units::duration_ns(span.duration_ns);
    let mut tip = format!("{name}: {took}");
    if node.own_ns != span.duration_ns {
        tip = format!(
            "{tip}, {} of it not in its parts",
            units::duration_ns(node.own_ns)
        );
    }
    if span.failed {
        tip = format!("{tip}; failed with {}", span.code);
    }
    if !node.gathered.is_empty() {
        tip = format!("{tip}: {}", node.gathered);
    }
    let indent = 8.0 + 12.0 * node.depth as f64;
    let room = ((LEFT - indent - 8.0) / 6.6) as usize;
    canvas.text("", indent, y + 11.0, &crate::style::fit(&name, room));
    canvas.bar(class, from, to, y, &tip);
    let label_width = took.chars().count() as f64 * 6.6 + 6.0;
    if to + label_width < RIGHT + 10.0 {
        canvas.text("dim", to + 4.0, y + 11.0, &took);
    } else if node.depth == 0 && to - from > label_width {
        canvas.text("on end", to - 4.0, y + 11.0, &took);
    } else {
        canvas.text("dim end", from - 4.0, y + 11.0, &took);
    }
    canvas.y += ROW;
}

/// Two lifelines, the shim's and the init's, with time from left to right.
fn messages(canvas: &mut Canvas, record: &Record, axis: &Axis) {
    for conversation in sync::conversations(&record.messages) {
        let (Some(first), Some(last)) = (conversation.first(), conversation.last()) else {
            continue;
        };
        let who = match first.exec.as_str() {
            "" => "Messages of init".to_owned(),
            exec => format!("Messages of exec {exec}"),
        };
        canvas.title(&who);
        // Labels of neighbours stand in different rows.
        let mut rows: Vec<f64> = vec![f64::MIN; 4];
        let top = canvas.y + 4.0 * 13.0 + 6.0;
        let bottom = top + 34.0;
        let (from, to) = (axis.x(first.time_mono_ns), axis.x(last.time_mono_ns));
        for (name, y) in [("shim", top), ("init", bottom)] {
            canvas.text("name", LEFT - 8.0, y + 4.0, name);
            canvas.line("base", (from - 6.0, y), ((to + 6.0).min(RIGHT), y));
        }
        for message in &conversation {
            let x = axis.x(message.time_mono_ns);
            let bad = message.errno != 0 || message.refused || message.kind == "Failed";
            let (line, head, tip_y, back) = match message.from_init {
                false => ("out", "outhead", bottom, -6.0),
                true => ("in", "inhead", top, 6.0),
            };
            let head = if bad { "markbad" } else { head };
            canvas.line(line, (x, top), (x, bottom));
            let base = tip_y + back;
            let (left, right) = (x - 3.5, x + 3.5);
            let tip = format!(
                "{} at +{} {}",
                message.kind,
                units::duration_ns(message.time_mono_ns.saturating_sub(first.time_mono_ns)),
                sync::describe(message)
            );
            let tip = escape(tip.trim_end());
            canvas.add(format_args!(
                r#"<path class="{head}" d="M{x:.1} {tip_y:.1}L{left:.1} {base:.1}L{right:.1} {base:.1}Z"><title>{tip}</title></path>"#
            ));
            let width = message.kind.chars().count() as f64 * 6.4 + 8.0;
            let row = place(&rows, x);
            // Where there is no room beside its arrow, a label stands further right.
            let at = rows[row].max(x);
            rows[row] = at + width;
            let y = top - 8.0 - 13.0 * row as f64;
            canvas.line("lead", (at, y + 2.0), (x, top));
            if at + width < RIGHT + 14.0 {
                canvas.text("dim", at + 2.0, y, &message.kind);
            } else {
                canvas.text("dim end", x - 2.0, y, &message.kind);
            }
        }
        canvas.y = bottom + 8.0;
    }
}

/// The lowest row with room at `x`, else the one that has room next.
fn place(rows: &[f64], x: f64) -> usize {
    let free = rows.iter().position(|end| *end <= x);
    let next = rows.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    free.or(next.map(|(row, _)| row)).unwrap_or(0)
}

fn events(canvas: &mut Canvas, record: &Record, axis: &Axis) {
    if record.events.is_empty() {
        return;
    }
    canvas.title("Events");
    let mut rows: Vec<f64> = Vec::new();
    let top = canvas.y;
    let mut lowest = 0;
    for event in &record.events {
        let x = axis.x(event.time_mono_ns);
        let mut label = event.kind.clone();
        if !event.exec.is_empty() && event.exec != event.container {
            label = format!("{label} {}", event.exec);
        }
        if event.kind == "exit" {
            label = format!("{label} ({})", event.exit_status);
        }
        let width = label.chars().count() as f64 * 6.4 + 16.0;
        let at_end = x + width > RIGHT + 14.0;
        let from = if at_end { x - width } else { x - 5.0 };
        let row = rows.iter().position(|end| *end <= from).unwrap_or_else(|| {
            rows.push(f64::MIN);
            rows.len() - 1
        });
        rows[row] = from + width + 5.0;
        lowest = lowest.max(row);
        let y = top + 8.0 + row as f64 * 15.0;
        let class = match crate::show::events::ink(&event.kind) {
            Some(crate::style::Ink::Bad | crate::style::Ink::Warn) => "markbad",
            Some(crate::style::Ink::Good) => "markgood",
            _ => "mark",
        };
        let tip = escape(&format!(
            "{} {}{}",
            units::time(event.time_unix_ns, 6),
            label,
            details(event)
        ));
        canvas.add(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="4"><title>{tip}</title></circle>"#
        ));
        match at_end {
            true => canvas.text("dim end", x - 7.0, y + 4.0, &label),
            false => canvas.text("dim", x + 7.0, y + 4.0, &label),
        }
    }
    canvas.y = top + (lowest + 1) as f64 * 15.0 + 2.0;
}

/// How a curve is made of samples: values, and what a value is called.
struct Curve {
    name: &'static str,
    values: Vec<(u64, f64)>,
    label: fn(f64) -> String,
}

fn curves(canvas: &mut Canvas, record: &Record, axis: &Axis) {
    if record.samples.is_empty() {
        return;
    }
    canvas.title("Use");
    for curve in curves_of(&record.samples) {
        draw(canvas, axis, &curve);
    }
}

fn curves_of(samples: &[Sample]) -> Vec<Curve> {
    let level = |value: fn(&Sample) -> f64| -> Vec<(u64, f64)> {
        samples.iter().map(|s| (s.mono_ns, value(s))).collect()
    };
    let rate = |value: fn(&Sample) -> u64, scale: f64| -> Vec<(u64, f64)> {
        let pairs = samples
            .windows(2)
            .filter(|pair| pair[1].mono_ns > pair[0].mono_ns);
        pairs
            .map(|pair| {
                let seconds = (pair[1].mono_ns - pair[0].mono_ns) as f64 / 1e9;
                let grown = value(&pair[1]).saturating_sub(value(&pair[0])) as f64;
                (pair[1].mono_ns, grown * scale / seconds)
            })
            .collect()
    };
    let size = |value: f64| units::bytes(value as u64);
    let speed = |value: f64| format!("{}/s", units::bytes(value as u64));
    let percent = |value: f64| format!("{}%", units::percent(value));
    vec![
        Curve {
            name: "CPU",
            values: rate(|s| s.cpu_ns, 100.0 / 1e9),
            label: percent,
        },
        Curve {
            name: "memory",
            values: level(|s| s.memory as f64),
            label: size,
        },
        Curve {
            name: "pressure",
            values: level(|s| s.pressure),
            label: percent,
        },
        Curve {
            name: "block I/O",
            values: rate(|s| s.io, 1.0),
            label: speed,
        },
        Curve {
            name: "network",
            values: rate(|s| s.network, 1.0),
            label: speed,
        },
    ]
}

fn draw(canvas: &mut Canvas, axis: &Axis, curve: &Curve) {
    const HEIGHT: f64 = 34.0;
    let (Some(first), Some(last)) = (curve.values.first(), curve.values.last()) else {
        return;
    };
    let most = curve
        .values
        .iter()
        .map(|(_, value)| *value)
        .fold(0.0, f64::max);
    let (top, bottom) = (canvas.y + 4.0, canvas.y + 4.0 + HEIGHT);
    canvas.text("", 8.0, bottom - 14.0, curve.name);
    canvas.text(
        "dim",
        8.0,
        bottom - 1.0,
        &format!("most {}", (curve.label)(most)),
    );
    canvas.line("base", (LEFT, bottom), (RIGHT, bottom));
    let y = |value: f64| bottom - value / if most > 0.0 { most } else { 1.0 } * (bottom - top);
    let join = |points: &mut dyn Iterator<Item = (f64, f64)>| {
        points
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let points = join(
        &mut curve
            .values
            .iter()
            .map(|(at, value)| (axis.x(*at), y(*value))),
    );
    let (from, to) = (axis.x(first.0), axis.x(last.0));
    canvas.add(format_args!(
        r#"<polygon class="area" points="{from:.1},{bottom:.1} {points} {to:.1},{bottom:.1}"/>"#
    ));
    canvas.add(format_args!(
        r#"<polyline class="curve" points="{points}"/>"#
    ));
    let (x, end) = (to, y(last.1));
    dot(canvas, x, end, (curve.label)(last.1));
    canvas.y = bottom + 8.0;
}

fn dot(canvas: &mut Canvas, x: f64, y: f64, tip: impl Display) {
    let tip = escape(&tip.to_string());
    canvas.add(format_args!(
        r#"<circle class="dot" cx="{x:.1}" cy="{y:.1}" r="2.5"><title>{tip}</title></circle>"#
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::record;

    #[test]
    fn everything_is_drawn_within_the_picture() {
        let svg = svg(&record());
        for word in [
            "create",
            "load-spec",
            "mounts",
            "exec probe",
            "Executing",
            "oom",
            "memory",
        ] {
            assert!(svg.contains(&format!(">{word}")), "{word} is missing");
        }
        assert!(svg.contains("4.00ms") && svg.contains("failed with 2"));
        let number = |text: &str| text.split('"').next().unwrap().parse::<f64>().unwrap();
        for name in [" x=\"", " x1=\"", " cx=\""] {
            for place in svg.split(name).skip(1).map(number) {
                assert!((-1.0..=WIDTH).contains(&place), "{name}{place}");
            }
        }
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }

    #[test]
    fn names_cannot_be_markup() {
        let mut record = record();
        record.spans[0].name = "<script>alert(1)</script>&\"".into();
        record.events[0].kind = "</text><script>".into();
        record.name = "a<b".into();
        let svg = svg(&record);
        assert!(!svg.contains("<script>"));
        assert!(svg.contains("a&lt;b"));
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let svg = svg(&Record::default());
        assert!(svg.contains("no spans are kept"));
    }
}
