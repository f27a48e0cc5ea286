// SPDX-License-Identifier: Apache-2.0
//! Block devices.

use super::Pressure;
use crate::reader::Reader;

/// What was done with block devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockIo {
    /// Counters by device and operation: v2 knows reads, writes and discards.
    pub entries: Vec<Io>,
    /// v2: waiting for devices.
    pub pressure: Option<Pressure>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are the kernel's.
pub enum Operation {
    Read,
    Write,
    Sync,
    Async,
    Discard,
    Total,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Async,
        Self::Discard,
        Self::Total,
    ];

    /// Its name in v1 files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Sync => "Sync",
            Self::Async => "Async",
            Self::Discard => "Discard",
            Self::Total => "Total",
        }
    }
}

/// One operation on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Io {
    /// Major number of the device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Which operation.
    pub operation: Operation,
    /// How many bytes.
    pub bytes: u64,
    /// How many operations.
    pub count: u64,
}

impl BlockIo {
    /// The throttling layer counts everything that reaches a device, whatever its scheduler.
    pub(super) fn read_v1(&mut self, reader: &mut Reader) {
        for (file, field) in [
            ("blkio.throttle.io_service_bytes", Field::Bytes),
            ("blkio.throttle.io_serviced", Field::Count),
        ] {
            // With what happened in cgroups below, where the kernel adds that up.
            let text = match reader.text(&format!("{file}_recursive")) {
                // Borrowed from the reader, which is needed again.
                Some(text) => Some(text.to_owned()),
                None => reader.text(file).map(str::to_owned),
            };
            for line in text.iter().flat_map(|text| text.lines()) {
                self.add_v1(line, field);
            }
        }
    }

    fn add_v1(&mut self, line: &str, field: Field) {
        let mut words = line.split([' ', ':']);
        let mut next = || words.next();
        let (Some(major), Some(minor), Some(name), Some(value)) = (next(), next(), next(), next())
        else {
            // The sum of all devices.
            return;
        };
        let operation = Operation::ALL.iter().find(|o| o.name() == name);
        if let (Ok(major), Ok(minor), Some(&operation), Ok(value)) =
            (major.parse(), minor.parse(), operation, value.parse())
        {
            self.add(major, minor, operation, field, value);
        }
    }

    pub(super) fn read_v2(&mut self, reader: &mut Reader) {
        if let Some(text) = reader.text("io.stat") {
            for line in text.lines() {
                self.add_v2(line);
            }
        }
    }

    /// A line may have no counters, and some that we do not know.
    fn add_v2(&mut self, line: &str) {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
            return;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
            return;
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (operation, field) = match name {
                "rbytes" => (Operation::Read, Field::Bytes),
                "wbytes" => (Operation::Write, Field::Bytes),
                "dbytes" => (Operation::Discard, Field::Bytes),
                "rios" => (Operation::Read, Field::Count),
                "wios" => (Operation::Write, Field::Count),
                "dios" => (Operation::Discard, Field::Count),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                self.add(major, minor, operation, field, value);
            }
        }
    }

    fn add(&mut self, major: u32, minor: u32, operation: Operation, field: Field, value: u64) {
        let same = |io: &&mut Io| (io.major, io.minor, io.operation) == (major, minor, operation);
        let entry = match self.entries.iter_mut().find(same) {
            Some(entry) => entry,
            None => {
                self.entries.push(Io {
                    major,
                    minor,
                    operation,
                    bytes: 0,
                    count: 0,
                });
                // Just pushed.
                let last = self.entries.len() - 1;
                &mut self.entries[last]
            }
        };
        match field {
            Field::Bytes => entry.bytes = value,
            Field::Count => entry.count = value,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Bytes,
    Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_v1_are_joined_by_device_and_operation() {
        let mut io = BlockIo::default();
        for line in ["8:0 Read 4096", "8:0 Total 4096", "Total 4096"] {
            io.add_v1(line, Field::Bytes);
        }
        for line in ["8:0 Read 1", "8:0 Total 1", "8:16 Bogus 7", "Total 1"] {
            io.add_v1(line, Field::Count);
        }
        let entry = |operation| Io {
            major: 8,
            minor: 0,
            operation,
            bytes: 4096,
            count: 1,
        };
        let expected = [entry(Operation::Read), entry(Operation::Total)];
        assert_eq!(io.entries, expected);
    }

    #[test]
    fn lines_of_v2_may_be_empty_or_new() {
        let mut io = BlockIo::default();
        io.add_v2("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0 cost.usage=9");
        io.add_v2("254:16");
        io.add_v2("254:32 ");
        io.add_v2("");
        assert_eq!(io.entries.len(), 3);
        assert_eq!((io.entries[0].bytes, io.entries[0].count), (1, 3));
        assert_eq!((io.entries[1].bytes, io.entries[1].count), (2, 4));
    }
}
