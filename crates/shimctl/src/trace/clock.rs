// SPDX-License-Identifier: Apache-2.0
//! The shim's monotonic clock and the wall clock.

use diagnostics::v1::{InfoRequest, InfoResponse};

use crate::client::{Client, Silence};

/// Turns one into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Clock {
    unix_ns: i64,
    mono_ns: u64,
}

impl Clock {
    /// Both clocks at the same moment.
    pub(crate) fn new(unix_ns: i64, mono_ns: u64) -> Self {
        Self { unix_ns, mono_ns }
    }

    pub(crate) fn of(info: &InfoResponse) -> Self {
        Self::new(info.now_unix_ns, info.now_mono_ns)
    }

    pub(crate) fn ask(client: &mut Client) -> Result<Self, Silence> {
        Ok(Self::of(&client.call(&InfoRequest::new())?))
    }

    /// The moment at which the monotonic clock was `mono_ns`.
    pub(crate) fn unix(&self, mono_ns: u64) -> i64 {
        let ahead = i128::from(mono_ns) - i128::from(self.mono_ns);
        i64::try_from(i128::from(self.unix_ns) + ahead).unwrap_or(i64::MAX)
    }

    /// What the monotonic clock was at a moment.
    pub(crate) fn mono(&self, unix_ns: i64) -> u64 {
        let ahead = i128::from(unix_ns) - i128::from(self.unix_ns);
        u64::try_from(i128::from(self.mono_ns) + ahead).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_lead_back() {
        let clock = Clock::new(1_700_000_000_000_000_000, 5_000_000_000);
        assert_eq!(clock.unix(6_000_000_000), 1_700_000_001_000_000_000);
        assert_eq!(clock.unix(4_000_000_000), 1_699_999_999_000_000_000);
        assert_eq!(clock.mono(clock.unix(123)), 123);
        assert_eq!(clock.mono(0), 0);
    }
}
