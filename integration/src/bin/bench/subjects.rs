// SPDX-License-Identifier: Apache-2.0
//! What is compared.

use std::path::Path;

use integration::mock::Subject;

use crate::Error;
use crate::args::Args;

/// The reference: ratios are to it.
pub(crate) const REFERENCE: &str = "go+runc";
/// The one that the budgets are for.
pub(crate) const OURS: &str = "ours";

/// Ours with the flight recorder off; only if it is asked for. What recording costs is the difference.
pub(crate) const SILENT: &str = "ours-silent";
/// The variable that switches recording off.
pub(crate) const RECORDING: (&str, &str) = ("CONTAINERD_SHIM_RUST_RECORDING", "off");

/// All that are wanted and named on the command line.
pub(crate) fn find(args: &Args) -> Result<Vec<Subject>, Error> {
    let mut subjects = Vec::new();
    let mut add = |name: &str, shim: &Option<_>, runtime: Option<&Path>| -> Result<(), Error> {
        if let Some(path) = shim.as_deref().filter(|_| args.wants_subject(name)) {
            let mut subject = Subject::new(path)?;
            subject.name = name.to_owned();
            subject.runtime = runtime.map(Path::to_owned);
            subjects.push(subject);
        }
        Ok(())
    };
    add(OURS, &args.ours, None)?;
    if args.names_subject(SILENT) {
        add(SILENT, &args.ours, None)?;
    }
    add(REFERENCE, &args.go, None)?;
    if args.crun.is_some() {
        add("go+crun", &args.go, args.crun.as_deref())?;
    }
    if subjects.is_empty() {
        return Err("nothing to measure; see --help".into());
    }
    Ok(subjects)
}
