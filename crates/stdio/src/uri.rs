// SPDX-License-Identifier: Apache-2.0
//! What the strings of a request mean. Pure.
//!
//! A URI is read as Go's `net/url` reads it, because that is what clients test against: the scheme
//! in any case, authority and fragment ignored, `+` a space in the query only, a malformed pair of
//! the query skipped, the first of several values taken.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::Error;

/// Where output goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere.
    Null,
    /// To what is at the path: a FIFO, or a file that exists.
    Path(PathBuf),
    /// Appended to a file that is made when missing.
    File(PathBuf),
    /// To a program.
    Logger(Program),
}

/// A logging program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: CString,
    /// Without `argv[0]`.
    pub(crate) args: Vec<CString>,
    pub(crate) readiness: Readiness,
}

/// How a logger says that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// By a byte, or by closing the descriptor (also by a crash): `binary://`.
    ByteOrClose,
    /// By a byte: `binary-v2://`.
    Byte,
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return Ok(Self::Path(PathBuf::from(text)));
        };
        let uri = Uri::parse(text, rest);
        match scheme.to_ascii_lowercase().as_str() {
            "fifo" => Ok(Self::Path(PathBuf::from(OsString::from_vec(uri.path()?)))),
            "file" => Ok(Self::File(PathBuf::from(OsString::from_vec(uri.path()?)))),
            "binary" => uri.program(Readiness::ByteOrClose).map(Self::Logger),
            "binary-v2" => uri.program(Readiness::Byte).map(Self::Logger),
            other => Err(Error::UnknownScheme(other.to_owned())),
        }
    }
}

/// `scheme:rest`; nothing for a plain path.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut bytes = scheme.bytes();
    let first = bytes.next()?;
    let valid = first.is_ascii_alphabetic()
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    valid.then_some((scheme, rest))
}

/// The parts of a URI that matter here, still encoded.
struct Uri<'a> {
    text: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Uri<'a> {
    fn parse(text: &'a str, rest: &'a str) -> Self {
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match rest.strip_prefix("//") {
            Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
            None => rest,
        };
        Self { text, path, query }
    }

    fn error(&self, problem: &'static str) -> Error {
        let uri = self.text.to_owned();
        Error::InvalidUri { uri, problem }
    }

    /// The decoded path, absolute and without NUL.
    fn path(&self) -> Result<Vec<u8>, Error> {
        let path = decode(self.path, Plus::Literal)
            .ok_or_else(|| self.error("malformed percent-encoding in the path"))?;
        match path.first() {
            Some(b'/') if !path.contains(&0) => Ok(path),
            Some(b'/') => Err(self.error("the path contains a NUL byte")),
            _ => Err(self.error("the path is not absolute")),
        }
    }

    fn program(&self, readiness: Readiness) -> Result<Program, Error> {
        let nul = |_| self.error("an argument contains a NUL byte");
        let path = CString::new(self.path()?).map_err(nul)?;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut args = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key, Plus::Space), decode(value, Plus::Space))
            else {
                continue;
            };
            if pair.contains(';') || keys.contains(&key) {
                continue;
            }
            args.push(CString::new(key.clone()).map_err(nul)?);
            args.push(CString::new(value).map_err(nul)?);
            keys.push(key);
        }
        Ok(Program {
            path,
            args,
            readiness,
        })
    }
}

/// What a `+` means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    Literal,
    Space,
}

/// Percent-decoding; nothing for a malformed escape.
fn decode(text: &str, plus: Plus) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                // Two hexadecimal digits fit.
                (high << 4 | low) as u8
            }
            b'+' if plus == Plus::Space => b' ',
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logger(text: &str) -> Program {
        match Target::parse(text).unwrap() {
            Target::Logger(program) => program,
            other => panic!("{other:?}"),
        }
    }

    fn args(program: &Program) -> Vec<&str> {
        program
            .args
            .iter()
            .map(|arg| arg.to_str().unwrap())
            .collect()
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let path = "/run/containerd/fifo/12%20?x#y:z";
        assert_eq!(Target::parse(path).unwrap(), Target::Path(path.into()));
        assert_eq!(Target::parse("").unwrap(), Target::Null);
    }

    #[test]
    fn a_file_uri_is_decoded_and_its_query_ignored() {
        let target = Target::parse("FILE:///var/log/a%20b+c%2fd?x=y#z").unwrap();
        assert_eq!(target, Target::File("/var/log/a b+c/d".into()));
    }

    #[test]
    fn a_uri_without_an_absolute_path_or_with_bad_escapes_is_refused() {
        for uri in [
            "file://name",
            "file:",
            "binary:x",
            "file:///a%0",
            "file:///a%zz",
            "file:///%00",
        ] {
            assert!(
                matches!(Target::parse(uri), Err(Error::InvalidUri { .. })),
                "{uri}"
            );
        }
    }

    #[test]
    fn an_unknown_scheme_is_named_in_the_error() {
        let error = Target::parse("ttrpc+unix:///x?streaming_id=1").unwrap_err();
        assert_eq!(error.to_string(), "unknown STDIO scheme ttrpc+unix");
    }

    #[test]
    fn a_loggers_arguments_are_the_pairs_in_order_decoded() {
        let program = logger("binary:///usr/bin/log%20er?b=1+2&a=%2Ftmp&flag&b=3&;x=1&e=%4");
        assert_eq!(program.path.to_str().unwrap(), "/usr/bin/log er");
        assert_eq!(args(&program), ["b", "1 2", "a", "/tmp", "flag", ""]);
        assert_eq!(program.readiness, Readiness::ByteOrClose);
        assert_eq!(logger("binary-v2:///x").readiness, Readiness::Byte);
        assert!(logger("binary:///x").args.is_empty());
    }
}
