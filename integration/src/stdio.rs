// SPDX-License-Identifier: Apache-2.0
//! The client's ends of a process's FIFOs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

use crate::failure::{Outcome, SOON, failed, wait_until};

/// Makes a FIFO.
///
/// # Errors
/// What mknod says.
pub fn make_fifo(path: &Path) -> Outcome {
    Ok(mknodat(
        CWD,
        path,
        FileType::Fifo,
        Mode::from_raw_mode(0o700),
        0,
    )?)
}

#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Received>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a FIFO to its end in a thread of its own.
pub struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Opens the FIFO, whether or not there is a writer, and reads what comes.
    ///
    /// # Errors
    /// What open says.
    pub fn start(path: &Path) -> Outcome<Self> {
        let fifo = File::from(open(
            path,
            OFlags::RDONLY | OFlags::NONBLOCK,
            Mode::empty(),
        )?);
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || {
            // An error ends the reading like end of file does: the test sees what is missing.
            let _ = read_to_end(fifo, &theirs);
            theirs.received().ended = true;
            theirs.changed.notify_all();
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What has come so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.shared.received().bytes.clone()
    }

    /// What has come so far, as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.received().bytes).into_owned()
    }

    /// Waits until the text contains `wanted`, and returns all of it.
    ///
    /// # Errors
    /// When it does not come soon.
    pub fn wait_for(&self, wanted: &str) -> Outcome<String> {
        self.wait(SOON, format!("{wanted:?} in the output"), |received| {
            String::from_utf8_lossy(&received.bytes).contains(wanted)
        })?;
        Ok(self.text())
    }

    /// Waits until at least `count` bytes have come.
    ///
    /// # Errors
    /// When they do not come within `limit`.
    pub fn wait_for_bytes(&self, count: usize, limit: Duration) -> Outcome {
        self.wait(limit, format!("{count} bytes of output"), |received| {
            received.bytes.len() >= count
        })
    }

    /// Waits for end of file, and returns all that came.
    ///
    /// # Errors
    /// When it does not come within `limit`.
    pub fn wait_end(&self, limit: Duration) -> Outcome<Vec<u8>> {
        self.wait(limit, "end of the output".to_owned(), |received| {
            received.ended
        })?;
        Ok(std::mem::take(&mut self.shared.received().bytes))
    }

    /// Has end of file come?
    #[must_use]
    pub fn ended(&self) -> bool {
        self.shared.received().ended
    }

    fn wait(&self, limit: Duration, what: String, done: impl Fn(&Received) -> bool) -> Outcome {
        let end = Instant::now() + limit;
        let mut received = self.shared.received();
        while !done(&received) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let count = received.bytes.len();
                let tail = String::from_utf8_lossy(&received.bytes[count.saturating_sub(300)..])
                    .into_owned();
                return Err(failed(format!(
                    "waited {limit:?} for {what}; {count} bytes came, ended: {}, last: {tail:?}",
                    received.ended
                )));
            }
            let waited = self.shared.changed.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

/// Before the first writer has come poll(2) says nothing, and after the last has gone, that it has.
fn read_to_end(mut fifo: File, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while !shared.stop.load(Ordering::Relaxed) {
        if poll(&mut [PollFd::new(&fifo, PollFlags::IN)], Some(&moment))? == 0 {
            continue;
        }
        match fifo.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => shared.received().bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        shared.changed.notify_all();
    }
    Ok(())
}

/// The writing end of a process's stdin.
pub struct Writer(File);

impl Writer {
    /// Opens it as soon as there is a reader.
    ///
    /// # Errors
    /// When nobody opens it for reading.
    pub fn open(path: &Path) -> Outcome<Self> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let file = wait_until(SOON, "a reader of stdin", || {
            open(path, flags, Mode::empty()).ok()
        })?;
        rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        Ok(Self(File::from(file)))
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// What write says.
    pub fn write(&mut self, data: impl AsRef<[u8]>) -> Outcome {
        Ok(self.0.write_all(data.as_ref())?)
    }
}
