// SPDX-License-Identifier: Apache-2.0
//! Threads for what blocks: started on demand, bounded in number, gone when idle.
//!
//! A job is plain sequential code. What it hands back is a [`Completion`], which runs on the reactor
//! thread: state has one owner, and workers never touch it.
//!
//! What only reads has a lane of its own, with a few threads that do nothing else: it is answered also
//! while every other thread hangs in somebody's hook.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::EventfdFlags;
use sys::Call;

/// No more threads than this, whatever is asked.
pub(crate) const MOST: usize = 32;
/// So many more for what only reads.
const READERS: usize = 2;
/// How long an idle thread waits for another job: long enough for the next call of a client that
/// is in the middle of something.
const LINGER: Duration = Duration::from_millis(200);
/// Spec parsing and mounting need little.
const STACK: usize = 512 * 1024;

/// What is done on the reactor thread when a job has ended.
pub(crate) type Completion<S> = Box<dyn FnOnce(&mut S) + Send>;
type Job<S> = Box<dyn FnOnce() -> Completion<S> + Send>;

struct Shared<S> {
    state: Mutex<State<S>>,
    work: Condvar,
    wake: OwnedFd,
}

struct State<S> {
    jobs: VecDeque<Job<S>>,
    reads: VecDeque<Job<S>>,
    /// Threads that are at something other than a read.
    busy: usize,
    done: Vec<Completion<S>>,
    idle: usize,
    threads: usize,
}

/// Which queue a job waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Jobs,
    Reads,
}

impl<S> State<S> {
    /// The next job that a thread may do now.
    fn take(&mut self) -> Option<(Lane, Job<S>)> {
        if let Some(read) = self.reads.pop_front() {
            return Some((Lane::Reads, read));
        }
        if self.busy >= MOST {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.busy += 1;
        Some((Lane::Jobs, job))
    }

    /// How many could be begun now, if there were threads.
    fn ready(&self) -> usize {
        self.reads.len() + self.jobs.len().min(MOST.saturating_sub(self.busy))
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool. `S` is what completions work on.
pub(crate) struct Workers<S>(Arc<Shared<S>>);

impl<S: 'static> Workers<S> {
    /// A pool without threads.
    pub(crate) fn new() -> sys::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .call("eventfd", || "workers")?;
        let state = State {
            jobs: VecDeque::new(),
            reads: VecDeque::new(),
            busy: 0,
            done: Vec::new(),
            idle: 0,
            threads: 0,
        };
        Ok(Self(Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            wake,
        })))
    }

    /// Becomes readable when completions wait.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }

    /// Runs `job` on some thread, soon.
    pub(crate) fn run(&self, job: impl FnOnce() -> Completion<S> + Send + 'static) {
        self.start(Lane::Jobs, job);
    }

    /// The same for a job that only reads what the kernel tells: it may take its time, but ends.
    pub(crate) fn read(&self, job: impl FnOnce() -> Completion<S> + Send + 'static) {
        self.start(Lane::Reads, job);
    }

    fn start(&self, lane: Lane, job: impl FnOnce() -> Completion<S> + Send + 'static) {
        let context = telemetry::Context::current();
        let job = move || -> Completion<S> {
            let entered = context.clone().enter();
            let completion = job();
            drop(entered);
            Box::new(move |owner: &mut S| {
                let _entered = context.enter();
                completion(owner);
            })
        };
        let mut state = self.0.lock();
        let most = match lane {
            Lane::Jobs => {
                state.jobs.push_back(Box::new(job));
                MOST
            }
            Lane::Reads => {
                state.reads.push_back(Box::new(job));
                MOST + READERS
            }
        };
        if state.idle >= state.ready() {
            self.0.work.notify_one();
            return;
        }
        if state.threads >= most {
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.0);
        let spawned = std::thread::Builder::new()
            .name("worker".into())
            .stack_size(STACK)
            .spawn(move || work(&shared));
        if let Err(e) = spawned {
            log::error!("start worker thread: {e}");
            let mut state = self.0.lock();
            state.threads -= 1;
            // Without any thread the job must still be done: here.
            let job = match state.threads {
                0 => state.reads.pop_front().or_else(|| state.jobs.pop_front()),
                _ => None,
            };
            drop(state);
            if let Some(job) = job {
                finish(&self.0, job());
            }
        }
    }

    /// Takes the completions that wait.
    pub(crate) fn take_done(&self) -> Vec<Completion<S>> {
        let mut counter = [0u8; 8];
        // EAGAIN: nothing was signalled since.
        let _ = rustix::io::read(&self.0.wake, &mut counter);
        std::mem::take(&mut self.0.lock().done)
    }

    /// Threads that wait for a job.
    pub(crate) fn idle(&self) -> usize {
        self.0.lock().idle
    }

    /// Threads alive and jobs that wait, for the status dump.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.threads, state.jobs.len() + state.reads.len())
    }
}

