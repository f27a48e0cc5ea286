// SPDX-License-Identifier: Apache-2.0
//! From the request to the descriptors.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use sys::{Call, Errno};

use crate::appender::Appender;
use crate::error::Error;
use crate::fifo::Outlet;
use crate::input::Input;
use crate::logger::{Logger, Subject};
use crate::node::{Handle, Node, null};
use crate::output::Output;
use crate::pipe::{Pipe, give_to, set_nonblocking};
use crate::process::{Parts, ProcessIo};
use crate::relay::Sink;
use crate::request::{DataPath, Request, Stream, Terminal};
use crate::uri::{Program, Target};

/// What a process without a terminal gets as its standard streams: close-on-exec, in blocking
/// mode, not shared with the shim.
#[derive(Debug)]
pub struct ChildStdio {
    /// For descriptor 0.
    pub stdin: OwnedFd,
    /// For descriptor 1.
    pub stdout: OwnedFd,
    /// For descriptor 2.
    pub stderr: OwnedFd,
}

/// Opens everything that a process's streams need. The child's descriptors are for its init
/// only: close them once it has them. A process with a terminal gets none from here, but its
/// terminal.
///
/// Input is not begun: see [`ProcessIo::begin_input`].
///
/// Waits for nothing but disks and a logger that gets ready, that at most ten seconds.
///
/// # Errors
/// What could not be opened, and why. Then nothing is left open or running.
pub fn open(request: &Request<'_>) -> Result<(ProcessIo, Option<ChildStdio>), Error> {
    match request.terminal {
        Terminal::Yes => terminal(request).map(|io| (io, None)),
        Terminal::No => streams(request).map(|(io, child)| (io, Some(child))),
    }
}

/// An output and the container's end of it.
type Connected = (Output, OwnedFd);

fn streams(request: &Request<'_>) -> Result<(ProcessIo, ChildStdio), Error> {
    let decisive = match request.stdout {
        "" => request.stderr,
        stdout => stdout,
    };
    let target = Target::parse(decisive)?;
    let (input, stdin) = connect_stdin(request)?;
    let mut logger = None;
    let [(output, stdout), (errors, stderr)] = match target {
        Target::Null | Target::Path(_) => connect_paths(request)?,
        Target::File(path) => {
            let wanted = [request.stdout, request.stderr].map(|text| !text.is_empty());
            let file = open_log_file(&path)?;
            connect_file(request, file, &path, wanted)?
        }
        Target::Logger(program) => {
            let (running, connected) = connect_logger(request, &program)?;
            logger = Some(running);
            connected
        }
    };
    let io = ProcessIo::new(Parts {
        name: request.container_id.to_owned(),
        terminal: Terminal::No,
        stdin: input,
        stdout: output,
        stderr: errors,
        logger,
    });
    let child = ChildStdio {
        stdin,
        stdout,
        stderr,
    };
    Ok((io, child))
}

/// Always through a pipe: a container that reads the FIFO itself would have to get it open.
fn connect_stdin(request: &Request<'_>) -> Result<(Input, OwnedFd), Error> {
    let Some(fifo) = find_inlet(request)? else {
        return Ok((Input::none(), null(OFlags::RDONLY)?));
    };
    let pipe = Pipe::owned_by(request.owner)?;
    set_nonblocking(&pipe.writer)?;
    Ok((Input::to_pipe(fifo, pipe.writer), pipe.reader))
}

/// stdin's FIFO, not opened; nothing for no input.
fn find_inlet(request: &Request<'_>) -> Result<Option<Handle>, Error> {
    if request.stdin.is_empty() {
        return Ok(None);
    }
    match Node::find(Stream::Stdin, Path::new(request.stdin))? {
        Node::Fifo(handle) => Ok(Some(handle)),
        // `find` accepts no file for stdin.
        Node::Null | Node::File(_) => Ok(None),
    }
}

fn connect_paths(request: &Request<'_>) -> Result<[Connected; 2], Error> {
    let same = !request.stdout.is_empty() && request.stdout == request.stderr;
    if same {
        if let Node::File(handle) = find_path(Stream::Stdout, request.stdout)? {
            let file = open_file(Stream::Stdout, request.stdout, &handle)?;
            return connect_file(request, file, Path::new(request.stdout), [true; 2]);
        }
    }
    Ok([
        connect_path(request, Stream::Stdout, request.stdout)?,
        connect_path(request, Stream::Stderr, request.stderr)?,
    ])
}

/// What is at a path given as such, or as a `fifo:` URI.
fn find_path(stream: Stream, text: &str) -> Result<Node, Error> {
    match Target::parse(text)? {
        Target::Null => Ok(Node::Null),
        Target::Path(path) => Node::find(stream, &path),
        Target::File(_) | Target::Logger(_) => Err(Error::InvalidUri {
            uri: text.to_owned(),
            problem: "stdout and stderr are of different kinds",
        }),
    }
}

fn open_file(stream: Stream, text: &str, handle: &Handle) -> Result<OwnedFd, Error> {
    handle
        .open(OFlags::WRONLY | OFlags::APPEND)
        .map_err(|source| Error::Open {
            stream,
            path: text.into(),
            source,
        })
}

fn connect_path(request: &Request<'_>, stream: Stream, text: &str) -> Result<Connected, Error> {
    match find_path(stream, text)? {
        Node::Null => Ok((Output::none(), null(OFlags::WRONLY)?)),
        Node::Fifo(handle) => connect_fifo(request, &handle).map_err(|source| Error::Open {
            stream,
            path: text.into(),
            source,
        }),
        Node::File(handle) => {
            let file = open_file(stream, text, &handle)?;
            let (appender, pipe) = append(request, file, text)?;
            Ok((Output::appended(appender), pipe))
        }
    }
}

