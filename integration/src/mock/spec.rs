// SPDX-License-Identifier: Apache-2.0
//! `config.json`: the defaults of `ctr run`, and the changes a test makes to them.

use serde_json::{Value, json};

/// A runtime specification under construction.
#[derive(Clone, Debug)]
pub struct Spec(pub(crate) Value);

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Files and directories that every machine has.
const MORE_MASKED: [&str; 13] = [
    "/proc/interrupts",
    "/proc/modules",
    "/proc/kallsyms",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/vmallocinfo",
    "/sys/power",
    "/sys/dev",
    "/sys/fs/ext4",
    "/sys/module",
    "/sys/bus",
    "/sys/kernel/mm",
    "/sys/block",
];
const MORE_READ_ONLY: [&str; 2] = ["/sys/kernel", "/sys/class"];

impl Spec {
    /// What `ctr run` would write for this command line.
    #[must_use]
    pub fn new(arguments: &[&str]) -> Self {
        let namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount", "network"]
            .iter()
            .map(|name| json!({"type": name}))
            .collect();
        Self(json!({
            "ociVersion": "1.0.2",
            "process": Self::process(arguments),
            "root": {"path": "rootfs"},
            "hostname": "mock",
            "mounts": default_mounts(),
            "linux": {
                "namespaces": namespaces,
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                    "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
                ],
                "readonlyPaths": [
                    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
                ],
            },
        }))
    }

    /// A shell that runs this script.
    #[must_use]
    pub fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    /// A process that does nothing until it is killed.
    #[must_use]
    pub fn idle() -> Self {
        Self::new(&["/bin/sleep", "1000000"])
    }

    /// The `process` object, which is also what Exec takes.
    #[must_use]
    pub fn process(arguments: &[&str]) -> Value {
        json!({
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        })
    }

    /// A pod's first container as CRI writes it: it holds the namespaces.
    #[must_use]
    pub fn pod_sandbox(id: &str) -> Self {
        Self::idle()
            .annotation("io.kubernetes.cri.container-type", "sandbox")
            .in_pod(id)
    }

    /// A container of the pod, as CRI writes it: namespaces of the process `pid` joined by path.
    /// `files` are bind-mounted as the daemon's `hosts`, `hostname`, `resolv.conf` and `shm` are.
    #[must_use]
    pub fn pod_workload(sandbox: &str, pid: u32, arguments: &[&str], files: &str) -> Self {
        let mut spec = Self::new(arguments)
            .annotation("io.kubernetes.cri.container-type", "container")
            .annotation("io.kubernetes.cri.container-name", "main")
            .annotation("io.kubernetes.cri.image-name", "localhost/busybox:1")
            .in_pod(sandbox);
        spec.0["linux"]["namespaces"] = json!([
            {"type": "pid"},
            {"type": "ipc", "path": format!("/proc/{pid}/ns/ipc")},
            {"type": "uts", "path": format!("/proc/{pid}/ns/uts")},
            {"type": "mount"},
            {"type": "network", "path": format!("/proc/{pid}/ns/net")},
        ]);
        let bind = |name: &str, target: &str, access: &str| {
            json!({
                "destination": target, "type": "bind", "source": format!("{files}/{name}"),
                "options": ["rbind", "rprivate", access],
            })
        };
        if let Some(mounts) = spec.0["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != "/run");
            mounts.retain(|mount| mount["destination"] != "/dev/shm");
            mounts.extend([
                json!({
                    "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
                }),
                bind("hosts", "/etc/hosts", "rw"),
                bind("termination-log", "/dev/termination-log", "rw"),
                bind("hostname", "/etc/hostname", "rw"),
                bind("resolv.conf", "/etc/resolv.conf", "rw"),
                bind("shm", "/dev/shm", "rw"),
                bind(
                    "serviceaccount",
                    "/var/run/secrets/kubernetes.io/serviceaccount",
                    "ro",
                ),
            ]);
        }
        if let Some(spec) = spec.0.as_object_mut() {
            // The sandbox's.
            spec.remove("hostname");
        }
        spec.0["process"]["oomScoreAdj"] = json!(1000);
        spec
    }

    /// With what a container of Kubernetes has besides: the default seccomp profile, 30 masked and
    /// read-only paths (newer ones mask a directory for each processor), 15 mounts.
    #[must_use]
    pub fn confined_as_by_cri(mut self, files: &str) -> Self {
        const PROFILE: &str = include_str!("../../../crates/seccomp/tests/data/containerd.json");
        let linux = &mut self.0["linux"];
        // It is JSON: a test of the compiler reads it, too.
        linux["seccomp"] = serde_json::from_str(PROFILE).unwrap_or_default();
        for (list, more) in [
            ("maskedPaths", &MORE_MASKED[..]),
            ("readonlyPaths", &MORE_READ_ONLY[..]),
        ] {
            if let Some(paths) = linux[list].as_array_mut() {
                paths.extend(more.iter().map(|path| json!(path)));
            }
        }
        if let Some(mounts) = self.0["mounts"].as_array_mut() {
            let missing = 15_usize.saturating_sub(mounts.len());
            mounts.extend((0..missing).map(|number| {
                json!({
                    "destination": format!("/volume{number}"), "type": "bind",
                    "source": format!("{files}/serviceaccount"),
                    "options": ["rbind", "rprivate", "rw"],
                })
            }));
        }
        self
    }

    fn in_pod(self, sandbox: &str) -> Self {
        self.annotation("io.kubernetes.cri.sandbox-id", sandbox)
            .annotation("io.kubernetes.cri.sandbox-name", "pod")
            .annotation("io.kubernetes.cri.sandbox-namespace", "default")
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.0["annotations"][key] = json!(value);
        self
    }

    /// With a file of the host in it.
    #[must_use]
    pub fn bind(mut self, source: &str, target: &str) -> Self {
        if let Some(mounts) = self.0["mounts"].as_array_mut() {
            mounts.push(json!({
                "destination": target, "type": "bind", "source": source,
                "options": ["rbind", "ro"],
            }));
        }
        self
    }

    /// With a directory of the host that it may write to.
    #[must_use]
    pub fn volume(mut self, source: &str, target: &str) -> Self {
        if let Some(mounts) = self.0["mounts"].as_array_mut() {
            mounts.push(json!({
                "destination": target, "type": "bind", "source": source,
                "options": ["rbind", "rw"],
            }));
        }
        self
    }

    /// With a terminal.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.0["process"]["terminal"] = json!(true);
        self
    }

    /// Without one of the default namespaces.
    #[must_use]
    pub fn without_namespace(mut self, name: &str) -> Self {
        if let Some(list) = self.0["linux"]["namespaces"].as_array_mut() {
            list.retain(|namespace| namespace["type"] != name);
        }
        self
    }

    /// Sets the value at a JSON pointer's place, `/process/cwd` for example. The parent exists.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if let Some(Value::Object(map)) = self.0.pointer_mut(parent) {
            map.insert(key.to_owned(), value);
        }
        self
    }
}

fn default_mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    ])
}
