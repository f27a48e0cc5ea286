// SPDX-License-Identifier: Apache-2.0
//! One screen of `top`, from what was seen to lines that fit.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use super::history::{History, Row};
use crate::args::Order;
use crate::show::stats::{io, network, pressures};
use crate::style::{Ink, Style, clean, columns, fit};
use crate::units;

/// How the screen is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) order: Order,
    pub(crate) reversed: bool,
    /// The first row that is shown.
    pub(crate) first: usize,
    pub(crate) interval: Duration,
}

/// A column: its head, its width, and from which width of the screen on it is there.
struct Column {
    head: &'static str,
    width: usize,
    from: usize,
    order: Option<Order>,
}

const fn column(head: &'static str, width: usize, from: usize, order: Option<Order>) -> Column {
    Column {
        head,
        width,
        from,
        order,
    }
}

/// In this order; the name and the histories take what is left.
const COLUMNS: [Column; 9] = [
    column("CPU%", 6, 0, Some(Order::Cpu)),
    column("MEM", 6, 0, Some(Order::Memory)),
    column("MEM%", 5, 60, None),
    column("PSI C/M/I", 9, 76, Some(Order::Pressure)),
    column("IO/s", 6, 50, Some(Order::Io)),
    column("NET/s", 6, 66, Some(Order::Network)),
    column("PIDS", 5, 40, Some(Order::Pids)),
    column("IO TOTAL", 9, 150, None),
    column("NET TOTAL", 9, 150, None),
];

/// Lines for a screen of this size; never more, never wider.
pub(crate) fn render(
    history: &History,
    view: &View,
    width: usize,
    height: usize,
    style: Style,
) -> Vec<String> {
    let mut rows = history.rows();
    sort(&mut rows, view);
    let layout = Layout::new(width, rows.iter().map(|row| columns(&label(row))).max());
    let mut lines = vec![summary(history, &rows, width, style), String::new()];
    lines.push(layout.head(view, style));
    let room = height.saturating_sub(lines.len() + 1 + usize::from(!history.silent.is_empty()));
    let first = view.first.min(rows.len());
    let shown = &rows[first..rows.len().min(first.saturating_add(room))];
    lines.extend(shown.iter().map(|row| layout.row(row, style)));
    if rows.is_empty() {
        lines.push(fit("no containers", width));
    }
    if height != usize::MAX {
        let bottom = height.saturating_sub(1 + usize::from(!history.silent.is_empty()));
        lines.truncate(bottom.max(3));
        lines.resize(bottom.max(lines.len()), String::new());
    }
    if !history.silent.is_empty() {
        let text = format!("no answer: {}", history.silent.join(", "));
        lines.push(style.paint(Ink::Bad, &fit(&text, width)));
    }
    if height != usize::MAX {
        let keys = "q quit  sort: c cpu  m mem  s psi  i io  w net  p pids  n name  r reverse";
        lines.push(style.paint(Ink::Dim, &fit(keys, width)));
        lines.truncate(height);
    }
    lines
}

fn sort(rows: &mut [&Row], view: &View) {
    let number = |value: fn(&Row) -> f64| {
        move |a: &&Row, b: &&Row| value(b).partial_cmp(&value(a)).unwrap_or(Ordering::Equal)
    };
    let memory = |row: &Row| row.stats.memory.as_ref().map_or(0.0, |m| m.usage as f64);
    let pids = |row: &Row| row.stats.pids.as_ref().map_or(0.0, |p| p.current as f64);
    match view.order {
        Order::Cpu => rows.sort_by(number(|row| row.now.cpu)),
        Order::Memory => rows.sort_by(number(memory)),
        Order::Pressure => rows.sort_by(number(Row::pressure)),
        Order::Io => rows.sort_by(number(|row| row.now.io)),
        Order::Network => rows.sort_by(number(|row| row.now.network)),
        Order::Pids => rows.sort_by(number(pids)),
        Order::Name => rows.sort_by_key(|row| label(row)),
    }
    if view.reversed {
        rows.reverse();
    }
}

fn label(row: &Row) -> String {
    let id = match row.id.len() {
        // What containerd's clients print of an id.
        64 => row.id.get(..12).unwrap_or(&row.id),
        _ => &row.id,
    };
    match row.name.as_str() {
        "" => clean(id),
        name => format!("{} {}", clean(name), clean(id)),
    }
}

