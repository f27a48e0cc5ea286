// SPDX-License-Identifier: Apache-2.0
//! A relay between a client and a host that are both this test.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::SOCKET;

/// A container whose only member knows itself as 1.
struct One {
    offset: i128,
}

fn own() -> i32 {
    std::process::id() as i32
}

impl Members for One {
    fn contains(&self, pid: i32) -> bool {
        pid == own()
    }

    fn translate(&self, sender: i32, pid: i32) -> Option<i32> {
        (pid == 1).then_some(sender)
    }

    fn clock_offset_usec(&self) -> i128 {
        self.offset
    }
}

struct Scene {
    folder: tempfile::TempDir,
    relay: Relay,
    client: UnixDatagram,
    host: UnixDatagram,
}

const HERE: fn() -> One = || One { offset: 0 };

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = folder.path().join("host");
        let host = UnixDatagram::bind(&address).unwrap();
        Self::with(folder, host, Setting::Own(address.display().to_string()))
    }

    fn with(folder: tempfile::TempDir, host: UnixDatagram, setting: Setting) -> Self {
        host.set_nonblocking(true).unwrap();
        let directory = folder.path().join("notify");
        let mut relay = Relay::new(&directory, &setting).unwrap().unwrap();
        relay.set_init(Pid::from_raw(77).unwrap());
        let client = UnixDatagram::unbound().unwrap();
        client.connect(directory.join(SOCKET)).unwrap();
        client.set_nonblocking(true).unwrap();
        Self {
            folder,
            relay,
            client,
            host,
        }
    }

    fn send(&self, text: &str) {
        self.client.send(text.as_bytes()).unwrap();
    }

    fn send_with(&self, text: &str, fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let parts = [IoSlice::new(text.as_bytes())];
        sendmsg(&self.client, &parts, &mut control, SendFlags::empty()).unwrap();
    }

    /// What the host gets of this.
    fn through(&mut self, text: &str) -> Option<String> {
        self.send(text);
        assert_eq!(self.relay.drive(HERE), Progress::Idle);
        self.at_host()
    }

    fn at_host(&self) -> Option<String> {
        self.at_host_with().map(|(text, _)| text)
    }

    fn at_host_with(&self) -> Option<(String, Vec<OwnedFd>)> {
        let mut data = [0; 2 * LONGEST];
        let received = sys::datagram::receive(&self.host, &mut data).ok()?;
        let text = String::from_utf8(data[..received.size].to_vec()).unwrap();
        Some((text, received.fds))
    }
}

#[test]
fn ready_goes_on_with_the_main_process_in_one_datagram_and_later_words_too() {
    let mut scene = Scene::new();
    let got = scene.through("STATUS=up\nREADY=1");
    assert_eq!(got.as_deref(), Some("MAINPID=77\nREADY=1\nSTATUS=up"));
    assert!(scene.relay.state().ready);
    assert_eq!(scene.through("WATCHDOG=1").as_deref(), Some("WATCHDOG=1"));
    assert_eq!(scene.through("STATUS=busy").as_deref(), Some("STATUS=busy"));
    assert_eq!(scene.through("FDSTORE=1"), None);
    assert_eq!(scene.relay.state().refused, 1);
    assert_eq!(
        scene.relay.take_news(),
        ["READY=1 STATUS=up", "STATUS=busy"]
    );
}

#[test]
fn an_abstract_host_is_reached() {
    let name = format!("notify-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let host = UnixDatagram::bind_addr(&address).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::with(folder, host, Setting::Own(format!("@{name}")));
    assert_eq!(scene.through("STOPPING=1").as_deref(), Some("STOPPING=1"));
}

#[test]
fn a_host_behind_a_long_path_and_a_bundle_behind_one_are_reached() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    std::env::set_current_dir(&deep).unwrap();
    let host = UnixDatagram::bind("host").unwrap();
    let address = deep.join("host").display().to_string();
    let directory = deep.join("notify");
    let mut relay = Relay::new(&directory, &Setting::Own(address))
        .unwrap()
        .unwrap();
    let client = UnixDatagram::unbound().unwrap();
    client.send_to(b"READY=1", "notify/notify.sock").unwrap();
    assert_eq!(relay.drive(HERE), Progress::Idle);
    let mut data = [0; 100];
    let size = host.recv(&mut data).unwrap();
    assert_eq!(&data[..size], b"READY=1");
}

