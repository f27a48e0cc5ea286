// SPDX-License-Identifier: Apache-2.0
//! What a process of a container is to be: made from the specification in the shim, applied by the
//! process itself. Init and exec processes share it.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use oci_spec::runtime::{PosixRlimitType, Process};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use serde::{Deserialize, Serialize};
use sys::{Call, Errno};

use crate::attributes::Attributes;
use crate::capabilities;
use crate::error::{Error, Result};

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Whether the process gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// Three descriptors come with the plan.
    No,
    /// A new pseudo-terminal, of this size if one is given.
    Yes(Option<ConsoleSize>),
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitPlan {
    /// Its OCI name, `RLIMIT_NOFILE`.
    pub name: String,
    /// The limit that holds; `u64::MAX` is infinity.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// All that a process is to be, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Arguments; the first names the program.
    pub args: Vec<String>,
    /// Environment in the order of the specification.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Capability sets.
    pub capabilities: capabilities::Plan,
    /// Whether execve may grant no new privileges.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<LimitPlan>,
    /// Whether there is a terminal.
    pub terminal: Terminal,
    /// Scheduling, labels and the like.
    pub attributes: Attributes,
}

impl Plan {
    /// Plans `process`, found at `field` of the document. What it leaves out comes from
    /// `inherited`: the container's own process, for an exec.
    ///
    /// # Errors
    /// An unknown or repeated resource limit, an impossible attribute.
    pub fn new(
        field: &str,
        process: &Process,
        terminal: bool,
        inherited: Option<&Plan>,
    ) -> Result<Self> {
        let user = process.user();
        let capabilities = match (process.capabilities(), inherited) {
            (Some(sets), _) => capabilities::Plan::from(sets),
            (None, Some(plan)) => plan.capabilities,
            (None, None) => capabilities::Plan::default(),
        };
        let size = process.console_size().map(|size| ConsoleSize {
            width: clamp(size.width()),
            height: clamp(size.height()),
        });
        Ok(Self {
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().to_string_lossy().into_owned(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user
                .umask()
                .or(inherited.map(|plan| plan.umask))
                .unwrap_or(0o022)
                & 0o777,
            capabilities,
            no_new_privileges: process
                .no_new_privileges()
                .or(inherited.map(|plan| plan.no_new_privileges))
                .unwrap_or(false),
            rlimits: rlimits(field, process, inherited)?,
            terminal: if terminal {
                Terminal::Yes(size)
            } else {
                Terminal::No
            },
            attributes: Attributes::new(field, process, inherited.map(|plan| &plan.attributes))?,
        })
    }
}

fn clamp(cells: u64) -> u16 {
    u16::try_from(cells).unwrap_or(u16::MAX)
}

fn rlimits(field: &str, process: &Process, inherited: Option<&Plan>) -> Result<Vec<LimitPlan>> {
    let Some(limits) = process.rlimits() else {
        return Ok(inherited
            .map(|plan| plan.rlimits.clone())
            .unwrap_or_default());
    };
    let mut plans: Vec<LimitPlan> = Vec::with_capacity(limits.len());
    for (index, limit) in limits.iter().enumerate() {
        let name = limit.typ().to_string();
        if plans.iter().any(|other| other.name == name) {
            let reason = format!("rlimit {name} is given twice");
            return Err(Error::spec(format!("{field}.rlimits[{index}]"), reason));
        }
        resource(limit.typ())
            .ok_or_else(|| Error::unsupported(format!("{field}.rlimits[{index}] ({name})")))?;
        plans.push(LimitPlan {
            name,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(plans)
}

fn resource(limit: PosixRlimitType) -> Option<Resource> {
    by_name(&limit.to_string())
}

fn by_name(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_STACK" => Resource::Stack,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        _ => return None,
    })
}

/// Sets the resource limits, while the process may still raise them.
///
/// # Errors
/// `setrlimit(2)`: `EPERM` when a hard limit is raised without `CAP_SYS_RESOURCE`.
pub fn set_rlimits(plan: &Plan) -> sys::Result<()> {
    let value = |n: u64| if n == u64::MAX { None } else { Some(n) };
    for limit in &plan.rlimits {
        let Some(resource) = by_name(&limit.name) else {
            continue;
        };
        let new = Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        };
        rustix::process::setrlimit(resource, new).call("setrlimit", || {
            format!("{}, {}:{}", limit.name, limit.soft, limit.hard)
        })?;
    }
    Ok(())
}

/// Raises hard limits to those of the plan, as long as the process may: in a user namespace nobody
/// may any more. What holds, and what is lower, is left to [`set_rlimits`].
pub fn raise_rlimits(plan: &Plan) {
    for limit in &plan.rlimits {
        let Some(resource) = by_name(&limit.name) else {
            continue;
        };
        let now = rustix::process::getrlimit(resource);
        if now.maximum.is_none_or(|hard| hard >= limit.hard) {
            continue;
        }
        let maximum = (limit.hard != u64::MAX).then_some(limit.hard);
        // Whoever may not fails in `set_rlimits`, with a sentence.
        let _ = rustix::process::setrlimit(resource, Rlimit { maximum, ..now });
    }
}

/// Gives the standard streams to the user, so that it may open `/dev/stdout` anew.
///
/// `/dev/null` is left alone: it is everybody's (runc, CVE-2022-24769 era fix).
///
/// # Errors
/// `fchown(2)`, except where the file system or a user namespace forbids it.
pub fn own_stdio(uid: u32) -> sys::Result<()> {
    let stdio = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    for (number, fd) in stdio.into_iter().enumerate() {
        let stat = rustix::fs::fstat(fd).call("fstat", || number.to_string())?;
        if stat.st_uid == uid || is_dev_null(&stat) {
            continue;
        }
        match rustix::fs::fchown(
            fd,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(stat.st_gid)),
        ) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => {
                return Err(sys::Error::new("fchown", format!("{number}, {uid}"), errno));
            }
        }
    }
    Ok(())
}