fn summary(history: &History, rows: &[&Row], width: usize, style: Style) -> String {
    let cpu: f64 = rows.iter().map(|row| row.now.cpu).sum();
    let memory: u64 = rows
        .iter()
        .filter_map(|row| row.stats.memory.as_ref())
        .map(|memory| memory.usage)
        .sum();
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let text = format!(
        "{} container{} in {} shim{}   CPU {}%   memory {}   time {}",
        rows.len(),
        plural(rows.len()),
        history.shims,
        plural(history.shims),
        units::percent(cpu),
        units::bytes(memory),
        units::time_of_day(
            rows.iter()
                .map(|row| row.stats.time_unix_ns)
                .max()
                .unwrap_or(0)
        )
        .split('.')
        .next()
        .unwrap_or_default(),
    );
    style.paint(Ink::Bold, &fit(&text, width))
}

/// How wide what is.
struct Layout {
    width: usize,
    name: usize,
    /// Of the history of CPU, and of memory if there is one.
    cpu: usize,
    memory: usize,
}

impl Layout {
    fn new(width: usize, longest: Option<usize>) -> Self {
        let fixed: usize = COLUMNS
            .iter()
            .filter(|column| width >= column.from)
            .map(|column| column.width + 1)
            .sum();
        let room = width.saturating_sub(fixed);
        let wanted = longest.unwrap_or(0).clamp(9, 60);
        let histories = room.saturating_sub(wanted.min(room / 2 + 6));
        let (cpu, memory) = match histories {
            ..7 => (0, 0),
            7..26 => (histories - 1, 0),
            _ => ((histories - 2) / 2, (histories - 2) / 2),
        };
        // No longer than what is kept.
        let (cpu, memory) = (cpu.min(60), memory.min(60));
        let gaps = usize::from(cpu > 0) + usize::from(memory > 0);
        let name = wanted.min(room.saturating_sub(cpu + memory + gaps));
        Self {
            width,
            name,
            cpu,
            memory,
        }
    }

    /// Joins the cells of a line; the first is the name.
    fn line(&self, name: &str, cells: &[String; 9], cpu: &str, memory: &str) -> String {
        let name = fit(name, self.name);
        let mut line = format!("{name}{}", " ".repeat(self.name - columns(&name)));
        for (index, (column, cell)) in COLUMNS.iter().zip(cells).enumerate() {
            if self.width >= column.from {
                let cell = fit(cell, column.width);
                line.push_str(&" ".repeat(1 + column.width - columns(&cell)));
                line.push_str(&cell);
            }
            // Each history stands beside its number.
            let history = match index {
                0 => (self.cpu, cpu),
                1 => (self.memory, memory),
                _ => (0, ""),
            };
            if history.0 > 0 {
                line.push(' ');
                line.push_str(&" ".repeat(history.0.saturating_sub(columns(history.1))));
                line.push_str(history.1);
            }
        }
        line
    }

    fn head(&self, view: &View, style: Style) -> String {
        let heads = COLUMNS.each_ref().map(|column| match column.order {
            Some(order) if order == view.order => match view.reversed {
                false => format!("{}▼", column.head),
                true => format!("{}▲", column.head),
            },
            _ => column.head.to_owned(),
        });
        let heads = {
            let mut heads = heads;
            for (head, column) in heads.iter_mut().zip(&COLUMNS) {
                if columns(head) > column.width {
                    // The arrow tells more than the last letter.
                    let arrow = head.pop().unwrap_or('▼');
                    *head = format!("{}{arrow}", &head[..column.width - 1]);
                }
            }
            heads
        };
        let span = units::age_ns(
            u64::try_from(view.interval.as_nanos() * self.cpu as u128).unwrap_or(u64::MAX),
        );
        let past = fit(&format!("last {span}"), self.cpu);
        style.paint(Ink::Bold, &self.line("CONTAINER", &heads, &past, ""))
    }

