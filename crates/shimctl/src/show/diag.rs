// SPDX-License-Identifier: Apache-2.0
//! `diag`: one page of everything, for a bug report. What the shim says, if it says anything, and
//! what the kernel says of it in any case.

use std::fmt::Write as _;
use std::path::Path;

use diagnostics::v1::{Container, DescriptorsRequest, EventsRequest, LogRequest, Poll};
use serde_json::{Value, json};

use super::{outside, redact::redact};
use crate::args::{Global, One};
use crate::client::{Client, Silence};
use crate::discover::Shim;
use crate::error::{Error, Exit};
use crate::fleet::{self, Overview, Target};
use crate::style::{Style, clean};
use crate::trace::clock::Clock;
use crate::{json, print, units};

/// So many of the last events, log lines and spans.
const LAST: usize = 40;

/// The sections of the page, in order.
struct Page {
    sections: Vec<(&'static str, String)>,
}

impl Page {
    fn add(&mut self, title: &'static str, text: impl Into<String>) {
        self.sections.push((title, redact(&text.into())));
    }

    /// What a shim of an older version cannot tell is said in a line.
    fn add_said(&mut self, title: &'static str, said: Result<String, Silence>) {
        match said {
            Ok(text) => self.add(title, text),
            Err(silence) => self.add(title, format!("the shim {silence}\n")),
        }
    }
}

pub(crate) fn run(global: &Global, args: &One) -> Result<Exit, Error> {
    let target = fleet::find(global, &args.id)?;
    let mut page = Page {
        sections: Vec::new(),
    };
    let silence = describe(global, &target, &mut page);
    let document = match global.json {
        true => {
            let sections: serde_json::Map<String, Value> = page
                .sections
                .into_iter()
                .map(|(title, text)| (title.to_owned(), text.into()))
                .collect();
            format!(
                "{:#}\n",
                json!({"target": target.name(), "sections": sections})
            )
        }
        false => text(&target, &page),
    };
    print(&document)?;
    Ok(match silence {
        None => Exit::Success,
        Some(_) => Exit::Partial,
    })
}

fn text(target: &Target, page: &Page) -> String {
    let mut text = format!(
        "shimctl diag {}   {}\nLooked through for secrets by their names only: read it before you \
         send it.\n",
        clean(&target.name()),
        units::time(units::now_unix_ns(), 3)
    );
    for (title, section) in &page.sections {
        let _ = writeln!(text, "\n== {title}");
        text.push_str(if section.is_empty() {
            "nothing\n"
        } else {
            section
        });
    }
    text
}

fn describe(global: &Global, target: &Target, page: &mut Page) -> Option<Silence> {
    let shim = &target.shim;
    page.add("shim", identity(shim));
    let mut files = Vec::new();
    let silence = match target.ask(global.timeout) {
        Err(silence) => Some(silence),
        Ok(mut client) => match fleet::look(&mut client) {
            Err(silence) => Some(silence),
            Ok(overview) => {
                said(target, &overview, &mut client, page);
                let asked = client.again().call(&DescriptorsRequest::new());
                files = asked.map_or(Vec::new(), |said| said.descriptors);
                None
            }
        },
    };
    if let Some(silence) = &silence {
        page.add(
            "answer",
            format!("the shim {silence}; what follows the kernel says\n"),
        );
    }
    if shim.pid != 0 {
        page.add("process", outside::process(shim.pid));
        page.add("threads", outside::threads(shim.pid));
        page.add("descriptors", outside::descriptors(shim.pid, &files));
    }
    let cgroups = target.container.as_ref().map(|c| c.cgroups.clone());
    let init = target
        .container
        .as_ref()
        .and_then(|c| c.init.as_ref())
        .map_or(0, |i| i.pid);
    if let Some(cgroups) = cgroups {
        page.add("cgroups", outside::cgroups(&cgroups));
    }
    if init != 0 {
        page.add(
            "init",
            format!("{}{}", outside::process(init), outside::threads(init)),
        );
    }
    page.add("state", state(shim, target.container.as_ref()));
    silence
}

fn identity(shim: &Shim) -> String {
    let socket = shim.socket.as_ref().map(|path| path.display().to_string());
    format!(
        "namespace {}, id {}, pid {}, socket {}\nkernel {}\n",
        clean(&shim.namespace),
        clean(&shim.id),
        shim.pid,
        socket.unwrap_or_else(|| "none".to_owned()),
        clean(
            rustix::system::uname()
                .release()
                .to_str()
                .unwrap_or("unknown")
        ),
    )
}

/// What the shim says of itself.
fn said(target: &Target, overview: &Overview, client: &mut Client, page: &mut Page) {
    let info = &overview.info;
    let clock = Clock::of(info);
    let pretty = |value: &Value| format!("{value:#}\n");
    page.add(
        "answer",
        format!(
            "version {} ({}), up {}, log level {}, containerd's events at {}\n",
            clean(&info.version),
            clean(&info.revision),
            units::age_ns(info.uptime_ns),
            clean(&info.log_level),
            clean(&info.containerd_address),
        ),
    );
    let of = target.container_id();
    let containers: Vec<Value> = overview
        .containers
        .iter()
        .filter(|container| of.is_empty() || container.id == of)
        .map(json::container)
        .collect();
    page.add("containers", pretty(&containers.into()));
    page.add("queues", pretty(&json::queues(&overview.queues)));
    page.add_said("last events", events(&target.shim, client, of));
    page.add_said("last log lines", log(&target.shim, client));
    page.add_said("last spans", spans(client, of, &clock));
    page.add_said("last messages", messages(client, of, &clock));
}

fn events(shim: &Shim, client: &mut Client, of: &str) -> Result<String, Silence> {
    let mut request = EventsRequest::new();
    request.poll = Some(poll(of)).into();
    let events = client.again().call(&request)?.events;
    Ok(last(&events, |event| {
        format!("{}\n", json::event(shim, event))
    }))
}

fn log(shim: &Shim, client: &mut Client) -> Result<String, Silence> {
    let mut request = LogRequest::new();
    request.poll = Some(poll("")).into();
    let lines = client.again().call(&request)?.lines;
    let style = Style {
        colour: false,
        width: None,
    };
    Ok(last(&lines, |line| super::logs::text(shim, line, style)))
}

fn spans(client: &mut Client, of: &str, clock: &Clock) -> Result<String, Silence> {
    let mut request = diagnostics::v1::SpansRequest::new();
    request.poll = Some(poll(of)).into();
    request.active = true;
    let response = client.again().call(&request)?;
    let mut all = response.spans;
    all.extend(response.active);
    let span = |span: &diagnostics::v1::Span| json::span(span, |mono| clock.unix(mono));
    Ok(last(&all, |one| format!("{}\n", span(one))))
}

fn messages(client: &mut Client, of: &str, clock: &Clock) -> Result<String, Silence> {
    let messages = super::sync::fetch(client, of)?;
    let message = |m: &diagnostics::v1::SyncMessage| json::sync_message(m, |mono| clock.unix(mono));
    Ok(last(&messages, |one| format!("{}\n", message(one))))
}

fn last<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items[items.len().saturating_sub(LAST)..]
        .iter()
        .map(line)
        .collect()
}

