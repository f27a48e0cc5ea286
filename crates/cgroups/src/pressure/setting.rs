// SPDX-License-Identifier: Apache-2.0
//! Whether pressure on a container's memory is watched, and what counts as which level.
//!
//! | annotation [`ANNOTATION`]     | v1                  | v2                                          |
//! |-------------------------------|---------------------|---------------------------------------------|
//! | none, `auto`                  | from the beginning  | once the container has hit a limit of its own |
//! | `on`, `true`, `1`             | from the beginning  | from the beginning                          |
//! | `off`, `false`, `0`           | not                 | not                                         |
//! | triggers                      | as on v2            | from the beginning, with these triggers     |
//!
//! Triggers are a list such as `low=some 200000 2000000, critical=full 100000 2000000`: the words
//! after the level are what the kernel takes, with a stall and a window in microseconds
//! (Documentation/accounting/psi.rst). A level that is not listed is not watched.

use super::Level;

/// The annotation of a container's specification.
pub const ANNOTATION: &str = "io.containerd.rust.memory-pressure";

/// The kernel's own averages are two seconds apart: triggers with such windows cost nothing more,
/// and need no privilege. Others have a thread of the kernel for each cgroup.
const AVERAGES: u32 = 2_000_000;
/// What the kernel takes as a window.
const WINDOWS: std::ops::RangeInclusive<u32> = 500_000..=10_000_000;

/// What is wanted for a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Setting {
    /// Nothing is watched.
    Off,
    /// As long as it costs nothing: see the table above.
    #[default]
    Auto,
    /// From the beginning.
    On,
    /// Stalls as they are given, also where v1 has levels of its own.
    Triggers([Option<Trigger>; 3]),
}

/// Whose stall counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Some process waits for memory.
    Some,
    /// All that are not idle do.
    Full,
}

/// A stall that is to be told: so much of it within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    stall: Stall,
    threshold: u32,
    window: u32,
}

/// An annotation that says nothing known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {ANNOTATION}: {value:?} {reason}")]
pub struct Invalid {
    value: String,
    reason: &'static str,
}

impl Trigger {
    /// Checks what the kernel would.
    fn new(stall: Stall, threshold: u32, window: u32) -> Result<Self, &'static str> {
        if !WINDOWS.contains(&window) {
            return Err("has a window that is not between 500000 and 10000000 microseconds");
        }
        if threshold == 0 || threshold > window {
            return Err("has a stall that is not between 1 microsecond and the window");
        }
        Ok(Self {
            stall,
            threshold,
            window,
        })
    }

    /// The kernel looks for it when it computes averages anyhow.
    pub(super) fn is_cheap(&self) -> bool {
        self.window % AVERAGES == 0
    }
}

impl std::fmt::Display for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stall = match self.stall {
            Stall::Some => "some",
            Stall::Full => "full",
        };
        write!(f, "{stall} {} {}", self.threshold, self.window)
    }
}

impl std::str::FromStr for Trigger {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [stall, threshold, window] = words[..] else {
            return Err("is not of the form level=some|full STALL WINDOW");
        };
        let stall = match stall {
            "some" => Stall::Some,
            "full" => Stall::Full,
            _ => return Err("has a stall that is neither some nor full"),
        };
        let number = |text: &str| text.parse().map_err(|_| "has something that is no number");
        Self::new(stall, number(threshold)?, number(window)?)
    }
}

impl Setting {
    /// Reads the annotation.
    ///
    /// # Errors
    /// It says nothing known, or what the kernel would not take.
    pub fn decide(annotation: Option<&str>) -> Result<Self, Invalid> {
        match annotation.map(str::trim) {
            None | Some("" | "auto") => Ok(Self::Auto),
            Some("on" | "true" | "1") => Ok(Self::On),
            Some("off" | "false" | "0") => Ok(Self::Off),
            Some(list) => triggers(list).map_err(|reason| Invalid {
                value: list.to_owned(),
                reason,
            }),
        }
    }

    /// The trigger for a level: a tenth of the time that some wait, three tenths, or a tenth that
    /// all wait.
    pub(super) fn trigger(&self, level: Level) -> Option<Trigger> {
        let (stall, threshold) = match (self, level) {
            (Self::Off, _) => return None,
            (Self::Triggers(triggers), level) => return triggers[level.index()],
            (_, Level::Low) => (Stall::Some, AVERAGES / 10),
            (_, Level::Medium) => (Stall::Some, AVERAGES / 10 * 3),
            (_, Level::Critical) => (Stall::Full, AVERAGES / 10),
        };
        Some(Trigger {
            stall,
            threshold,
            window: AVERAGES,
        })
    }
}

fn triggers(list: &str) -> Result<Setting, &'static str> {
    let mut triggers = [None; 3];
    for one in list.split(',') {
        let Some((level, trigger)) = one.split_once('=') else {
            return Err("is neither auto, on, off nor a list of level=some|full STALL WINDOW");
        };
        let level = Level::ALL
            .into_iter()
            .find(|known| known.name() == level.trim())
            .ok_or("has a level other than low, medium and critical")?;
        if triggers[level.index()].replace(trigger.parse()?).is_some() {
            return Err("has a level twice");
        }
    }
    Ok(Setting::Triggers(triggers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_word_or_a_list_of_triggers() {
        let decide = |text| Setting::decide(Some(text)).unwrap();
        assert_eq!(Setting::decide(None), Ok(Setting::Auto));
        assert_eq!(decide(" auto "), Setting::Auto);
        assert_eq!((decide("on"), decide("1")), (Setting::On, Setting::On));
        assert_eq!(decide("false"), Setting::Off);
        let listed = decide("critical=full 100000 500000, low = some 1 2000000");
        let shown = Level::ALL.map(|level| listed.trigger(level).map(|t| t.to_string()));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            shown,
            [some("some 1 2000000"), None, some("full 100000 500000")]
        );
        assert!(!listed.trigger(Level::Critical).unwrap().is_cheap());
    }

    #[test]
    fn the_defaults_are_cheap_and_valid() {
        for level in Level::ALL {
            let trigger = Setting::Auto.trigger(level).unwrap();
            assert_eq!(trigger.to_string().parse(), Ok(trigger));
            assert!(trigger.is_cheap());
            assert_eq!(Setting::Off.trigger(level), None);
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        for (text, reason) in [
            ("maybe", "neither auto, on, off"),
            ("high=some 1 2000000", "level other than"),
            ("low=some 1", "of the form"),
            ("low=any 1 2000000", "neither some nor full"),
            ("low=some x 2000000", "no number"),
            ("low=some -1 2000000", "no number"),
            ("low=some 0 2000000", "between 1 microsecond"),
            ("low=some 2000001 2000000", "between 1 microsecond"),
            ("low=some 1 499999", "window"),
            ("low=some 1 10000001", "window"),
            ("low=some 1 2000000,low=some 1 2000000", "twice"),
            ("low=some 1 2000000,", "neither auto"),
        ] {
            let error = Setting::decide(Some(text)).unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains(ANNOTATION),
                "{error}"
            );
        }
    }
}
