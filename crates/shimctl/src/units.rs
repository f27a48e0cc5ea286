// SPDX-License-Identifier: Apache-2.0
//! Numbers as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The moment from which on something is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(pub(crate) i64);

/// `100ms`, `2s`, `1.5s`, `10m`, `2h`, `1d`; a bare number counts seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(format!("unknown unit {unit:?}: us, ms, s, m, h or d")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a number and a unit, as 100ms or 2s".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| "too long".to_owned())
}

/// An age, or seconds since 1970.
pub(crate) fn parse_since(text: &str) -> Result<Since, String> {
    let is_moment = text.len() >= 9 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let age = parse_duration(text)?;
    let nanoseconds = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    if is_moment {
        return Ok(Since(nanoseconds(age)));
    }
    Ok(Since(now_unix_ns().saturating_sub(nanoseconds(age))))
}

/// Nanoseconds since 1970.
pub(crate) fn now_unix_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Three figures and a unit: `512`, `1.5K`, `23.4M`, `2.0G`.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if value < 1024 {
        return value.to_string();
    }
    let mut scaled = value as f64;
    let mut unit = "";
    for next in UNITS {
        // 1023.95 would round to 1024.0.
        if scaled < 1023.95 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if scaled < 99.95 {
        format!("{scaled:.1}{unit}")
    } else {
        format!("{scaled:.0}{unit}")
    }
}

/// A duration as short as it can be told: `850ns`, `12.3µs`, `4.56ms`, `1.23s`, `2m05s`, `3h04m`,
/// `5d02h`.
pub(crate) fn duration_ns(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => significant(value / 1e3, "µs"),
        1_000_000..1_000_000_000 => significant(value / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => significant(value / 1e9, "s"),
        _ => age_ns(ns),
    }
}

fn significant(value: f64, unit: &str) -> String {
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

/// An age in whole units: `5s`, `2m05s`, `3h04m`, `5d02h`.
pub(crate) fn age_ns(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Hundredths, without decimals where there is no room for doubt.
pub(crate) fn percent(value: f64) -> String {
    if value < 9.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// The moment as RFC 3339 in UTC, with so many digits of the second.
pub(crate) fn time(unix_ns: i64, digits: usize) -> String {
    let (seconds, nanoseconds) = (
        unix_ns.div_euclid(1_000_000_000),
        unix_ns.rem_euclid(1_000_000_000),
    );
    let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let fraction = format!("{nanoseconds:09}");
    let fraction = match digits {
        0 => String::new(),
        n => format!(".{}", &fraction[..n.min(9)]),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The time of day of a moment, to the millisecond.
pub(crate) fn time_of_day(unix_ns: i64) -> String {
    time(unix_ns, 3)[11..23].to_owned()
}

/// Year, month and day of a day since 1970 (the proleptic Gregorian calendar; Howard Hinnant).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let millis = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(millis("100ms"), Ok(100));
        assert_eq!(millis("1.5s"), Ok(1500));
        assert_eq!(millis("2"), Ok(2000));
        assert_eq!(millis("10m"), Ok(600_000));
        assert!(millis("x").is_err() && millis("5y").is_err() && millis("").is_err());
        assert_eq!(
            parse_since("1700000000"),
            Ok(Since(1_700_000_000_000_000_000))
        );
        let ago = now_unix_ns() - parse_since("10m").unwrap().0;
        assert!((599_000_000_000..601_000_000_000).contains(&ago));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1_048_570, "1.0M"),
            (150 << 20, "150M"),
            (3 << 30, "3.0G"),
            (u64::MAX, "16.0E"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text);
        }
        let cases = [
            (999, "999ns"),
            (12_345, "12.3µs"),
            (4_560_000, "4.56ms"),
            (999_999_999, "1000ms"),
            (1_230_000_000, "1.23s"),
            (125_000_000_000, "2m05s"),
            (11_040_000_000_000, "3h04m"),
            (439_200_000_000_000, "5d02h"),
        ];
        for (value, text) in cases {
            assert_eq!(duration_ns(value), text);
        }
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(time(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(
            time(1_709_210_096_123_456_789, 9),
            "2024-02-29T12:34:56.123456789Z"
        );
        assert_eq!(time_of_day(1_709_210_096_123_456_789), "12:34:56.123");
        assert_eq!(time(-1, 3), "1969-12-31T23:59:59.999Z");
    }
}
