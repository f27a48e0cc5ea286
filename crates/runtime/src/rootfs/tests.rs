// SPDX-License-Identifier: Apache-2.0
//! Real root file systems in real mount namespaces: these tests need root.
//!
//! Each works in a thread of its own with a mount namespace of its own, which takes all mounts
//! with it when the thread ends.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use serde_json::{Value, json};
use sys::mount::{Feature, attr};
use tempfile::TempDir;

use super::*;

mod attacks;
mod devices;
mod mounts;
mod process;
mod whole;

/// What kernels can do: everything, no `mount_setattr`, no mounts as descriptors either.
const KERNELS: [&[Feature]; 3] = [
    &[],
    &[Feature::SetAttr],
    &[Feature::SetAttr, Feature::Detached],
];

/// Runs in a thread with its own mount namespace, working directory, root and umask. No mount gets
/// out: systemd has all mounts of the host shared.
pub(crate) fn isolated<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    contained(|| {
        sys::mount::mount(None, "/", None, ms::PRIVATE | ms::REC, None).unwrap();
        work()
    })
}

/// The same, but mounts are shared, or not, as they are outside: as for a container's init.
fn contained<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::namespace::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A bundle with a small image.
struct Bundle(TempDir);

impl Bundle {
    fn new() -> Self {
        let bundle = Self(tempfile::tempdir().unwrap());
        for directory in ["bin", "etc", "tmp", "var"] {
            fs::create_dir_all(bundle.image(directory)).unwrap();
        }
        fs::write(bundle.image("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        fs::set_permissions(bundle.image("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        bundle
    }

    /// A path in the image.
    fn image(&self, path: &str) -> PathBuf {
        self.0.path().join("rootfs").join(path)
    }

    /// A path outside of the image.
    fn host(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn plan(&self, mounts: Value, linux: Value) -> Plan {
        self.plan_with(mounts, linux, None)
    }

    fn plan_with(&self, mounts: Value, linux: Value, cgroups: Option<CgroupView>) -> Plan {
        let spec = json!({"ociVersion": "1.1.0", "root": {"path": "rootfs"}, "mounts": mounts, "linux": linux});
        let spec: oci_spec::runtime::Spec = serde_json::from_value(spec).unwrap();
        let host = Host {
            bundle: self.0.path(),
            pivot: Pivot::PivotRoot,
            cgroups,
            user: None,
            maker: crate::Maker::Root,
        };
        Plan::from_spec(&spec, &host).unwrap()
    }
}

/// All steps but the terminal, as the child runs them.
fn enter_with(plan: &Plan, api: MountApi) -> Result<Prepared, Error> {
    steps_after(prepare_with(plan, no_help(), api)?)
}

fn enter_with_sources(plan: &Plan, sources: Vec<OwnedFd>) -> Result<Prepared, Error> {
    let map_ids = |_: BorrowedFd<'_>| Err("not expected".to_owned());
    let help = Help {
        sources,
        map_ids: &map_ids,
    };
    steps_after(prepare(plan, help)?)
}

/// Nobody opens or id-maps anything.
fn no_help() -> Help<'static> {
    Help {
        sources: Vec::new(),
        map_ids: &|_| Err("not expected".to_owned()),
    }
}

fn steps_after(mut prepared: Prepared) -> Result<Prepared, Error> {
    prepared.pivot()?;
    prepared.make_cwd(Path::new("/"))?;
    prepared.finalize()?;
    prepared.read_only_paths()?;
    prepared.masked_paths()?;
    Ok(prepared)
}

fn enter(plan: &Plan) -> Result<Prepared, Error> {
    enter_with(plan, MountApi::new())
}

/// The line of the mount table for the topmost mount at a path, as its parts:
/// (options, optional fields, type, source, options of the superblock).
fn mounted(path: &str) -> (String, String, String, String, String) {
    let table = Procfs::default().read_self("mountinfo").unwrap();
    let line = table
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path))
        .unwrap_or_else(|| panic!("{path} is not mounted:\n{table}"));
    let (left, right) = line.split_once(" - ").unwrap();
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    (
        left[5].into(),
        left[6..].join(" "),
        right[0].into(),
        right[1].into(),
        right[2].into(),
    )
}

fn options(path: &str) -> String {
    mounted(path).0
}

/// May a mount be written to? "ro" or "rw"; other options may follow or not.
fn access(path: &str) -> String {
    options(path)
        .split(',')
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn proc() -> Value {
    json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]})
}

/// What `ctr run` asks for.
fn default_mounts() -> Value {
    json!([
        proc(),
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

fn default_linux() -> Value {
    json!({
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
            "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    })
}
