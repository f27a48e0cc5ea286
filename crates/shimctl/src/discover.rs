// SPDX-License-Identifier: Apache-2.0
//! Finding all shims of the node: by their processes, and by the bundles of those that have died.
//!
//! A server of ours is a process with the flags `-namespace`, `-id` and `-ready-fd` (the last is
//! ours alone). Which socket it serves the kernel tells: the first of its descriptors that is a
//! listening Unix socket. So neither containerd's state directory nor its configuration matter. A
//! bundle whose `address` leads to no process is a shim that has died.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use diagnostics::v1::{Container, Process};

/// Where containerd keeps bundles unless it is told otherwise.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task";
/// What the executable is called in a bundle's `shim-binary-path`.
const PROGRAM: &str = "containerd-shim-rust-v2";

/// A shim of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shim {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The pod or container that it was started for.
    pub(crate) id: String,
    /// The server; 0 if it has died.
    pub(crate) pid: i32,
    /// The socket that it serves.
    pub(crate) socket: Option<PathBuf>,
    /// Its containers, as far as the file system tells: of a shim that has died.
    pub(crate) bundle: Option<PathBuf>,
}

impl Shim {
    /// For people.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.id)
    }
}

/// The containers of a shim, as far as its bundles tell: of one that does not.
pub(crate) fn containers_of(shim: &Shim) -> Vec<Container> {
    let Some(socket) = &shim.socket else {
        return Vec::new();
    };
    // A shim works in its first container's bundle; its others are beside it.
    let own = fs::read_link(format!("/proc/{}/cwd", shim.pid)).ok();
    let Some(parent) = own
        .as_deref()
        .or(shim.bundle.as_deref())
        .and_then(Path::parent)
    else {
        return Vec::new();
    };
    let bundles = fs::read_dir(parent).into_iter().flatten().flatten();
    bundles
        .filter_map(|entry| bundle_of(&entry.path(), socket))
        .collect()
}

/// The container of a bundle, if this is its shim's socket.
fn bundle_of(bundle: &Path, socket: &Path) -> Option<Container> {
    let read = |name: &str| fs::read_to_string(bundle.join(name)).ok();
    let address = read("address")?;
    if Path::new(address.trim().trim_start_matches("unix://")) != socket {
        return None;
    }
    let mut container = Container::new();
    container.id = bundle.file_name()?.to_string_lossy().into_owned();
    container.bundle = bundle.to_string_lossy().into_owned();
    let mut init = Process::new();
    init.pid = read("init.pid")
        .and_then(|pid| pid.trim().parse().ok())
        .unwrap_or(0);
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", init.pid)).unwrap_or_default();
    container.cgroups = cgroup_paths(&cgroups);
    container.init = Some(init).into();
    Some(container)
}

/// The paths in `/proc/<pid>/cgroup`, each once.
fn cgroup_paths(table: &str) -> Vec<String> {
    let mut paths: Vec<String> = table
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|path| path.len() > 1)
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Whether a process is stopped, and how: then it answers nobody.
pub(crate) fn stopped(pid: i32) -> Option<&'static str> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    let (_, rest) = stat.rsplit_once(')')?;
    match rest.split_whitespace().next()? {
        "T" => Some("stopped by a signal (SIGSTOP)"),
        "t" => Some("stopped by a debugger"),
        "Z" | "X" => Some("a zombie"),
        // A frozen process sleeps here. Where it sleeps is told of processes that sleep, only.
        "D" | "S" if is_frozen(read("wchan")?.trim()) => Some("frozen"),
        _ => None,
    }
}

fn is_frozen(wchan: &str) -> bool {
    matches!(wchan, "__refrigerator" | "do_freezer_trap")
}

