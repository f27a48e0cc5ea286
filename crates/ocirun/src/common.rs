// SPDX-License-Identifier: Apache-2.0
//! What every verb needs.

use std::fs::{self, DirBuilder};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use runtime::state::Directory;
use runtime::{Maker, Runtime, Stored};
use rustix::pipe::PipeFlags;
use sys::Call as _;

use crate::args::Parsed;
use crate::error::{Attempt as _, Error, system};

/// Where state is kept unless `--root` says otherwise.
const ROOT: &str = "/run/ocirun";

/// Where state is kept: root's, or the user's own place for the time that he is logged in.
fn usual_root() -> PathBuf {
    let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    match (Maker::current(), user) {
        (Maker::User, Some(folder)) => Path::new(&folder).join("ocirun"),
        _ => PathBuf::from(ROOT),
    }
}

/// The global flags.
#[derive(Debug)]
pub(crate) struct Common {
    root: PathBuf,
    debug: bool,
    cgroup_driver: runtime::CgroupDriver,
    maker: Maker,
}

impl Common {
    /// Takes them from the command line.
    pub(crate) fn new(parsed: &Parsed) -> Result<Self, Error> {
        let maker = match parsed.value("rootless") {
            None | Some("auto" | "") => Maker::current(),
            Some("false") => Maker::Root,
            Some("true") => Maker::User,
            Some(value) => {
                let reason = format!("invalid --rootless={value}: true, false or auto");
                return Err(Error::Usage(reason));
            }
        };
        let root = match parsed.value("root").filter(|root| !root.is_empty()) {
            Some(root) => PathBuf::from(root),
            None => usual_root(),
        };
        let root = std::path::absolute(root).attempt(|| "find --root".to_owned())?;
        Ok(Self {
            maker,
            root,
            debug: parsed.is_set("debug"),
            cgroup_driver: match parsed.is_set("systemd-cgroup") {
                true => runtime::CgroupDriver::Systemd,
                false => runtime::CgroupDriver::Cgroupfs,
            },
        })
    }

    /// Who manages the cgroups of new containers.
    pub(crate) fn cgroup_driver(&self) -> runtime::CgroupDriver {
        self.cgroup_driver
    }

    /// Who makes new containers.
    pub(crate) fn maker(&self) -> Maker {
        self.maker
    }

    /// Where state is kept.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The state directory of a container.
    pub(crate) fn directory(&self, id: &str) -> Result<Directory, Error> {
        Ok(Directory::of_command_line(&self.root, id)?)
    }

    /// A container that exists.
    pub(crate) fn stored(&self, id: &str) -> Result<Stored, Error> {
        Ok(Stored::open(self.directory(id)?)?)
    }

    /// What containers are made with, and what their inits log.
    pub(crate) fn runtime(&self) -> Result<(Runtime, InitLog), Error> {
        let root = &self.root;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .attempt(|| format!("create {}", root.display()))?;
        // A container must not get hold of our executable: CVE-2019-5736.
        let exe = match system("protect own executable", sys::exeseal::current())? {
            Some(exe) => exe,
            None => system("protect own executable", sys::exeseal::seal(root))?.exe,
        };
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .call("pipe2", || "O_CLOEXEC|O_NONBLOCK");
        let (read, write) = system("make log pipe", pipe)?;
        Ok((Runtime::new(exe, write, self.debug)?, InitLog(read)))
    }
}

/// The reading end of the log pipe.
pub(crate) struct InitLog(OwnedFd);

impl Drop for InitLog {
    /// Passes on what has come. A pipe holds more than an init ever says.
    fn drop(&mut self) {
        let mut bytes = Vec::new();
        if let Ok(pipe) = self.0.try_clone() {
            // An error is EAGAIN: nothing more has come. What was read before is there.
            let _ = fs::File::from(pipe).read_to_end(&mut bytes);
        }
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<runtime::init_log::Line>(line) else {
                continue;
            };
            let level = match line.level.as_str() {
                "error" => log::Level::Error,
                "warning" => log::Level::Warn,
                "info" => log::Level::Info,
                _ => log::Level::Debug,
            };
            log::log!(level, "{}", line.msg);
        }
    }
}

/// Writes a pid file, whole or not at all.
pub(crate) fn write_pid_file(path: Option<&str>, pid: rustix::process::Pid) -> Result<(), Error> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let pid = pid.as_raw_nonzero().to_string();
    runtime::state::write_atomically(Path::new(path), pid.as_bytes(), 0o644)
        .attempt(|| format!("write pid file {path}"))
}
