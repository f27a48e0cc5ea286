// SPDX-License-Identifier: Apache-2.0
//! Values written by people: [GVariant's text format], as `uint64 5`, `'text'`, `@as []`.
//!
//! Not taken: dictionaries, maybe types and byte strings.
//!
//! [GVariant's text format]: https://docs.gtk.org/glib/gvariant-text-format.html

use crate::value::{Value, split_type};

/// How deep arrays, structures and variants may be in each other.
const DEEPEST: usize = 16;

/// Reads one value; the whole text must be it.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text };
    let value = parser.value(None, 0)?;
    parser.skip_blanks();
    match parser.rest.is_empty() {
        true => Ok(value),
        false => Err(format!("unexpected {:?} after the value", parser.rest)),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

type Outcome = Result<Value, String>;

impl<'a> Parser<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, expected: char) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, expected: char) -> Result<(), String> {
        match self.take(expected) {
            true => Ok(()),
            false => Err(format!("expected {expected:?} before {:?}", self.rest)),
        }
    }

    /// Letters, digits and what numbers are made of.
    fn word(&mut self) -> &'a str {
        self.skip_blanks();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A value; of the type `wanted`, if that is known.
    fn value(&mut self, wanted: Option<&str>, depth: usize) -> Outcome {
        if depth > DEEPEST {
            return Err("too deep".to_owned());
        }
        self.skip_blanks();
        match self.rest.chars().next() {
            None => Err("the value is missing".to_owned()),
            Some('@') => self.annotated(wanted, depth),
            Some('\'' | '"') => string(self.string()?, wanted),
            Some('[') => self.array(wanted, depth),
            Some('(') => self.structure(wanted, depth),
            Some('<') => {
                self.expect('<')?;
                let value = self.value(None, depth + 1)?;
                self.expect('>')?;
                typed(value.variant(), wanted)
            }
            Some(_) => {
                let word = self.word();
                match type_of(word) {
                    Some(named) => {
                        agree(named, wanted)?;
                        self.value(Some(named), depth + 1)
                    }
                    None => scalar(word, self.rest, wanted),
                }
            }
        }
    }

    /// `@type value`
    fn annotated(&mut self, wanted: Option<&str>, depth: usize) -> Outcome {
        self.expect('@')?;
        let (signature, rest) =
            split_type(self.rest).ok_or_else(|| format!("no type at {:?}", self.rest))?;
        self.rest = rest;
        agree(signature, wanted)?;
        self.value(Some(signature), depth + 1)
    }

    fn array(&mut self, wanted: Option<&str>, depth: usize) -> Outcome {
        self.expect('[')?;
        let mut element = match wanted.map(|wanted| (wanted, wanted.strip_prefix('a'))) {
            None => None,
            Some((_, Some(element))) => Some(element.to_owned()),
            Some((wanted, None)) => return Err(format!("an array is not of type {wanted:?}")),
        };
        let mut values = Vec::new();
        while !self.take(']') {
            if !values.is_empty() {
                self.expect(',')?;
            }
            let value = self.value(element.as_deref(), depth + 1)?;
            element.get_or_insert_with(|| value.signature());
            values.push(value);
        }
        match element {
            Some(element) => Ok(Value::Array(element, values)),
            None => Err("an empty array needs its type, as in \"@as []\"".to_owned()),
        }
    }

    fn structure(&mut self, wanted: Option<&str>, depth: usize) -> Outcome {
        self.expect('(')?;
        let mut types = match wanted {
            None => None,
            Some(wanted) => Some(
                wanted
                    .strip_prefix('(')
                    .and_then(|inner| inner.strip_suffix(')'))
                    .ok_or_else(|| format!("a structure is not of type {wanted:?}"))?,
            ),
        };
        let mut members = Vec::new();
        while !self.take(')') {
            if !members.is_empty() {
                self.expect(',')?;
                // One member has a comma behind it.
                if self.take(')') {
                    break;
                }
            }
            let next = match types {
                None => None,
                Some(list) => {
                    let (next, rest) = split_type(list).ok_or("too many members")?;
                    types = Some(rest);
                    Some(next)
                }
            };
            members.push(self.value(next, depth + 1)?);
        }
        match (members.is_empty(), types) {
            (true, _) => Err("an empty structure".to_owned()),
            (_, Some(missing)) if !missing.is_empty() => Err("too few members".to_owned()),
            _ => Ok(Value::Struct(members)),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut text = String::new();
        while let Some(next) = chars.next() {
            match next {
                _ if Some(next) == quote => {
                    self.rest = chars.as_str();
                    return Ok(text);
                }
                '\\' => text.extend(escaped(&mut chars)?),
                other => text.push(other),
            }
        }
        Err("a string without its end".to_owned())
    }
}

/// What stands for a backslash and what follows it; nothing for a line that goes on.
fn escaped(chars: &mut std::str::Chars<'_>) -> Result<Option<char>, String> {
    let digits = match chars.next() {
        None => return Err("a string without its end".to_owned()),
        Some('u') => 4,
        Some('U') => 8,
        Some('\n') => return Ok(None),
        Some(letter) => {
            return Ok(Some(match letter {
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                other => other,
            }));
        }
    };
    let code: String = chars.take(digits).collect();
    let code = Some(code).filter(|code| code.len() == digits);
    code.and_then(|code| u32::from_str_radix(&code, 16).ok())
        .and_then(char::from_u32)
        .filter(|c| *c != '\0')
        .map(Some)
        .ok_or_else(|| "a bad escape in a string".to_owned())
}

