// SPDX-License-Identifier: Apache-2.0
//! Pressure stall information: how long processes waited for a resource.

use crate::reader::Reader;

/// How long processes waited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// While at least one of them waited.
    pub some: Option<Averages>,
    /// While all of them waited at once.
    pub full: Option<Averages>,
}

/// Shares of time spent waiting, in percent, over the last seconds; and all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Averages {
    /// Over ten seconds.
    pub avg10: f64,
    /// Over a minute.
    pub avg60: f64,
    /// Over five minutes.
    pub avg300: f64,
    /// Since the beginning, in microseconds.
    pub total: u64,
}

impl Pressure {
    /// `None`: the kernel does not measure it.
    pub(super) fn read(reader: &mut Reader, file: &str) -> Option<Self> {
        Self::parse(reader.text(file)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut pressure = Self::default();
        for line in text.lines() {
            let (kind, averages) = line.split_once(' ')?;
            let averages = Averages::parse(averages)?;
            match kind {
                "some" => pressure.some = Some(averages),
                "full" => pressure.full = Some(averages),
                _ => {}
            }
        }
        Some(pressure)
    }
}

impl Averages {
    fn parse(text: &str) -> Option<Self> {
        let mut averages = Self::default();
        for (name, value) in text.split(' ').filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => averages.avg10 = value.parse().ok()?,
                "avg60" => averages.avg60 = value.parse().ok()?,
                "avg300" => averages.avg300 = value.parse().ok()?,
                "total" => averages.total = value.parse().ok()?,
                _ => {}
            }
        }
        Some(averages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text = "some avg10=1.50 avg60=0.00 avg300=20.02 total=12\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = Pressure::parse(text).unwrap();
        let some = pressure.some.unwrap();
        assert_eq!((some.avg10, some.avg300, some.total), (1.5, 20.02, 12));
        assert_eq!(pressure.full.unwrap().total, 3);
        let only_some = Pressure::parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n");
        assert_eq!(only_some.unwrap().full, None);
        assert_eq!(Pressure::parse("some avg10=x total=1\n"), None);
    }
}
