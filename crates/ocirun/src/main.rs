// SPDX-License-Identifier: Apache-2.0
//! `ocirun`: a command line like runc's over the runtime of the shim.
//!
//! It parses, calls the library, prints. What a container is and how it is made is nowhere here:
//! suites and engines that drive a runtime by command line test the very code of the shim.
//!
//! | module         | what                                                          |
//! |----------------|---------------------------------------------------------------|
//! | [`args`]       | the grammar: words, flags, values                             |
//! | [`verbs`]      | which verbs and flags there are                               |
//! | [`common`]     | what every verb needs: root, log, the runtime                 |
//! | [`create`]     | create, run, start                                            |
//! | [`exec`]       | exec                                                          |
//! | [`inspect`]    | state, list, ps, features, version                            |
//! | [`end`]        | kill, delete, pause, resume                                   |
//! | [`events`]     | events                                                        |
//! | [`update`]     | update                                                        |
//! | [`template`]   | spec                                                          |
//! | [`foreground`] | a process whose end is waited for, and its signals            |
//! | [`terminal`]   | the caller's terminal, the container's, the console socket    |
//! | [`inherited`]  | descriptors that are passed on                                |
//! | [`notify`]     | the caller's `NOTIFY_SOCKET`                                  |
//! | [`signal`]     | names of signals                                              |
//! | [`logging`]    | `--log`                                                       |
//! | [`error`]      | why a verb failed                                             |

mod args;
mod common;
mod create;
mod end;
mod error;
mod events;
mod exec;
mod foreground;
mod inherited;
mod inspect;
mod logging;
mod notify;
mod signal;
mod template;
mod terminal;
mod update;
mod verbs;

use std::io::Write as _;
use std::process::ExitCode;

use crate::args::Parsed;
use crate::error::Error;

/// What the process is to exit with.
type Code = u8;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words
        .next()
        .is_some_and(|word| word == runtime::init::ARGUMENT)
    {
        runtime::init::main();
    }
    let words: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(std::ffi::OsString::into_string)
        .collect();
    let done = words
        .map_err(|word| Error::Usage(format!("{word:?} is not UTF-8")))
        .and_then(|words| Parsed::new(words, verbs::GLOBAL, verbs::VERBS))
        .and_then(|parsed| run(&parsed));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::error!("{error}");
            if logging::is_elsewhere() {
                // There is nobody else to tell.
                let _ = writeln!(std::io::stderr(), "{error}");
            }
            ExitCode::from(error.code())
        }
    }
}

fn run(parsed: &Parsed) -> Result<Code, Error> {
    if let Some(text) = verbs::help(parsed) {
        print(&text)?;
        return Ok(0);
    }
    logging::install(
        parsed.value("log"),
        parsed.value("log-format").unwrap_or("text"),
        parsed.is_set("debug"),
    )?;
    if parsed.is_set("version") {
        return inspect::version();
    }
    let common = common::Common::new(parsed)?;
    match parsed.verb() {
        "create" => create::create(&common, parsed),
        "run" => create::run(&common, parsed),
        "start" => create::start(&common, parsed),
        "exec" => exec::exec(&common, parsed),
        "state" => inspect::state(&common, parsed),
        "list" => inspect::list(&common, parsed),
        "ps" => inspect::ps(&common, parsed),
        "features" => inspect::features(),
        "kill" => end::kill(&common, parsed),
        "delete" => end::delete(&common, parsed),
        "pause" => end::pause(&common, parsed),
        "resume" => end::resume(&common, parsed),
        "events" => events::events(&common, parsed),
        "update" => update::update(&common, parsed),
        "spec" => template::spec(parsed),
        other => Err(Error::Unsupported(other.to_owned())),
    }
}

fn print(text: &str) -> Result<(), Error> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|source| Error::Io {
            attempt: "write standard output".to_owned(),
            source,
        })
}
