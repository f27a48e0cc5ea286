// SPDX-License-Identifier: Apache-2.0
//! Tells the program what built it, for `-v`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SHIM_REVISION");
    let revision = std::env::var("SHIM_REVISION").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rustc-env=SHIM_REVISION={revision}");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let version = text.split_whitespace().nth(1).unwrap_or("unknown");
    println!("cargo:rustc-env=SHIM_RUSTC={version}");
}
