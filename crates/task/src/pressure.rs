// SPDX-License-Identifier: Apache-2.0
//! Pressure on containers' memory: events of the Diagnostics service, never of containerd's.
//!
//! See [`cgroups::pressure`](runtime::cgroups::pressure) for what is watched. The kernel signals as
//! often as it likes; what is told, and how often the reactor wakes for it, is bounded here:
//!
//! - a level is told when it is reached from below;
//! - then it and those beneath it are held back, for ten seconds at first, twice as long each time
//!   if the pressure has gone on meanwhile, which is told once at the end;
//! - v1's eventfds are not polled while they are held back: they count by themselves. Triggers have
//!   a bound of their own, their window.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use runtime::cgroups::Pressure;
use runtime::cgroups::oom::Interest;
use runtime::cgroups::pressure::{Level, Setting};
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::server::{Server, Timer};
use crate::timers::TimerId;
use crate::token::Token;

/// The kernel signals several levels one after the other.
const SETTLE: Duration = Duration::from_millis(5);
const HOLD: Duration = Duration::from_secs(10);
const LONGEST_HOLD: Duration = Duration::from_secs(320);

/// What has been signalled, and what of it is told.
#[derive(Debug, Default)]
struct Bound {
    total: [u64; 3],
    untold: [u64; 3],
    held: Option<Held>,
}

/// A level that was told lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    level: Level,
    since: Instant,
    hold: Duration,
}

impl Held {
    fn until(&self) -> Instant {
        self.since + self.hold
    }
}

/// What is to be told: the worst level, how often it was signalled, and in what time if not just now.
#[derive(Debug, PartialEq, Eq)]
struct News {
    level: Level,
    signals: u64,
    within: Option<Duration>,
}

impl std::fmt::Display for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.signals == 1 { "" } else { "s" };
        write!(f, "{} ({} signal{plural}", self.level.name(), self.signals)?;
        match self.within {
            None => write!(f, ")"),
            Some(within) => write!(f, " in {} s)", within.as_secs()),
        }
    }
}

impl Bound {
    fn signalled(&mut self, signals: [u64; 3]) {
        for ((total, untold), more) in self.total.iter_mut().zip(&mut self.untold).zip(signals) {
            *total = total.saturating_add(more);
            *untold = untold.saturating_add(more);
        }
    }

    /// What may be told now.
    fn take(&mut self, now: Instant) -> Option<News> {
        let worst = Level::ALL
            .into_iter()
            .rev()
            .find(|level| self.untold[level.index()] > 0);
        let over = self.held.filter(|held| held.until() <= now);
        let Some(level) = worst else {
            if over.is_some() {
                self.held = None;
            }
            return None;
        };
        let hold = match (self.held, over) {
            (Some(held), None) if level <= held.level => return None,
            (Some(held), Some(_)) if level <= held.level => (held.hold * 2).min(LONGEST_HOLD),
            _ => HOLD,
        };
        let signals = self.untold[level.index()];
        self.untold = [0; 3];
        self.held = Some(Held {
            level,
            since: now,
            hold,
        });
        Some(News {
            level,
            signals,
            within: over.map(|held| now - held.since),
        })
    }

    /// Whether signals of a level would be held back.
    fn holds(&self, level: Level) -> bool {
        self.held.is_some_and(|held| level <= held.level)
    }
}

/// What is known of a container's memory pressure.
pub(crate) struct PressureState {
    setting: Setting,
    watch: Option<Pressure>,
    /// Not to be begun any more: it has ended, or this kernel cannot.
    over: bool,
    bound: Bound,
    timer: Option<(TimerId, Instant)>,
    source: &'static str,
}

impl PressureState {
    pub(crate) fn new(setting: Setting) -> Self {
        Self {
            setting,
            watch: None,
            over: false,
            bound: Bound::default(),
            timer: None,
            source: "",
        }
    }

    /// How often each level was signalled, from low to critical.
    pub(crate) fn signals(&self) -> [u64; 3] {
        self.bound.total
    }

    /// What is polled.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let watch = self.watch.iter();
        watch.flat_map(|watch| watch.polls().map(|(_, fd, _)| fd))
    }

    /// What the signals come from; empty as long as nothing is watched.
    pub(crate) fn source(&self) -> &'static str {
        self.source
    }
}

impl Server {
    /// Begins to watch a container that was just created, unless that is to wait for a sign.
    pub(crate) fn watch_pressure(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        let Some(runtime) = &container.runtime else {
            return;
        };
        let waits = container.pressure.setting == Setting::Auto;
        if waits && Pressure::is_costly(&runtime.cgroup) {
            return;
        }
        self.begin_pressure(id);
    }

    /// A container has hit a limit of its memory.
    pub(crate) fn memory_is_short(&mut self, id: &str) {
        let state = self.containers.get(id).map(|c| &c.pressure);
        if state.is_some_and(|state| state.watch.is_none() && !state.over) {
            self.begin_pressure(id);
        }
    }

    fn begin_pressure(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.init_has_ended() {
            return;
        }
        let (state, key) = (&mut container.pressure, container.init.key);
        let Some(runtime) = &container.runtime else {
            return;
        };
        let watch = Pressure::watch(&runtime.cgroup, state.setting).unwrap_or_else(|e| {
            log::warn!("{id}: {e}");
            None
        });
        let Some(watch) = watch else {
            state.over = true;
            return;
        };
        state.source = watch.source();
        for (level, fd, interest) in watch.polls() {
            let data = EventData::new_u64(Token::Pressure(key, level).encode());
            if let Err(errno) = epoll::add(&self.epoll, fd, data, flags(interest)) {
                log::warn!("{id}: watch memory pressure: epoll_ctl: {errno}");
            }
        }
        state.watch = Some(watch);
    }

