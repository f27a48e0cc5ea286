// SPDX-License-Identifier: Apache-2.0
//! The shim's open files: what they are, what for, and who is at their other end.
//!
//! The reactor reads this: links of its own `/proc/self/fd` are text that the kernel has in memory, and a
//! file's kind is asked for with `AT_STATX_DONT_SYNC`, so that no server of a network file system and no
//! FUSE daemon is waited for.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd as _};

use diagnostics::v1;
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use super::sockets::Asker;
use crate::server::Server;

/// A shim that has more has a leak, and the first ones show it.
const MOST: usize = 4096;

/// What a descriptor is for.
#[derive(Default)]
struct Purpose {
    what: &'static str,
    container: String,
    exec: String,
    peer: i32,
}

impl Server {
    pub(super) fn describe_descriptors(&self) -> v1::DescriptorsResponse {
        let mut purposes = self.purposes();
        let asker = Asker::new();
        let mut response = v1::DescriptorsResponse::new();
        let Ok(list) = std::fs::read_dir("/proc/self/fd") else {
            return response;
        };
        for entry in list.flatten().take(MOST) {
            let Some(fd) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // The directory that is being read is gone afterwards.
            let Ok(target) = std::fs::read_link(entry.path()) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            let mut message = v1::Descriptor::new();
            message.fd = fd;
            message.kind = kind(&target, &entry.path()).to_owned();
            message.inode = inode(&target).unwrap_or(0);
            if message.kind == "socket" {
                let inode = u32::try_from(message.inode).ok();
                let asked = asker
                    .as_ref()
                    .zip(inode)
                    .and_then(|(asker, i)| asker.ask(i));
                if let Some(socket) = asked {
                    message.peer_inode = u64::from(socket.peer);
                    message.path = socket.path;
                }
            }
            message.target = target;
            let purpose = purposes.remove(&fd).unwrap_or_default();
            message.purpose = purpose.what.to_owned();
            message.container = purpose.container;
            message.exec = purpose.exec;
            message.peer_pid = purpose.peer;
            response.descriptors.push(message);
        }
        response.descriptors.sort_by_key(|message| message.fd);
        response
    }

    fn purposes(&self) -> HashMap<i32, Purpose> {
        let mut purposes = HashMap::new();
        let mut put = |fd: &dyn AsFd, purpose: Purpose| {
            purposes.insert(fd.as_fd().as_raw_fd(), purpose);
        };
        let plain = |what| Purpose {
            what,
            ..Purpose::default()
        };
        put(&self.config.listener, plain("listener"));
        if let Some(debug) = &self.config.debug_listener {
            put(debug, plain("debug listener"));
        }
        put(&self.config.exe, plain("executable"));
        put(&self.runtime.exe, plain("executable"));
        put(&self.runtime.log, plain("log pipe"));
        put(&self.runtime.pid_namespace, plain("own PID namespace"));
        put(&self.log_pipe.as_fd(), plain("log pipe"));
        put(&self.epoll, plain("reactor"));
        put(&self.signals, plain("signals"));
        put(&self.workers.wake_fd(), plain("workers"));
        for connection in self.connections.values() {
            let peer = rustix::net::sockopt::socket_peercred(connection);
            let purpose = Purpose {
                what: "connection",
                peer: peer.map_or(0, |peer| peer.pid.as_raw_nonzero().get()),
                ..Purpose::default()
            };
            put(connection, purpose);
        }
        for (id, container) in &self.containers {
            let of = |what, exec: &str| Purpose {
                what,
                container: id.clone(),
                exec: exec.to_owned(),
                peer: 0,
            };
            if let Some(runtime) = &container.runtime {
                put(&runtime.pidfd, of("init", ""));
            }
            if let Some(pidfd) = &container.init.pidfd {
                put(&**pidfd, of("exit of init", ""));
            }
            for fd in container.pressure.descriptors() {
                put(&fd, of("memory pressure", ""));
            }
            for (exec_id, exec) in &container.execs {
                if let Some(pidfd) = &exec.process.pidfd {
                    put(&**pidfd, of("exit of exec", exec_id));
                }
            }
        }
        purposes
    }
}

/// What kind of file a link of `/proc/<pid>/fd` leads to.
fn kind(target: &str, link: &std::path::Path) -> &'static str {
    let anonymous =
        target
            .strip_prefix("anon_inode:")
            .map(|name| match name.trim_matches(['[', ']']) {
                "eventpoll" => "eventpoll",
                "eventfd" => "eventfd",
                "signalfd" => "signalfd",
                "inotify" => "inotify",
                "pidfd" => "pidfd",
                _ => "other",
            });
    match target.split_once(":[") {
        _ if anonymous.is_some() => anonymous.unwrap_or("other"),
        Some(("socket", _)) => "socket",
        Some(("pipe", _)) => "pipe",
        Some(("pidfd", _)) => "pidfd",
        Some(("mnt" | "net" | "pid" | "user" | "uts" | "ipc" | "cgroup" | "time", _)) => {
            "namespace"
        }
        _ if target.starts_with("/memfd:") => "memfd",
        _ if target.starts_with("pidfd") => "pidfd",
        _ if target.starts_with("/dev/pts/") || target.ends_with("/ptmx") => "terminal",
        _ => match known_type(link) {
            Some(FileType::Fifo) => "fifo",
            Some(FileType::Directory) => "directory",
            Some(FileType::CharacterDevice | FileType::BlockDevice) => "device",
            Some(FileType::RegularFile) => "file",
            _ => "other",
        },
    }
}

/// The type of the file behind a link, as the kernel knows it without asking anybody.
fn known_type(link: &std::path::Path) -> Option<FileType> {
    let flags = AtFlags::from_bits_retain(libc::AT_STATX_DONT_SYNC as u32);
    let found = rustix::fs::statx(CWD, link, flags, StatxFlags::TYPE).ok()?;
    Some(FileType::from_raw_mode(u32::from(found.stx_mode)))
}

/// The number in `socket:[123]`.
fn inode(target: &str) -> Option<u64> {
    target.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn kinds_are_told_by_their_links() {
        let null = Path::new("/dev/null");
        for (target, expected) in [
            ("socket:[12]", "socket"),
            ("pipe:[3]", "pipe"),
            ("anon_inode:[eventpoll]", "eventpoll"),
            ("anon_inode:[pidfd]", "pidfd"),
            ("pidfd:[4]", "pidfd"),
            ("anon_inode:inotify", "inotify"),
            ("anon_inode:bpf-prog", "other"),
            ("net:[4026531840]", "namespace"),
            ("/memfd:sync (deleted)", "memfd"),
            ("/dev/pts/ptmx", "terminal"),
            ("/dev/null", "device"),
        ] {
            assert_eq!(kind(target, null), expected, "{target}");
        }
        assert_eq!(kind("/x", Path::new("/")), "directory");
        assert_eq!((inode("socket:[12]"), inode("/x")), (Some(12), None));
    }
}
