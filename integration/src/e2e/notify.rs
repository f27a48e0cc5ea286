// SPDX-License-Identifier: Apache-2.0
//! Services of the real systemd whose main process is a container, which says how it is with
//! `systemd-notify`. They want a machine that systemd runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{fs, thread};

use rustix::process::Signal;

use crate::failure::{Failure, Outcome, SOON, failed, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::systemd::{self, Ended, systemctl};
use crate::tests;

tests!["notify";
    a_service_is_started_when_its_container_is_ready,
    what_a_container_says_is_known_when_its_barrier_ends,
    a_service_reloads_when_its_container_says_so,
    a_service_stops_in_order,
    a_service_has_failed_when_its_container_ends_before_it_is_ready,
    a_service_has_failed_when_its_container_stops_the_watchdogs_pings,
    a_service_takes_no_word_from_a_container_that_is_not_its_own,
];

const IMAGE: &str = "docker.io/library/busybox:latest";

/// A transient service that runs `ctr run` of a container, in a cgroup of the container's own below
/// the service's.
struct Service<'a> {
    lab: &'a Lab,
    id: String,
    unit: String,
    /// Files in it let the container's script go on.
    gate: PathBuf,
    /// Ends the unit.
    _ended: Ended,
}

/// The script's first lines: `gate NAME` waits until the test lets it pass, `said NAME` tells the
/// test. Init of a PID namespace ends by SIGTERM only if it says so.
const PRELUDE: &str = "trap 'exit 0' TERM; said() { : >/gate/$1; }; \
                       gate() { until [ -e /gate/$1 ]; do sleep 0.02; done; }; ";

impl<'a> Service<'a> {
    /// Starts it without waiting for it to be ready. `properties` are systemd's, as `Type=notify`.
    fn start(lab: &'a Lab, properties: &[&str], script: &str) -> Outcome<Self> {
        Self::start_with(lab, properties, "/run/systemd/notify", script)
    }

    fn start_with(lab: &'a Lab, properties: &[&str], socket: &str, script: &str) -> Outcome<Self> {
        systemd::required()?;
        if lab.is_reference() {
            let reason =
                "runc passes on READY=1 alone, and the shim's NOTIFY_SOCKET is containerd's";
            return Err(Failure::Exempt(reason.to_owned()));
        }
        let notify = find("systemd-notify")?;
        let id = lab.new_id();
        let unit = format!("{}-{id}.service", lab.containerd().namespace());
        let gate = lab.containerd().folder().join(format!("gate-{id}"));
        fs::create_dir(&gate)?;
        let service = Self {
            lab,
            unit: unit.clone(),
            _ended: Ended(unit.clone()),
            gate,
            id,
        };
        let mut command = Command::new("systemd-run");
        command
            .args(["--quiet", "--no-block", "--unit", &unit])
            .args(["-p", "NotifyAccess=all", "-p", "Delegate=yes"])
            .args(["-p", "DelegateSubgroup=ctr", "-p", "TimeoutStopSec=20"])
            .args(properties.iter().flat_map(|property| ["-p", property]));
        service.add_ctr(&mut command, &notify, socket, script);
        systemd::ask(&mut command)?;
        Ok(service)
    }

    fn add_ctr(&self, command: &mut Command, notify: &Path, socket: &str, script: &str) {
        let ctr = self.lab.containerd().ctr_command();
        let bind = |source: &Path, target: &str, options: &str| {
            let source = source.display();
            format!("type=bind,src={source},dst={target},options=rbind:{options}")
        };
        command
            .arg("--")
            .arg(ctr.get_program())
            .args(ctr.get_args());
        command
            .args(["run", "--rm", "--runtime", self.lab.shim.runtime()])
            .arg("--cgroup")
            .arg(format!("/system.slice/{}/container", self.unit))
            .arg("--annotation")
            .arg(format!("io.containerd.rust.notify={socket}"))
            .arg("--mount")
            .arg(bind(&self.gate, "/gate", "rw"))
            .arg("--mount")
            .arg(bind(notify, "/bin/systemd-notify", "ro"));
        // The program's libraries.
        for folder in ["/usr/lib", "/lib", "/lib64"].map(Path::new) {
            if let Ok(source) = folder.canonicalize() {
                let target = folder.display().to_string();
                command.arg("--mount").arg(bind(&source, &target, "ro"));
            }
        }
        command
            .args([IMAGE, &self.id, "sh", "-c"])
            .arg(format!("{PRELUDE}{script}"));
    }