/// Whether the file is the null device, 1:3.
pub fn is_dev_null(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
        && (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        ) == (1, 3)
}

/// Becomes the plan's user and groups, keeping the permitted capabilities over the change.
///
/// # Errors
/// `setgroups(2)`, `setresgid(2)`, `setresuid(2)`, `prctl(2)`.
pub fn become_user(plan: &Plan) -> sys::Result<()> {
    rustix::thread::set_keep_capabilities(true).call("prctl", || "PR_SET_KEEPCAPS, 1")?;
    set_groups(&plan.groups)?;
    let gid = Gid::from_raw(plan.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).call("setresgid", || plan.gid.to_string())?;
    let uid = Uid::from_raw(plan.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).call("setresuid", || plan.uid.to_string())?;
    rustix::thread::set_keep_capabilities(false).call("prctl", || "PR_SET_KEEPCAPS, 0")
}

/// Sets the supplementary groups. That there are none is no error where a user namespace does not
/// allow to change them (`/proc/<pid>/setgroups`).
///
/// # Errors
/// `setgroups(2)`.
pub fn set_groups(groups: &[u32]) -> sys::Result<()> {
    let list: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match rustix::thread::set_thread_groups(&list) {
        Err(Errno::PERM) if groups.is_empty() => Ok(()),
        other => other.call("setgroups", || format!("{groups:?}")),
    }
}

/// The environment as the program gets it, by runc's rules: of several equal names the last is
/// kept, in its place; `HOME` comes from the container's `/etc/passwd` when it is unset or empty.
pub fn environment(plan: &Plan) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let mut env: Vec<String> = Vec::with_capacity(plan.env.len() + 1);
    for entry in plan.env.iter().rev() {
        let name = entry.split_once('=').map_or("", |(name, _)| name);
        if seen.insert(name) && entry != "HOME=" {
            env.push(entry.clone());
        }
    }
    env.reverse();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", home_of(plan.uid)));
    }
    env
}

/// The home directory in the container's `/etc/passwd`, `/` if there is none.
///
/// The file belongs to the image: it may be anything, of any size. Only a regular file is read, and
/// only so much of it.
fn home_of(uid: u32) -> String {
    const ENOUGH: u64 = 16 << 20;
    let nonblock = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits() as i32;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open("/etc/passwd");
    let Ok(file) = file else {
        return "/".to_owned();
    };
    if !file.metadata().is_ok_and(|m| m.is_file() && m.size() > 0) {
        return "/".to_owned();
    }
    home_in(BufReader::new(file.take(ENOUGH)), uid).unwrap_or_else(|| "/".to_owned())
}

