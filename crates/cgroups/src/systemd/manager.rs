// SPDX-License-Identifier: Apache-2.0
//! Asking systemd, over D-Bus.
//!
//! A connection for each operation, over the system bus or, where there is none, over systemd's own
//! socket. What has been asked for is a *job* of systemd's; that it has ended is told by a signal,
//! and looked for besides: the signal is lost if systemd executes itself anew at that moment.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use dbus::{Address, Connection, Message, Peer, Value};

use super::Property;
use crate::error::{Error, Result};

/// How long systemd may take to start a scope, as with runc. Loaded machines have been seen to need
/// more than ten seconds.
const START_LIMIT: Duration = Duration::from_secs(30);
/// To change one.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the word of a job's end is waited for before looking.
const LOOK: Duration = Duration::from_millis(500);
/// Pause before connecting again.
const PAUSE: Duration = Duration::from_millis(50);

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const PRIVATE: &str = "/run/systemd/private";
/// A directory that is there if systemd runs the machine; see sd_booted(3).
const RUNNING: &str = "/run/systemd/system";

const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// What systemd answers to a property it does not know.
const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";

/// How systemd is reached.
#[derive(Debug, Clone)]
pub(crate) struct Systemd {
    places: Vec<(Address, Peer)>,
}

/// A unit that systemd is about to stop.
#[derive(Debug)]
pub(crate) struct Stopping {
    connection: Connection,
    /// Names the job.
    answer: Message,
}

/// What a job is to lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Started,
    Stopped,
}

/// How a job stands.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Done,
    /// With systemd's word for it.
    Failed(String),
    Underway,
}

type Asked<T> = dbus::Result<T>;

impl Systemd {
    /// The one of this machine: where `DBUS_SYSTEM_BUS_ADDRESS` says, or at the usual places.
    pub(crate) fn of_host() -> Self {
        let given = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
        // An address that is none is as good as a bus that is not there.
        let buses = given
            .and_then(|list| Address::parse_list(&list).ok())
            .unwrap_or_else(|| vec![Address::Path(SYSTEM_BUS.into())]);
        let buses = buses.into_iter().map(|address| (address, Peer::Bus));
        let private = (Address::Path(PRIVATE.into()), Peer::Service);
        Self::at(buses.chain([private]).collect())
    }

    /// One that is reached at these places, the first that answers.
    pub(crate) fn at(places: Vec<(Address, Peer)>) -> Self {
        Self { places }
    }