    fn open(&self, name: &str) -> Outcome {
        Ok(fs::write(self.gate.join(name), "")?)
    }

    fn wait_said(&self, name: &str) -> Outcome {
        let path = self.gate.join(name);
        let said = wait_until(systemd::PATIENCE, "", || path.exists().then_some(()));
        said.map_err(|_| failed(format!("{name} was not said; {}", self.status())))
    }

    fn status(&self) -> String {
        let output = Command::new("systemctl")
            .args(["status", "--no-pager", "--lines=30", &self.unit])
            .output();
        output.map_or_else(|e| e.to_string(), |output| text(&output))
    }

    fn property(&self, name: &str) -> Outcome<String> {
        systemd::property(&self.unit, name)
    }

    fn wait_for(&self, name: &str, value: &str) -> Outcome {
        systemd::wait_for(&self.unit, name, value)
    }

    fn expect(&self, wanted: &[(&str, &str)]) -> Outcome {
        systemd::expect(&self.unit, wanted)
    }

    /// The container's init.
    fn init(&self) -> Outcome<u32> {
        Ok(self.lab.client().state(&self.id, "")?.pid)
    }

    /// Stops it, and looks for what is left.
    fn end(self) -> Outcome {
        match systemctl(&["stop", &self.unit]) {
            // It has ended, and is forgotten.
            Err(failure) if failure.to_string().contains("not loaded") => {}
            other => drop(other?),
        }
        // ctr may have been killed with all the rest, before it could remove the container.
        let client = self.lab.client();
        if client.state(&self.id, "").is_ok() {
            client.delete_task(&self.id)?;
            client.delete_container(&self.id)?;
        }
        self.lab.expect_nothing_left_of(&self.id)
    }
}

fn text(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{error}")
}

/// A program of the host.
fn find(name: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = places.find(|path| path.is_file());
    let found = found.and_then(|path| path.canonicalize().ok());
    found.ok_or_else(|| Failure::Lacking(format!("no {name}")))
}

/// Waits for a signal to end, in a way that a shell takes note of it.
const STAY: &str = "while :; do sleep 1000 & wait $!; done";

fn a_service_is_started_when_its_container_is_ready(lab: &Lab) -> Outcome {
    let script = format!(
        "systemd-notify --status=starting; said status; gate go; \
         systemd-notify --ready --status=up; {STAY}"
    );
    let service = Service::start(lab, &["Type=notify"], &script)?;
    service.wait_said("status")?;
    service.expect(&[("ActiveState", "activating"), ("StatusText", "starting")])?;
    service.open("go")?;
    service.wait_for("ActiveState", "active")?;
    let pid = service.init()?.to_string();
    service.expect(&[
        ("SubState", "running"),
        ("StatusText", "up"),
        ("MainPID", &pid),
    ])?;
    // The main process is the container: with it, the service ends.
    host::signal(service.init()?, Signal::KILL);
    service.wait_for("MainPID", "0")?;
    service.end()
}

/// `systemd-notify` returns when systemd has taken note of all that was said before.
fn what_a_container_says_is_known_when_its_barrier_ends(lab: &Lab) -> Outcome {
    let script = format!(
        "systemd-notify --ready; i=0; while [ $i -lt 5 ]; do \
             systemd-notify --status=said-$i && said $i; gate next-$i; i=$((i+1)); \
         done; {STAY}"
    );
    let service = Service::start(lab, &["Type=notify"], &script)?;
    for number in 0..5 {
        service.wait_said(&number.to_string())?;
        service.expect(&[("StatusText", &format!("said-{number}"))])?;
        service.open(&format!("next-{number}"))?;
    }
    service.end()
}

/// With `Type=notify-reload` systemd sends SIGHUP and waits for `RELOADING=1` with a time later than
/// that, and then for `READY=1`.
fn a_service_reloads_when_its_container_says_so(lab: &Lab) -> Outcome {
    let script = format!(
        "trap 'systemd-notify --reloading --status=loading; said loading; gate go; \
               systemd-notify --ready --status=loaded' HUP; \
         systemd-notify --ready; {STAY}"
    );
    let service = Service::start(lab, &["Type=notify-reload"], &script)?;
    service.wait_for("ActiveState", "active")?;
    let reload = thread::scope(|scope| {
        let reload = scope.spawn(|| systemctl(&["reload", &service.unit]));
        let during = service.wait_said("loading").and_then(|()| {
            service.expect(&[("ActiveState", "reloading"), ("StatusText", "loading")])
        });
        let opened = service.open("go");
        let reload = reload.join().unwrap_or_else(|_| Err(failed("panicked")));
        during.and(opened).and(reload)
    });
    reload?;
    service.expect(&[("ActiveState", "active"), ("StatusText", "loaded")])?;
    service.end()
}