    fn row(&self, row: &Row, style: Style) -> String {
        let stats = &row.stats;
        let memory = stats.memory.clone().unwrap_or_default();
        let pids = stats.pids.clone().unwrap_or_default();
        let share = match memory.limit {
            0 => "-".to_owned(),
            limit => units::percent(memory.usage as f64 * 100.0 / limit as f64),
        };
        let sum = |(one, other): (u64, u64)| units::bytes(one + other);
        let cells = [
            units::percent(row.now.cpu),
            units::bytes(memory.usage),
            share,
            pressures(stats),
            units::bytes(row.now.io as u64),
            units::bytes(row.now.network as u64),
            pids.current.to_string(),
            sum(io(stats)),
            sum(network(stats)),
        ];
        let most = row.cpu.iter().copied().fold(0.0, f64::max).max(100.0);
        let cpu = sparkline(&row.cpu, self.cpu, most);
        let limit = match memory.limit {
            0 => row.memory.iter().copied().fold(1.0, f64::max),
            limit => limit as f64,
        };
        let past = sparkline(&row.memory, self.memory, limit);
        let line = self.line(&label(row), &cells, &cpu, &past);
        let tight = memory.limit > 0 && memory.usage as f64 > 0.9 * memory.limit as f64;
        if row.pressure() >= 40.0 {
            style.paint(Ink::Bad, &line)
        } else if tight || row.pressure() >= 10.0 {
            style.paint(Ink::Warn, &line)
        } else {
            line
        }
    }
}

const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The newest values, right-aligned; `most` is the highest bar.
fn sparkline(values: &VecDeque<f64>, width: usize, most: f64) -> String {
    let skipped = values.len().saturating_sub(width);
    values
        .iter()
        .skip(skipped)
        .map(|value| {
            let eighths = (value / most * 8.0).round().clamp(0.0, 8.0) as usize;
            // Something is more than nothing.
            let eighths = if *value > 0.0 { eighths.max(1) } else { 0 };
            BARS[eighths]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::look;
    use super::*;

    fn history() -> History {
        let mut history = History::default();
        for step in 1..30 {
            look(&mut history, &["web", "db", "cache"], step);
        }
        history
    }

    fn view(order: Order) -> View {
        View {
            order,
            reversed: false,
            first: 0,
            interval: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_screen_of_80_columns() {
        let lines = render(&history(), &view(Order::Cpu), 80, 24, Style::plain(80));
        assert_eq!(lines.len(), 24);
        for line in &lines {
            assert!(columns(line) <= 80, "{line}");
        }
        assert_eq!(
            lines[0],
            "3 containers in 1 shim   CPU 150%   memory 234M   time 00:00:30"
        );
        let names: Vec<&str> = lines[3..6]
            .iter()
            .map(|line| line.split_whitespace().nth(1).unwrap())
            .collect();
        assert_eq!(
            names,
            ["cache", "db", "web"],
            "by CPU:\n{}",
            lines.join("\n")
        );
        assert!(
            lines[2].contains("CPU%▼") && lines[2].contains("PSI C/M/I"),
            "{}",
            lines[2]
        );
        assert!(
            lines[3].contains("75") && lines[3].contains("12/0/-"),
            "{}",
            lines[3]
        );
        assert!(lines[23].starts_with("q quit"));
    }

    #[test]
    fn a_screen_of_200_columns_has_histories() {
        let lines = render(&history(), &view(Order::Name), 200, 50, Style::plain(200));
        assert_eq!(lines.len(), 50);
        assert!(
            lines[2].contains("NET TOTAL") && lines[2].contains("last 60s")
                || lines[2].contains("last"),
            "{}",
            lines[2]
        );
        assert!(
            lines[3].contains('▆') || lines[3].contains('▇'),
            "{}",
            lines[3]
        );
        for line in &lines {
            assert!(columns(line) <= 200, "{line}");
        }
    }

    #[test]
    fn no_size_is_too_small() {
        let mut history = history();
        history.silent.push("k8s.io/pod-b (no-answer)".into());
        for width in 1..220 {
            for height in [1, 2, 5, 10] {
                let lines = render(
                    &history,
                    &view(Order::Io),
                    width,
                    height,
                    Style::plain(width),
                );
                assert!(lines.len() <= height);
                if width > 24 {
                    assert!(
                        lines.iter().all(|line| columns(line) <= width),
                        "{width}: {lines:#?}"
                    );
                }
            }
        }
        let empty = render(
            &History::default(),
            &view(Order::Cpu),
            80,
            24,
            Style::plain(80),
        );
        assert!(empty.contains(&"no containers".to_owned()));
    }

    #[test]
    fn sparklines_show_the_newest_values() {
        let values: VecDeque<f64> = [0.0, 1.0, 50.0, 100.0, 400.0].into();
        assert_eq!(sparkline(&values, 10, 100.0), " ▁▄██");
        assert_eq!(sparkline(&values, 2, 100.0), "██");
        assert_eq!(sparkline(&values, 0, 100.0), "");
    }
}