fn connect_fifo(request: &Request<'_>, handle: &Handle) -> sys::Result<Connected> {
    let outlet = Outlet::open(handle)?;
    match request.path {
        DataPath::Direct => {
            give_to(outlet.writer(), request.owner)?;
            let child = outlet.for_container()?;
            Ok((Output::direct(outlet), child))
        }
        DataPath::Relayed => {
            let pipe = Pipe::owned_by(request.owner)?;
            set_nonblocking(&pipe.reader)?;
            Ok((Output::relayed(pipe.reader, outlet), pipe.writer))
        }
    }
}

/// Starts an appender to `file`; returns the container's end of the pipe to it.
fn append(request: &Request<'_>, file: OwnedFd, name: &str) -> sys::Result<(Appender, OwnedFd)> {
    let pipe = Pipe::owned_by(request.owner)?;
    let name = format!("{}: {name}", request.container_id);
    Ok((Appender::start(pipe.reader, file, name)?, pipe.writer))
}

/// Both streams (those that are `wanted`) through one pipe into one file: their order is kept.
fn connect_file(
    request: &Request<'_>,
    file: OwnedFd,
    path: &Path,
    wanted: [bool; 2],
) -> Result<[Connected; 2], Error> {
    let (appender, pipe) = append(request, file, &path.to_string_lossy())?;
    let end = |wanted: bool| match wanted {
        true => rustix::io::fcntl_dupfd_cloexec(&pipe, 0).call("fcntl", || "F_DUPFD_CLOEXEC"),
        false => null(OFlags::WRONLY),
    };
    Ok([
        (Output::appended(appender), end(wanted[0])?),
        (Output::none(), end(wanted[1])?),
    ])
}

/// Makes the log file and the directories above it.
fn open_log_file(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |source| Error::LogFile {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .call("mkdir", || format!("{parent:?}, 0755"))
            .map_err(failed)?;
    }
    // Non-blocking, or opening a FIFO that somebody put there would wait for its reader.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
        .call("open", || format!("{path:?}, {flags:?}, 0644"))
        .map_err(failed)?;
    let stat = rustix::fs::fstat(&file)
        .call("fstat", || format!("{path:?}"))
        .map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let text = format!("{path:?}, not a regular file");
        return Err(failed(sys::Error::new("open", text, Errno::INVAL)));
    }
    Ok(file)
}

fn connect_logger(
    request: &Request<'_>,
    program: &Program,
) -> Result<(Logger, [Connected; 2]), Error> {
    let (stdout, stderr) = (
        Pipe::owned_by(request.owner)?,
        Pipe::owned_by(request.owner)?,
    );
    let logger = Logger::start(
        program,
        subject(request),
        stdout.reader.as_fd(),
        stderr.reader.as_fd(),
    )?;
    let connected = [stdout, stderr].map(|pipe| (Output::logged(pipe.reader), pipe.writer));
    Ok((logger, connected))
}

fn subject<'a>(request: &Request<'a>) -> Subject<'a> {
    Subject {
        container_id: request.container_id,
        namespace: request.namespace,
    }
}

/// A terminal has one input and one output; stderr is not looked at.
fn terminal(request: &Request<'_>) -> Result<ProcessIo, Error> {
    let target = Target::parse(request.stdout)?;
    let stdin = find_inlet(request)?.map_or_else(Input::none, Input::awaiting_console);
    let mut appender = None;
    let mut logger = None;
    let sink = match target {
        Target::Null => Sink::Nowhere,
        Target::Path(path) => match Node::find(Stream::Stdout, &path)? {
            Node::Null => Sink::Nowhere,
            Node::Fifo(handle) => {
                let outlet = Outlet::open(&handle).map_err(|source| Error::Open {
                    stream: Stream::Stdout,
                    path,
                    source,
                })?;
                Sink::Fifo(outlet)
            }
            Node::File(handle) => {
                let file = open_file(Stream::Stdout, request.stdout, &handle)?;
                append_console(request, file, &mut appender)?
            }
        },
        Target::File(path) => append_console(request, open_log_file(&path)?, &mut appender)?,
        Target::Logger(program) => {
            let (running, sink) = log_console(request, &program)?;
            logger = Some(running);
            sink
        }
    };
    Ok(ProcessIo::new(Parts {
        name: request.container_id.to_owned(),
        terminal: Terminal::Yes,
        stdin,
        stdout: Output::awaiting_console(sink, appender),
        stderr: Output::none(),
        logger,
    }))
}

fn append_console(
    request: &Request<'_>,
    file: OwnedFd,
    appender: &mut Option<Appender>,
) -> sys::Result<Sink> {
    let (started, pipe) = append(request, file, request.stdout)?;
    set_nonblocking(&pipe)?;
    *appender = Some(started);
    Ok(Sink::Plain(pipe))
}

fn log_console(request: &Request<'_>, program: &Program) -> Result<(Logger, Sink), Error> {
    let (stdout, stderr) = (Pipe::new()?, Pipe::new()?);
    // stderr is at its end from the start.
    drop(stderr.writer);
    let logger = Logger::start(
        program,
        subject(request),
        stdout.reader.as_fd(),
        stderr.reader.as_fd(),
    )?;
    set_nonblocking(&stdout.writer)?;
    Ok((logger, Sink::Plain(stdout.writer)))
}
