// SPDX-License-Identifier: Apache-2.0
//! A root filesystem of static busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{During as _, Error, Result};
use super::orphans;

/// Makes the image at `root`.
pub(crate) fn make(root: &Path) -> Result<()> {
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var/run"] {
        let path = root.join(folder);
        fs::create_dir_all(&path).during(|| format!("mkdir {}", path.display()))?;
    }
    let busybox = find_busybox()?;
    let copy = root.join("bin/busybox");
    fs::copy(&busybox, &copy).during(|| format!("copy {}", busybox.display()))?;
    let list = orphans::run(Command::new(&busybox).arg("--list"))
        .during(|| format!("{} --list", busybox.display()))?;
    for applet in String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        let path = root.join("bin").join(applet);
        symlink("busybox", &path).during(|| format!("symlink {}", path.display()))?;
    }
    for (name, text) in [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n",
        ),
        ("group", "root:x:0:\ndaemon:x:1:\n"),
        ("plain", "not executable\n"),
        ("hosts", ""),
        ("hostname", ""),
        ("resolv.conf", ""),
    ] {
        let path = root.join("etc").join(name);
        fs::write(&path, text).during(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Debian's package busybox-static, installed or unpacked by `scripts/setup`.
fn find_busybox() -> Result<PathBuf> {
    let cache = std::env::var_os("CONTAINERD_SHIM_RUST_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| {
        let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        home.unwrap_or_else(|| PathBuf::from("/var/cache"))
            .join("containerd-shim-rust")
    });
    let places = [cache.join("busybox"), PathBuf::from("/bin/busybox")];
    places
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| Error::Io {
            doing: "static busybox (run scripts/setup)".to_owned(),
            cause: std::io::ErrorKind::NotFound.into(),
        })
}
