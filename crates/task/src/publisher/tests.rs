// SPDX-License-Identifier: Apache-2.0
//! The publisher against an events service that misbehaves in every way containerd can.
//!
//! Time is simulated: the publisher is told a clock that the test moves, so nothing waits five seconds.

mod mock;

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{Timespec, epoll};

use self::mock::{Mock, Mode};
use super::*;
use crate::events;

const LIMIT: Duration = Duration::from_secs(20);
const TOKEN: u64 = 7;

/// A reactor for one publisher, with a clock that the test sets forward.
struct Reactor {
    epoll: OwnedFd,
    publisher: Publisher,
    ahead: Duration,
    drives: usize,
}

impl Reactor {
    fn new(mock: &Mock) -> Self {
        Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            publisher: Publisher::new(mock.path.to_str().unwrap(), "test-ns"),
            ahead: Duration::ZERO,
            drives: 0,
        }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn publish(&mut self, pids: std::ops::Range<u32>) {
        for pid in pids {
            let event = events::task_exit("c", "c", pid, 0, SystemTime::UNIX_EPOCH);
            self.publish_event(event);
        }
    }

    fn publish_event(&mut self, event: Event) {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1000, 5);
        self.publisher.publish(event, at);
    }

    fn drive(&mut self) -> Next {
        self.drives += 1;
        let now = self.now();
        self.publisher.drive(self.epoll.as_fd(), TOKEN, now)
    }

    /// Runs as the shim's reactor would, on edges and wake-ups only, until `done`.
    #[track_caller]
    fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + LIMIT;
        loop {
            let next = self.drive();
            if done(self) {
                return;
            }
            assert!(Instant::now() < end, "{self:?} after {LIMIT:?}");
            // What the test waits for may happen without an event for us: look again soon.
            let look = Duration::from_millis(1);
            let wait = next.wake_at.map_or(look, |at| {
                at.saturating_duration_since(self.now()).min(look)
            });
            self.wait(wait);
        }
    }

    /// Whether our token was ready within `wait`.
    fn wait(&self, wait: Duration) -> bool {
        let mut ready = Vec::with_capacity(8);
        let wait = Timespec::try_from(wait).unwrap();
        let spare = rustix::buffer::spare_capacity(&mut ready);
        epoll::wait(&self.epoll, spare, Some(&wait)).unwrap();
        assert!(ready.iter().all(|event| event.data.u64() == TOKEN));
        !ready.is_empty()
    }

    #[track_caller]
    fn run_until_idle(&mut self) {
        self.run_until(|reactor| reactor.publisher.is_idle());
    }

    /// Sets the clock forward and does what is due.
    fn skip(&mut self, time: Duration) -> Next {
        self.ahead += time;
        self.drive()
    }
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} pending, {:?}",
            self.publisher.pending(),
            self.publisher.link
        )
    }
}

fn setup(mode: Option<Mode>) -> (tempfile::TempDir, Mock, Reactor) {
    let dir = tempfile::tempdir().unwrap();
    let mut mock = Mock::new(dir.path());
    if let Some(mode) = mode {
        mock.start(mode);
    }
    let reactor = Reactor::new(&mock);
    (dir, mock, reactor)
}

#[test]
fn events_arrive_in_order_over_one_connection() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::Serve));
    assert_eq!(reactor.drive(), Next { wake_at: None });
    assert_eq!(
        mock.get(|s| s.accepted),
        0,
        "nothing to send, no connection"
    );
    reactor.publish(0..300);
    assert_eq!(reactor.publisher.pending(), 300);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), Vec::from_iter(0..300));
    assert_eq!(mock.get(|s| s.accepted), 1);
    assert!(mock.get(|s| s.seen.iter().all(|seen| seen.topic == "/tasks/exit")));
    assert_eq!(reactor.drive(), Next { wake_at: None });
}

#[test]
fn a_slow_service_gets_one_event_at_a_time() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::Slow));
    reactor.publish(0..10);
    let mut seen = 0;
    reactor.run_until(|reactor| {
        // An event that was seen is either answered or the one under way.
        seen = mock.pids().len();
        assert!(seen <= 10 - reactor.publisher.pending() + 1, "{seen}");
        reactor.publisher.is_idle()
    });
    assert_eq!(mock.pids(), Vec::from_iter(0..10));
}

#[test]
fn a_service_that_comes_late_gets_everything() {
    let (_dir, mut mock, mut reactor) = setup(None);
    reactor.publish(0..50);
    for _ in 0..20 {
        reactor.skip(Duration::from_secs(30));
    }
    assert_eq!(reactor.publisher.pending(), 50);
    mock.start(Mode::Serve);
    reactor.skip(Duration::from_secs(1));
    reactor.run_until_idle();
    assert_eq!(mock.pids(), Vec::from_iter(0..50));
}