#[test]
fn a_main_pid_is_translated_and_only_the_containers_own_counts() {
    let mut scene = Scene::new();
    let translated = format!("MAINPID={}", own());
    assert_eq!(scene.through("MAINPID=1"), Some(translated.clone()));
    assert_eq!(scene.relay.state().main_pid, Some(own()));
    assert_eq!(scene.through("MAINPID=2"), None);
    assert_eq!(scene.relay.state().main_pid, Some(own()));
    let ready = scene.through("READY=1\nMAINPID=5").unwrap();
    assert_eq!(ready, format!("{translated}\nREADY=1"));

    struct Empty;
    impl Members for Empty {
        fn contains(&self, _: i32) -> bool {
            false
        }
        fn translate(&self, sender: i32, _: i32) -> Option<i32> {
            Some(sender)
        }
        fn clock_offset_usec(&self) -> i128 {
            0
        }
    }
    let mut scene = Scene::new();
    scene.send("MAINPID=1");
    scene.relay.drive(|| Empty);
    assert_eq!(scene.at_host(), None, "the sender is not in the cgroup");
    assert_eq!(scene.relay.state().main_pid, None);
}

#[test]
fn the_time_of_a_reload_is_the_hosts() {
    let mut scene = Scene::new();
    let text = "RELOADING=1\nMONOTONIC_USEC=5000000";
    assert_eq!(scene.through(text).as_deref(), Some(text));
    scene.send(text);
    scene.relay.drive(|| One { offset: 3_000_000 });
    let got = scene.at_host();
    assert_eq!(got.as_deref(), Some("RELOADING=1\nMONOTONIC_USEC=2000000"));
    scene.send(text);
    scene.relay.drive(|| One { offset: 6_000_000 });
    assert_eq!(scene.at_host().as_deref(), Some("RELOADING=1"));
}

#[test]
fn a_barrier_goes_on_in_its_place_and_ends_when_the_host_closes_it() {
    let mut scene = Scene::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    scene.send("STATUS=before");
    scene.send_with("BARRIER=1", &[writer.as_fd()]);
    scene.send("STATUS=after");
    drop(writer);
    scene.relay.drive(HERE);
    assert_eq!(scene.at_host().as_deref(), Some("STATUS=before"));
    let (text, fds) = scene.at_host_with().unwrap();
    assert_eq!((text.as_str(), fds.len()), ("BARRIER=1", 1));
    assert_eq!(scene.at_host().as_deref(), Some("STATUS=after"));
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let blocked = rustix::io::read(&reader, &mut [0]).unwrap_err();
    assert_eq!(blocked, Errno::AGAIN);
    drop(fds);
    assert_eq!(
        rustix::io::read(&reader, &mut [0]).unwrap(),
        0,
        "the barrier has ended"
    );
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed_at_once() {
    let mut scene = Scene::new();
    for (text, count) in [("FDSTORE=1", 1), ("READY=1", 3), ("BARRIER=1", 2)] {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        scene.send_with(text, &vec![writer.as_fd(); count]);
        drop(writer);
        scene.relay.drive(HERE);
        assert_eq!(rustix::io::read(&reader, &mut [0]).unwrap(), 0, "{text}");
    }
    let (text, fds) = scene.at_host_with().unwrap();
    assert!(text.ends_with("READY=1") && fds.is_empty());
    assert!(scene.at_host().is_none());
}

#[test]
fn without_a_host_the_state_is_kept_and_barriers_end() {
    let folder = tempfile::tempdir().unwrap();
    let host = UnixDatagram::unbound().unwrap();
    let mut scene = Scene::with(folder, host, Setting::Local);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    scene.send("READY=1\nSTATUS=fine");
    scene.send_with("BARRIER=1", &[writer.as_fd()]);
    drop(writer);
    scene.relay.drive(HERE);
    assert_eq!(rustix::io::read(&reader, &mut [0]).unwrap(), 0);
    let state = scene.relay.state();
    assert!(state.ready && state.status == "fine" && state.undelivered == 0);
}

#[test]
fn a_host_that_is_gone_is_counted_and_one_that_comes_back_is_found() {
    let mut scene = Scene::new();
    let address = scene.folder.path().join("host");
    std::fs::remove_file(&address).unwrap();
    assert_eq!(scene.through("READY=1"), None);
    assert_eq!(scene.relay.state().undelivered, 1);
    scene.host = UnixDatagram::bind(&address).unwrap();
    scene.host.set_nonblocking(true).unwrap();
    assert_eq!(scene.through("STATUS=x").as_deref(), Some("STATUS=x"));
}

#[test]
fn a_host_that_does_not_read_holds_the_container_back_and_loses_nothing() {
    let mut scene = Scene::new();
    let mut sent = 0u32;
    let mut progress = Progress::Idle;
    // Until neither socket takes more.
    while progress != Progress::Blocked || scene.client.send(b"STATUS=filler").is_ok() {
        if scene
            .client
            .send(format!("STATUS={sent}").as_bytes())
            .is_ok()
        {
            sent += 1;
        }
        progress = scene.relay.drive(HERE);
        assert!(sent < 10_000, "somebody reads for ever");
    }
    let mut seen = 0;
    loop {
        match scene.at_host() {
            Some(text) if text == "STATUS=filler" => {}
            Some(text) => {
                assert_eq!(text, format!("STATUS={seen}"));
                seen += 1;
            }
            None if scene.relay.drive(HERE) == Progress::Idle => match scene.at_host() {
                Some(text) if text == format!("STATUS={seen}") => seen += 1,
                Some(_) => {}
                None => break,
            },
            None => {}
        }
    }
    assert_eq!(seen, sent);
    assert_eq!(scene.relay.state().undelivered, 0);
}

#[test]
fn a_flood_gives_others_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::with(folder, UnixDatagram::unbound().unwrap(), Setting::Local);
    let mut rounds = 0;
    for _ in 0..10 {
        while scene.client.send(b"STATUS=x").is_ok() {}
        while scene.relay.drive(HERE) == Progress::Again {
            while scene.client.send(b"STATUS=y").is_ok() {}
            rounds += 1;
            if rounds > 10 {
                return;
            }
        }
    }
    // A queue shorter than a batch is a turn of its own.
    assert!(scene.relay.state().taken >= 10);
}

