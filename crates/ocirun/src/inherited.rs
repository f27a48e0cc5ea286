// SPDX-License-Identifier: Apache-2.0
//! `--preserve-fds` and `LISTEN_FDS`: descriptors of ours that the program is to have.

use std::os::fd::OwnedFd;

use runtime::Inherited;

use crate::args::Parsed;
use crate::error::Error;

/// Where descriptors of socket activation begin (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// Takes the descriptors over: first those of socket activation, then those that are asked for.
pub(crate) fn take(parsed: &Parsed) -> Result<Inherited, Error> {
    let mut inherited = Inherited::default();
    let activated = activated();
    for number in 0..activated {
        inherited
            .fds
            .push(one(FIRST + number, "activated", activated)?);
    }
    if activated > 0 {
        let environment = [format!("LISTEN_FDS={activated}"), "LISTEN_PID=1".to_owned()];
        inherited.environment.extend(environment);
    }
    let wanted: i32 = parsed.number::<u16>("preserve-fds")?.unwrap_or(0).into();
    for number in 0..wanted {
        let number = FIRST + activated + number;
        inherited.fds.push(one(number, "preserved", wanted)?);
    }
    Ok(inherited)
}

/// How many descriptors are meant for us by the protocol of socket activation.
fn activated() -> i32 {
    let number = |name: &str| -> Option<i32> { std::env::var(name).ok()?.parse().ok() };
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() as i32 => count.max(0),
        _ => 0,
    }
}

fn one(number: i32, what: &str, of: i32) -> Result<OwnedFd, Error> {
    sys::inherit::take(number).map_err(|source| Error::Io {
        attempt: format!("unable to use {what} descriptor {number} (of {of})"),
        source: std::io::Error::from_raw_os_error(source.errno().raw_os_error()),
    })
}
