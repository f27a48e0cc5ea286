// SPDX-License-Identifier: Apache-2.0
//! Hostile containers, images and neighbours against whole containers; docs/security.md says which
//! attack is which. Attacks on single steps are in `runtime::rootfs::tests::attacks`.
//!
//! Each goes on for two seconds, or for twenty with `E2E_SCALE=full`, and says how often it tried.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images;
#[path = "../lab/mod.rs"]
mod lab;
mod processes;
mod volumes;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{Bundle, Lab, OCIRUN, Running, wait_until};
use serde_json::json;

/// What no container may ever get to see or change.
const SECRET: &str = "the-host's-secret";
/// What stands in a file that an attacker wants to have mounted somewhere.
const DECOY: &str = "decoy";

/// Does it again and again, and says how often.
fn again_and_again(attack: &str, mut attempt: impl FnMut(usize)) {
    let long = std::env::var("E2E_SCALE").is_ok_and(|scale| scale == "full");
    let end = Instant::now() + Duration::from_secs(if long { 20 } else { 2 });
    let mut count = 0;
    while Instant::now() < end || count < 5 {
        attempt(count);
        count += 1;
    }
    // Past the capture of the test program: it is wanted when the test passes, too.
    let _ = writeln!(std::io::stderr(), "attack {attack}: {count} attempts");
}

/// Runs `work` while somebody exchanges each pair of names in a directory as fast as they can.
fn while_exchanging(directory: &Path, pairs: &[(&str, &str)], work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    std::thread::scope(|scope| {
        for (one, other) in pairs {
            let done = &done;
            scope.spawn(move || {
                let directory = fs::File::open(directory).unwrap();
                while !done.load(Ordering::Relaxed) {
                    // The other pair may have the name at the moment.
                    let _ = rustix::fs::renameat_with(&directory, *one, &directory, *other, flags);
                }
            });
        }
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _done = Done(&done);
        work();
    });
}

fn volume(bundle: &Bundle, source: &Path, destination: &str) {
    bundle.mount(json!({
        "destination": destination, "type": "bind", "source": source,
        "options": ["rbind", "rw"],
    }));
}

/// A directory of the host that must stay empty.
fn outside(lab: &Lab) -> PathBuf {
    let path = lab.path("outside");
    fs::create_dir_all(&path).unwrap();
    path
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).unwrap().count() == 0
}