/// The type that a word stands for.
fn type_of(word: &str) -> Option<&'static str> {
    Some(match word {
        "boolean" => "b",
        "byte" => "y",
        "int16" => "n",
        "uint16" => "q",
        "int32" => "i",
        "uint32" => "u",
        "int64" => "x",
        "uint64" => "t",
        "double" => "d",
        "string" => "s",
        "objectpath" => "o",
        "signature" => "g",
        _ => return None,
    })
}

fn agree(signature: &str, wanted: Option<&str>) -> Result<(), String> {
    match wanted {
        Some(wanted) if wanted != signature => {
            Err(format!("type {signature:?} where {wanted:?} is wanted"))
        }
        _ => Ok(()),
    }
}

fn typed(value: Value, wanted: Option<&str>) -> Outcome {
    agree(&value.signature(), wanted).map(|()| value)
}

fn string(text: String, wanted: Option<&str>) -> Outcome {
    match wanted.unwrap_or("s") {
        "s" => Ok(Value::Str(text)),
        "o" => Ok(Value::Path(text)),
        "g" => Ok(Value::Signature(text)),
        wanted => Err(format!("a string is not of type {wanted:?}")),
    }
}

/// A truth or a number.
fn scalar(word: &str, rest: &str, wanted: Option<&str>) -> Outcome {
    if word.is_empty() {
        return Err(format!("no value at {rest:?}"));
    }
    if let "true" | "false" = word {
        return typed(Value::Bool(word == "true"), wanted);
    }
    let bad = || format!("{word:?} is no value of its type");
    let is_hex = word.trim_start_matches(['+', '-']).starts_with("0x");
    let is_float = !is_hex && word.contains(['.', 'e', 'n']);
    let default = if is_float { "d" } else { "i" };
    match wanted.unwrap_or(default) {
        "d" => word.parse().map(Value::Double).map_err(|_| bad()),
        wanted => whole(integer(word).ok_or_else(bad)?, wanted).ok_or_else(bad),
    }
}

fn whole(number: i128, wanted: &str) -> Option<Value> {
    Some(match wanted {
        "y" => Value::Byte(number.try_into().ok()?),
        "n" => Value::I16(number.try_into().ok()?),
        "q" => Value::U16(number.try_into().ok()?),
        "i" => Value::I32(number.try_into().ok()?),
        "u" => Value::U32(number.try_into().ok()?),
        "x" => Value::I64(number.try_into().ok()?),
        "t" => Value::U64(number.try_into().ok()?),
        _ => return None,
    })
}

/// Decimal, hexadecimal behind `0x`, octal behind `0`.
fn integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.strip_prefix("0x") {
        Some(digits) => (16, digits),
        None if digits.len() > 1 && digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    // A second sign is none.
    let number = u64::from_str_radix(digits, radix).ok()?;
    digits
        .starts_with(|c: char| c.is_ascii_hexdigit())
        .then(|| sign * i128::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, expected) in [
            ("true", Value::Bool(true)),
            ("5", Value::I32(5)),
            ("-0x10", Value::I32(-16)),
            ("010", Value::I32(8)),
            ("0", Value::I32(0)),
            ("1.5", Value::Double(1.5)),
            ("1e3", Value::Double(1000.0)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            (" int64  -7 ", Value::I64(-7)),
            ("double 5", Value::Double(5.0)),
            ("byte 255", Value::Byte(255)),
            ("'inactive-or-failed'", Value::str("inactive-or-failed")),
            (r#""it's""#, Value::str("it's")),
            (r"'\'\\\n\u00e4'", Value::str("'\\\nä")),
            ("objectpath '/a'", Value::Path("/a".to_owned())),
            ("['a', 'b']", Value::strings(["a", "b"])),
            ("@as []", Value::Array("s".to_owned(), Vec::new())),
            ("@ay [1, 2]", Value::bytes([1, 2])),
            (
                "[uint32 1, 2]",
                Value::Array("u".to_owned(), vec![Value::U32(1), Value::U32(2)]),
            ),
            ("<'x'>", Value::str("x").variant()),
            (
                "('a', 1)",
                Value::Struct(vec![Value::str("a"), Value::I32(1)]),
            ),
            (
                "@a(ss) [('/dev/null', 'rw')]",
                Value::Array(
                    "(ss)".to_owned(),
                    vec![Value::Struct(vec![
                        Value::str("/dev/null"),
                        Value::str("rw"),
                    ])],
                ),
            ),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "  ",
            "inactive",
            "'open",
            "[1, 'a']",
            "[]",
            "[1",
            "[1,]",
            "()",
            "uint32 -1",
            "byte 256",
            "5 6",
            "uint64",
            "uint64 'x'",
            "string 5",
            "@s 5",
            "@z 5",
            "@",
            "+-5",
            "--5",
            "0x",
            "'\\u00'",
            "'\\u0000'",
            "<",
            "<5",
            "(1",
            "@(s) ('a', 'b')",
            "@(ss) ('a')",
            "true1",
            "uint32 uint64 5",
            "5.5.5",
            "99999999999",
            "{'a': 1}",
            "\0",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"<".repeat(100_000)).is_err());
        assert!(parse(&"@s ".repeat(100_000)).is_err());
    }
}
