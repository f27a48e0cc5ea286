// SPDX-License-Identifier: Apache-2.0
//! `ps`: containers and their processes.

use diagnostics::v1::{Container, Process};
use serde_json::{Value, json};

use crate::args::{Global, Ps};
use crate::error::{Error, Exit};
use crate::fleet::{self, Answer, Overview, display_name, is_wanted};
use crate::style::{Ink, Style, clean};
use crate::table::{Cell, Column, render};
use crate::{json, print, units};

pub(crate) fn run(global: &Global, args: &Ps, style: Style) -> Result<Exit, Error> {
    let answers = fleet::overview(global);
    let exit = if answers.iter().any(|answer| answer.said.is_err()) {
        Exit::Partial
    } else {
        Exit::Success
    };
    if global.json {
        print(&format!("{:#}\n", document(&answers, &args.ids)))?;
        return Ok(exit);
    }
    let text = table(&answers, args, units::now_unix_ns(), style);
    if text.is_empty() {
        crate::complain("no containers");
    }
    print(&text)?;
    Ok(exit)
}

fn document(answers: &[Answer<Overview>], ids: &[String]) -> Value {
    let shims: Vec<Value> = answers
        .iter()
        .map(|answer| {
            let mut shim = json::shim(&answer.shim);
            match &answer.said {
                Ok(overview) => {
                    let containers = overview.containers.iter();
                    let containers: Vec<Value> = containers
                        .filter(|c| is_wanted(&answer.shim.id, c, ids))
                        .map(json::container)
                        .collect();
                    shim["answer"] = "ok".into();
                    shim["version"] = overview.info.version.as_str().into();
                    shim["uptime_ns"] = overview.info.uptime_ns.into();
                    shim["containers"] = containers.into();
                    shim["queues"] = json::queues(&overview.queues);
                }
                Err(silence) => {
                    shim["answer"] = silence.word().into();
                    shim["error"] = silence.to_string().into();
                }
            }
            shim
        })
        .collect();
    json!({"shims": shims})
}

const COLUMNS: [Column; 10] = [
    Column::left("NAMESPACE").down_to(9).expendable(2),
    Column::left("CONTAINER").down_to(13),
    Column::left("NAME").down_to(10).expendable(3),
    Column::right("PID"),
    Column::left("STATE"),
    Column::right("UP"),
    Column::right("OOM"),
    Column::right("RESTARTS").expendable(5),
    Column::right("SHIM").expendable(4),
    Column::left("NOTE").down_to(10).expendable(1),
];

fn table(answers: &[Answer<Overview>], args: &Ps, now: i64, style: Style) -> String {
    let mut rows = Vec::new();
    for answer in answers {
        let shim = &answer.shim;
        match &answer.said {
            Err(silence) => {
                let wanted = args.ids.is_empty()
                    || args.ids.iter().any(|id| shim.id.starts_with(id.as_str()));
                if wanted {
                    let mut row = vec![Cell::new(""); COLUMNS.len()];
                    row[0] = shim.namespace.clone().into();
                    row[1] = Cell::ink(shim.id.clone(), Ink::Name);
                    row[4] = Cell::ink(silence.word(), Ink::Bad);
                    if shim.pid != 0 {
                        row[8] = shim.pid.to_string().into();
                    }
                    row[9] = Cell::ink(format!("shim {silence}"), Ink::Bad);
                    rows.push(row);
                }
            }
            Ok(overview) => {
                for container in &overview.containers {
                    if !is_wanted(&shim.id, container, &args.ids) {
                        continue;
                    }
                    rows.push(container_row(answer, container, now));
                    if args.no_execs {
                        continue;
                    }
                    let count = container.execs.len();
                    for (index, exec) in container.execs.iter().enumerate() {
                        rows.push(exec_row(exec, index + 1 == count, now));
                    }
                }
            }
        }
    }
    render(&COLUMNS, &rows, style)
}