    /// Starts a transient unit and waits until it is started.
    ///
    /// A unit of that name that has failed is forgotten first.
    pub(crate) fn start(&self, unit: &str, properties: &[Property]) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let mut properties = properties.to_vec();
        let mut may = May::default();
        loop {
            let error = match self.try_start(unit, &properties, deadline) {
                Ok(done) => return done,
                Err(error) => error,
            };
            match error.remote() {
                // It was ours that got started, before the connection was lost.
                Some(UNIT_EXISTS) if may.have_started => {
                    match self.wait(unit, Goal::Started, deadline) {
                        // Or was to be, and its job did not outlive what asked for it: its name is
                        // free again in a moment.
                        Err(Error::SystemdJob { .. }) if Instant::now() < deadline => {
                            self.reset_failed(unit, deadline);
                            thread::sleep(PAUSE);
                        }
                        done => return done,
                    }
                }
                Some(UNIT_EXISTS) if may.reset() => self.reset_failed(unit, deadline),
                Some(UNKNOWN_PROPERTY) if may.leave_out() => {
                    if !self.leave_out(&mut properties, deadline) {
                        return Err(failed("start", unit, error));
                    }
                }
                _ if error.is_lost() && Instant::now() < deadline => {
                    may.have_started = true;
                    thread::sleep(PAUSE);
                }
                _ => return Err(failed("start", unit, error)),
            }
        }
    }

    /// Sets properties of a unit until it ends.
    pub(crate) fn set(&self, unit: &str, properties: &[Property]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut properties = properties.to_vec();
        let mut may = May::default();
        loop {
            let set = self.connect(unit, deadline).and_then(|mut connection| {
                let mut call = manager("SetUnitProperties")
                    .with(Value::str(unit))
                    .with(Value::Bool(true))
                    .with(list(&properties));
                connection.call(&mut call, deadline)
            });
            let Err(error) = set else { return Ok(()) };
            match error.remote() {
                Some(UNKNOWN_PROPERTY) if may.leave_out() => {
                    if !self.leave_out(&mut properties, deadline) {
                        return Err(failed("set properties of", unit, error));
                    }
                }
                _ if error.is_lost() && Instant::now() < deadline => thread::sleep(PAUSE),
                _ => return Err(failed("set properties of", unit, error)),
            }
        }
    }

    /// Asks for a unit to be stopped, until systemd has taken that, but not longer than until `deadline`.
    /// `None`: there is no such unit.
    pub(crate) fn ask_stop(&self, unit: &str, deadline: Instant) -> Result<Option<Stopping>> {
        loop {
            let asked = self.connect(unit, deadline).and_then(|mut connection| {
                let mut call = manager("StopUnit")
                    .with(Value::str(unit))
                    .with(Value::str("replace"));
                let answer = connection.call(&mut call, deadline)?;
                Ok(Stopping { connection, answer })
            });
            match asked {
                Ok(stopping) => return Ok(Some(stopping)),
                Err(error) if error.remote() == Some(NO_SUCH_UNIT) => return Ok(None),
                Err(error) if is_away(&error) && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(failed("stop", unit, error)),
            }
        }
    }

    /// Waits until a unit is stopped, but not longer than until `deadline`, and lets systemd forget that
    /// it failed, if it has.
    pub(crate) fn wait_stopped(
        &self,
        unit: &str,
        mut stopping: Stopping,
        deadline: Instant,
    ) -> Result<()> {
        loop {
            let Stopping { connection, answer } = &mut stopping;
            let waited = self.wait_job(connection, unit, answer, Goal::Stopped, deadline);
            // Mostly there is nothing to forget: no reason to fail.
            let mut call = manager("ResetFailedUnit").with(Value::str(unit));
            let _ = connection.call(&mut call, deadline);
            match waited {
                Ok(done) => return done,
                Err(error) if error.remote() == Some(NO_SUCH_UNIT) => return Ok(()),
                // Whether the one that executed itself anew still knows of the job is not for us to say.
                Err(error) if error.is_lost() && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                    match self.ask_stop(unit, deadline)? {
                        Some(again) => stopping = again,
                        None => return Ok(()),
                    }
                }
                Err(error) => return Err(failed("stop", unit, error)),
            }
        }
    }

    /// One try. The outer result is the call's, the inner one the job's.
    fn try_start(
        &self,
        unit: &str,
        properties: &[Property],
        deadline: Instant,
    ) -> Asked<Result<()>> {
        let mut connection = self.connect(unit, deadline)?;
        let auxiliary = Value::Array("(sa(sv))".to_owned(), Vec::new());
        let mut call = manager("StartTransientUnit")
            .with(Value::str(unit))
            .with(Value::str("replace"))
            .with(list(properties))
            .with(auxiliary);
        let answer = connection.call(&mut call, deadline)?;
        self.wait_job(&mut connection, unit, &answer, Goal::Started, deadline)
    }

    /// Waits for the end of the job that the answer names.
    fn wait_job(
        &self,
        connection: &mut Connection,
        unit: &str,
        answer: &Message,
        goal: Goal,
        deadline: Instant,
    ) -> Asked<Result<()>> {
        let job = answer.text(0).unwrap_or_default();
        loop {
            let look = deadline.min(Instant::now() + LOOK);
            let standing = match connection.signal(look) {
                // Anybody on the bus can send us a signal; the sender cannot be forged.
                Ok(Some(signal)) if signal.sender == answer.sender => ended(&signal, job),
                Ok(Some(_)) => Standing::Underway,
                Ok(None) if look == deadline => return Ok(Err(slow(goal, unit))),
                Ok(None) => standing(connection, unit, goal, deadline)?,
                Err(error) => return Err(error),
            };
            if let Some(result) = concluded(standing, unit) {
                return Ok(result);
            }
        }
    }

    /// Waits for the goal when there is no job to wait for: by looking.
    fn wait(&self, unit: &str, goal: Goal, deadline: Instant) -> Result<()> {
        loop {
            let standing = self
                .connect(unit, deadline)
                .and_then(|mut connection| standing(&mut connection, unit, goal, deadline));
            match standing {
                Ok(standing) => {
                    if let Some(result) = concluded(standing, unit) {
                        return result;
                    }
                }
                Err(error) if error.is_lost() => {}
                // While systemd executes itself anew its socket may be missing.
                Err(dbus::Error::Connect { .. }) => {}
                Err(error) => return Err(failed("look at", unit, error)),
            }
            if Instant::now() >= deadline {
                return Err(slow(goal, unit));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Lets systemd forget a unit that failed.
    fn reset_failed(&self, unit: &str, deadline: Instant) {
        let mut call = manager("ResetFailedUnit").with(Value::str(unit));
        // If this fails, so will what comes next, with the error to be shown.
        let _ = self
            .connect(unit, deadline)
            .and_then(|mut connection| connection.call(&mut call, deadline));
    }

    /// Drops the properties that this systemd is too old for. `false`: none of them.
    fn leave_out(&self, properties: &mut Vec<Property>, deadline: Instant) -> bool {
        let version = self
            .connect("", deadline)
            .and_then(|mut connection| version(&mut connection, deadline));
        let Ok(Some(version)) = version else {
            return false;
        };
        let before = properties.len();
        properties.retain(|property| property.since <= version);
        properties.len() < before
    }

    /// Connects to the first place that takes us, and asks for word of jobs of the unit.
    fn connect(&self, unit: &str, deadline: Instant) -> Asked<Connection> {
        let mut last = dbus::Error::Closed;
        for (address, peer) in &self.places {
            match Connection::open(address, *peer, deadline) {
                Ok(mut connection) => {
                    connection.keep_signals(MANAGER, "JobRemoved");
                    if *peer == Peer::Bus {
                        // Nobody waits for the answer: without it we look.
                        connection.send(&mut subscribe(unit))?;
                    }
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// What may still be tried in a start.
#[derive(Default)]
struct May {
    was_reset: bool,
    was_reduced: bool,
    have_started: bool,
}

impl May {
    fn reset(&mut self) -> bool {
        !std::mem::replace(&mut self.was_reset, true)
    }

    fn leave_out(&mut self) -> bool {
        !std::mem::replace(&mut self.was_reduced, true)
    }
}

fn manager(method: &str) -> Message {
    Message::call(DESTINATION, PATH, MANAGER, method)
}

fn subscribe(unit: &str) -> Message {
    // The third argument of the signal is the unit, in whose name there are no quotes.
    let rule = format!(
        "type='signal',sender='{DESTINATION}',path='{PATH}',interface='{MANAGER}',\
         member='JobRemoved',arg2='{unit}'"
    );
    let bus = "org.freedesktop.DBus";
    Message::call(bus, "/org/freedesktop/DBus", bus, "AddMatch").with(Value::Str(rule))
}

/// `a(sv)`
fn list(properties: &[Property]) -> Value {
    let pair = |property: &Property| {
        let name = Value::str(&*property.name);
        Value::Struct(vec![name, property.value.clone().variant()])
    };
    Value::Array("(sv)".to_owned(), properties.iter().map(pair).collect())
}

/// What a signal says about the end of a job.
fn ended(signal: &Message, job: &str) -> Standing {
    if signal.text(1) != Some(job) {
        return Standing::Underway;
    }
    match signal.text(3) {
        Some("done") => Standing::Done,
        result => Standing::Failed(result.unwrap_or("nothing").to_owned()),
    }
}

/// How the unit is seen to stand.
fn standing(
    connection: &mut Connection,
    unit: &str,
    goal: Goal,
    deadline: Instant,
) -> Asked<Standing> {
    // A busy systemd may not have come to it yet. Asked first: afterwards it would be too late.
    if goal == Goal::Started && has_job(connection, unit, deadline)? {
        return Ok(Standing::Underway);
    }
    let state = property(connection, unit, "ActiveState", deadline)?;
    let state = state.as_ref().and_then(Value::as_str);
    Ok(match (goal, state.unwrap_or("inactive")) {
        (Goal::Started, "active") | (Goal::Stopped, "inactive" | "failed") => Standing::Done,
        (Goal::Started, state @ ("inactive" | "failed")) => Standing::Failed(state.to_owned()),
        _ => Standing::Underway,
    })
}

/// Whether something is still to be done with the unit.
fn has_job(connection: &mut Connection, unit: &str, deadline: Instant) -> Asked<bool> {
    // Its number, 0 for none, and its path.
    Ok(match property(connection, unit, "Job", deadline)? {
        Some(Value::Struct(job)) => !matches!(job.first(), None | Some(Value::U32(0))),
        _ => false,
    })
}

/// A property of a unit. `None`: there is no such unit, or it has none.
fn property(
    connection: &mut Connection,
    unit: &str,
    name: &str,
    deadline: Instant,
) -> Asked<Option<Value>> {
    let mut call = Message::call(DESTINATION, &object(unit), PROPERTIES, "Get")
        .with(Value::str(UNIT))
        .with(Value::str(name));
    let answer = match connection.call(&mut call, deadline) {
        Err(error) if error.remote().is_some() && !error.is_lost() => return Ok(None),
        answer => answer?,
    };
    Ok(answer.body.first().map(|value| value.unwrapped().clone()))
}

/// systemd's version, as 257 of "257.9-1~deb13u1".
fn version(connection: &mut Connection, deadline: Instant) -> Asked<Option<u32>> {
    let mut call = Message::call(DESTINATION, PATH, PROPERTIES, "Get")
        .with(Value::str(MANAGER))
        .with(Value::str("Version"));
    let answer = connection.call(&mut call, deadline)?;
    let text = answer.body.first().and_then(|v| v.unwrapped().as_str());
    let text = text.unwrap_or_default().trim_start_matches(['v', '(']);
    let text = text.trim_start_matches("systemd ");
    let digits = text.split(|c: char| !c.is_ascii_digit()).next();
    Ok(digits.and_then(|digits| digits.parse().ok()))
}

/// The object of a unit: whatever is no letter or digit is written in hexadecimal.
fn object(unit: &str) -> String {
    let mut path = format!("{PATH}/unit/");
    for (index, byte) in unit.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => path.push(byte.into()),
            b'0'..=b'9' if index > 0 => path.push(byte.into()),
            byte => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

fn concluded(standing: Standing, unit: &str) -> Option<Result<()>> {
    match standing {
        Standing::Done => Some(Ok(())),
        Standing::Failed(result) => Some(Err(Error::SystemdJob {
            unit: unit.to_owned(),
            result,
        })),
        Standing::Underway => None,
    }
}

fn slow(goal: Goal, unit: &str) -> Error {
    Error::SystemdSlow {
        attempt: match goal {
            Goal::Started => "start",
            Goal::Stopped => "stop",
        },
        unit: unit.to_owned(),
    }
}

/// Whether systemd may hear us the next time. While it executes itself anew its socket may be missing.
fn is_away(error: &dbus::Error) -> bool {
    match error {
        dbus::Error::Connect { .. } => Path::new(RUNNING).is_dir(),
        error => error.is_lost(),
    }
}

fn failed(attempt: &'static str, unit: &str, source: dbus::Error) -> Error {
    match source {
        dbus::Error::Connect { .. } if !Path::new(RUNNING).is_dir() => Error::SystemdAbsent,
        source => Error::Systemd {
            attempt,
            unit: unit.to_owned(),
            source: Box::new(source),
        },
    }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
