// SPDX-License-Identifier: Apache-2.0
//! containerd runtime v2 shim with its own OCI runtime inside.
//!
//! Composition only: this program chooses an action and maps its result to an exit code.
//!
//! | module      | what                                                            |
//! |-------------|-----------------------------------------------------------------|
//! | `args`      | the command line, as Go's `flag` package parses it              |
//! | `start`     | makes sure that a server runs and tells containerd its address  |
//! | `bootstrap` | the input and the reply of `start`, of every containerd         |
//! | `group`     | which containers share a server                                 |
//! | `socket`    | the server's socket: name, creation, reuse, removal             |
//! | `probe`     | which task service a running server speaks                      |
//! | `launch`    | executes the server                                             |
//! | `ready`     | how the server tells `start` that it serves                     |
//! | `serve`     | the server's setup                                              |
//! | `delete`    | cleans up after a container whose server may be dead            |
//! | `info`      | what this program is                                            |
//! | `error`     | why an action failed                                            |

mod args;
mod bootstrap;
mod delete;
mod error;
mod group;
mod info;
mod launch;
mod probe;
mod ready;
mod serve;
mod socket;
mod start;

use std::io::Write as _;
use std::process::ExitCode;

use crate::args::{Action, Args};
use crate::error::Error;

/// Our name as containerd's `runtime_type`.
const RUNTIME: &str = "io.containerd.rust.v2";

/// The first argument of a container's process before it becomes the user's program.
const INIT: &str = "init";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let first = args.next();
    if first.as_deref().is_some_and(|arg| arg == INIT) {
        runtime::init::main();
    }
    let args: Result<Vec<String>, _> = first
        .into_iter()
        .chain(args)
        .map(|a| a.into_string())
        .collect();
    let done = args
        .map_err(|_| Error::ArgumentEncoding)
        .and_then(|args| Args::parse(args).map_err(Error::Args))
        .and_then(|args| run(&args, &program));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{RUNTIME}: {}\n", error::chain(&error));
            // There is nobody else to tell.
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, program: &std::ffi::OsStr) -> Result<(), Error> {
    let reply = match args.action {
        Action::Serve => return serve::run(args),
        Action::Start => start::run(args, program)?,
        Action::Delete => delete::run(args),
        Action::Version => info::version(program).into_bytes(),
        Action::Info => info::run(std::io::stdin())?,
        Action::Help => args::USAGE.as_bytes().to_vec(),
    };
    std::io::stdout().write_all(&reply).map_err(Error::Reply)
}