fn container_row(answer: &Answer<Overview>, container: &Container, now: i64) -> Vec<Cell> {
    let init = container.init.clone().unwrap_or_default();
    let mut state = state(&init);
    if container.paused {
        state = Cell::ink("paused", Ink::Warn);
    }
    vec![
        answer.shim.namespace.clone().into(),
        Cell::ink(container.id.clone(), Ink::Name),
        clean(&display_name(container)).into(),
        pid(&init),
        state,
        Cell::new(up(&init, container.created_unix_ns, now)),
        match container.oom_kills {
            0 => Cell::ink("0", Ink::Dim),
            kills => Cell::ink(kills.to_string(), Ink::Bad),
        },
        match container.restarts {
            0 => Cell::ink("0", Ink::Dim),
            restarts => Cell::ink(restarts.to_string(), Ink::Warn),
        },
        Cell::ink(answer.shim.pid.to_string(), Ink::Dim),
        note(container, &init, answer.said.as_ref().ok()),
    ]
}

/// An outage that is shorter is a containerd that is being restarted, or busy.
const OUTAGE: u64 = 1_000_000_000;

/// What a shim that cannot tell containerd anything has to say.
fn outage(overview: &Overview) -> Option<String> {
    let publisher = overview.queues.publisher.as_ref()?;
    let events = match publisher.pending {
        0 => return None,
        1 => "1 event".to_owned(),
        pending => format!("{pending} events"),
    };
    (publisher.outage_ns >= OUTAGE).then(|| {
        format!(
            "containerd has taken nothing for {}, {events} held",
            units::age_ns(publisher.outage_ns)
        )
    })
}

fn exec_row(exec: &Process, is_last: bool, now: i64) -> Vec<Cell> {
    let mut row = vec![Cell::new(""); COLUMNS.len()];
    let branch = if is_last { "└ " } else { "├ " };
    row[1] = Cell::new(format!("{branch}{}", clean(&exec.exec)));
    row[3] = pid(exec);
    row[4] = state(exec);
    row[5] = Cell::new(up(exec, 0, now));
    row[9] = Cell::new(process_notes(exec).join(", "));
    row
}

fn pid(process: &Process) -> Cell {
    match process.pid {
        0 => Cell::new("-"),
        pid => pid.to_string().into(),
    }
}

fn state(process: &Process) -> Cell {
    match process.state.as_str() {
        "running" => Cell::ink("running", Ink::Good),
        "stopped" if process.exit_status == 0 => Cell::ink("exited(0)", Ink::Dim),
        "stopped" => Cell::ink(format!("exited({})", process.exit_status), Ink::Warn),
        other => Cell::new(clean(other)),
    }
}

/// How long it runs, has run, or exists.
fn up(process: &Process, created: i64, now: i64) -> String {
    let from = match process.started_unix_ns {
        0 => created,
        started => started,
    };
    let to = match process.exited_unix_ns {
        0 => now,
        exited => exited,
    };
    match (from, u64::try_from(to - from)) {
        (0, _) | (_, Err(_)) => "-".to_owned(),
        (_, Ok(ns)) => units::age_ns(ns),
    }
}

fn note(container: &Container, init: &Process, overview: Option<&Overview>) -> Cell {
    let mut notes = process_notes(init);
    notes.extend(overview.and_then(outage));
    if container.operations_waiting > 0 {
        notes.push(format!("{} operations wait", container.operations_waiting));
    }
    let stuck = !notes.is_empty();
    if let Some(notify) = container.notify.as_ref() {
        let phase = match (notify.stopping, notify.reloading, notify.ready) {
            (true, _, _) => "stopping",
            (_, true, _) => "reloading",
            (_, _, true) => "ready",
            _ => "not ready",
        };
        let status = match notify.status.as_str() {
            "" => phase.to_owned(),
            status => format!("{phase}: {}", clean(status)),
        };
        notes.push(status);
    }
    let text = notes.join(", ");
    if stuck {
        Cell::ink(text, Ink::Warn)
    } else {
        Cell::new(text)
    }
}

