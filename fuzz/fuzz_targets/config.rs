// SPDX-License-Identifier: Apache-2.0
//! config.json: whatever it says, it is parsed, checked and planned or refused.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use runtime::namespaces::Namespaces;
use runtime::seccomp_filter::{Cache, Seccomp};
use runtime::{process, rootfs, spec};

fuzz_target!(|data: &[u8]| {
    let bundle = Path::new("/bundle");
    let Ok(spec) = spec::parse_config(bundle, data) else {
        return;
    };
    let Ok(namespaces) = Namespaces::from_spec(&spec) else {
        return;
    };
    if spec::check(&spec, &namespaces).is_err() {
        return;
    }
    let host = rootfs::Host {
        bundle,
        pivot: rootfs::Pivot::PivotRoot,
        cgroups: None,
        user: None,
        maker: runtime::Maker::Root,
    };
    // Refusals are fine; that each comes back is what counts.
    let _ = rootfs::Plan::from_spec(&spec, &host);
    let _ = Seccomp::of(&spec, &Cache::default());
    if let Some(process) = spec.process() {
        let _ = process::Plan::new("process", process, false, None);
    }
});
