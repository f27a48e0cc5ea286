// SPDX-License-Identifier: Apache-2.0
//! `stats`: what containers have used so far.

use diagnostics::v1::{ContainerStats, ContainersRequest, Pressure, StatsRequest};
use serde_json::Value;

use crate::args::{Global, Some as Args};
use crate::discover;
use crate::error::{Error, Exit};
use crate::fleet::{self, Answer, display_name, is_wanted};
use crate::show::exit_of;
use crate::style::{Ink, Style, clean};
use crate::table::{Cell, Column, render};
use crate::{json, print, units};

/// A container's name and what it uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    pub(crate) name: String,
    pub(crate) stats: ContainerStats,
}

/// Asks all shims what these containers use.
pub(crate) fn collect(global: &Global, ids: &[String]) -> Vec<Answer<Vec<Usage>>> {
    let shims = discover::shims(global.namespace.as_deref());
    fleet::ask(shims, global.timeout, |shim, client| {
        let containers = client.call(&ContainersRequest::new())?.containers;
        let stats = client.call(&StatsRequest::new())?.stats;
        let usage = stats.into_iter().filter_map(|stats| {
            let container = containers.iter().find(|c| c.id == stats.container)?;
            is_wanted(&shim.id, container, ids).then(|| Usage {
                name: display_name(container),
                stats,
            })
        });
        Ok(usage.collect())
    })
}

pub(crate) fn run(global: &Global, args: &Args, style: Style) -> Result<Exit, Error> {
    let answers = collect(global, &args.ids);
    let said = || {
        answers.iter().flat_map(|answer| {
            let usage = answer.said.as_ref().into_iter().flatten();
            usage.map(|usage| (&answer.shim, usage))
        })
    };
    if global.json {
        let all: Vec<Value> = said()
            .map(|(shim, usage)| json::stats(shim, &usage.stats))
            .collect();
        print(&format!("{:#}\n", serde_json::json!({"stats": all})))?;
    } else {
        let rows: Vec<_> = said().map(|(_, usage)| row(usage)).collect();
        print(&render(&COLUMNS, &rows, style))?;
    }
    Ok(exit_of(&answers))
}

const COLUMNS: [Column; 11] = [
    Column::left("CONTAINER").down_to(13),
    Column::left("NAME").down_to(10).expendable(3),
    Column::right("CPU"),
    Column::right("THROTTLED").expendable(6),
    Column::right("MEMORY"),
    Column::right("LIMIT").expendable(4),
    Column::right("OOM"),
    Column::right("PSI10 C/M/I").expendable(1),
    Column::right("READ/WRITTEN").expendable(2),
    Column::right("RX/TX").expendable(5),
    Column::right("PIDS"),
];

fn row(usage: &Usage) -> Vec<Cell> {
    let stats = &usage.stats;
    let (cpu, memory, pids) = (
        stats.cpu.clone().unwrap_or_default(),
        stats.memory.clone().unwrap_or_default(),
        stats.pids.clone().unwrap_or_default(),
    );
    let (read, written) = io(stats);
    let (received, sent) = network(stats);
    let limit = |value: u64, text: String| if value == 0 { "-".to_owned() } else { text };
    vec![
        Cell::ink(stats.container.clone(), Ink::Name),
        clean(&usage.name).into(),
        units::duration_ns(cpu.usage_ns).into(),
        limit(cpu.throttled_ns, units::duration_ns(cpu.throttled_ns)).into(),
        units::bytes(memory.usage).into(),
        limit(memory.limit, units::bytes(memory.limit)).into(),
        match memory.oom_kills {
            0 => Cell::ink("0", Ink::Dim),
            kills => Cell::ink(kills.to_string(), Ink::Bad),
        },
        pressures(stats).into(),
        format!("{}/{}", units::bytes(read), units::bytes(written)).into(),
        format!("{}/{}", units::bytes(received), units::bytes(sent)).into(),
        match pids.limit {
            0 => pids.current.to_string().into(),
            limit => format!("{}/{limit}", pids.current).into(),
        },
    ]
}

/// Bytes read and written, of all devices.
pub(crate) fn io(stats: &ContainerStats) -> (u64, u64) {
    let add = |sum: (u64, u64), io: &diagnostics::v1::BlockIo| {
        (sum.0 + io.read_bytes, sum.1 + io.written_bytes)
    };
    stats.io.iter().fold((0, 0), add)
}

