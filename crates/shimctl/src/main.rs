// SPDX-License-Identifier: Apache-2.0
//! `shimctl`: shows what the shims of a node do.
//!
//! | module     | what                                                              |
//! |------------|-------------------------------------------------------------------|
//! | `args`     | the command line                                                  |
//! | `discover` | finding shims by their processes and bundles                      |
//! | `client`   | asking one of them                                                |
//! | `fleet`    | asking all of them at once; finding one by a name                 |
//! | `json`     | what `--json` prints                                              |
//! | `table`, `style`, `units` | how things look                                    |
//! | `show`     | `ps`, `stats`, `events`, `logs`, `sync`, `diag`, `log-level`      |
//! | `top`      | the live view                                                     |
//! | `trace`    | one container's operations over time: text, SVG, HTML, Perfetto   |
//! | `metrics`  | OpenMetrics                                                       |
//!
//! Renderers are pure functions from what shims said to text; only `main` and the loops of `top`,
//! `follow` and `metrics` touch the outside. Text of containers is cleaned of control characters
//! before it is printed.

mod args;
mod client;
mod discover;
mod error;
mod fleet;
mod json;
mod manual;
mod metrics;
mod show;
mod style;
mod table;
mod top;
mod trace;
mod units;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::error::{Error, Exit};
use crate::style::Style;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "shimctl: {error}");
            Exit::from(&error).into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Error> {
    let global = cli.global;
    let style = Style::of_output(&global);
    match cli.command {
        Command::Ps(args) => show::ps::run(&global, &args, style),
        Command::Top(args) => top::run(&global, &args, style),
        Command::Stats(args) => show::stats::run(&global, &args, style),
        Command::Events(args) => show::events::run(&global, &args, style),
        Command::Logs(args) => show::logs::run(&global, &args, style),
        Command::Trace(args) => trace::run(&global, &args, style),
        Command::Sync(args) => show::sync::run(&global, &args, style),
        Command::Diag(args) => show::diag::run(&global, &args),
        Command::Metrics(args) => metrics::run(&global, &args),
        Command::LogLevel(args) => show::log_level::run(&global, &args),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { directory } => manual::pages(directory.as_deref()),
    }
}

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::io("write to standard output"))
}

/// Complains on standard error; the command goes on.
pub(crate) fn complain(text: &str) {
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "shimctl: {text}");
}