/// All shims, of one containerd namespace or of all, in the order of their names.
pub(crate) fn shims(namespace: Option<&str>) -> Vec<Shim> {
    let mut found = running(Path::new("/proc"));
    let mut roots = vec![PathBuf::from(BUNDLES)];
    for shim in &found {
        // A shim works in its first container's bundle: <root>/<namespace>/<id>.
        let bundle = fs::read_link(format!("/proc/{}/cwd", shim.pid)).ok();
        let root = bundle.and_then(|path| Some(path.parent()?.parent()?.to_owned()));
        roots.extend(root.filter(|root| root.ends_with("io.containerd.runtime.v2.task")));
    }
    roots.sort();
    roots.dedup();
    for root in roots {
        let dead = dead(&root, &found);
        found.extend(dead);
    }
    found.retain(|shim| namespace.is_none_or(|wanted| shim.namespace == wanted));
    found.sort_by(|a, b| (&a.namespace, &a.id, a.pid).cmp(&(&b.namespace, &b.id, b.pid)));
    found
}

fn running(proc: &Path) -> Vec<Shim> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut sockets = HashMap::new();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let directory = proc.join(pid.to_string());
        let command = fs::read(directory.join("cmdline")).ok()?;
        let (namespace, id) = identity(&command)?;
        Some(Shim {
            namespace,
            id,
            pid,
            socket: socket(&directory, &mut sockets),
            bundle: None,
        })
    })
    .collect()
}

/// Namespace and id in the command line of a server of ours.
fn identity(command: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(command);
    let arguments: Vec<&str> = text.split('\0').collect();
    if !arguments.iter().any(|arg| arg.starts_with("-ready-fd")) {
        return None;
    }
    let value = |flag: &str| {
        let at = arguments.iter().position(|arg| *arg == flag)?;
        arguments.get(at + 1).map(|value| (*value).to_owned())
    };
    Some((value("-namespace")?, value("-id")?))
}

/// Listening Unix sockets by their inodes, for each network namespace that was looked into.
type Listening = HashMap<PathBuf, BTreeMap<u64, PathBuf>>;

