// SPDX-License-Identifier: Apache-2.0
//! One error type for a failed system call, printed the way strace prints it.

use std::fmt;

pub use rustix::io::Errno;

/// A system call that failed: its name, its arguments and the errno.
///
/// Displays as `openat2(3, "etc/passwd"): no such file or directory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    call: &'static str,
    args: String,
    errno: Errno,
}

/// Result of a system call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `call` with `args` as a person would write them.
    pub fn new(call: &'static str, args: impl Into<String>, errno: Errno) -> Self {
        Self {
            call,
            args: args.into(),
            errno,
        }
    }

    /// The error number: what callers decide on (never on the text).
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The name of the system call.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// Its arguments, as a person would write them.
    pub fn args(&self) -> &str {
        &self.args
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}): {}", self.call, self.args, describe(self.errno))
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::new(std::io::Error::from(error.errno).kind(), error)
    }
}

/// The text of `strerror(3)` in lower case as Go prints it: `no such file or directory`.
///
/// Clients of containerd match on Go's wording ("permission denied", "not a directory").
pub fn describe(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    let text = text
        .split(" (os error")
        .next()
        .unwrap_or("unknown error")
        .to_owned();
    let mut chars = text.chars();
    match (chars.next(), chars.as_str()) {
        // "RFS specific error" and the like keep their capitals.
        (Some(first), rest) if !rest.starts_with(|c: char| c.is_uppercase()) => {
            first.to_lowercase().chain(rest.chars()).collect()
        }
        _ => text,
    }
}

/// Adds the call's name and arguments to a bare errno.
pub trait Call<T> {
    /// Names the call that failed; `args` is only run on failure.
    ///
    /// # Errors
    /// The same failure, with the call's name and arguments.
    fn call<S: Into<String>>(self, name: &'static str, args: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Call<T> for rustix::io::Result<T> {
    fn call<S: Into<String>>(self, name: &'static str, args: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::new(name, args(), errno))
    }
}

impl<T> Call<T> for std::io::Result<T> {
    fn call<S: Into<String>>(self, name: &'static str, args: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| {
            let errno = e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            Error::new(name, args(), errno)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_strace_with_gos_wording() {
        let error = Error::new("openat", "\"/nope\"", Errno::NOENT);
        assert_eq!(
            error.to_string(),
            "openat(\"/nope\"): no such file or directory"
        );
        assert_eq!(describe(Errno::ACCESS), "permission denied");
        assert_eq!(describe(Errno::NOTDIR), "not a directory");
    }
}
