// SPDX-License-Identifier: Apache-2.0
//! `kill`, `delete`, `pause`, `resume`.

use runtime::{Deletion, Recipient};

use crate::Code;
use crate::args::Parsed;
use crate::common::Common;
use crate::error::Error;
use crate::signal;

/// `kill`.
pub(crate) fn kill(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let signal = parsed.arguments.get(1).map_or("TERM", String::as_str);
    let signal = signal::parse(signal.trim_start_matches('-'))?;
    let recipient = match parsed.is_set("all") {
        true => Recipient::All,
        false => Recipient::Init,
    };
    common.stored(parsed.id())?.kill(signal, recipient)?;
    Ok(0)
}

/// `delete`.
pub(crate) fn delete(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let forced = parsed.is_set("force");
    let how = match forced {
        true => Deletion::Forced,
        false => Deletion::Orderly,
    };
    let directory = common.directory(parsed.id())?;
    match runtime::Stored::open(directory.clone()) {
        Ok(stored) => stored.delete(how)?,
        Err(runtime::Error::DoesNotExist) => {
            // Somebody ended before the state was written.
            directory.remove()?;
            if !forced {
                return Err(runtime::Error::DoesNotExist.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}

/// `pause`.
pub(crate) fn pause(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    common.stored(parsed.id())?.pause()?;
    Ok(0)
}

/// `resume`.
pub(crate) fn resume(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    common.stored(parsed.id())?.resume()?;
    Ok(0)
}