#[test]
fn what_is_too_long_or_no_message_is_refused() {
    let mut scene = Scene::new();
    let long = format!("READY=1\nSTATUS={}", "x".repeat(2 * LONGEST));
    assert_eq!(scene.through(&long), None);
    assert_eq!(scene.through("A\0B"), None);
    assert_eq!(scene.relay.state().refused, 2);
    assert!(!scene.relay.state().ready);
}

#[test]
fn our_stopping_is_said_once_and_the_last_words_are_passed_on() {
    let mut scene = Scene::new();
    for signal in [1, 10, 12, 17, 28, 0] {
        scene.relay.signalled(signal);
        assert_eq!(scene.at_host(), None, "{signal}");
    }
    for signal in [2, 3, 9, 15, 30, 37] {
        scene.relay.signalled(signal);
    }
    assert_eq!(scene.at_host().as_deref(), Some("STOPPING=1"));
    assert_eq!(scene.at_host(), None);
    scene.send("STATUS=last words");
    scene.relay.end(HERE);
    assert_eq!(scene.at_host().as_deref(), Some("STATUS=last words"));
    assert!(scene.relay.socket().is_none());
    assert!(scene.client.send(b"READY=1").is_err());
    assert!(!scene.folder.path().join("notify").exists());
    assert_eq!(scene.relay.state().status, "last words");
    scene.relay.signalled(15);
    assert_eq!(scene.at_host(), None);
}

#[test]
fn a_directory_that_was_there_stays_and_an_old_socket_makes_way() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let relay = || Relay::within(directory, &Setting::Local).unwrap().unwrap();
    let old = relay();
    let mut new = relay();
    let client = UnixDatagram::unbound().unwrap();
    client.send_to(b"READY=1", directory.join(SOCKET)).unwrap();
    assert_eq!(new.drive(HERE), Progress::Idle);
    assert!(new.state().ready && !old.state().ready);
    new.end(HERE);
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
    assert!(Relay::within(&directory.join("none"), &Setting::Local).is_err());
}

#[test]
fn every_user_may_speak_and_nobody_may_change_the_directory() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let directory = scene.folder.path().join("notify");
    assert_eq!(mode(&directory), 0o755);
    assert_eq!(mode(&directory.join(SOCKET)), 0o777);
}
