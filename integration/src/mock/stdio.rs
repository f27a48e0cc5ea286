// SPDX-License-Identifier: Apache-2.0
//! The FIFOs of a process, made and read as containerd's clients do.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::error::{During as _, Error, Result};

/// What a process's stdio is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioKind {
    /// Nothing.
    Null,
    /// FIFOs for stdout and stderr.
    Output,
    /// FIFOs for all three.
    Full,
    /// A terminal, with FIFOs for its two directions.
    Terminal,
    /// FIFOs for all three, and nobody reads yet.
    Unread,
}

/// The ends that the mock holds.
#[derive(Debug)]
pub struct Stdio {
    kind: StdioKind,
    stdin: String,
    stdout: String,
    stderr: String,
    /// What arrives on stdout.
    pub out: Output,
    /// What arrives on stderr.
    pub err: Output,
}

impl Stdio {
    /// Makes FIFOs in `folder`, which it makes too, and begins to read them.
    pub(crate) fn make(folder: &Path, kind: StdioKind) -> Result<Self> {
        fs::create_dir_all(folder).during(|| format!("mkdir {}", folder.display()))?;
        let (stdin, stdout, stderr) = match kind {
            StdioKind::Null => (false, false, false),
            StdioKind::Output => (false, true, true),
            StdioKind::Full | StdioKind::Unread => (true, true, true),
            StdioKind::Terminal => (true, true, false),
        };
        let path = |wanted: bool, name: &str| -> Result<String> {
            if !wanted {
                return Ok(String::new());
            }
            let path = folder.join(name);
            fifo(&path)?;
            Ok(path.display().to_string())
        };
        let (stdin, stdout, stderr) = (
            path(stdin, "stdin")?,
            path(stdout, "stdout")?,
            path(stderr, "stderr")?,
        );
        let read = |path: &str| match kind {
            StdioKind::Unread => Ok(Output::empty()),
            _ if path.is_empty() => Ok(Output::empty()),
            _ => Output::read(Path::new(path)),
        };
        let (out, err) = (read(&stdout)?, read(&stderr)?);
        Ok(Self {
            kind,
            stdin,
            stdout,
            stderr,
            out,
            err,
        })
    }

    /// Nothing is made; these are the addresses that the shim is told.
    #[must_use]
    pub fn addresses(stdin: &str, stdout: &str, stderr: &str) -> Self {
        Self {
            kind: StdioKind::Null,
            stdin: stdin.to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            out: Output::empty(),
            err: Output::empty(),
        }
    }

    /// With a terminal?
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.kind == StdioKind::Terminal
    }

    /// Path of the stdin FIFO; empty if there is none. So for the others.
    #[must_use]
    pub fn stdin(&self) -> &str {
        &self.stdin
    }

    /// See [`Stdio::stdin`].
    #[must_use]
    pub fn stdout(&self) -> &str {
        &self.stdout
    }

    /// See [`Stdio::stdin`].
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// The client's end of stdin. The shim opens the other one at Start, or soon after.
    pub fn open_stdin(&self) -> Result<File> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let open = || {
            let file = OpenOptions::new()
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(&self.stdin)?;
            rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
            Ok(file)
        };
        loop {
            match open() {
                Err(error) if is_unread(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => return result.during(|| format!("open {}", self.stdin)),
            }
        }
    }

    /// Begins to read what nobody read.
    pub fn read_now(&mut self) -> Result<()> {
        self.out = Output::read(Path::new(&self.stdout))?;
        self.err = Output::read(Path::new(&self.stderr))?;
        Ok(())
    }
}

/// Has nobody opened the FIFO for reading?
fn is_unread(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

/// Makes a FIFO.
pub(crate) fn fifo(path: &Path) -> Result<()> {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0)
        .during(|| format!("mkfifo {}", path.display()))
}

#[derive(Debug, Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
    stop: bool,
}

/// What a reader has collected from a FIFO.
#[derive(Debug)]
pub struct Output {
    shared: Arc<(Mutex<Collected>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn empty() -> Self {
        let collected = Collected {
            ended: true,
            ..Default::default()
        };
        Self {
            shared: Arc::new((Mutex::new(collected), Condvar::new())),
            reader: None,
        }
    }

    /// Reads until there is no writer any more. Before the first writer there is no end.
    fn read(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .during(|| format!("open {}", path.display()))?;
        Ok(Self::collected_from(file))
    }

    fn collected_from(file: File) -> Self {
        let shared = Arc::new((Mutex::new(Collected::default()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let reader = std::thread::spawn(move || collect(file, &theirs));
        Self {
            shared,
            reader: Some(reader),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come so far.
    #[must_use]
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Has the last writer closed it?
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Waits until what has come satisfies `enough`, or has ended.
    pub fn wait(&self, what: &str, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        let limit = Duration::from_secs(20);
        let deadline = Instant::now() + limit;
        let mut collected = self.lock();
        loop {
            if enough(&collected.bytes) {
                return Ok(collected.bytes.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || collected.ended {
                let have = String::from_utf8_lossy(&collected.bytes);
                let have: String = have.chars().take(200).collect();
                let how = if collected.ended { "ended" } else { "open" };
                return Err(Error::Late {
                    what: format!("{what}; {how}, have {have:?}"),
                    limit,
                });
            }
            let waited = self.shared.1.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a piece of text.
    pub fn wait_text(&self, text: &str) -> Result<()> {
        let contains = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
        self.wait(&format!("output {text:?}"), contains).map(drop)
    }

    /// Waits for the end, and returns everything.
    pub fn whole(&self) -> Result<Vec<u8>> {
        let limit = Duration::from_secs(20);
        let deadline = Instant::now() + limit;
        let mut collected = self.lock();
        while !collected.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = format!("end of output after {} bytes", collected.bytes.len());
                return Err(Error::Late { what, limit });
            }
            let waited = self.shared.1.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(collected.bytes.clone())
    }

    /// The same as text.
    pub fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.whole()?).into_owned())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.lock().stop = true;
        if let Some(reader) = self.reader.take() {
            // It cannot panic; if it does, there is nobody to tell.
            let _ = reader.join();
        }
    }
}

fn collect(mut file: File, shared: &(Mutex<Collected>, Condvar)) {
    let lock = || shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; 64 << 10];
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    loop {
        // Polled, not read: read says "end" before the first writer has come, poll does not.
        let mut fds = [PollFd::new(&file, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&tick)).unwrap_or(0);
        if lock().stop {
            return;
        }
        if ready == 0 {
            continue;
        }
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => lock().bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        shared.1.notify_all();
    }
    lock().ended = true;
    shared.1.notify_all();
}

/// Makes a bundle's `log` FIFO and reads it as the daemon does: it holds both ends, so there is
/// no end.
pub(crate) fn log(path: &Path) -> Result<Output> {
    fifo(path)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .during(|| format!("open {}", path.display()))?;
    Ok(Output::collected_from(file))
}
