// SPDX-License-Identifier: Apache-2.0
//! `state`, `list`, `ps`, `features`, `--version`.

use std::process::Command;

use runtime::{Stored, Summary};

use crate::args::Parsed;
use crate::common::Common;
use crate::error::{Attempt as _, Error};
use crate::{Code, print};

/// The release of the runtime specification that is followed.
const SPEC: &str = "1.3.0";

/// `--version`, line by line what Docker and containerd look for.
pub(crate) fn version() -> Result<Code, Error> {
    let commit = option_env!("SHIM_REVISION").unwrap_or("unknown");
    let version = env!("CARGO_PKG_VERSION");
    print(&format!(
        "ocirun version {version}\ncommit: {commit}\nspec: {SPEC}\n"
    ))?;
    Ok(0)
}

/// `features`.
pub(crate) fn features() -> Result<Code, Error> {
    print(&format!("{:#}\n", runtime::features::document()))?;
    Ok(0)
}

/// `state`.
pub(crate) fn state(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    print_json(&common.stored(parsed.id())?.summary())
}

fn print_json(value: &impl serde::Serialize) -> Result<Code, Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(std::io::Error::from)
        .attempt(|| "encode".to_owned())?;
    print(&format!("{text}\n"))?;
    Ok(0)
}

/// On one line, as runc prints lists.
fn print_json_line(value: &impl serde::Serialize) -> Result<Code, Error> {
    let text = serde_json::to_string(value)
        .map_err(std::io::Error::from)
        .attempt(|| "encode".to_owned())?;
    print(&format!("{text}\n"))?;
    Ok(0)
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

fn format(parsed: &Parsed) -> Result<Format, Error> {
    match parsed.value("format") {
        None | Some("table" | "") => Ok(Format::Table),
        Some("json") => Ok(Format::Json),
        Some(other) => Err(Error::Usage(format!("invalid format option {other:?}"))),
    }
}

/// `list`.
pub(crate) fn list(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let format = format(parsed)?;
    // The usual place may not be there yet; a place that somebody names must be.
    if parsed.value("root").is_some_and(|root| !root.is_empty()) {
        let root = common.root();
        std::fs::metadata(root).attempt(|| format!("open {}", root.display()))?;
    }
    let all: Vec<Summary> = Stored::list(common.root())?
        .iter()
        .map(Stored::summary)
        .collect();
    if parsed.is_set("quiet") {
        let ids: String = all.iter().map(|one| format!("{}\n", one.id)).collect();
        print(&ids)?;
        return Ok(0);
    }
    if format == Format::Json {
        return print_json_line(&all);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(all.into_iter().map(|one| {
        [
            one.id,
            one.pid.to_string(),
            one.status.to_string(),
            one.bundle.display().to_string(),
            one.created,
            one.owner,
        ]
    }));
    print(&table(&rows))?;
    Ok(0)
}

/// Columns as wide as their widest cell, at least as Go's tabwriter makes them for runc.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    const NARROWEST: usize = 12;
    const GAP: usize = 3;
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (widest + GAP).max(NARROWEST)
    };
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            match column + 1 == N {
                true => text.push_str(cell),
                false => text.push_str(&format!("{cell:<width$}", width = width(column))),
            }
        }
        text.push('\n');
    }
    text
}

/// `ps`.
pub(crate) fn ps(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let format = format(parsed)?;
    let pids = common.stored(parsed.id())?.pids()?;
    if format == Format::Json {
        return print_json_line(&pids);
    }
    let options = parsed.arguments.get(1..).unwrap_or_default();
    let mut command = Command::new("ps");
    match options {
        [] => command.arg("-ef"),
        options => command.args(options),
    };
    let output = command.output().attempt(|| "execute ps".to_owned())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Usage(format!("ps: {text}")));
    }
    print(&lines_of(&String::from_utf8_lossy(&output.stdout), &pids)?)?;
    Ok(0)
}

/// The header, and the lines of these processes.
fn lines_of(listing: &str, pids: &[i32]) -> Result<String, Error> {
    let mut lines = listing.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::Usage("couldn't find PID field in ps output".to_owned()))?;
    let of_container = |line: &&str| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    let chosen = std::iter::once(header).chain(lines.filter(of_container));
    Ok(chosen.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_listed() {
        let listing = "UID PID CMD\nroot 7 7 sleep\nroot 77 sleep\nroot 8 x\n";
        assert_eq!(
            lines_of(listing, &[7, 8]).unwrap(),
            "UID PID CMD\nroot 7 7 sleep\nroot 8 x\n"
        );
        assert!(lines_of("CMD\nx\n", &[7]).is_err());
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = [["ID", "X"], ["a-rather-long-id", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "ID                 X\na-rather-long-id   y\n");
    }
}
