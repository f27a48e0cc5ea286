// SPDX-License-Identifier: Apache-2.0
//! `metrics`: OpenMetrics text, once or over HTTP.
//!
//! `gather` asks and keeps what must be counted between two scrapes (histograms of spans), `text`
//! writes the format, `listen` serves it.

mod gather;
mod listen;
mod text;

use crate::args::{Global, Metrics};
use crate::error::{Error, Exit};
use crate::print;

pub(crate) fn run(global: &Global, args: &Metrics) -> Result<Exit, Error> {
    let mut gatherer = gather::Gatherer::new(args.max_containers);
    match &args.listen {
        Some(address) => listen::serve(address, || gatherer.scrape(global)),
        None => {
            print(&gatherer.scrape(global))?;
            Ok(if gatherer.silent() == 0 {
                Exit::Success
            } else {
                Exit::Partial
            })
        }
    }
}