fn finish<S>(shared: &Shared<S>, completion: Completion<S>) {
    shared.lock().done.push(completion);
    // EAGAIN would mean 2^64-1 completions.
    let _ = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
}

fn work<S>(shared: &Shared<S>) {
    let mut state = shared.lock();
    loop {
        if let Some((lane, job)) = state.take() {
            drop(state);
            finish(shared, job());
            state = shared.lock();
            state.busy -= usize::from(lane == Lane::Jobs);
            continue;
        }
        state.idle += 1;
        let (next, timeout) = shared
            .work
            .wait_timeout(state, LINGER)
            .unwrap_or_else(PoisonError::into_inner);
        state = next;
        state.idle -= 1;
        if timeout.timed_out() && state.ready() == 0 {
            state.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn jobs_run_in_parallel_and_threads_end_when_idle() {
        let workers: Workers<Vec<usize>> = Workers::new().unwrap();
        let barrier = Arc::new(std::sync::Barrier::new(4));
        for i in 0..4 {
            let barrier = Arc::clone(&barrier);
            workers.run(move || {
                // Passes only if four jobs run at once.
                barrier.wait();
                Box::new(move |seen: &mut Vec<usize>| seen.push(i))
            });
        }
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while seen.len() < 4 && Instant::now() < deadline {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                workers.wake_fd(),
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            for completion in workers.take_done() {
                completion(&mut seen);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
        while workers.load().0 > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(workers.load(), (0, 0));
    }

    fn wait_for<S: 'static>(workers: &Workers<S>, owner: &mut S, done: impl Fn(&S) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(owner) && Instant::now() < deadline {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                workers.wake_fd(),
                rustix::event::PollFlags::IN,
            )];
            let limit = rustix::event::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            rustix::event::poll(&mut fds, Some(&limit)).unwrap();
            for completion in workers.take_done() {
                completion(owner);
            }
        }
        assert!(done(owner));
    }

    #[test]
    fn reads_are_done_while_every_job_hangs_and_no_more_jobs_begin() {
        let workers: Workers<(usize, usize)> = Workers::new().unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        for _ in 0..MOST + 3 {
            let gate = Arc::clone(&gate);
            workers.run(move || {
                let open = gate.0.lock().unwrap();
                drop(gate.1.wait_while(open, |open| !*open).unwrap());
                Box::new(|done: &mut (usize, usize)| done.0 += 1)
            });
        }
        let mut done = (0, 0);
        for reads in 1..=5 {
            workers.read(|| Box::new(|done: &mut (usize, usize)| done.1 += 1));
            wait_for(&workers, &mut done, |done| done.1 == reads);
        }
        assert_eq!(done.0, 0);
        assert!(workers.load().0 <= MOST + READERS);
        // The last threads may still be on their way to their jobs.
        let deadline = Instant::now() + Duration::from_secs(10);
        while workers.load().1 > 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(workers.load().1, 3, "they wait for a thread");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        wait_for(&workers, &mut done, |done| done.0 == MOST + 3);
    }
}
