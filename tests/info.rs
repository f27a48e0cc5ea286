// SPDX-License-Identifier: Apache-2.0
//! The contract of `-v` and `-info`: no namespace, no bundle, no server.
#![allow(clippy::unwrap_used, missing_docs)]

mod shim;

use std::process::Command;

use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message as _;

#[test]
fn the_version_is_printed_by_every_spelling_of_the_flag() {
    for flag in ["-v", "--v", "-version", "--version=true"] {
        let output = Command::new(shim::BINARY).arg(flag).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        let version = env!("CARGO_PKG_VERSION");
        let begin = format!("containerd-shim-rust-v2:\n  Version:  {version}\n  Revision: ");
        assert!(text.starts_with(&begin), "{text}");
    }
}

#[test]
fn the_info_decodes_with_and_without_options() {
    let options = shim::any("containerd.runc.v1.Options", b"\x32\x04runc");
    for input in [Vec::new(), options.write_to_bytes().unwrap()] {
        let mut command = Command::new(shim::BINARY);
        command.arg("-info").current_dir("/");
        let output = shim::feed(command, &input);
        assert!(output.status.success() && output.stderr.is_empty());
        let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(info.name, "io.containerd.rust.v2");
        assert_eq!(info.options.is_some(), !input.is_empty());
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert!(features["linux"].is_object());
        let mount_options = features["mountOptions"].as_array().unwrap();
        assert!(mount_options.contains(&"rro".into()));
    }
}
