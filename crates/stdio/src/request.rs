// SPDX-License-Identifier: Apache-2.0
//! What is asked for, in typed values.

use std::fmt;

/// One of the three standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 0.
    Stdin,
    /// Descriptor 1. A terminal's output and the end of a logger arrive here, too.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stdin, Self::Stdout, Self::Stderr];
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Stdin => "stdin",
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// Whether the process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It has one, whose master comes by [`crate::ProcessIo::attach_console`].
    Yes,
    /// It has three separate streams.
    No,
}

/// Who may open the container's ends again through `/dev/stdout` and the like
/// (`io_uid` and `io_gid` of the options): the container's root in its user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id on the host.
    pub uid: u32,
    /// Group id on the host.
    pub gid: u32,
}

/// How the data of an output's FIFO travels. Input is always relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPath {
    /// The container gets the FIFO itself. Only for a process whose end is the end of all that
    /// could hold its streams: an init with a PID namespace of its own.
    Direct,
    /// The container gets a pipe, which is relayed and can be cut.
    Relayed,
}

/// What containerd asks for: `CreateTaskRequest` or `ExecProcessRequest`.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Path of a FIFO, or empty.
    pub stdin: &'a str,
    /// Path of a FIFO or URI, or empty. It decides for stderr, too.
    pub stdout: &'a str,
    /// As `stdout`.
    pub stderr: &'a str,
    /// Whether a terminal is asked for.
    pub terminal: Terminal,
    /// Who owns the container's ends.
    pub owner: Owner,
    /// Told to a logger; names log records.
    pub container_id: &'a str,
    /// Told to a logger.
    pub namespace: &'a str,
    /// How FIFOs are connected.
    pub path: DataPath,
}
