// SPDX-License-Identifier: Apache-2.0
//! Opening what a path names, without hanging on it.
//!
//! The path is resolved once, to a handle (`O_PATH`): what is inspected is what is opened, and
//! opening has no side effect before the kind is known.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use sys::{Call, Errno};

use crate::error::Error;
use crate::request::Stream;

/// `makedev(1, 3)`.
const DEV_NULL: (u32, u32) = (1, 3);

/// What a path names.
pub(crate) enum Node {
    Fifo(Handle),
    File(Handle),
    /// `/dev/null`.
    Null,
}

/// Something resolved, not yet opened.
#[derive(Debug)]
pub(crate) struct Handle {
    fd: OwnedFd,
}

impl Node {
    pub(crate) fn find(stream: Stream, path: &Path) -> Result<Self, Error> {
        let open = |source| Error::Open {
            stream,
            path: path.to_owned(),
            source,
        };
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .call("open", || format!("{path:?}"))
            .map_err(open)?;
        let stat = rustix::fs::fstat(&fd)
            .call("fstat", || format!("{path:?}"))
            .map_err(open)?;
        let device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => return Ok(Self::Fifo(Handle { fd })),
            FileType::RegularFile if stream != Stream::Stdin => {
                return Ok(Self::File(Handle { fd }));
            }
            FileType::CharacterDevice if device == DEV_NULL => return Ok(Self::Null),
            FileType::RegularFile => "a regular file",
            FileType::Directory => "a directory",
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            _ => "of an unknown kind",
        };
        Err(Error::WrongKind {
            stream,
            path: path.to_owned(),
            kind,
        })
    }
}

impl Handle {
    /// Opens it, close-on-exec, as a new open file description.
    pub(crate) fn open(&self, flags: OFlags) -> sys::Result<OwnedFd> {
        reopen(&self.fd, flags)
    }
}

/// Opens again what `fd` refers to, as a new open file description.
pub(crate) fn reopen(fd: &OwnedFd, flags: OFlags) -> sys::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    loop {
        match rustix::fs::open(path.as_str(), flags, Mode::empty()) {
            Err(Errno::INTR) => {}
            other => return other.call("open", || format!("{path:?}, {flags:?}")),
        }
    }
}

/// `/dev/null`, for reading or for writing.
pub(crate) fn null(flags: OFlags) -> sys::Result<OwnedFd> {
    rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty())
        .call("open", || "\"/dev/null\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn refusal(stream: Stream, path: &Path) -> String {
        Node::find(stream, path).err().unwrap().to_string()
    }

    #[test]
    fn what_is_neither_fifo_nor_file_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let text = refusal(Stream::Stdout, dir.path());
        assert!(
            text.ends_with("is a directory, want a FIFO or a regular file"),
            "{text}"
        );
        assert!(refusal(Stream::Stderr, &socket).contains("is a socket"));
        assert!(refusal(Stream::Stdout, Path::new("/dev/zero")).contains("is a device"));
        let text = refusal(Stream::Stdin, Path::new("/etc/passwd"));
        assert!(text.ends_with("is a regular file, want a FIFO"), "{text}");
        assert!(matches!(
            Node::find(Stream::Stdin, Path::new("/dev/null")),
            Ok(Node::Null)
        ));
    }

    #[test]
    fn a_missing_path_is_an_error_with_its_cause() {
        let error = Node::find(Stream::Stdout, Path::new("/nope/fifo"))
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "opening stdout \"/nope/fifo\"");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.ends_with("no such file or directory"), "{cause}");
    }
}
