// SPDX-License-Identifier: Apache-2.0
//! Options of a mount: the first line is its type, the others are its options.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use runtime::{rootfs, spec};

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let kind = lines.next().unwrap_or_default();
    let document = serde_json::json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
        "mounts": [{
            "destination": "/mnt", "type": kind, "source": "/src",
            "options": lines.collect::<Vec<_>>(),
        }],
        "linux": {"namespaces": [{"type": "mount"}]},
    });
    let bundle = Path::new("/bundle");
    let json = document.to_string();
    let Ok(spec) = spec::parse_config(bundle, json.as_bytes()) else {
        return;
    };
    let host = rootfs::Host {
        bundle,
        pivot: rootfs::Pivot::MoveMount,
        cgroups: None,
        user: None,
        maker: runtime::Maker::Root,
    };
    // A refusal is fine.
    let _ = rootfs::Plan::from_spec(&spec, &host);
});