fn poll(container: &str) -> Poll {
    Poll {
        container: container.to_owned(),
        ..Poll::new()
    }
}

/// The container's state file, and what is in the bundle; neither has environment or arguments
/// (`config.json` has, and is left out).
fn state(shim: &Shim, container: Option<&Container>) -> String {
    let id = container.map_or(shim.id.as_str(), |container| container.id.as_str());
    let path = Path::new("/run/containerd/runc")
        .join(&shim.namespace)
        .join(id)
        .join("state.json");
    let mut text = match std::fs::read_to_string(&path) {
        Ok(state) => format!("{}: {}\n", path.display(), clean(&state)),
        Err(error) => format!("{}: {error}\n", path.display()),
    };
    let bundle = match container {
        Some(container) => Some(Path::new(&container.bundle).to_owned()),
        None => shim.bundle.clone(),
    };
    if let Some(bundle) = bundle {
        let entries = std::fs::read_dir(&bundle).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| clean(&entry.file_name().to_string_lossy()))
            .collect();
        names.sort();
        let _ = writeln!(text, "{}: {}", bundle.display(), names.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_it_could_not_learn_and_has_no_secrets() {
        let mut page = Page {
            sections: Vec::new(),
        };
        page.add("log", "exec with API_TOKEN=abc failed\n");
        page.add_said("spans", Err(Silence::Old));
        page.add("events", "");
        let target = Target {
            shim: crate::show::ps::tests::shim("pod", 7),
            container: None,
            silence: None,
        };
        let text = text(&target, &page);
        assert!(
            text.contains("== log\nexec with API_TOKEN=[redacted] failed\n"),
            "{text}"
        );
        assert!(text.contains("== spans\nthe shim cannot tell: it is of an older version\n"));
        assert!(text.ends_with("== events\nnothing\n"));
    }
}
