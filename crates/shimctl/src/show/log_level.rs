// SPDX-License-Identifier: Apache-2.0
//! `log-level`: what a shim logs.

use diagnostics::v1::{LogLevelRequest, SetLogLevelRequest};
use serde_json::json;

use crate::args::{Global, LogLevel};
use crate::error::{Error, Exit};
use crate::{fleet, print};

pub(crate) fn run(global: &Global, args: &LogLevel) -> Result<Exit, Error> {
    let target = fleet::find(global, &args.one.id)?;
    let mut client = target.connect(global.timeout)?;
    let (previous, level) = match args.level {
        None => {
            let asked = client.call(&LogLevelRequest::new());
            (None, asked.map_err(|e| target.silent(e))?.level)
        }
        Some(level) => {
            let mut request = SetLogLevelRequest::new();
            level.name().clone_into(&mut request.level);
            let changed = client.call(&request).map_err(|e| target.silent(e))?;
            (Some(changed.previous), level.name().to_owned())
        }
    };
    print(&match (global.json, previous) {
        (true, previous) => format!(
            "{}\n",
            crate::json::compact(json!({
                "namespace": target.shim.namespace,
                "shim": target.shim.id,
                "level": level,
                "previous": previous,
            }))
        ),
        (false, None) => format!("{level}\n"),
        (false, Some(previous)) => format!("{}: {previous} -> {level}\n", target.shim.name()),
    })?;
    Ok(Exit::Success)
}