#[test]
fn tries_are_paused_up_to_a_second() {
    let (_dir, _mock, mut reactor) = setup(None);
    reactor.publish(0..1);
    let mut now = Instant::now();
    let epoll = reactor.epoll.as_fd();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let wake_at = reactor.publisher.drive(epoll, TOKEN, now).wake_at.unwrap();
        // Too early: nothing is tried.
        let early = wake_at - Duration::from_nanos(1);
        assert_eq!(
            reactor.publisher.drive(epoll, TOKEN, early).wake_at,
            Some(wake_at)
        );
        pauses.push((wake_at - now).as_millis());
        now = wake_at;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000, 1000]);
}

#[test]
fn restarts_lose_nothing_and_keep_the_order() {
    let (_dir, mut mock, mut reactor) = setup(Some(Mode::Serve));
    for round in 0..8 {
        reactor.publish(round * 40..round * 40 + 20);
        let enough = round as usize * 40 + 7;
        reactor.run_until(|_| mock.pids().len() >= enough);
        mock.stop();
        reactor.publish(round * 40 + 20..round * 40 + 40);
        for _ in 0..3 {
            reactor.skip(Duration::from_secs(1));
        }
        mock.start(Mode::Serve);
        reactor.skip(Duration::from_secs(1));
    }
    reactor.run_until_idle();
    // The mock forgets nothing at a restart and stops between two events or between taking one
    // and the publisher's reading of the answer, which is then still there to be read.
    assert_eq!(mock.pids(), Vec::from_iter(0..320));
}

#[test]
fn a_restart_while_idle_is_noticed_and_costs_nothing_until_the_next_event() {
    let (_dir, mut mock, mut reactor) = setup(Some(Mode::Serve));
    reactor.publish(0..1);
    reactor.run_until_idle();
    reactor.drive();
    mock.stop();
    assert!(reactor.wait(LIMIT), "the closed connection is reported");
    assert_eq!(reactor.drive(), Next { wake_at: None });
    assert!(!reactor.wait(Duration::ZERO), "and closed on our side");
    mock.start(Mode::Serve);
    reactor.publish(1..2);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 1]);
    assert_eq!(mock.get(|s| s.accepted), 2);
}

#[test]
fn a_hung_service_gets_each_event_once_when_it_goes_on() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::Serve));
    reactor.publish(0..1);
    reactor.run_until_idle();
    mock.set(Mode::Hang);
    reactor.publish(1..4);
    reactor.drive();
    // Ten minutes, second by second.
    for _ in 0..600 {
        reactor.skip(Duration::from_secs(1));
    }
    assert_eq!(reactor.publisher.pending(), 3);
    assert_eq!(mock.pids(), [0]);
    mock.set(Mode::Serve);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 1, 2, 3], "each once, in order");
    assert_eq!(
        mock.get(|s| s.seen.iter().filter(|seen| seen.connection != 0).count()),
        0
    );
    let asked = mock.get(|s| s.accepted) - 1;
    assert!(
        (15..=25).contains(&asked),
        "asked {asked} times in ten minutes"
    );
}

#[test]
fn a_service_that_hangs_from_the_start_gets_each_event_once_too() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::Hang));
    reactor.publish(0..3);
    reactor.drive();
    for _ in 0..20 {
        reactor.skip(Duration::from_secs(2));
    }
    mock.set(Mode::Serve);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 1, 2]);
}

#[test]
fn an_idle_reactor_sleeps_through_a_hang() {
    let (_dir, _mock, mut reactor) = setup(Some(Mode::Hang));
    reactor.publish(0..3);
    let late = reactor.drive().wake_at.unwrap() - reactor.now();
    assert!(late <= TRY && late > TRY / 2, "{late:?}");
    let again = reactor.skip(TRY).wake_at.unwrap() - reactor.now();
    assert!(
        again > ASK_AGAIN / 2,
        "the next thing to do is in {again:?}"
    );
}

#[test]
fn a_hung_service_that_is_killed_and_started_again_gets_everything() {
    let (_dir, mut mock, mut reactor) = setup(Some(Mode::Hang));
    reactor.publish(0..5);
    reactor.drive();
    reactor.skip(Duration::from_secs(6));
    reactor.skip(Duration::from_secs(60));
    mock.stop();
    reactor.skip(Duration::from_secs(1));
    mock.start(Mode::Serve);
    reactor.skip(Duration::from_secs(2));
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_connection_that_hangs_alone_is_replaced() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::FirstHangs));
    reactor.publish(0..3);
    reactor.run_until(|_| mock.get(|s| s.accepted) == 1);
    let give_up = reactor.skip(TRY);
    assert!(give_up.wake_at.is_some());
    reactor.run_until(|_| mock.get(|s| s.asked) == 1);
    reactor.run_until(|reactor| {
        matches!(
            reactor.publisher.link,
            State::Late {
                probe: Probe::Alive { .. },
                ..
            }
        )
    });
    assert!(mock.pids().is_empty(), "the first connection has its time");
    reactor.skip(TRY);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 1, 2]);
    assert_eq!(mock.get(|s| (s.accepted, s.asked)), (2, 1));
    reactor.run_until(|_| mock.get(|s| s.open) == 2);
    mock.set(Mode::Serve);
    reactor.run_until(|_| mock.get(|s| s.open) == 1);
}