fn home_in(passwd: impl BufRead, uid: u32) -> Option<String> {
    for line in passwd.split(b'\n') {
        let line = String::from_utf8_lossy(&line.ok()?).into_owned();
        let mut fields = line.split(':').skip(2);
        if fields.next().and_then(|id| id.parse::<u32>().ok()) == Some(uid) {
            return fields
                .nth(2)
                .filter(|home| !home.is_empty())
                .map(str::to_owned);
        }
    }
    None
}

/// Why a program cannot be executed, in the words of Go's `os/exec`, which Docker parses.
#[derive(Debug, PartialEq, Eq)]
pub struct NotFound {
    /// The sentence.
    pub message: String,
    /// The errno behind it.
    pub errno: Errno,
}

/// Finds the program `name` as `execvp(3)` and Go's `LookPath` do, with the new environment's PATH.
///
/// # Errors
/// [`NotFound`]: `exec: "x": executable file not found in $PATH`, `exec: "/x": stat /x: no such file
/// or directory`, `exec: "/x": permission denied`.
pub fn look_path(name: &str, env: &[String]) -> std::result::Result<CString, NotFound> {
    let fail = |text: String, errno| NotFound {
        message: format!("exec: {name:?}: {text}"),
        errno,
    };
    let c_string = |path: String| {
        CString::new(path).map_err(|_| fail("invalid argument".into(), Errno::INVAL))
    };
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => c_string(name.to_owned()),
            Err(errno @ (Errno::ACCESS | Errno::ISDIR)) => {
                Err(fail(sys::error::describe(errno), errno))
            }
            Err(errno) => Err(fail(
                format!("stat {name}: {}", sys::error::describe(errno)),
                errno,
            )),
        };
    }
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or("");
    let mut denied = false;
    for directory in path
        .split(':')
        .filter(|_| !path.is_empty() && !name.is_empty())
    {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        match executable(&candidate) {
            Ok(()) => return c_string(candidate),
            Err(Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    let errno = if denied { Errno::ACCESS } else { Errno::NOENT };
    Err(fail("executable file not found in $PATH".to_owned(), errno))
}

fn executable(path: &str) -> std::result::Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err(Errno::ISDIR);
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(env: &[&str]) -> Plan {
        Plan {
            args: vec![],
            env: env.iter().map(ToString::to_string).collect(),
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: vec![],
            umask: 0o022,
            capabilities: capabilities::Plan::default(),
            no_new_privileges: true,
            rlimits: vec![],
            terminal: Terminal::No,
            attributes: Attributes::default(),
        }
    }

    #[test]
    fn the_last_of_equal_names_counts_and_home_is_filled_in() {
        let env = environment(&plan(&["A=1", "HOME=", "B=2", "A=3"]));
        assert_eq!(env, ["B=2", "A=3", "HOME=/root"]);
        assert_eq!(environment(&plan(&["HOME=/x"])), ["HOME=/x"]);
    }

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad\nu:x:7:7::/home/u:/bin/sh\n" as &[u8];
        assert_eq!(home_in(passwd, 7).as_deref(), Some("/home/u"));
        assert_eq!(home_in(passwd, 8), None);
    }

    #[test]
    fn programs_are_found_and_refused_in_gos_words() {
        let env = ["PATH=/nowhere:/bin:/usr/bin".to_owned()];
        assert_eq!(look_path("sh", &env).unwrap(), c"/bin/sh".to_owned());
        let text = |name: &str| look_path(name, &env).unwrap_err().message;
        assert_eq!(
            text("no-such"),
            "exec: \"no-such\": executable file not found in $PATH"
        );
        assert_eq!(
            text("/nope"),
            "exec: \"/nope\": stat /nope: no such file or directory"
        );
        assert_eq!(
            text("/etc/passwd"),
            "exec: \"/etc/passwd\": permission denied"
        );
        assert_eq!(text("/etc"), "exec: \"/etc\": is a directory");
        assert_eq!(text(""), "exec: \"\": executable file not found in $PATH");
        assert!(look_path("sh", &[]).is_err());
    }
}