/// Bytes received and sent, of all interfaces but the loopback.
pub(crate) fn network(stats: &ContainerStats) -> (u64, u64) {
    let add = |sum: (u64, u64), i: &diagnostics::v1::Interface| {
        (sum.0 + i.received_bytes, sum.1 + i.sent_bytes)
    };
    let outward = stats.interfaces.iter().filter(|i| i.name != "lo");
    outward.fold((0, 0), add)
}

/// How much of the last ten seconds something waited.
pub(crate) fn some10(pressure: &Option<&Pressure>) -> Option<f64> {
    pressure
        .and_then(|p| p.some.as_ref())
        .map(|line| line.avg10)
}

/// `cpu/memory/io`, in percent; `-` where the kernel does not tell.
pub(crate) fn pressures(stats: &ContainerStats) -> String {
    [
        stats.cpu_pressure.as_ref(),
        stats.memory_pressure.as_ref(),
        stats.io_pressure.as_ref(),
    ]
    .map(|pressure| some10(&pressure).map_or("-".to_owned(), |value| format!("{value:.0}")))
    .join("/")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use diagnostics::v1::{BlockIo, Cpu, Interface, Memory, Pids, PressureLine};

    pub(crate) fn usage(id: &str, step: u64) -> Usage {
        let some = |avg10: f64| {
            let line = PressureLine {
                avg10,
                ..PressureLine::new()
            };
            Some(Pressure {
                some: Some(line).into(),
                ..Pressure::new()
            })
        };
        let stats = ContainerStats {
            container: id.into(),
            time_unix_ns: 1_700_000_000_000_000_000 + 1_000_000_000 * step as i64,
            cpu: Some(Cpu {
                usage_ns: 250_000_000 * step,
                throttled_ns: 1_000_000 * step,
                ..Cpu::new()
            })
            .into(),
            memory: Some(Memory {
                usage: (20 + step) << 20,
                limit: 64 << 20,
                oom_kills: 1,
                ..Memory::new()
            })
            .into(),
            pids: Some(Pids {
                current: 3,
                limit: 100,
                ..Pids::new()
            })
            .into(),
            io: vec![BlockIo {
                read_bytes: step << 20,
                written_bytes: step << 19,
                ..BlockIo::new()
            }],
            interfaces: vec![
                Interface {
                    name: "lo".into(),
                    received_bytes: 1 << 40,
                    ..Interface::new()
                },
                Interface {
                    name: "eth0".into(),
                    received_bytes: step * 2048,
                    sent_bytes: step * 1024,
                    ..Interface::new()
                },
            ],
            cpu_pressure: some(12.4).into(),
            memory_pressure: some(0.0).into(),
            ..ContainerStats::new()
        };
        Usage {
            name: "shop/web".into(),
            stats,
        }
    }

    #[test]
    fn totals_are_in_a_table() {
        let rows = vec![row(&usage("c1", 8))];
        let text = render(&COLUMNS, &rows, Style::plain(120));
        let expected = "\
CONTAINER  NAME        CPU  THROTTLED  MEMORY  LIMIT  OOM  PSI10 C/M/I  READ/WRITTEN      RX/TX   PIDS
c1         shop/web  2.00s     8.00ms   28.0M  64.0M    1       12/0/-     8.0M/4.0M  16.0K/8.0K  3/100
";
        assert_eq!(
            text,
            expected.replace("  READ/WRITTEN      RX/TX", "  READ/WRITTEN       RX/TX"),
            "\n{text}"
        );
    }

    #[test]
    fn json_keeps_what_is_unknown_apart_from_zero() {
        let value = json::stats(&crate::show::ps::tests::shim("s", 1), &usage("c1", 8).stats);
        assert_eq!(value["cpu"]["usage_ns"], 2_000_000_000u64);
        assert_eq!(value["pressure"]["cpu"]["some"]["avg10"], 12.4);
        assert_eq!(value["pressure"].get("io"), None);
        assert_eq!(value["memory"].get("swap_limit"), None);
        assert_eq!(value["interfaces"][1]["name"], "eth0");
    }
}
