// SPDX-License-Identifier: Apache-2.0
//! The grammar of the command line, which is that of runc's parser.
//!
//! ```text
//! ocirun [global flags] VERB [flags and arguments in any order]
//! ```
//!
//! `--name value`, `--name=value`, and the same with one dash or a short name. Global flags are
//! taken behind the verb too. Verbs that run somebody's program end their flags with the first
//! argument: what follows is that program's. `--` ends them for every verb.

use crate::error::Error;

/// What stands behind a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or `=true` or `=false`.
    Nothing,
    /// A value; the last one counts.
    Value,
    /// A value; all count.
    Values,
}

/// A flag.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// Empty for none.
    pub(crate) short: &'static str,
    pub(crate) takes: Takes,
    /// One line of help.
    pub(crate) help: &'static str,
}

/// Where the flags of a verb end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flags {
    Anywhere,
    BeforeArguments,
}

/// How many arguments a verb takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arguments {
    Exactly(usize),
    AtLeast(usize),
}

/// A verb.
#[derive(Debug)]
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) arguments: Arguments,
    /// The arguments as help shows them.
    pub(crate) usage: &'static str,
    pub(crate) flags_end: Flags,
    /// In tables that verbs share.
    pub(crate) flags: &'static [&'static [Flag]],
    /// One line of help.
    pub(crate) help: &'static str,
}

/// A command line taken apart.
#[derive(Debug)]
pub(crate) struct Parsed {
    verb: Option<&'static Verb>,
    values: Vec<(&'static str, String)>,
    /// What is neither verb nor flag.
    pub(crate) arguments: Vec<String>,
}

impl Parsed {
    /// Takes the words apart and checks their number.
    pub(crate) fn new(
        words: Vec<String>,
        global: &'static [Flag],
        verbs: &'static [Verb],
    ) -> Result<Self, Error> {
        let mut parsed = Self {
            verb: None,
            values: Vec::new(),
            arguments: Vec::new(),
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "--" {
                parsed.arguments.extend(words.by_ref());
            } else if let Some(name) = flag_name(&word) {
                let own = parsed.verb.map_or(&[][..], |verb| verb.flags);
                let (name, value) = match name.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (name, None),
                };
                let known = own.iter().copied().flatten().chain(global);
                let flag = known
                    .into_iter()
                    .find(|flag| {
                        flag.name == name || (!flag.short.is_empty() && flag.short == name)
                    })
                    .ok_or_else(|| {
                        Error::Usage(format!("flag provided but not defined: -{name}"))
                    })?;
                parsed.add(flag, value, &mut words)?;
            } else if parsed.verb.is_none() {
                let verb = verbs.iter().find(|verb| verb.name == word);
                let verb =
                    verb.ok_or_else(|| Error::Usage(format!("No help topic for '{word}'")))?;
                parsed.verb = Some(verb);
            } else {
                parsed.arguments.push(word);
                let ends = |verb: &Verb| verb.flags_end == Flags::BeforeArguments;
                if parsed.verb.is_some_and(ends) {
                    parsed.arguments.extend(words.by_ref());
                }
            }
        }
        parsed.check()?;
        Ok(parsed)
    }

