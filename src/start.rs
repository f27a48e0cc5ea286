// SPDX-License-Identifier: Apache-2.0
//! `start`: makes sure that the container's group has a server, and tells containerd its address.
//!
//! Nothing may go to standard error unless `start` fails: containerd reads both streams as the
//! reply. On failure nothing is left behind, neither a server nor a socket.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::bootstrap::{Caller, Request, TaskApi};
use crate::error::Error;
use crate::group;
use crate::launch::Plan;
use crate::probe::{self, Answer};
use crate::socket::{self, Claim, Lock};

/// How often a socket may change hands while we look at it.
const ATTEMPTS: usize = 5;
/// The bundle: containerd starts us in it.
const BUNDLE: &str = ".";

/// Runs the action; returns the reply.
pub(crate) fn run(args: &Args, program: &OsStr) -> Result<Vec<u8>, Error> {
    // What our caller left open is not the server's: it would keep, for months, pipes open whose end
    // somebody waits for.
    sys::inherit::forget_others();
    let request = Request::read(std::io::stdin().lock(), args)?;
    let caller = request.caller(std::env::var_os("MAX_SHIM_VERSION").is_some());
    let place = Place::of(args, &request)?;
    socket::make_dir(&place.dir)?;
    for _ in 0..ATTEMPTS {
        let lock = Lock::take(&place.dir).map_err(Error::Lock)?;
        match socket::claim(&place.socket, &lock)? {
            Claim::Bound(listener) => {
                let debug_listener = match args.debug {
                    true => Some(socket::replace(&place.debug_socket, &lock)?),
                    false => None,
                };
                drop(lock);
                let plan = Plan {
                    program,
                    args,
                    address: &place.address,
                    ttrpc_address: place.ttrpc_address(&request),
                    log_level: request.log_level(),
                    listener,
                    debug_listener,
                    socket_dir: &place.dir,
                    cgroup: &request.options.shim_cgroup,
                };
                let server = plan.launch()?;
                let reply = place.announce(caller, caller.preferred())?;
                server.keep();
                return Ok(reply);
            }
            Claim::InUse => {
                drop(lock);
                let preferred = caller.preferred();
                match probe::ask(&place.socket, &args.namespace, &args.id, preferred) {
                    Answer::Speaks(api) => return place.announce(caller, api),
                    Answer::Unclear => return place.announce(caller, preferred),
                    Answer::Gone => {}
                }
            }
        }
    }
    Err(Error::SocketUnsteady)
}

/// Where the group's server is.
struct Place {
    dir: PathBuf,
    /// containerd names the directory: it expects a symlink to it in the bundle.
    dir_is_custom: bool,
    address: String,
    socket: PathBuf,
    debug_socket: PathBuf,
}

impl Place {
    fn of(args: &Args, request: &Request) -> Result<Self, Error> {
        let group = group::of(Path::new(BUNDLE), &args.id)?;
        let params = request.params.as_ref();
        let given = params
            .map(|p| p.containerd_grpc_address.as_str())
            .filter(|a| !a.is_empty());
        let address = given.unwrap_or(&args.address).to_owned();
        let custom = params
            .and_then(|p| p.socket_dir.as_deref())
            .filter(|dir| !dir.is_empty());
        let dir = PathBuf::from(custom.unwrap_or(socket::DEFAULT_DIR));
        let socket = socket::path(&dir, &address, &[&args.namespace, &group]);
        let debug_socket = socket::path(&dir, &address, &[&args.namespace, &group, "debug"]);
        Ok(Self {
            dir,
            dir_is_custom: custom.is_some(),
            address,
            socket,
            debug_socket,
        })
    }

    fn ttrpc_address<'a>(&self, request: &'a Request) -> Option<&'a str> {
        let address = request.params.as_ref()?.containerd_ttrpc_address.as_str();
        let path = address.strip_prefix(socket::SCHEME).unwrap_or(address);
        Some(path).filter(|path| !path.is_empty())
    }

    /// Leaves the address in the bundle, where containerd 1.6 and 1.7 look for it when they are
    /// restarted, and makes the reply.
    fn announce(&self, caller: Caller, api: TaskApi) -> Result<Vec<u8>, Error> {
        let address = format!("{}{}", socket::SCHEME, self.socket.display());
        let bundle = Path::new(BUNDLE);
        write_atomically(bundle, "address", &address)?;
        if self.dir_is_custom {
            link(&self.dir, &bundle.join("s"))?;
        }
        Ok(caller.reply(&address, api))
    }
}

fn write_atomically(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, dir.join(name))
    };
    write().map_err(|source| {
        // What is left of a failure may not exist at all.
        let _ = std::fs::remove_file(&temporary);
        Error::File {
            verb: "write",
            path: dir.join(name),
            source,
        }
    })
}

fn link(target: &Path, path: &Path) -> Result<(), Error> {
    match std::os::unix::fs::symlink(target, path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(|source| Error::File {
            verb: "link",
            path: path.to_owned(),
            source,
        }),
    }
}
