// SPDX-License-Identifier: Apache-2.0
//! One self-contained page for a browser: the drawing, and the same as tables. No script, nothing
//! from elsewhere.

use std::fmt::Write as _;

use super::drawing::{escape, svg};
use super::record::Record;
use super::tree::{Node, operations};
use crate::show::events::details;
use crate::show::sync;
use crate::units;

const STYLE: &str = "\
body{font:14px system-ui,sans-serif;margin:24px auto;max-width:1240px;padding:0 16px;color:#222;background:#fff}\
h1{font-size:20px;margin:0}h2{font-size:15px;margin:28px 0 6px}p{margin:4px 0;color:#555}\
svg{width:100%;height:auto;border:1px solid #e2e2e2;border-radius:4px;margin-top:12px}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th{text-align:left;font-weight:600;border-bottom:1px solid #bbb}\
th,td{padding:2px 14px 2px 0;vertical-align:top}td.n{text-align:right}tr.bad td{color:#c53030}\
tr.op td{border-top:1px solid #e2e2e2;font-weight:600}\
@media (prefers-color-scheme:dark){body{color:#dcdde0;background:#141518}p{color:#a5a8af}\
svg{border-color:#33363d}th{border-color:#555a63}tr.op td{border-color:#33363d}tr.bad td{color:#f0776f}}";

pub(crate) fn html(record: &Record) -> String {
    let name = escape(&record.name);
    let title = match record.title.as_str() {
        "" => name.clone(),
        title => format!("{name} <small>({})</small>", escape(title)),
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p>{}. Idle time is folded: shaded strips say how long it was. Point at a \
         bar, an arrow or a dot for more.</p>\n",
        escape(&record.shim)
    );
    if record.lost > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "<p>{} earlier items were overwritten.</p>",
            record.lost
        );
    }
    page.push_str(&svg(record));
    spans(&mut page, record);
    messages(&mut page, record);
    events(&mut page, record);
    page.push_str("</body>\n</html>\n");
    page
}

fn table(page: &mut String, title: &str, heads: &[&str], rows: &[String]) {
    if rows.is_empty() {
        return;
    }
    let heads: String = heads
        .iter()
        .map(|head| format!("<th>{head}</th>"))
        .collect();
    let _ = writeln!(
        page,
        "<h2>{title}</h2>\n<table>\n<tr>{heads}</tr>\n{}\n</table>",
        rows.join("\n")
    );
}

fn spans(page: &mut String, record: &Record) {
    let all = operations(&record.spans);
    let rows: Vec<String> = all
        .iter()
        .flat_map(|operation| operation.nodes.iter().map(|node| span(record, node)))
        .collect();
    let heads = [
        "Operation",
        "Began (UTC)",
        "Took",
        "Not in its parts",
        "Result",
    ];
    table(page, "Operations", &heads, &rows);
}

fn span(record: &Record, node: &Node<'_>) -> String {
    let span = &node.span;
    let class = match (span.failed, node.depth) {
        (true, _) => " class=\"bad\"",
        (_, 0) => " class=\"op\"",
        _ => "",
    };
    let result = match (span.failed, span.number) {
        (true, _) => format!("failed ({})", span.code),
        (_, 0) => "under way".to_owned(),
        _ => "ok".to_owned(),
    };
    let exec = match (node.depth, span.exec.as_str()) {
        (0, exec) if !exec.is_empty() => format!(" {}", escape(exec)),
        _ => String::new(),
    };
    format!(
        "<tr{class}><td>{}{}{exec}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{result}</td></tr>",
        "&emsp;".repeat(node.depth),
        escape(&span.name),
        &units::time(record.clock.unix(span.start_mono_ns), 6)[11..26],
        units::duration_ns(span.duration_ns),
        units::duration_ns(node.own_ns),
    )
}

fn messages(page: &mut String, record: &Record) {
    for conversation in sync::conversations(&record.messages) {
        let Some(first) = conversation.first() else {
            continue;
        };
        let title = match first.exec.as_str() {
            "" => format!("Messages between shim and init {}", first.pid),
            exec => format!("Messages between shim and exec {}", escape(exec)),
        };
        let rows: Vec<String> = conversation
            .iter()
            .map(|message| {
                let after = message.time_mono_ns.saturating_sub(first.time_mono_ns);
                let way = match message.from_init {
                    true => "shim ◀ init",
                    false => "shim ▶ init",
                };
                format!(
                    "<tr><td class=\"n\">{:.3} ms</td><td>{way}</td><td>{}</td><td>{}</td></tr>",
                    after as f64 / 1e6,
                    escape(&message.kind),
                    escape(&sync::describe(message))
                )
            })
            .collect();
        table(page, &title, &["After", "Way", "Message", "With"], &rows);
    }
}

fn events(page: &mut String, record: &Record) {
    let rows: Vec<String> = record
        .events
        .iter()
        .map(|event| {
            let bad = matches!(event.kind.as_str(), "oom" | "divergence");
            let exec = match event.exec.as_str() {
                exec if exec != event.container => exec,
                _ => "",
            };
            format!(
                "<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                if bad { " class=\"bad\"" } else { "" },
                units::time(event.time_unix_ns, 6),
                escape(&event.kind),
                escape(exec),
                escape(details(event).trim())
            )
        })
        .collect();
    table(page, "Events", &["Time", "Kind", "Exec", "What"], &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_needs_nothing() {
        let mut record = crate::trace::tests::record();
        record.spans[0].name = "<img src=x>".into();
        let page = html(&record);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("href="));
        assert_eq!(page.matches("http").count(), 1, "only the name of SVG");
        assert!(page.contains("4.00ms") && page.contains("under way") || page.contains("ok"));
    }
}