    fn add(
        &mut self,
        flag: &'static Flag,
        value: Option<String>,
        words: &mut impl Iterator<Item = String>,
    ) -> Result<(), Error> {
        let value = match (flag.takes, value) {
            (Takes::Nothing, None) => "true".to_owned(),
            (Takes::Nothing, Some(value)) => match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => "true".to_owned(),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => "false".to_owned(),
                _ => {
                    let text = format!("invalid boolean value {value:?} for -{}", flag.name);
                    return Err(Error::Usage(text));
                }
            },
            (_, Some(value)) => value,
            (_, None) => words
                .next()
                .ok_or_else(|| Error::Usage(format!("flag needs an argument: -{}", flag.name)))?,
        };
        if flag.takes != Takes::Values {
            self.values.retain(|(name, _)| *name != flag.name);
        }
        self.values.push((flag.name, value));
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_set("help") || self.is_set("version") {
            return Ok(());
        }
        let Some(verb) = self.verb else {
            return Ok(());
        };
        let count = self.arguments.len();
        let (fits, wanted) = match verb.arguments {
            Arguments::Exactly(n) => (count == n, format!("exactly {n}")),
            Arguments::AtLeast(n) => (count >= n, format!("a minimum of {n}")),
        };
        if fits {
            return Ok(());
        }
        let text = format!("{:?} requires {wanted} argument(s)", verb.name);
        Err(Error::Usage(text))
    }

    /// The verb, empty if there is none.
    pub(crate) fn verb(&self) -> &'static str {
        self.verb.map_or("", |verb| verb.name)
    }

    /// The verb's description.
    pub(crate) fn description(&self) -> Option<&'static Verb> {
        self.verb
    }

    /// The first argument, which for nearly every verb is the container's id.
    pub(crate) fn id(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }

    /// Whether a flag without a value is set.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// The value of a flag.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// All values of a flag that may be repeated.
    pub(crate) fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        let wanted = move |(known, _): &&(&'static str, String)| *known == name;
        self.values
            .iter()
            .filter(wanted)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a flag that is a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        self.value(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Error::Usage(format!("invalid value {text:?} for flag -{name}")))
            })
            .transpose()
    }
}

/// The name behind the dashes; a dash alone, and a negative number, are arguments.
fn flag_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let first = name.chars().next()?;
    (!first.is_ascii_digit()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::{GLOBAL, VERBS};

    fn parse(line: &str) -> Result<Parsed, Error> {
        Parsed::new(line.split(' ').map(str::to_owned).collect(), GLOBAL, VERBS)
    }

    #[test]
    fn flags_stand_before_and_behind_arguments() {
        for line in [
            "--root /r create --bundle /b --pid-file=/p c1",
            "create c1 --root /r -b /b --pid-file /p",
            "-root=/r create -b=/b c1 -pid-file /p",
            "--root /x --root /r create --bundle /b --pid-file /p -- c1",
        ] {
            let parsed = parse(line).unwrap();
            assert_eq!((parsed.verb(), parsed.id()), ("create", "c1"), "{line}");
            assert_eq!(parsed.value("root"), Some("/r"), "{line}");
            assert_eq!(parsed.value("bundle"), Some("/b"), "{line}");
            assert_eq!(parsed.value("pid-file"), Some("/p"), "{line}");
        }
    }

    #[test]
    fn a_program_keeps_its_own_flags() {
        let parsed = parse("exec -t -e A=1 --env B=2 c1 ls -l --root x").unwrap();
        assert_eq!(parsed.arguments, ["c1", "ls", "-l", "--root", "x"]);
        assert_eq!(parsed.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert!(parsed.is_set("tty") && !parsed.is_set("detach"));
        assert_eq!(parse("ps c1 -aux").unwrap().arguments, ["c1", "-aux"]);
        assert_eq!(parse("kill c1 -9").unwrap().arguments, ["c1", "-9"]);
        assert_eq!(
            parse("kill --all c1 KILL").unwrap().arguments,
            ["c1", "KILL"]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, text) in [
            ("create", "\"create\" requires exactly 1 argument(s)"),
            ("create a b", "\"create\" requires exactly 1 argument(s)"),
            ("create --nope a", "flag provided but not defined: -nope"),
            ("create a --bundle", "flag needs an argument: -bundle"),
            ("create a --no-pivot=maybe", "invalid boolean value"),
            ("fly a", "No help topic for 'fly'"),
            (
                "--bundle x create a",
                "flag provided but not defined: -bundle",
            ),
            ("exec", "\"exec\" requires a minimum of 1 argument(s)"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(text), "{line}: {error}");
        }
        let parsed = parse("create a --preserve-fds x").unwrap();
        assert!(parsed.number::<u32>("preserve-fds").is_err());
    }

    #[test]
    fn a_flag_can_be_said_to_be_false() {
        assert!(
            !parse("create a --no-pivot=false")
                .unwrap()
                .is_set("no-pivot")
        );
        assert!(parse("create a --no-pivot").unwrap().is_set("no-pivot"));
    }
}