#[test]
fn an_event_refused_for_good_does_not_hold_up_the_others() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::RefusePid(1)));
    reactor.publish(0..3);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 2]);
}

#[test]
fn an_event_refused_for_now_is_sent_again_in_its_turn() {
    for code in [
        Code::Unavailable,
        Code::Unknown,
        Code::DeadlineExceeded,
        Code::Unimplemented,
    ] {
        let (_dir, mock, mut reactor) = setup(Some(Mode::Refuse(code)));
        reactor.publish(0..3);
        for _ in 0..4 {
            reactor.run_until(|reactor| reactor.publisher.retry.pauses(reactor.now()));
            reactor.skip(Duration::from_secs(1));
        }
        assert_eq!(reactor.publisher.pending(), 3, "{code:?}");
        mock.set(Mode::Serve);
        reactor.skip(Duration::from_secs(1));
        reactor.run_until_idle();
        assert_eq!(mock.pids(), [0, 1, 2], "{code:?}");
        assert_eq!(mock.get(|s| s.accepted), 1, "{code:?}");
    }
}

#[test]
fn a_service_that_hangs_up_at_once_is_not_flooded() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::HangUp));
    reactor.publish(0..2);
    let begin = Instant::now();
    reactor.run_until(|_| mock.get(|s| s.accepted) >= 4);
    // 100, 200 and 400 ms lie between four connections.
    assert!(
        begin.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begin.elapsed()
    );
    mock.set(Mode::Serve);
    reactor.skip(Duration::from_secs(1));
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 1]);
}

#[test]
fn an_event_arrives_twice_only_if_its_answer_was_lost() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::TakeAndHangUp));
    reactor.publish(0..2);
    reactor.run_until(|_| mock.pids() == [0]);
    mock.set(Mode::Serve);
    reactor.skip(Duration::from_secs(1));
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 0, 1]);
}

#[test]
fn only_ooms_are_dropped_and_only_when_very_many_events_wait() {
    let (_dir, mut mock, mut reactor) = setup(None);
    for _ in 0..OOM_MAX + 500 {
        reactor.publish_event(events::task_oom("c"));
    }
    assert_eq!(reactor.publisher.pending(), OOM_MAX);
    reactor.publish(1..1001);
    assert_eq!(reactor.publisher.pending(), OOM_MAX + 1000);
    mock.start(Mode::Serve);
    reactor.run_until_idle();
    let seen = mock.pids();
    assert_eq!(seen.len(), OOM_MAX + 1000);
    assert_eq!(seen[OOM_MAX..], Vec::from_iter(1..1001));
    assert_eq!(
        reactor.publisher.queue.capacity(),
        0,
        "memory is given back"
    );
    reactor.publish_event(events::task_oom("c"));
    assert_eq!(reactor.publisher.pending(), 1);
}

#[test]
fn an_event_too_long_for_a_frame_is_dropped() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::Serve));
    reactor.publish_event(events::task_oom(&"x".repeat(5 << 20)));
    reactor.publish(3..4);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [3]);
}

#[test]
fn a_large_event_is_sent_in_pieces() {
    let (_dir, mock, mut reactor) = setup(Some(Mode::Hang));
    reactor.publish_event(events::task_oom(&"x".repeat(3 << 20)));
    reactor.publish(3..4);
    reactor.drive();
    mock.set(Mode::Serve);
    reactor.run_until_idle();
    assert_eq!(mock.pids(), [0, 3]);
}

#[test]
fn without_an_address_nothing_is_kept() {
    let mut publisher = Publisher::new("", "ns");
    publisher.publish(events::task_oom("c"), SystemTime::UNIX_EPOCH);
    assert!(publisher.is_idle());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    assert_eq!(
        publisher.drive(epoll.as_fd(), 1, Instant::now()),
        Next { wake_at: None }
    );
}

#[test]
fn deliveries_need_few_wake_ups() {
    let (_dir, _mock, mut reactor) = setup(Some(Mode::Serve));
    for pid in 0..50 {
        reactor.publish(pid..pid + 1);
        reactor.drive();
        while !reactor.publisher.is_idle() {
            assert!(reactor.wait(LIMIT), "the answer wakes us");
            reactor.drive();
        }
    }
    assert!(
        reactor.drives <= 101,
        "{} calls for 50 events",
        reactor.drives
    );
}
