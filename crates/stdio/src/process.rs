// SPDX-License-Identifier: Apache-2.0
//! The three streams of one process.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::termios::Winsize;
use sys::Call;

use crate::error::Error;
use crate::input::{Input, State};
use crate::logger::{Logger, LoggerEnd};
use crate::output::{Output, WhenEmpty, Whom};
use crate::pipe::set_nonblocking;
use crate::request::{Stream, Terminal};

/// What became of an attempt to move data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Drive {
    /// A fair share was moved and there may be more: call again soon, no event will say so.
    Again,
    /// Wait for the epoll.
    Idle,
    /// The stream has ended; nothing of it is watched any more.
    Done,
}

/// All standard streams of one process. Never blocks.
///
/// The order of calls: [`open`](crate::open()), [`attach_console`](Self::attach_console) for a
/// terminal, [`register`](Self::register), [`begin_input`](Self::begin_input) as soon as the client
/// can call `CloseIO`, then [`drive`](Self::drive) for each event;
/// [`process_exited`](Self::process_exited), and when [`drained`](Self::drained) or late,
/// [`cut`](Self::cut).
#[derive(Debug)]
pub struct ProcessIo {
    name: String,
    terminal: Terminal,
    exited: bool,
    /// The client has ended a terminal's input: the terminal is hung up when it is drained.
    hangup: bool,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    logger: Option<Logger>,
    watch: Option<Watch>,
}

/// Where descriptors are watched, and under which names.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: OwnedFd,
    tokens: [u64; 3],
}

impl Watch {
    pub(crate) fn add(
        &self,
        fd: BorrowedFd<'_>,
        stream: Stream,
        interest: EventFlags,
    ) -> sys::Result<()> {
        let data = EventData::new_u64(self.tokens[stream as usize]);
        epoll::add(&self.epoll, fd, data, interest | EventFlags::ET).call("epoll_ctl", || {
            format!("EPOLL_CTL_ADD, {stream}, {interest:?}")
        })
    }
}

/// What `open` has made.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) terminal: Terminal,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) logger: Option<Logger>,
}