fn socket(process: &Path, known: &mut Listening) -> Option<PathBuf> {
    let namespace = fs::read_link(process.join("ns/net")).ok()?;
    let listening = known.entry(namespace).or_insert_with(|| {
        listening(&fs::read_to_string(process.join("net/unix")).unwrap_or_default())
    });
    let mut descriptors: Vec<i32> = fs::read_dir(process.join("fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    descriptors.sort_unstable();
    let path = descriptors.into_iter().find_map(|fd| {
        let target = fs::read_link(process.join("fd").join(fd.to_string())).ok()?;
        let inode = target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?;
        listening.get(&inode.parse().ok()?).cloned()
    })?;
    // The shim may live in another mount namespace than we.
    if path.exists() {
        return Some(path);
    }
    let seen = process.join("root").join(path.strip_prefix("/").ok()?);
    Some(if seen.exists() { seen } else { path })
}

/// The listening sockets with a path in `/proc/<pid>/net/unix`.
fn listening(table: &str) -> BTreeMap<u64, PathBuf> {
    const ACCEPTS: u32 = 0x10000;
    let parse = |line: &str| {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.split_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode = fields.nth(2)?.parse().ok()?;
        let path = fields.next().filter(|path| path.starts_with('/'))?;
        (flags & ACCEPTS != 0).then(|| (inode, PathBuf::from(path)))
    };
    table.lines().filter_map(parse).collect()
}

/// Shims below this directory of bundles that are not among those that run.
fn dead(root: &Path, running: &[Shim]) -> Vec<Shim> {
    let children = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut found: Vec<Shim> = Vec::new();
    for bundle in children(root).iter().flat_map(|path| children(path)) {
        let read = |name: &str| fs::read_to_string(bundle.join(name)).ok();
        if !read("shim-binary-path").is_some_and(|path| path.ends_with(PROGRAM)) {
            continue;
        }
        let Some(address) = read("address") else {
            continue;
        };
        let socket = PathBuf::from(address.trim().trim_start_matches("unix://"));
        let known = running.iter().chain(&found);
        if known
            .filter_map(|shim| shim.socket.as_ref())
            .any(|path| *path == socket)
        {
            continue;
        }
        let name = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
        let (Some(id), Some(namespace)) = (name(&bundle), bundle.parent().and_then(name)) else {
            continue;
        };
        found.push(Shim {
            namespace,
            id,
            pid: 0,
            socket: Some(socket),
            bundle: Some(bundle),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_of_ours_are_found() {
        let identity = |line: &str| identity(line.replace(' ', "\0").as_bytes());
        let ours = "/usr/local/bin/containerd-shim-rust-v2 -namespace k8s.io -id abc -address /x \
                    -ready-fd=5 ";
        assert_eq!(identity(ours), Some(("k8s.io".into(), "abc".into())));
        // Of the Go shim, and of our own `start`.
        assert_eq!(
            identity("/bin/containerd-shim-runc-v2 -namespace a -id b -address /x "),
            None
        );
        assert_eq!(
            identity("containerd-shim-rust-v2 -namespace a -id b start "),
            None
        );
        assert_eq!(identity(""), None);
    }

    #[test]
    fn listening_sockets_are_found_in_the_kernels_table() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
00000000a: 00000002 00000000 00010000 0001 01 12345 /run/containerd/s/abc
00000000b: 00000003 00000000 00000000 0001 03 12346 /run/containerd/s/abc
00000000c: 00000002 00000000 00010000 0001 01 12347 @abstract
00000000d: 00000002 00000000 00000000 0002 01 12348
";
        let found = listening(table);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&12345], Path::new("/run/containerd/s/abc"));
    }

    #[test]
    fn the_containers_of_a_silent_shim_are_found_by_their_bundles() {
        let folder = tempfile::tempdir().unwrap();
        for (id, socket) in [("pod", "/s/1"), ("web", "/s/1"), ("other", "/s/2")] {
            let path = folder.path().join(id);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("address"), format!("unix://{socket}")).unwrap();
            fs::write(path.join("init.pid"), "1").unwrap();
        }
        let shim = Shim {
            namespace: "ns".into(),
            id: "pod".into(),
            pid: 0,
            socket: Some("/s/1".into()),
            bundle: Some(folder.path().join("pod")),
        };
        let mut found = containers_of(&shim);
        found.sort_by(|a, b| a.id.cmp(&b.id));
        let ids: Vec<&str> = found.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["pod", "web"]);
        assert_eq!(found[0].init.pid, 1);
        assert_eq!(cgroup_paths("3:cpu:/a:b\n0::/a:b\n1:x:/\n"), ["/a:b"]);
    }

    #[test]
    fn a_stopped_process_is_told_from_one_that_sleeps() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert_eq!(stopped(pid), None);
        let id = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while stopped(pid).is_none() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(stopped(pid), Some("stopped by a signal (SIGSTOP)"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(stopped(pid), None);
        assert!(is_frozen("do_freezer_trap") && !is_frozen("ep_poll"));
    }

    #[test]
    fn a_bundle_without_a_process_is_a_dead_shim() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = |id: &str, program: &str, socket: &str| {
            let path = folder.path().join("ns").join(id);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("shim-binary-path"), program).unwrap();
            fs::write(path.join("address"), format!("unix://{socket}")).unwrap();
        };
        bundle("alive", "/bin/containerd-shim-rust-v2", "/s/1");
        bundle("dead", "/bin/containerd-shim-rust-v2", "/s/2");
        bundle("other", "/bin/containerd-shim-runc-v2", "/s/3");
        let alive = Shim {
            namespace: "ns".into(),
            id: "alive".into(),
            pid: 7,
            socket: Some("/s/1".into()),
            bundle: None,
        };
        let found = dead(folder.path(), &[alive]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id.as_str(), found[0].pid), ("dead", 0));
    }
}