    /// The kernel has signalled a level.
    pub(crate) fn pressure_event(&mut self, key: u64, level: Level, happened: EventFlags) {
        let Some(id) = self.processes.get(&key).map(|name| name.container.clone()) else {
            return;
        };
        if happened.contains(EventFlags::ERR) {
            // The cgroup is gone.
            return self.end_pressure(&id);
        }
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let state = &mut container.pressure;
        if happened.contains(EventFlags::PRI) {
            let mut signals = [0; 3];
            signals[level.index()] = 1;
            state.bound.signalled(signals);
        }
        self.look_at_pressure_by(&id, key, Instant::now() + SETTLE);
    }

    /// Looks at a moment, if it does not before that.
    fn look_at_pressure_by(&mut self, id: &str, key: u64, at: Instant) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        match container.pressure.timer {
            Some((_, set)) if set <= at => return,
            Some((timer, _)) => self.timers.cancel(timer),
            None => {}
        }
        let timer = self.timers.set(at, Timer::Pressure(key));
        container.pressure.timer = Some((timer, at));
    }

    /// The time to look has come.
    pub(crate) fn pressure_due(&mut self, key: u64) {
        let Some(id) = self.processes.get(&key).map(|name| name.container.clone()) else {
            return;
        };
        if let Some(container) = self.containers.get_mut(&id) {
            container.pressure.timer = None;
        }
        self.tell_pressure(&id);
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let PressureState { watch, bound, .. } = &container.pressure;
        let Some(watch) = watch else { return };
        for (level, fd, interest) in watch.polls() {
            let wanted = match interest {
                Interest::Priority => continue,
                Interest::Readable if bound.holds(level) => EventFlags::empty(),
                Interest::Readable => flags(interest),
            };
            let data = EventData::new_u64(Token::Pressure(key, level).encode());
            if let Err(errno) = epoll::modify(&self.epoll, fd, data, wanted) {
                log::warn!("{id}: watch memory pressure: epoll_ctl: {errno}");
            }
        }
        if let Some(held) = bound.held {
            self.look_at_pressure_by(&id, key, held.until());
        }
    }

    /// Tells what there is to tell by now.
    fn tell_pressure(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let state = &mut container.pressure;
        if let Some(watch) = &state.watch {
            state.bound.signalled(watch.take_signals());
        }
        if let Some(news) = state.bound.take(Instant::now()) {
            self.note("pressure", id, &news.to_string());
        }
    }

    /// The last look before the end of a container's init is told; nothing is watched from now on.
    pub(crate) fn end_pressure(&mut self, id: &str) {
        self.tell_pressure(id);
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let state = &mut container.pressure;
        state.over = true;
        if let Some((timer, _)) = state.timer.take() {
            self.timers.cancel(timer);
        }
        let Some(watch) = state.watch.take() else {
            return;
        };
        for (_, fd, _) in watch.polls() {
            self.unwatch(fd);
        }
        if watch.blocks_at_end() {
            self.workers.run(move || {
                drop(watch);
                Box::new(|_: &mut Server| ())
            });
        }
    }
}

/// Edge-triggered: an eventfd that is not read stays readable.
fn flags(interest: Interest) -> EventFlags {
    let flags = match interest {
        Interest::Readable => EventFlags::IN,
        Interest::Priority => EventFlags::PRI,
    };
    flags | EventFlags::ET
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds after the beginning.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    fn told(bound: &mut Bound, signals: [u64; 3], now: Instant) -> Option<String> {
        bound.signalled(signals);
        bound.take(now).map(|news| news.to_string())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_worse_level_is_told_at_once_and_others_are_held_back() {
        let clock = Clock(Instant::now());
        let mut bound = Bound::default();
        let mut told = |signals, at| told(&mut bound, signals, clock.at(at));
        assert_eq!(told([0, 0, 0], 0), None);
        assert_eq!(told([1, 0, 0], 0), some("low (1 signal)"));
        assert_eq!(told([5, 0, 0], 1), None);
        assert_eq!(told([0, 2, 0], 2), some("medium (2 signals)"));
        assert_eq!(told([9, 9, 0], 3), None);
        assert_eq!(told([7, 7, 1], 4), some("critical (1 signal)"));
        assert_eq!(told([7, 7, 1], 13), None);
        assert_eq!(told([0, 0, 1], 14), some("critical (2 signals in 10 s)"));
        assert_eq!(bound.total, [29, 25, 3]);
    }

    #[test]
    fn pressure_that_goes_on_is_told_ever_more_rarely() {
        let clock = Clock(Instant::now());
        let mut bound = Bound::default();
        let mut times = Vec::new();
        for second in 0..3600 {
            if told(&mut bound, [100, 50, 10], clock.at(second)).is_some() {
                times.push(second);
            }
        }
        let begin = [0, 10, 30, 70, 150, 310, 630, 950];
        assert_eq!(times[..begin.len()], begin);
        assert!(times.len() < 18, "{times:?}");
    }

    #[test]
    fn after_a_quiet_while_it_begins_anew() {
        let clock = Clock(Instant::now());
        let mut bound = Bound::default();
        assert!(told(&mut bound, [0, 0, 1], clock.at(0)).is_some());
        assert!(bound.holds(Level::Low) && bound.holds(Level::Critical));
        assert_eq!(told(&mut bound, [0; 3], clock.at(10)), None);
        assert!(!bound.holds(Level::Low));
        assert_eq!(
            told(&mut bound, [1, 0, 0], clock.at(11)),
            some("low (1 signal)")
        );
        assert!(!bound.holds(Level::Medium));
    }
}
