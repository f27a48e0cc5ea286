// SPDX-License-Identifier: Apache-2.0
//! Threads for what blocks: started on demand, bounded in number, gone when idle.
//!
//! A job is plain sequential code. What it hands back is a [`Completion`], which runs on the reactor
//! thread: state has one owner, and workers never touch it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::EventfdFlags;
use sys::Call;

/// No more threads than this, whatever is asked.
pub(crate) const MOST: usize = 32;
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
    done: Vec<Completion<S>>,
    idle: usize,
    threads: usize,
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
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            self.0.work.notify_one();
            return;
        }
        if state.threads >= MOST {
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
            let job = if state.threads == 0 {
                state.jobs.pop_front()
            } else {
                None
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
        (state.threads, state.jobs.len())
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
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            finish(shared, job());
            state = shared.lock();
            continue;
        }
        state.idle += 1;
        let (next, timeout) = shared
            .work
            .wait_timeout(state, LINGER)
            .unwrap_or_else(PoisonError::into_inner);
        state = next;
        state.idle -= 1;
        if timeout.timed_out() && state.jobs.is_empty() {
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
}
