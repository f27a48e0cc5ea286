// SPDX-License-Identifier: Apache-2.0
//! `logs`: the last lines of all shims' logs.

use diagnostics::v1::{LogLine, LogRequest};

use super::follow::{self, Item};
use crate::args::{Global, Logs};
use crate::discover::Shim;
use crate::error::{Error, Exit};
use crate::style::{Ink, Style, clean};
use crate::{json, print, units};

impl Item for LogLine {
    fn time(&self) -> i64 {
        self.time_unix_ns
    }

    fn container(&self) -> &str {
        &self.container
    }
}

/// A shim that has no trouble says nothing.
const NOTHING: &str =
    "nothing has been logged: \"shimctl log-level ID debug\" makes a shim tell of every call";

pub(crate) fn run(global: &Global, args: &Logs, style: Style) -> Result<Exit, Error> {
    follow::run(
        global,
        &args.stream,
        NOTHING,
        |client, poll, hold| {
            let mut request = LogRequest::new();
            request.poll = Some(poll).into();
            args.level.name().clone_into(&mut request.level);
            let response = client.patient(&request, hold)?;
            Ok((response.polled.unwrap_or_default(), response.lines))
        },
        |shim, line| {
            print(&match global.json {
                true => format!("{}\n", json::log_line(shim, line)),
                false => text(shim, line, style),
            })
        },
    )
}

pub(crate) fn text(shim: &Shim, line: &LogLine, style: Style) -> String {
    let level = match line.level.as_str() {
        "error" => style.paint(Ink::Bad, "ERROR"),
        "warn" | "warning" => style.paint(Ink::Warn, "WARN "),
        "info" => "INFO ".to_owned(),
        "debug" => style.paint(Ink::Dim, "DEBUG"),
        "trace" => style.paint(Ink::Dim, "TRACE"),
        other => clean(other),
    };
    let mut who = format!("{}/{}", shim.namespace, shim.id);
    if !line.container.is_empty() && line.container != shim.id {
        who.push_str(&format!(" {}", clean(&line.container)));
    }
    if !line.exec.is_empty() {
        who.push_str(&format!("/{}", clean(&line.exec)));
    }
    let message = match line.message.as_str() {
        "" => &line.line,
        message => message,
    };
    format!(
        "{} {level} {} {}\n",
        style.paint(Ink::Dim, &units::time(line.time_unix_ns, 3)),
        style.paint(Ink::Name, &who),
        clean(message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::ps::tests::{NOW, shim};

    #[test]
    fn a_line_says_when_how_bad_and_whose() {
        let line = LogLine {
            time_unix_ns: NOW,
            level: "warning".into(),
            container: "c1".into(),
            message: "output is not read".into(),
            ..LogLine::new()
        };
        assert_eq!(
            text(&shim("pod", 1), &line, Style::plain(80)),
            "2023-11-14T22:13:20.000Z WARN  k8s.io/pod c1 output is not read\n"
        );
    }
}
