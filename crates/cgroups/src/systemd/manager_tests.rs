// SPDX-License-Identifier: Apache-2.0
//! Against a systemd of the test's own, which does what the script of the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use dbus::Kind;
use dbus::message::PREFIX;

use super::*;
use crate::systemd::{Scope, Unit};
use crate::tests::Top;
use crate::{Cgroup, Limits};

const JOB: &str = "/org/freedesktop/systemd1/job/1";

/// What the mock does with a call.
#[derive(Clone)]
enum Act {
    /// Accepts the job, and says later that it has ended, with this result.
    Job(&'static str),
    /// Accepts the job, and says nothing.
    SilentJob,
    /// The same, while there is such a directory; an error otherwise.
    SilentJobIfThere(PathBuf),
    /// Answers this when there is no such directory any more; that it is about to go otherwise.
    IfGone(PathBuf, &'static str),
    /// Does not answer.
    Never,
    /// Says first that another job has ended, and that this one has, but as somebody else.
    JobAmongOthers,
    Error(&'static str),
    Text(&'static str),
    /// That the unit has a job of this number; 0 is none.
    HasJob(u32),
    Nothing,
    /// Closes the connection without an answer.
    Leave,
    /// Accepts the job, then closes the connection.
    JobAndLeave,
}

/// A systemd at a socket, with the calls that it has received.
struct Mock {
    systemd: Systemd,
    calls: Arc<Mutex<Vec<Message>>>,
    _folder: tempfile::TempDir,
}

impl Mock {
    /// Answers the calls in this order; each is the method that is expected, and what to do.
    fn new(script: &[(&'static str, Act)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(script.to_vec()));
        let log = Arc::clone(&calls);
        thread::spawn(move || {
            // The thread ends with the test program.
            for client in listener.incoming() {
                serve(client.unwrap(), &script, &log);
            }
        });
        Self {
            systemd: Systemd::at(vec![
                (Address::Path("/nonexistent/bus".into()), Peer::Bus),
                (Address::Path(path), Peer::Bus),
            ]),
            calls,
            _folder: folder,
        }
    }

    fn methods(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|call| call.member.clone()).collect()
    }
}

fn serve(client: UnixStream, script: &Mutex<Vec<(&'static str, Act)>>, log: &Mutex<Vec<Message>>) {
    let mut client = BufReader::new(client);
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    client.read_line(&mut line).unwrap();
    client.get_mut().write_all(b"OK 0\r\n").unwrap();
    while let Some(call) = receive(&mut client) {
        match call.member.as_str() {
            "Hello" | "AddMatch" => answer(&mut client, &call, Vec::new()),
            _ => {
                let act = {
                    let mut script = script.lock().unwrap();
                    assert!(!script.is_empty(), "unexpected {call:?}");
                    let (method, act) = script.remove(0);
                    assert_eq!(call.member, method, "{call:?}");
                    act
                };
                log.lock().unwrap().push(call.clone());
                match act {
                    Act::Leave => return,
                    Act::JobAndLeave => return answer(&mut client, &call, vec![job()]),
                    act => perform(&mut client, &call, act),
                }
            }
        }
    }
}

fn perform(client: &mut BufReader<UnixStream>, call: &Message, act: Act) {
    match act {
        Act::Job(result) => {
            answer(client, call, vec![job()]);
            send(client, removed(JOB, result));
        }
        Act::SilentJob => answer(client, call, vec![job()]),
        Act::SilentJobIfThere(path) => match path.exists() {
            true => perform(client, call, Act::SilentJob),
            false => perform(client, call, Act::Error("x.y.Gone")),
        },
        Act::IfGone(path, text) => match path.exists() {
            true => perform(client, call, Act::Text("deactivating")),
            false => perform(client, call, Act::Text(text)),
        },
        Act::Never => {}
        Act::JobAmongOthers => {
            answer(client, call, vec![job()]);
            send(client, removed("/other", "failed"));
            let forged = Message {
                sender: ":1.666".to_owned(),
                ..removed(JOB, "failed")
            };
            send(client, forged);
            send(client, removed(JOB, "done"));
        }
        Act::Error(name) => {
            let error = Message {
                reply_to: call.serial,
                error: name.to_owned(),
                ..Message::empty(Kind::Error)
            };
            send(client, error.with(Value::str("no")));
        }
        Act::Text(text) => answer(client, call, vec![Value::str(text).variant()]),
        Act::HasJob(number) => {
            let both = Value::Struct(vec![Value::U32(number), job()]);
            answer(client, call, vec![both.variant()]);
        }
        Act::Nothing => answer(client, call, Vec::new()),
        Act::Leave | Act::JobAndLeave => unreachable!(),
    }
}

fn job() -> Value {
    Value::Path(JOB.to_owned())
}

fn removed(job: &str, result: &str) -> Message {
    let signal = Message {
        path: PATH.to_owned(),
        interface: MANAGER.to_owned(),
        member: "JobRemoved".to_owned(),
        ..Message::empty(Kind::Signal)
    };
    signal
        .with(Value::U32(1))
        .with(Value::Path(job.to_owned()))
        .with(Value::str("x.scope"))
        .with(Value::str(result))
}

fn answer(client: &mut BufReader<UnixStream>, call: &Message, body: Vec<Value>) {
    let answer = Message {
        reply_to: call.serial,
        body,
        ..Message::empty(Kind::Return)
    };
    send(client, answer);
}

fn send(client: &mut BufReader<UnixStream>, mut message: Message) {
    message.serial = 1;
    if message.sender.is_empty() {
        message.sender = ":1.0".to_owned();
    }
    let mut bytes = Vec::new();
    message.encode(&mut bytes).unwrap();
    // The client may have left.
    let _ = client.get_mut().write_all(&bytes);
}

fn receive(client: &mut BufReader<UnixStream>) -> Option<Message> {
    let mut bytes = vec![0; PREFIX];
    client.read_exact(&mut bytes).ok()?;
    let length = Message::length(bytes.first_chunk().unwrap()).unwrap();
    bytes.resize(length, 0);
    client.read_exact(&mut bytes[PREFIX..]).ok()?;
    Some(Message::decode(&bytes).unwrap())
}

fn properties() -> Vec<Property> {
    vec![
        Property::new("Delegate", Value::Bool(true)),
        Property {
            since: 236,
            ..Property::new("CollectMode", Value::str("inactive-or-failed"))
        },
    ]
}

fn start(script: &[(&'static str, Act)]) -> (Mock, Result<()>) {
    let mock = Mock::new(script);
    let started = mock.systemd.start("x.scope", &properties());
    (mock, started)
}

#[test]
fn a_unit_is_started_when_its_job_is_done() {
    let (mock, started) = start(&[("StartTransientUnit", Act::Job("done"))]);
    started.unwrap();
    let calls = mock.calls.lock().unwrap();
    let expected = [
        Value::str("x.scope"),
        Value::str("replace"),
        list(&properties()),
        Value::Array("(sa(sv))".to_owned(), Vec::new()),
    ];
    assert_eq!(calls[0].body, expected);
}

#[test]
fn other_jobs_and_other_senders_are_no_word_of_ours() {
    let (_, started) = start(&[("StartTransientUnit", Act::JobAmongOthers)]);
    started.unwrap();
}

#[test]
fn a_job_that_failed_is_an_error_with_systemds_word() {
    let (_, started) = start(&[("StartTransientUnit", Act::Job("canceled"))]);
    let text = started.unwrap_err().to_string();
    assert_eq!(
        text,
        "error creating systemd unit `x.scope`: got `canceled`"
    );
}

#[test]
fn a_leftover_unit_is_reset_and_the_start_tried_once_more() {
    let exists = ("StartTransientUnit", Act::Error(UNIT_EXISTS));
    let reset = ("ResetFailedUnit", Act::Nothing);
    let (mock, started) = start(&[
        exists.clone(),
        reset.clone(),
        ("StartTransientUnit", Act::Job("done")),
    ]);
    started.unwrap();
    assert_eq!(mock.methods().len(), 3);

    let (mock, started) = start(&[exists.clone(), reset, exists]);
    let text = started.unwrap_err().to_string();
    assert!(
        text.starts_with("unable to start unit \"x.scope\": no ("),
        "{text}"
    );
    assert_eq!(mock.methods().len(), 3);
}

#[test]
fn an_old_systemd_does_without_what_it_does_not_know() {
    let unknown = ("StartTransientUnit", Act::Error(UNKNOWN_PROPERTY));
    let (mock, started) = start(&[
        unknown.clone(),
        ("Get", Act::Text("219")),
        ("StartTransientUnit", Act::Job("done")),
    ]);
    started.unwrap();
    let calls = mock.calls.lock().unwrap();
    assert_eq!(calls[2].body[2], list(&properties()[..1]));

    // A new one is believed that it does not know what the specification adds.
    let (_, started) = start(&[unknown, ("Get", Act::Text("257.9-1~deb13u1"))]);
    assert!(matches!(started, Err(Error::Systemd { .. })));
}

const NO_JOB: (&str, Act) = ("Get", Act::HasJob(0));

#[test]
fn a_lost_signal_is_made_up_for_by_looking() {
    let (_, started) = start(&[
        ("StartTransientUnit", Act::SilentJob),
        NO_JOB,
        ("Get", Act::Text("activating")),
        NO_JOB,
        ("Get", Act::Text("active")),
    ]);
    started.unwrap();
    let (_, started) = start(&[
        ("StartTransientUnit", Act::SilentJob),
        NO_JOB,
        ("Get", Act::Text("failed")),
    ]);
    assert!(matches!(started, Err(Error::SystemdJob { result, .. }) if result == "failed"));
}

#[test]
fn a_systemd_that_has_not_come_to_it_yet_is_waited_for() {
    let (_, started) = start(&[
        ("StartTransientUnit", Act::SilentJob),
        ("Get", Act::HasJob(7)),
        NO_JOB,
        ("Get", Act::Text("active")),
    ]);
    started.unwrap();
}

#[test]
fn a_systemd_that_executes_itself_anew_is_asked_again() {
    let exists = ("StartTransientUnit", Act::Error(UNIT_EXISTS));
    let active = ("Get", Act::Text("active"));
    // Before it has heard of the unit.
    let (_, started) = start(&[
        ("StartTransientUnit", Act::Leave),
        ("StartTransientUnit", Act::Job("done")),
    ]);
    started.unwrap();
    // After; but the answer is lost.
    let no_reply = Act::Error("org.freedesktop.DBus.Error.NoReply");
    let (_, started) = start(&[
        ("StartTransientUnit", no_reply),
        exists.clone(),
        NO_JOB,
        active.clone(),
    ]);
    started.unwrap();
    // Before it has said how the job ended.
    let (_, started) = start(&[
        ("StartTransientUnit", Act::JobAndLeave),
        exists.clone(),
        ("Get", Act::Leave),
        ("Get", Act::HasJob(7)),
        NO_JOB,
        active,
    ]);
    started.unwrap();
    // And has forgotten it.
    let (_, started) = start(&[
        ("StartTransientUnit", Act::JobAndLeave),
        exists,
        NO_JOB,
        ("Get", Act::Text("inactive")),
        ("ResetFailedUnit", Act::Nothing),
        ("StartTransientUnit", Act::Job("done")),
    ]);
    started.unwrap();
}

/// Asks for the unit to be stopped, and waits for it.
fn stop(mock: &Mock, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    match mock.systemd.ask_stop("x.scope", deadline)? {
        Some(stopping) => mock.systemd.wait_stopped("x.scope", stopping, deadline),
        None => Ok(()),
    }
}

#[test]
fn a_unit_is_stopped_and_forgotten() {
    for script in [
        vec![
            ("StopUnit", Act::Job("done")),
            ("ResetFailedUnit", Act::Error(NO_SUCH_UNIT)),
        ],
        vec![("StopUnit", Act::Error(NO_SUCH_UNIT))],
        vec![
            ("StopUnit", Act::Leave),
            ("StopUnit", Act::SilentJob),
            ("Get", Act::Error(NO_SUCH_UNIT)),
            ("ResetFailedUnit", Act::Nothing),
        ],
        // Lost with the job.
        vec![
            ("StopUnit", Act::JobAndLeave),
            ("StopUnit", Act::Job("done")),
            ("ResetFailedUnit", Act::Error(NO_SUCH_UNIT)),
        ],
    ] {
        let mock = Mock::new(&script);
        stop(&mock, LIMIT).unwrap();
        assert_eq!(mock.methods().len(), script.len());
    }
}

#[test]
fn a_stop_is_not_waited_for_longer_than_wanted() {
    let mock = Mock::new(&[
        ("StopUnit", Act::SilentJob),
        ("ResetFailedUnit", Act::Nothing),
    ]);
    let begun = Instant::now();
    let error = stop(&mock, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, Error::SystemdSlow { .. }), "{error}");
    assert!(begun.elapsed() < LIMIT / 2);
}

/// Of a container's cgroup that systemd manages.
fn directory(cgroup: &Cgroup) -> PathBuf {
    cgroup.record().paths().values().next().unwrap().into()
}

#[test]
fn systemd_hears_of_the_end_before_a_directory_goes() {
    let top = Top::new();
    let path = directory(&top.create("x"));
    let mock = Mock::new(&[
        ("StopUnit", Act::SilentJobIfThere(path.clone())),
        ("Get", Act::IfGone(path.clone(), "inactive")),
        ("ResetFailedUnit", Act::Nothing),
    ]);
    let (cgroup, _) = managed(&top, mock.systemd.clone());
    cgroup.remove().unwrap();
    assert_eq!(mock.methods(), ["StopUnit", "Get", "ResetFailedUnit"]);
    // It is nothing that could be stopped any more.
    cgroup.remove().unwrap();
    assert_eq!(mock.methods().len(), 3);
}

#[test]
fn a_systemd_that_does_not_hear_is_left_the_directories() {
    let top = Top::new();
    let mock = Mock::new(&[
        ("StopUnit", Act::Never),
        ("StopUnit", Act::Job("done")),
        ("ResetFailedUnit", Act::Nothing),
    ]);
    let (cgroup, _) = managed(&top, mock.systemd.clone());
    let removal = cgroup.begin_removal(Duration::from_millis(50));
    assert!(directory(&cgroup).exists());
    removal.finish(LIMIT).unwrap();
    assert!(!directory(&cgroup).exists());
    assert_eq!(mock.methods(), ["StopUnit", "StopUnit", "ResetFailedUnit"]);
}

#[test]
fn a_systemd_that_refuses_to_stop_a_unit_keeps_no_directory() {
    let top = Top::new();
    let mock = Mock::new(&[("StopUnit", Act::Error("x.y.Refused"))]);
    let (cgroup, _) = managed(&top, mock.systemd.clone());
    cgroup.remove().unwrap();
    assert!(!directory(&cgroup).exists());
}

#[test]
fn properties_are_set_until_the_unit_ends() {
    let mock = Mock::new(&[
        ("SetUnitProperties", Act::Leave),
        ("SetUnitProperties", Act::Nothing),
    ]);
    mock.systemd.set("x.scope", &properties()).unwrap();
    let calls = mock.calls.lock().unwrap();
    let expected = [
        Value::str("x.scope"),
        Value::Bool(true),
        list(&properties()),
    ];
    assert_eq!(calls[1].body, expected);
    drop(calls);
    let mock = Mock::new(&[("SetUnitProperties", Act::Error(NO_SUCH_UNIT))]);
    let text = mock.systemd.set("x.scope", &properties()).unwrap_err();
    let text = text.to_string();
    assert!(
        text.starts_with("unable to set properties of unit \"x.scope\": "),
        "{text}"
    );
}

#[test]
fn no_systemd_is_said_in_plain_words() {
    let nobody = vec![(Address::Path("/nonexistent/bus".into()), Peer::Bus)];
    let error = Systemd::at(nobody).start("x.scope", &[]).unwrap_err();
    let text = error.to_string();
    match Path::new(RUNNING).is_dir() {
        false => assert_eq!(
            text,
            "systemd not running on this host, cannot use systemd cgroups manager"
        ),
        true => assert!(
            text.contains("connect to D-Bus at /nonexistent/bus"),
            "{text}"
        ),
    }
}

#[test]
fn a_units_object_is_named_without_what_paths_cannot_have() {
    assert_eq!(
        object("cri-containerd-0a.scope"),
        "/org/freedesktop/systemd1/unit/cri_2dcontainerd_2d0a_2escope"
    );
    assert_eq!(object("0a"), "/org/freedesktop/systemd1/unit/_30a");
}

/// A container's cgroup, with a limit, that this systemd manages.
fn managed(top: &Top, systemd: Systemd) -> (Cgroup, Limits) {
    let unit = Unit::parse(Some("a.slice:b:c"), "c").unwrap();
    let cgroup = top.create("x").with_scope(Scope::at(&unit, systemd));
    let limits = pids(7);
    cgroup.set_limits(&limits).unwrap();
    (cgroup, limits)
}

fn pids(limit: i64) -> Limits {
    Limits {
        pids: Some(limit),
        ..Limits::default()
    }
}

fn tasks_max(limit: u64) -> Value {
    list(&[Property::new("TasksMax", Value::U64(limit))])
}

#[test]
fn systemd_is_told_when_a_change_is_taken_back() {
    let top = Top::new();
    let set = || ("SetUnitProperties", Act::Nothing);
    let mock = Mock::new(&[set(), set()]);
    let (cgroup, before) = managed(&top, mock.systemd.clone());
    let change = cgroup.change_limits(&pids(9), &before).unwrap();
    assert_eq!(cgroup.stats().pids.unwrap().limit, 9);
    assert!(change.undo().is_empty());
    assert_eq!(cgroup.stats().pids.unwrap().limit, 7);
    let calls = mock.calls.lock().unwrap();
    assert_eq!(calls[0].body[2], tasks_max(9));
    assert_eq!(calls[1].body[2], tasks_max(7));
}

#[test]
fn a_change_that_systemd_refuses_is_taken_back_there_too() {
    let top = Top::new();
    let refuse = || ("SetUnitProperties", Act::Error("x.y.Refused"));
    let mock = Mock::new(&[refuse(), ("SetUnitProperties", Act::Nothing)]);
    let (cgroup, before) = managed(&top, mock.systemd.clone());
    let error = cgroup.change_limits(&pids(9), &before).unwrap_err();
    assert!(matches!(error, Error::Systemd { .. }), "{error}");
    assert_eq!(cgroup.stats().pids.unwrap().limit, 7);
    assert_eq!(mock.calls.lock().unwrap()[1].body[2], tasks_max(7));
    cgroup
        .with_scope(Scope::new(&Unit::parse(None, "c").unwrap()))
        .remove()
        .unwrap();

    // What cannot be taken back is in the error.
    let mock = Mock::new(&[refuse(), refuse()]);
    let (cgroup, before) = managed(&top, mock.systemd.clone());
    let error = cgroup.change_limits(&pids(9), &before).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::NotUndone { .. }), "{text}");
    assert!(
        text.contains("; not taken back: unable to set properties of unit"),
        "{text}"
    );
    assert_eq!(cgroup.stats().pids.unwrap().limit, 7);
}
