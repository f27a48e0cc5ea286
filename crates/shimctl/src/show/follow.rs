// SPDX-License-Identifier: Apache-2.0
//! What shims say over time, of all of them in one order: once, or for ever.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use diagnostics::v1::{Poll, Polled};

use crate::args::{Global, Stream};
use crate::client::{Client, Silence};
use crate::complain;
use crate::discover::{self, Shim};
use crate::error::{Error, Exit};
use crate::fleet;

/// How long a shim holds a poll: no longer, so that a shim that hangs is noticed.
const HOLD: Duration = Duration::from_secs(10);
/// How often new shims are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// What comes from different shims within this time is sorted.
const REORDER: Duration = Duration::from_millis(30);
/// So many items are asked for at once.
const BATCH: u32 = 512;

/// Something that is said over time.
pub(crate) trait Item: Send + Sync + Sized + 'static {
    /// Nanoseconds since 1970.
    fn time(&self) -> i64;
    /// Whose it is, or "".
    fn container(&self) -> &str;
}

/// One page of items.
pub(crate) type Page<T> = (Polled, Vec<T>);

/// Prints what all shims say: what there is in the order of time, and on demand what comes. `nothing` is
/// for people who wonder why there is nothing.
pub(crate) fn run<T: Item>(
    global: &Global,
    stream: &Stream,
    nothing: &str,
    fetch: impl Fn(&mut Client, Poll, Duration) -> Result<Page<T>, Silence> + Sync,
    mut print: impl FnMut(&Shim, &T) -> Result<(), Error>,
) -> Result<Exit, Error> {
    let wanted = |item: &T| {
        let of = &stream.containers;
        let container = of.is_empty()
            || of
                .iter()
                .any(|id| item.container().starts_with(id.as_str()));
        container && stream.since.is_none_or(|since| item.time() >= since.0)
    };
    let shims = discover::shims(global.namespace.as_deref());
    let answers = fleet::ask(shims, global.timeout, |_, client| {
        let mut items = Vec::new();
        let mut since = 0;
        loop {
            let (polled, page) = fetch(client.again(), poll(since, 0), Duration::ZERO)?;
            let is_last = page.len() < BATCH as usize;
            items.extend(page);
            if is_last || polled.next <= since {
                return Ok((polled.next, items));
            }
            since = polled.next;
        }
    });
    let exit = super::exit_of(&answers);
    let mut kept = Vec::new();
    let mut places = Vec::new();
    for answer in answers {
        if let Ok((next, items)) = answer.said {
            kept.extend(items.into_iter().map(|item| (answer.shim.clone(), item)));
            places.push((answer.shim, next));
        }
    }
    kept.sort_by_key(|(_, item)| item.time());
    for (shim, item) in kept.iter().filter(|(_, item)| wanted(item)) {
        print(shim, item)?;
    }
    if !stream.follow {
        if kept.is_empty() {
            complain(nothing);
        }
        return Ok(exit);
    }
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel::<(Shim, T)>();
        let mut followed: BTreeSet<i32> = BTreeSet::new();
        let mut follow = |shim: Shim, since: u64| {
            if followed.insert(shim.pid) {
                let (sender, fetch) = (sender.clone(), &fetch);
                scope.spawn(move || one(&shim, since, global.timeout, fetch, &sender));
            }
        };
        for (shim, since) in places {
            follow(shim, since);
        }
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(first) => {
                    std::thread::sleep(REORDER);
                    let mut batch = vec![first];
                    batch.extend(receiver.try_iter());
                    batch.sort_by_key(|(_, item)| item.time());
                    for (shim, item) in batch.iter().filter(|(_, item)| wanted(item)) {
                        if let Err(error) = print(shim, item) {
                            // The other threads hang in polls: they end with the process.
                            end(&error);
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            for shim in discover::shims(global.namespace.as_deref()) {
                if shim.pid != 0 {
                    follow(shim, 0);
                }
            }
        }
    })
}

fn end(error: &Error) -> ! {
    if error.is_broken_pipe() {
        std::process::exit(0);
    }
    complain(&error.to_string());
    std::process::exit(1);
}

fn poll(since: u64, wait_ms: u32) -> Poll {
    Poll {
        since,
        wait_ms,
        limit: BATCH,
        ..Poll::new()
    }
}

/// Follows one shim until it ends.
fn one<T: Item>(
    shim: &Shim,
    mut since: u64,
    timeout: Duration,
    fetch: &(impl Fn(&mut Client, Poll, Duration) -> Result<Page<T>, Silence> + Sync),
    sender: &Sender<(Shim, T)>,
) {
    let Ok(mut client) = Client::connect(shim, timeout.max(Duration::from_secs(1))) else {
        return;
    };
    let hold = u32::try_from(HOLD.as_millis()).unwrap_or(u32::MAX);
    loop {
        let (polled, page) = match fetch(&mut client, poll(since, hold), HOLD) {
            Ok(page) => page,
            Err(Silence::Late(_)) => {
                return complain(&format!("shim {}: does not answer any more", shim.name()));
            }
            // It has ended, as shims do.
            Err(_) => return,
        };
        if polled.lost > 0 {
            let name = shim.name();
            complain(&format!(
                "shim {name}: {} items were lost: read too late",
                polled.lost
            ));
        }
        since = polled.next;
        for item in page {
            if sender.send((shim.clone(), item)).is_err() {
                return;
            }
        }
    }
}
