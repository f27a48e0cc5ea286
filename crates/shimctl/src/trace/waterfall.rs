// SPDX-License-Identifier: Apache-2.0
//! The waterfall as text: each operation on a time axis of its own.

use super::record::Record;
use super::tree::{Node, Operation, operations};
use crate::show::events::details;
use crate::style::{Ink, Style, clean, columns, fit};
use crate::units;

/// Without a terminal.
const WIDTH: usize = 100;
/// The least that a bar's column has.
const BARS: usize = 16;

/// With `all`, steps that took next to nothing have a line each, too.
pub(crate) fn render(record: &Record, all: bool, style: Style) -> String {
    let mut text = heading(record, style);
    let mut moments: Vec<(u64, String)> = operations(&record.spans)
        .iter()
        .map(|operation| match all {
            true => (operation.extent().0, block(record, operation, style)),
            false => {
                let short = operation.without_short();
                (operation.extent().0, block(record, &short, style))
            }
        })
        .collect();
    for event in &record.events {
        let time = units::time_of_day(event.time_unix_ns);
        let mut line = format!("{time}  event {}{}", clean(&event.kind), details(event));
        if !event.exec.is_empty() && event.exec != event.container {
            line.push_str(&format!(" (exec {})", clean(&event.exec)));
        }
        let line = fit(&line, style.width.unwrap_or(WIDTH));
        let line = match crate::show::events::ink(&event.kind) {
            Some(ink) => style.paint(ink, &line),
            None => style.paint(Ink::Dim, &line),
        };
        moments.push((event.time_mono_ns, format!("{line}\n")));
    }
    moments.sort_by_key(|(at, _)| *at);
    text.extend(moments.into_iter().map(|(_, text)| text));
    text
}

fn heading(record: &Record, style: Style) -> String {
    let mut name = clean(&record.name);
    if !record.title.is_empty() {
        name.push_str(&format!(" ({})", clean(&record.title)));
    }
    let mut text = format!(
        "{}  {}\n",
        style.paint(Ink::Bold, &name),
        clean(&record.shim)
    );
    if record.spans.is_empty() {
        text.push_str("no spans are kept: they are overwritten after a while\n");
    }
    if record.lost > 0 {
        text.push_str(&format!("{} earlier items were overwritten\n", record.lost));
    }
    text
}

fn block(record: &Record, operation: &Operation<'_>, style: Style) -> String {
    let (begin, end) = operation.extent();
    let names: Vec<String> = operation.nodes.iter().map(label).collect();
    let width = style.width.unwrap_or(WIDTH);
    // Time of day, duration and own time stand before and between.
    let fixed = 2 + 9 + 2 + 9 + 2;
    let longest = names.iter().map(|name| columns(name)).max().unwrap_or(0);
    let room = width.saturating_sub(fixed);
    let name_width = longest.min(room.saturating_sub(BARS)).max(8);
    let bars = room.saturating_sub(name_width).max(BARS);
    let when = units::time_of_day(record.clock.unix(begin));
    let total = units::duration_ns(end - begin);
    let mut text = format!(
        "{when}  {}\n",
        style.paint(Ink::Dim, &format!("axis: {total}"))
    );
    for (node, name) in operation.nodes.iter().zip(&names) {
        let name = fit(name, name_width);
        let padding = " ".repeat(name_width - columns(&name));
        let bar = bar(node, begin, end, bars);
        let (name, bar) = match (node.span.failed, node.span.number, node.depth) {
            (true, _, _) => (style.paint(Ink::Bad, &name), style.paint(Ink::Bad, &bar)),
            (_, 0, _) => (style.paint(Ink::Warn, &name), style.paint(Ink::Warn, &bar)),
            (_, _, 0) => (style.paint(Ink::Bold, &name), bar),
            _ => (name, style.paint(Ink::Name, &bar)),
        };
        let line = format!(
            "  {name}{padding}{:>9}  {:>9}  {bar}",
            units::duration_ns(node.span.duration_ns),
            if node.own_ns == node.span.duration_ns {
                String::new()
            } else {
                format!("({})", units::duration_ns(node.own_ns))
            },
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn label(node: &Node<'_>) -> String {
    let span = &node.span;
    let mut label = format!("{}{}", "  ".repeat(node.depth), clean(&span.name));
    if !span.exec.is_empty() && node.depth == 0 {
        label.push_str(&format!(" {}", clean(&span.exec)));
    }
    if span.failed {
        label.push_str(&format!(" FAILED({})", span.code));
    }
    if span.number == 0 {
        label.push_str(" (under way)");
    }
    label
}

const EIGHTHS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// The bar of a span: begins at a whole column, ends at an eighth of one.
fn bar(node: &Node<'_>, begin: u64, end: u64, width: usize) -> String {
    let total = (end - begin).max(1) as f64;
    let scale = |at: u64| at.saturating_sub(begin) as f64 / total * width as f64;
    let from = scale(node.span.start_mono_ns);
    let to = scale(super::tree::end(&node.span));
    let first = (from.floor() as usize).min(width.saturating_sub(1));
    let eighths = (((to - first as f64) * 8.0).round() as usize).max(1);
    let (whole, rest) = (eighths / 8, eighths % 8);
    let whole = whole.min(width - first);
    let mut bar = " ".repeat(first);
    bar.extend(std::iter::repeat_n('█', whole));
    if rest > 0 && first + whole < width {
        bar.push(EIGHTHS[rest]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::record;

    #[test]
    fn operations_and_events_are_on_one_page() {
        let text = render(&record(), false, Style::plain(80));
        let expected = "\
k8s.io/c1 (shop/web)  shim 4700 of version 0.1.0
22:13:20.000  axis: 4.00ms
  create          4.00ms    (350µs)  ███████████████████████████████████████████
    load-spec      150µs             █▋
    clone-init     700µs               ███████▎
    init          2.80ms    (800µs)            ██████████████████████████████▏
      mounts      2.00ms                        █████████████████████▍
22:13:20.004  event create pid=4711
22:13:20.005  axis: 1.00ms
  start         1.00ms    (200µs)  ████████████████████████████████████████████
    exec-wait    800µs                 ███████████████████████████████████▋
22:13:20.006  event start pid=4711
22:14:20.000  axis: 400µs
  exec probe FAILED(2)    400µs             ███████████████████████████████████
22:15:20.000  event oom oom_kill 1
";
        // The widths are checked below; here are the words and their order.
        let words = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| {
                    let line = line.replace(['█', '▏', '▎', '▍', '▌', '▋', '▊', '▉'], " ");
                    line.split_whitespace().collect::<Vec<_>>().join(" ")
                })
                .collect()
        };
        assert_eq!(words(&text), words(expected), "\n{text}");
        assert!(text.lines().all(|line| columns(line) <= 80), "\n{text}");
    }

    #[test]
    fn bars_stand_where_their_time_is() {
        let spans = crate::trace::tree::tests::life();
        let operations = operations(&spans);
        let draw = |index: usize| {
            bar(
                &operations[0].nodes[index],
                1_000_000_000,
                1_004_000_000,
                40,
            )
        };
        assert_eq!(draw(0), "█".repeat(40));
        assert_eq!(draw(1), format!("{}█▉", "").replace("█▉", "██"));
        assert_eq!(draw(3), format!("{}{}", " ".repeat(10), "█".repeat(28)));
    }
}
