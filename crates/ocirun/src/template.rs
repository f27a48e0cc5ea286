// SPDX-License-Identifier: Apache-2.0
//! `spec`: a configuration to begin with.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::Code;
use crate::args::Parsed;
use crate::error::{Attempt as _, Error};

const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// `spec`.
pub(crate) fn spec(parsed: &Parsed) -> Result<Code, Error> {
    let bundle = parsed.value("bundle").filter(|path| !path.is_empty());
    let path = Path::new(bundle.unwrap_or(".")).join("config.json");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .attempt(|| format!("create {}", path.display()))?;
    let mut document = document();
    if parsed.is_set("rootless") {
        for_user(&mut document);
    }
    file.write_all(format!("{document:#}\n").as_bytes())
        .attempt(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// A shell in a container of its own, with no more rights than it takes.
fn document() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "ocirun",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces(),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

/// Changes it to what somebody who is not root can have: a user namespace with him as its root, the
/// host's network, no cgroups.
fn for_user(document: &mut Value) {
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut document["linux"];
    linux["uidMappings"] = map(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = map(rustix::process::getegid().as_raw());
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    let Some(mounts) = document["mounts"].as_array_mut() else {
        return;
    };
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    for mount in mounts {
        if mount["destination"] == "/sys" {
            // A new sysfs belongs to the owner of a network namespace.
            mount["type"] = json!("none");
            mount["source"] = json!("/sys");
            mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
        }
        if let Some(options) = mount["options"].as_array_mut() {
            // There is no such group in the container.
            options.retain(|option| option != "gid=5");
        }
    }
}

/// With a cgroup namespace where there is one tree of cgroups to be seen, as runc.
fn namespaces() -> Vec<Value> {
    let mut names = vec!["pid", "network", "ipc", "uts", "mount"];
    let root = rustix::fs::statfs("/sys/fs/cgroup");
    if root.is_ok_and(|root| root.f_type == CGROUP2_SUPER_MAGIC) {
        names.push("cgroup");
    }
    names.iter().map(|name| json!({"type": name})).collect()
}

fn mounts() -> Value {
    let mount = |destination, kind, source, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let closed = ["nosuid", "noexec", "nodev"];
    let and = |more: &[&'static str]| [&closed[..], more].concat();
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &and(&["mode=1777", "size=65536k"])),
        mount("/dev/mqueue", "mqueue", "mqueue", &closed),
        mount("/sys", "sysfs", "sysfs", &and(&["ro"])),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &and(&["relatime", "ro"])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_takes_what_is_written() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().to_str().unwrap().to_owned();
        let words = ["spec", "--bundle", &path].map(str::to_owned).to_vec();
        let parsed = Parsed::new(words, crate::verbs::GLOBAL, crate::verbs::VERBS).unwrap();
        assert_eq!(spec(&parsed).unwrap(), 0);
        runtime::Bundle::load(bundle.path()).unwrap();
        let again = spec(&parsed).unwrap_err().to_string();
        assert!(again.contains("File exists"), "{again}");
    }
}
