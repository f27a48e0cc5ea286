// SPDX-License-Identifier: Apache-2.0
//! A place for containers made with `ocirun`: state, bundles, an image with busybox in it.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The program under test.
pub(crate) const OCIRUN: &str = env!("CARGO_BIN_EXE_ocirun");

/// What a busybox of the image is called by.
const APPLETS: [&str; 23] = [
    "cat", "chmod", "dd", "echo", "env", "false", "grep", "head", "id", "kill", "ln", "ls",
    "mkdir", "mknod", "mv", "readlink", "rm", "sh", "sleep", "stat", "stty", "true", "tty",
];

/// The static busybox that `scripts/setup` has fetched.
fn busybox() -> Option<PathBuf> {
    let folder = match std::env::var_os("CONTAINERD_SHIM_RUST_CACHE") {
        Some(chosen) => PathBuf::from(chosen),
        None => std::env::var_os("XDG_CACHE_HOME")
            .map_or_else(|| "/var/cache".into(), PathBuf::from)
            .join("containerd-shim-rust"),
    };
    Some(folder.join("busybox")).filter(|path| path.exists())
}

/// State and bundles; all of it is gone when dropped.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    busybox: PathBuf,
}

impl Lab {
    /// `None`, and a word of why, where containers cannot be made.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let Some(busybox) = busybox() else {
            eprintln!("SKIPPED: needs the busybox that scripts/setup fetches");
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("ocirun-test-")
            .tempdir()
            .unwrap();
        // Others than root must get to the image.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { folder, busybox })
    }

    /// A file or directory of the host.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where state is kept.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("state")
    }

    /// `ocirun --root <state> ...`.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(OCIRUN);
        command.arg("--root").arg(self.root()).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `ocirun` to its end.
    pub(crate) fn ocirun<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.finish(&mut self.command(args))
    }

    /// Runs a command to its end. Its output goes through files: a container that lives on holds
    /// them open, and nobody waits for its end of a pipe.
    pub(crate) fn finish(&self, command: &mut Command) -> Finished {
        let [stdout, stderr] = [(), ()].map(|()| tempfile::NamedTempFile::new().unwrap());
        let status = command
            .stdout(stdout.reopen().unwrap())
            .stderr(stderr.reopen().unwrap())
            .status()
            .unwrap();
        let text = |file: &tempfile::NamedTempFile| {
            String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned()
        };
        Finished {
            code: status.code(),
            stdout: text(&stdout),
            stderr: text(&stderr),
        }
    }

    /// A bundle with an image of its own, whose program is `args`.
    pub(crate) fn bundle<S: AsRef<str>>(
        &self,
        name: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Bundle {
        let path = self.path(format!("bundle-{name}"));
        let image = path.join("rootfs");
        for directory in [
            "bin",
            "etc",
            "proc",
            "sys",
            "dev",
            "tmp",
            "root",
            "home/user",
        ] {
            fs::create_dir_all(image.join(directory)).unwrap();
        }
        let target = image.join("bin/busybox");
        // One file for all images, where they are on one file system.
        let shared = self.path("busybox");
        if !shared.exists() {
            fs::copy(&self.busybox, &shared).unwrap();
        }
        if !target.exists() {
            fs::copy(&shared, &target).unwrap();
            for applet in APPLETS {
                symlink("busybox", image.join("bin").join(applet)).unwrap();
            }
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
        fs::write(image.join("etc/passwd"), passwd).unwrap();
        let _ = fs::remove_file(path.join("config.json"));
        let made = self.ocirun(["spec", "--bundle", path.to_str().unwrap()]);
        assert!(made.success(), "{made:?}");
        let bundle = Bundle { path };
        let args: Vec<_> = args
            .into_iter()
            .map(|arg| arg.as_ref().to_owned())
            .collect();
        bundle.edit(|spec| {
            spec["process"]["terminal"] = false.into();
            spec["process"]["args"] = args.into();
            spec["root"]["readonly"] = false.into();
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            if !namespaces.iter().any(|one| one["type"] == "cgroup") {
                namespaces.push(json!({"type": "cgroup"}));
            }
            // Ids of containers are unique in a lab only; cgroups are not the lab's.
            spec["linux"]["cgroupsPath"] = json!(format!("/ocirun-test-{}/{name}", self.tag()));
        });
        bundle
    }

    fn tag(&self) -> String {
        let name = self.folder.path().file_name().unwrap();
        name.to_string_lossy().replace("ocirun-test-", "")
    }

    /// Creates and starts a container, detached, with its output in a file of the lab.
    pub(crate) fn start(&self, id: &str, bundle: &Bundle) -> Running<'_> {
        let output = fs::File::create(self.path(format!("{id}.out"))).unwrap();
        let status = self
            .command(["run", "-d", "-b", bundle.path.to_str().unwrap(), id])
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        assert!(status.success(), "{}", self.output(id));
        Running {
            lab: self,
            id: id.to_owned(),
        }
    }

    /// What a detached container has written.
    pub(crate) fn output(&self, id: &str) -> String {
        let bytes = fs::read(self.path(format!("{id}.out"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The state that is printed for a container.
    pub(crate) fn state(&self, id: &str) -> Value {
        let finished = self.ocirun(["state", id]);
        assert!(finished.success(), "{finished:?}");
        serde_json::from_str(&finished.stdout).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir(self.root()) else {
            return;
        };
        for entry in entries.flatten() {
            let id = entry.file_name();
            let deleted = self.ocirun([OsStr::new("delete"), OsStr::new("--force"), &id]);
            if !deleted.success() {
                eprintln!("left behind: {deleted:?}");
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let parent = hierarchy.path().join(format!("ocirun-test-{}", self.tag()));
            // It is in some hierarchies only.
            let _ = fs::remove_dir(parent);
        }
        let _ = fs::remove_dir(format!("/sys/fs/cgroup/ocirun-test-{}", self.tag()));
    }
}

/// A bundle.
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
}

impl Bundle {
    /// Changes config.json.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) -> &Self {
        let path = self.path.join("config.json");
        let mut spec = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(&path, spec.to_string()).unwrap();
        self
    }

    /// Adds a mount.
    pub(crate) fn mount(&self, mount: Value) -> &Self {
        self.edit(|spec| spec["mounts"].as_array_mut().unwrap().push(mount))
    }

    /// A file of the image.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.path.join("rootfs").join(name)
    }

    pub(crate) fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// A container that runs; ended when dropped.
pub(crate) struct Running<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) id: String,
}

impl Running<'_> {
    /// Runs a program in it to its end.
    pub(crate) fn exec<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        let mut command = self.lab.command(["exec", &self.id]);
        command.args(args);
        self.lab.finish(&mut command)
    }

    pub(crate) fn pid(&self) -> i64 {
        self.lab.state(&self.id)["pid"].as_i64().unwrap()
    }

    /// Waits until its output holds a text.
    pub(crate) fn wait_for(&self, text: &str) {
        wait_until(text, || self.lab.output(&self.id).contains(text));
    }

    pub(crate) fn output(&self) -> String {
        self.lab.output(&self.id)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let deleted = self.lab.ocirun(["delete", "--force", &self.id]);
        if !deleted.success() && !std::thread::panicking() {
            panic!("{deleted:?}");
        }
    }
}

/// What became of a run of `ocirun`.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Waits for a condition, ten seconds at most.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills a child when dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets everybody execute a file.
pub(crate) fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
