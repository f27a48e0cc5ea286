// SPDX-License-Identifier: Apache-2.0
//! Reading many small files of one cgroup after another: one buffer, of bounded size.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;

use crate::access;
use crate::cgroup::Cgroup;
use crate::record::Place;

/// What one read takes. Nearly every file fits.
const CHUNK: usize = 4096;
/// No file that is read here is longer: a line for each processor, device or kind of event.
const LONGEST: usize = 256 * 1024;

/// The files of one directory. A file that is missing, cannot be read or cannot be understood is
/// one that tells nothing: what it would have said is `None`.
pub(crate) struct Reader {
    /// `None`: the directory is gone.
    directory: Option<OwnedFd>,
    buffer: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(cgroup: &Cgroup, place: &Place) -> Self {
        let root = place.hierarchy(cgroup.layout()).root();
        Self {
            directory: access::open_directory(root, &place.path).ok(),
            buffer: Vec::new(),
        }
    }

    /// The next directory, with the buffer of this one.
    pub(crate) fn go_to(&mut self, cgroup: &Cgroup, place: &Place) {
        let root = place.hierarchy(cgroup.layout()).root();
        self.directory = access::open_directory(root, &place.path).ok();
    }

    /// The content of a file.
    pub(crate) fn text(&mut self, name: &str) -> Option<&str> {
        let file = access::open(self.directory.as_ref()?.as_fd(), name, OFlags::RDONLY).ok()?;
        self.buffer.clear();
        loop {
            self.buffer.reserve(CHUNK);
            let room = rustix::buffer::spare_capacity(&mut self.buffer);
            match rustix::io::read(&file, room) {
                Ok(0) => break,
                Ok(_) if self.buffer.len() > LONGEST => return None,
                Ok(_) => {}
                // EOPNOTSUPP, ENODEV: not for this cgroup, or not any more.
                Err(_) => return None,
            }
        }
        std::str::from_utf8(&self.buffer).ok()
    }

    /// A file that holds one number; `max` is the highest there is.
    pub(crate) fn number(&mut self, name: &str) -> Option<u64> {
        number(self.text(name)?.trim_end())
    }
}

/// A number as cgroup files have it.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        // Old kernels show counters that have run below zero.
        negative if negative.starts_with('-') => Some(0),
        number => number.parse().ok(),
    }
}

/// The lines `name value` of a file.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, number(value)?))
    })
}

/// The value on the line `name value`.
pub(crate) fn value(text: &str, name: &str) -> Option<u64> {
    pairs(text).find_map(|(n, value)| (n == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_pairs_are_the_kernels() {
        assert_eq!(number("17"), Some(17));
        assert_eq!(number("max"), Some(u64::MAX));
        assert_eq!(number("-1"), Some(0));
        assert_eq!(number("x"), None);
        let text = "a 1\nbroken\nb max\nc x\nd 2 3\n";
        assert_eq!(pairs(text).collect::<Vec<_>>(), [("a", 1), ("b", u64::MAX)]);
        assert_eq!(value(text, "b"), Some(u64::MAX));
        assert_eq!(value(text, "c"), None);
    }
}
