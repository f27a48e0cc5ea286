// SPDX-License-Identifier: Apache-2.0
//! Annotations `org.systemd.property.<Name>`: properties of the scope, as GVariant text.

use dbus::{Value, text};

use super::properties::Property;
use crate::error::{Error, Result};

const PREFIX: &str = "org.systemd.property.";

/// Properties that a specification adds to its container's scope.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extra(pub(super) Vec<Property>);

impl Extra {
    /// Finds them among the annotations of a specification.
    ///
    /// A time in seconds (`...Sec`) becomes one in microseconds (`...USec`), which is how systemd
    /// has it on D-Bus.
    ///
    /// # Errors
    /// A name that no property can have, or a value that is none.
    pub fn from_annotations<'a>(
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self> {
        let mut found = Vec::new();
        for (annotation, value) in annotations {
            if let Some(name) = annotation.strip_prefix(PREFIX) {
                found.push(property(annotation, name, value)?);
            }
        }
        // The order of annotations is nobody's intent.
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(found))
    }
}

fn property(annotation: &str, name: &str, value: &str) -> Result<Property> {
    let failed = |reason: String| Error::Annotation {
        annotation: annotation.to_owned(),
        reason,
    };
    if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(failed(format!("{name:?} is no name of a systemd property")));
    }
    let value = text::parse(value).map_err(failed)?;
    let seconds = name
        .strip_suffix("Sec")
        .filter(|what| what.ends_with(|c: char| c.is_ascii_lowercase()));
    Ok(match seconds {
        Some(what) => Property::new(
            format!("{what}USec"),
            microseconds(&value).ok_or_else(|| failed("is no time in seconds".to_owned()))?,
        ),
        None => Property::new(name.to_owned(), value),
    })
}

fn microseconds(seconds: &Value) -> Option<Value> {
    const MICRO: u64 = 1_000_000;
    let whole: i128 = match seconds {
        Value::Byte(n) => i128::from(*n),
        Value::I16(n) => i128::from(*n),
        Value::U16(n) => i128::from(*n),
        Value::I32(n) => i128::from(*n),
        Value::U32(n) => i128::from(*n),
        Value::I64(n) => i128::from(*n),
        Value::U64(n) => i128::from(*n),
        Value::Double(n) if *n >= 0.0 && *n < 1e12 => {
            // Below 2^63.
            return Some(Value::U64((n * MICRO as f64) as u64));
        }
        _ => return None,
    };
    let whole = u64::try_from(whole).ok()?.checked_mul(MICRO)?;
    Some(Value::U64(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<Extra> {
        let (name, value) = (format!("org.systemd.property.{name}"), value.to_owned());
        let other = ("io.kubernetes.x".to_owned(), "y".to_owned());
        Extra::from_annotations([(&name, &value), (&other.0, &other.1)])
    }

    #[test]
    fn properties_are_found_and_seconds_become_microseconds() {
        for (name, value, expected_name, expected) in [
            (
                "CollectMode",
                "'inactive'",
                "CollectMode",
                Value::str("inactive"),
            ),
            (
                "TimeoutStopUSec",
                "uint64 5",
                "TimeoutStopUSec",
                Value::U64(5),
            ),
            (
                "TimeoutStopSec",
                "uint64 5",
                "TimeoutStopUSec",
                Value::U64(5_000_000),
            ),
            (
                "TimeoutStopSec",
                "5",
                "TimeoutStopUSec",
                Value::U64(5_000_000),
            ),
            (
                "TimeoutStopSec",
                "1.5",
                "TimeoutStopUSec",
                Value::U64(1_500_000),
            ),
            ("AsSEC", "true", "AsSEC", Value::Bool(true)),
            ("MemorySec", "int64 0", "MemoryUSec", Value::U64(0)),
        ] {
            let expected = Extra(vec![Property::new(expected_name, expected)]);
            assert_eq!(parse(name, value).unwrap(), expected, "{name}={value}");
        }
    }

    #[test]
    fn what_is_no_property_is_refused_by_name() {
        for (name, value) in [
            ("", "true"),
            ("ab", "true"),
            ("With.Dot", "true"),
            ("With1", "true"),
            ("CollectMode", "inactive"),
            ("TimeoutStopSec", "'x'"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "double inf"),
            ("TimeoutStopSec", "uint64 18446744073709551615"),
        ] {
            let text = parse(name, value).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("annotation \"org.systemd.property.{name}\" ")),
                "{text}"
            );
        }
    }
}
