// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;

use crate::measures::MEASURES;
use crate::{Error, report};

const USAGE: &str = "\
Compares shims. Run it through scripts/bench, which builds ours.

Usage: bench [--ours FILE] [--go FILE] [--crun FILE] [--subject NAME,…] [--only NAME,…]
             [--runs N] [--json FILE]

  --ours FILE      our shim's binary
  --go FILE        the Go shim's binary; the runc beside it is used
  --crun FILE      crun, for the Go shim
  --subject NAMES  only these of: ours, go+runc, go+crun; and ours-silent, which records nothing
  --only NAMES     only these measures
  --runs N         samples of each
  --json FILE      writes all samples there

Measures:";

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) ours: Option<PathBuf>,
    pub(crate) go: Option<PathBuf>,
    pub(crate) crun: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) runs: Option<usize>,
    only: Vec<String>,
    subjects: Vec<String>,
}

impl Args {
    /// Reads the command line. Ends the process after `--help`.
    pub(crate) fn parse() -> Result<Self, Error> {
        let mut args = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--help" || word == "-h" {
                report::say(USAGE);
                for measure in MEASURES {
                    report::say(&format!("  {:<16} {}", measure.name, measure.about));
                }
                std::process::exit(0);
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a value"))?;
            let list = || value.split(',').map(str::to_owned).collect();
            match word.as_str() {
                "--ours" => args.ours = Some(value.into()),
                "--go" => args.go = Some(value.into()),
                "--crun" => args.crun = Some(value.into()),
                "--json" => args.json = Some(value.into()),
                "--runs" => args.runs = Some(value.parse()?),
                "--only" => args.only = list(),
                "--subject" => args.subjects = list(),
                _ => return Err(format!("unknown option {word}; see --help").into()),
            }
        }
        let known = |name: &&String| !MEASURES.iter().any(|measure| measure.name == name.as_str());
        match args.only.iter().find(known) {
            Some(name) => Err(format!("no measure {name}; see --help").into()),
            None => Ok(args),
        }
    }

    /// Is this measure wanted?
    pub(crate) fn wants(&self, measure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == measure)
    }

    /// Is this subject asked for by its name?
    pub(crate) fn names_subject(&self, subject: &str) -> bool {
        self.subjects.iter().any(|name| name == subject)
    }

    /// Is this subject wanted?
    pub(crate) fn wants_subject(&self, subject: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|name| name == subject)
    }
}