impl ProcessIo {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            name: parts.name,
            terminal: parts.terminal,
            exited: false,
            hangup: false,
            stdin: parts.stdin,
            stdout: parts.stdout,
            stderr: parts.stderr,
            logger: parts.logger,
            watch: None,
        }
    }

    /// Connects the terminal's master, as init sent it. Before or after
    /// [`register`](Self::register).
    ///
    /// # Errors
    /// It is no master of a terminal; or none is expected.
    pub fn attach_console(&mut self, master: OwnedFd) -> Result<(), Error> {
        if !self.stdout.is_awaiting_console() {
            return Err(Error::UnexpectedConsole);
        }
        // Only a master knows the number of its slave.
        rustix::pty::ptsname(&master, Vec::new())
            .call("ioctl", || "TIOCGPTN")
            .map_err(Error::NotATerminal)?;
        set_nonblocking(&master)?;
        // A second descriptor, so that each direction is watched under its own token.
        let input =
            rustix::io::fcntl_dupfd_cloexec(&master, 0).call("fcntl", || "F_DUPFD_CLOEXEC")?;
        self.stdin.attach_console(input);
        self.stdout.attach_console(master, self.watch.as_ref())?;
        if let Some(watch) = &self.watch {
            self.stdin.register(watch)?;
        }
        Ok(())
    }

    /// Watches all descriptors with `epoll`, edge-triggered. Events carry `token(stream)` and are
    /// to be answered by [`drive`](Self::drive) of that stream; a first one comes for whatever is
    /// ready now. Closing takes descriptors out of the epoll.
    ///
    /// # Errors
    /// `epoll_ctl`, `fcntl`.
    pub fn register(
        &mut self,
        epoll: BorrowedFd<'_>,
        token: impl Fn(Stream) -> u64,
    ) -> Result<(), Error> {
        // Our own, because some descriptors come later: after an exit, or a logger's death.
        let epoll = epoll
            .try_clone_to_owned()
            .call("fcntl", || "F_DUPFD_CLOEXEC")?;
        let watch = Watch {
            epoll,
            tokens: Stream::ALL.map(token),
        };
        self.stdin.register(&watch)?;
        self.stdout.register(Stream::Stdout, &watch)?;
        self.stderr.register(Stream::Stderr, &watch)?;
        if let Some(logger) = &self.logger {
            watch.add(logger.pidfd(), Stream::Stdout, EventFlags::IN)?;
        }
        self.watch = Some(watch);
        Ok(())
    }

    /// Opens stdin's FIFO, if there is one: the client, which waits for that, may send. Not before a
    /// `CloseIO` would find the process, for that call may follow at once. Idempotent.
    ///
    /// # Errors
    /// `open`, `epoll_ctl`. Then the process sees the end of its input.
    pub fn begin_input(&mut self) -> Result<(), Error> {
        let begun = self.stdin.begin().and_then(|flows| match &self.watch {
            Some(watch) if flows => self.stdin.register(watch),
            _ => Ok(()),
        });
        if begun.is_err() {
            self.stdin.cut();
        }
        begun.map_err(Error::from)
    }

    /// Moves data of a stream until it would block or has had its share of about 1 MiB.
    ///
    /// May be called at any time; on a stream of which nothing flows it does nothing.
    pub fn drive(&mut self, stream: Stream) -> Drive {
        if stream == Stream::Stdout {
            self.attend_logger();
        }
        match stream {
            Stream::Stdin => self.drive_stdin(),
            Stream::Stdout | Stream::Stderr => self.drive_output(stream),
        }
    }

    fn drive_stdin(&mut self) -> Drive {
        match self.stdin.drive() {
            State::Again => return Drive::Again,
            State::Idle => return Drive::Idle,
            State::Ended if self.terminal == Terminal::Yes => self.hangup = true,
            State::Ended | State::Over => {}
        }
        if self.hangup && self.drive_output(Stream::Stdout) == Drive::Again {
            return Drive::Again;
        }
        Drive::Done
    }

    fn drive_output(&mut self, stream: Stream) -> Drive {
        let console = self.terminal == Terminal::Yes && stream == Stream::Stdout;
        let empty = if console && (self.exited || self.hangup) {
            WhenEmpty::End
        } else {
            WhenEmpty::Wait
        };
        let (output, whom) = self.output(stream);
        output.drive(&whom, empty)
    }

    /// The stream's output (anything but stderr: stdout) with what it needs to know.
    fn output(&mut self, stream: Stream) -> (&mut Output, Whom<'_>) {
        let whom = Whom {
            name: &self.name,
            stream,
            watch: self.watch.as_ref(),
        };
        match stream {
            Stream::Stderr => (&mut self.stderr, whom),
            Stream::Stdin | Stream::Stdout => (&mut self.stdout, whom),
        }
    }

    /// Reaps a logger that has ended; without it the container's output has nowhere to go.
    fn attend_logger(&mut self) {
        if !self.logger.as_ref().is_some_and(Logger::has_ended) {
            return;
        }
        self.logger = None;
        if !self.exited {
            log::warn!(
                "{}: the logging binary has ended; output is dropped",
                self.name
            );
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (output, whom) = self.output(stream);
            output.logger_ended(&whom);
        }
    }

    /// `CloseIO`: when the client has closed its end, too, and all its data is through, the
    /// process sees the end of its input. For a terminal that is a hang-up. Idempotent.
    pub fn close_stdin(&mut self) {
        self.stdin.close();
    }

    /// The process has exited: who reads a FIFO that it wrote to directly sees the end, and a
    /// terminal is drained, then its reader sees the end.
    ///
    /// What it returns is [`Stream::Stdout`]'s, as from [`drive`](Self::drive). Ask
    /// [`drained`](Self::drained) right after, and after each `drive` from now on.
    pub fn process_exited(&mut self) -> Drive {
        self.exited = true;
        match self.terminal {
            Terminal::Yes => self.stdin.cut(),
            // Relayed input may have other readers yet: it ends when none is left.
            Terminal::No => self.stdin.process_exited(),
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (output, whom) = self.output(stream);
            output.process_exited(&whom);
        }
        self.drive_output(Stream::Stdout)
    }

    /// `ResizePty`. Nothing to do without a terminal, or when it is closed already.
    ///
    /// # Errors
    /// `ioctl(TIOCSWINSZ)`.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        let (Terminal::Yes, Some(console)) = (self.terminal, self.stdout.source()) else {
            return Ok(());
        };
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(console, size)
            .call("ioctl", || format!("TIOCSWINSZ, {width}x{height}"))
            .map_err(Error::from)
    }

    /// Whether no more output will flow through us: asked after the exit. It becomes true by an
    /// event at the latest, that is with a [`drive`](Self::drive).
    pub fn drained(&self) -> bool {
        self.stdout.is_drained() && self.stderr.is_drained()
    }

    /// Closes everything now, whatever is under way. The logger, if there is one, is to be ended
    /// on a worker thread. Idempotent.
    pub fn cut(&mut self) -> Option<LoggerEnd> {
        self.stdin.cut();
        self.stdout.cut();
        self.stderr.cut();
        self.watch = None;
        self.logger
            .take()
            .filter(|logger| !logger.has_ended())
            .map(LoggerEnd::new)
    }
}
