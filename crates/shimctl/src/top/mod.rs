// SPDX-License-Identifier: Apache-2.0
//! `top`: what containers use, now and in the last minutes.
//!
//! `history` turns looks into rates and keeps them, `screen` draws one screen from them (pure), and
//! `terminal` is raw mode that is surely undone.

mod history;
mod screen;
mod terminal;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::args::{Global, Order, Top};
use crate::error::{Error, Exit};
use crate::show::stats;
use crate::style::{Style, size};
use crate::{json, print};

use history::History;
use screen::View;
use terminal::{Key, Terminal};

pub(crate) fn run(global: &Global, args: &Top, style: Style) -> Result<Exit, Error> {
    let interval = args.interval.max(Duration::from_millis(50));
    if global.json || args.count.is_some() {
        return batch(global, args, style, interval);
    }
    let terminal = Terminal::open()?;
    let mut history = History::default();
    let mut view = View {
        order: args.sort,
        reversed: false,
        first: 0,
        interval,
    };
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            history.look(&stats::collect(global, &args.ids));
            next = Instant::now() + interval;
        }
        let (width, height) = size();
        view.first = view.first.min(history.rows().len().saturating_sub(1));
        let lines = screen::render(&history, &view, width, height, style);
        terminal.show(&lines)?;
        match terminal.key(next.saturating_duration_since(Instant::now()))? {
            Some(Key::Char('q') | Key::Interrupt) => return Ok(Exit::Success),
            Some(Key::Char('r')) => view.reversed = !view.reversed,
            Some(Key::Char('c')) => view.order = Order::Cpu,
            Some(Key::Char('m')) => view.order = Order::Memory,
            Some(Key::Char('s')) => view.order = Order::Pressure,
            Some(Key::Char('i')) => view.order = Order::Io,
            Some(Key::Char('w')) => view.order = Order::Network,
            Some(Key::Char('p')) => view.order = Order::Pids,
            Some(Key::Char('n')) => view.order = Order::Name,
            Some(Key::Down | Key::Char('j')) => view.first += 1,
            Some(Key::Up | Key::Char('k')) => view.first = view.first.saturating_sub(1),
            Some(Key::Char(_)) | None => {}
        }
    }
}

/// Screens one after the other, without a terminal: `--count`, `--json`.
fn batch(global: &Global, args: &Top, style: Style, interval: Duration) -> Result<Exit, Error> {
    let mut history = History::default();
    let view = View {
        order: args.sort,
        reversed: false,
        first: 0,
        interval,
    };
    let mut left = args.count;
    // Rates take two looks.
    history.look(&stats::collect(global, &args.ids));
    loop {
        if left == Some(0) {
            return Ok(Exit::Success);
        }
        std::thread::sleep(interval);
        let answers = stats::collect(global, &args.ids);
        history.look(&answers);
        if global.json {
            for answer in &answers {
                for usage in answer.said.as_ref().into_iter().flatten() {
                    let mut value = json::stats(&answer.shim, &usage.stats);
                    let key = history::key(&answer.shim, &usage.stats.container);
                    if let Some(now) = history.rates(&key) {
                        value["rates"] = json!({
                            "cpu_percent": now.cpu,
                            "io_bytes": now.io,
                            "network_bytes": now.network,
                        });
                    }
                    print(&format!("{value}\n"))?;
                }
            }
        } else {
            let width = style.width.unwrap_or(120);
            let lines = screen::render(&history, &view, width, usize::MAX, style);
            print(&format!("{}\n", lines.join("\n")))?;
        }
        left = left.map(|left| left - 1);
    }
}