fn process_notes(process: &Process) -> Vec<String> {
    let mut notes = Vec::new();
    if process.exit_held_back {
        notes.push("exit held back by execs".to_owned());
    }
    if process.draining {
        notes.push("output not read".to_owned());
    }
    notes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_containerd_that_takes_nothing_is_noted() {
        let mut overview = Overview::default();
        assert_eq!(outage(&overview), None);
        let publisher = overview.queues.publisher.mut_or_insert_default();
        publisher.pending = 3;
        assert_eq!(outage(&overview), None);
        overview.queues.publisher.mut_or_insert_default().outage_ns = 125_000_000_000;
        let text = "containerd has taken nothing for 2m05s, 3 events held";
        assert_eq!(outage(&overview).as_deref(), Some(text));
    }

    use crate::client::Silence;
    use crate::discover::Shim;
    use diagnostics::v1::NotifyState;
    use std::time::Duration;

    pub(crate) const NOW: i64 = 1_700_000_000_000_000_000;
    const SECOND: i64 = 1_000_000_000;

    pub(crate) fn shim(id: &str, pid: i32) -> Shim {
        Shim {
            namespace: "k8s.io".into(),
            id: id.into(),
            pid,
            socket: Some(format!("/run/containerd/s/{id}").into()),
            bundle: None,
        }
    }

    pub(crate) fn process(exec: &str, state: &str, pid: i32, age: i64) -> Process {
        Process {
            exec: exec.into(),
            state: state.into(),
            pid,
            started_unix_ns: NOW - age * SECOND,
            ..Process::new()
        }
    }

    pub(crate) fn answers() -> Vec<Answer<Overview>> {
        let mut web = Container {
            id: "0123456789abcdef0123456789abcdef".into(),
            init: Some(process("", "running", 4711, 3725)).into(),
            oom_kills: 2,
            created_unix_ns: NOW - 3726 * SECOND,
            ..Container::new()
        };
        web.labels.insert(fleet::POD.into(), "shop-5f7".into());
        web.labels.insert(fleet::NAME.into(), "web".into());
        web.restarts = 3;
        web.execs = vec![
            process("probe-1", "running", 4800, 5),
            Process {
                exit_status: 1,
                exited_unix_ns: NOW,
                ..process("probe-2", "stopped", 4801, 2)
            },
        ];
        let notify = NotifyState {
            ready: true,
            status: "serving \x1b[31m12 requests".into(),
            ..NotifyState::new()
        };
        let service = Container {
            id: "service".into(),
            init: Some(process("", "running", 4900, 90)).into(),
            notify: Some(notify).into(),
            ..Container::new()
        };
        let overview = Overview {
            containers: vec![web, service],
            ..Overview::default()
        };
        vec![
            Answer {
                shim: shim("pod-a", 4700),
                said: Ok(overview),
            },
            Answer {
                shim: shim("pod-b", 5000),
                said: Err(Silence::Late(Duration::from_millis(100))),
            },
        ]
    }

    fn args() -> Ps {
        Ps {
            ids: vec![],
            no_execs: false,
        }
    }

    #[test]
    fn containers_execs_and_silent_shims_are_listed() {
        let text = table(&answers(), &args(), NOW, Style::plain(140));
        let expected = "\
NAMESPACE  CONTAINER                         NAME           PID  STATE         UP  OOM  RESTARTS  SHIM  NOTE
k8s.io     0123456789abcdef0123456789abcdef  shop-5f7/web  4711  running    1h02m    2         3  4700
           ├ probe-1                                       4800  running       5s
           └ probe-2                                       4801  exited(1)     2s
k8s.io     service                                         4900  running    1m30s    0         0  4700  ready: serving \u{fffd}[31m12 requests
k8s.io     pod-b                                                 no-answer                        5000  shim does not answer within 100ms
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn the_table_fits_80_columns() {
        let text = table(&answers(), &args(), NOW, Style::plain(80));
        for line in text.lines() {
            assert!(crate::style::columns(line) <= 80, "{line}");
        }
        assert!(
            text.contains("no-answer") && text.contains("running"),
            "{text}"
        );
    }

    #[test]
    fn json_says_the_same() {
        let document = document(&answers(), &[]);
        let web = &document["shims"][0]["containers"][0];
        assert_eq!(web["oom_kills"], 2);
        assert_eq!(web["init"]["pid"], 4711);
        assert_eq!(web["execs"][1]["exit_status"], 1);
        assert_eq!(web["init"].get("exit_status"), None);
        assert_eq!(web["created"], "2023-11-14T21:11:14.000000000Z");
        assert_eq!(document["shims"][1]["answer"], "no-answer");
        let one = super::document(&answers(), &["service".to_owned()]);
        assert_eq!(one["shims"][0]["containers"].as_array().unwrap().len(), 1);
    }
}
