// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::units;

/// Shows what the shims of this node do
///
/// Finds all shims by itself, of every containerd and every namespace, and asks them over their own
/// sockets. Needs root.
#[derive(Debug, Parser)]
#[command(name = "shimctl", version, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER: &str = "\
Exit status: 0 success; 1 failure; 2 wrong usage; 3 no such container or shim; 4 some shims did not \
answer (what the others said is printed).
Documentation: docs/shimctl.md.";

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Only shims of this containerd namespace
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Print JSON: one document, or one for each line where the output has no end
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How long a shim may take to answer
    #[arg(long, global = true, value_name = "TIME", default_value = "100ms", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
    /// Colours: only on a terminal and without NO_COLOR, or as said here
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub(crate) color: When,
    /// Do not shorten or leave out columns to fit the terminal
    #[arg(long, global = true)]
    pub(crate) wide: bool,
}

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// If it makes sense.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List containers and their processes
    Ps(Ps),
    /// Watch what containers use
    Top(Top),
    /// Print what containers use
    Stats(Some),
    /// Print events: lifecycle, exits, OOM, pressure, notifications, divergence
    Events(Events),
    /// Print the logs of all shims in the order of time
    Logs(Logs),
    /// Show where create, start, exec and delete spent their time
    Trace(Trace),
    /// Show what shim and init said to each other, as a sequence chart
    Sync(One),
    /// Print one page of everything about a container or a shim, for a bug report
    Diag(One),
    /// Print metrics as OpenMetrics text, or serve them over HTTP
    Metrics(Metrics),
    /// Show or change what a shim logs
    LogLevel(LogLevel),
    /// Print a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page, or write all of them to a directory
    Man {
        /// Where to write shimctl.1, shimctl-ps.1, …
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Only containers whose id, pod or name begins so
    pub(crate) ids: Vec<String>,
    /// Leave out execs
    #[arg(long)]
    pub(crate) no_execs: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Some {
    /// Only containers whose id, pod or name begins so
    pub(crate) ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// A container, a pod or a shim; the beginning of its id is enough
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Only containers whose id, pod or name begins so
    pub(crate) ids: Vec<String>,
    /// Time between two looks
    #[arg(short, long, default_value = "1s", value_name = "TIME", value_parser = units::parse_duration)]
    pub(crate) interval: Duration,
    /// What to sort by
    #[arg(short, long, value_enum, default_value_t = Order::Cpu)]
    pub(crate) sort: Order,
    /// Print so many screens and end; no terminal is needed
    #[arg(short = 'c', long, value_name = "NUMBER")]
    pub(crate) count: Option<u32>,
}

/// What `top` sorts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Processor time
    Cpu,
    /// Memory
    Memory,
    /// Pressure: the worst of processor, memory and I/O
    Pressure,
    /// Block I/O
    Io,
    /// Network
    Network,
    /// Processes
    Pids,
    /// Name
    Name,
}

/// What is said over time.
#[derive(Debug, Args)]
pub(crate) struct Stream {
    /// Go on when everything has been printed
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is newer than this: 10m, 2h, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = units::parse_since)]
    pub(crate) since: Option<units::Since>,
    /// Only of these containers; the beginning of an id is enough
    #[arg(short = 'C', long = "container", value_name = "ID")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) stream: Stream,
    /// Only of these kinds: create, start, exit, oom, pressure, notify, divergence, …
    #[arg(short, long = "kind", value_name = "KIND", value_delimiter = ',')]
    pub(crate) kinds: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) stream: Stream,
    /// Only lines of this level and worse
    #[arg(short, long, value_enum, default_value_t = Level::Trace)]
    pub(crate) level: Level,
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Nothing
    Off,
    /// Errors
    Error,
    /// Warnings, too
    Warning,
    /// What an operator wants to know, too
    Info,
    /// Every call, too
    Debug,
    /// Everything
    Trace,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    #[command(flatten)]
    pub(crate) one: One,
    /// Write a drawing to standard output
    #[arg(long, group = "form")]
    pub(crate) svg: bool,
    /// Write one page for a browser to standard output: timeline, messages, events and use
    #[arg(long, group = "form")]
    pub(crate) html: bool,
    /// Write a trace for ui.perfetto.dev to standard output
    #[arg(long, group = "form")]
    pub(crate) perfetto: bool,
    /// A line for each step, however short
    #[arg(long)]
    pub(crate) all: bool,
    /// Watch for so long first, also for a container that does not exist yet
    #[arg(long = "for", value_name = "TIME", value_parser = units::parse_duration)]
    pub(crate) watch: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Serve HTTP here: unix:/path, or a loopback address as 127.0.0.1:9099
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// At most so many containers; how many were left out is a metric, too
    #[arg(long, default_value_t = 1000, value_name = "NUMBER")]
    pub(crate) max_containers: usize,
}

#[derive(Debug, Args)]
pub(crate) struct LogLevel {
    #[command(flatten)]
    pub(crate) one: One,
    /// The new level; without one it is shown
    #[arg(value_enum)]
    pub(crate) level: Option<Level>,
}