fn a_service_stops_in_order(lab: &Lab) -> Outcome {
    let script = format!(
        "trap 'systemd-notify --stopping --status=bye; said bye; gate go; exit 0' TERM; \
         systemd-notify --ready; {STAY}"
    );
    let service = Service::start(lab, &["Type=notify"], &script)?;
    service.wait_for("ActiveState", "active")?;
    let stop = thread::scope(|scope| {
        let stop = scope.spawn(|| systemctl(&["stop", &service.unit]));
        let during = service.wait_said("bye").and_then(|()| {
            service.expect(&[("ActiveState", "deactivating"), ("StatusText", "bye")])
        });
        let opened = service.open("go");
        let stop = stop.join().unwrap_or_else(|_| Err(failed("panicked")));
        during.and(opened).and(stop)
    });
    stop?;
    assert_ne!(service.property("ActiveState")?, "failed");
    service.end()
}

fn a_service_has_failed_when_its_container_ends_before_it_is_ready(lab: &Lab) -> Outcome {
    let script = "systemd-notify --status=hopeless; exit 7";
    let service = Service::start(lab, &["Type=notify"], script)?;
    service.wait_for("ActiveState", "failed")?;
    service.end()
}

fn a_service_has_failed_when_its_container_stops_the_watchdogs_pings(lab: &Lab) -> Outcome {
    // More pings than the watchdog would wait for one.
    let script = format!(
        "systemd-notify --ready; i=0; until [ -e /gate/enough ]; do \
             systemd-notify WATCHDOG=1; sleep 0.2; i=$((i+1)); [ $i != 9 ] || said pinged; \
         done; {STAY}"
    );
    let properties = ["Type=notify", "WatchdogSec=1500ms", "TimeoutAbortSec=100ms"];
    let service = Service::start(lab, &properties, &script)?;
    service.wait_said("pinged")?;
    service.expect(&[("ActiveState", "active")])?;
    service.open("enough")?;
    service.wait_for("ActiveState", "failed")?;
    service.expect(&[("Result", "watchdog")])?;
    service.end()
}

/// A container whose cgroup is not below the service's may say what it likes.
fn a_service_takes_no_word_from_a_container_that_is_not_its_own(lab: &Lab) -> Outcome {
    let script = format!("gate go; systemd-notify --ready --status=mine; {STAY}");
    let service = Service::start(lab, &["Type=notify"], &script)?;
    wait_until(SOON, "the container", || service.init().ok())?;
    let stranger = lab
        .container([
            "sh",
            "-c",
            &format!("systemd-notify --ready --status=theirs; {STAY}"),
        ])
        .edit(|spec| {
            spec["annotations"]["io.containerd.rust.notify"] = "/run/systemd/notify".into();
        });
    // Without the program it would say nothing at all.
    let stranger = with_libraries(stranger)?.start()?;
    stranger.shell("e", "until pidof sleep; do sleep 0.02; done")?;
    service.expect(&[("ActiveState", "activating"), ("StatusText", "")])?;
    service.open("go")?;
    service.wait_for("StatusText", "mine")?;
    stranger.kill_and_finish()?;
    service.end()
}

fn with_libraries(
    builder: crate::container::Builder<'_>,
) -> Outcome<crate::container::Builder<'_>> {
    let notify = find("systemd-notify")?;
    Ok(builder.edit(|spec| {
        let mut bind = |source: &Path, target: &str| {
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.push(serde_json::json!({
                    "type": "bind", "source": source, "destination": target,
                    "options": ["rbind", "ro"],
                }));
            }
        };
        bind(&notify, "/bin/systemd-notify");
        for folder in ["/usr/lib", "/lib", "/lib64"].map(Path::new) {
            if let Ok(source) = folder.canonicalize() {
                bind(&source, &folder.display().to_string());
            }
        }
    }))
}
