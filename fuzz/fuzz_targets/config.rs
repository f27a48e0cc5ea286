// SPDX-License-Identifier: Apache-2.0
//! config.json, and the parts of it that come by themselves: whatever it says, it is parsed, checked and
//! planned or refused.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use runtime::hooks::Hooks;
use runtime::idmap::Mappings;
use runtime::namespaces::Namespaces;
use runtime::seccomp_filter::{Cache, Seccomp};
use runtime::{net_devices, own_namespaces, process, rootfs, spec};

fuzz_target!(|data: &[u8]| {
    let bundle = Path::new("/bundle");
    // Refusals are fine; that each comes back is what counts.
    let _ = spec::parse_resources(data);
    if let Ok(process) = spec::parse_process(data) {
        let _ = spec::check_process("process", &process);
        let _ = process::Plan::new("process", &process, false, None);
    }
    let Ok(spec) = spec::parse_config(bundle, data) else {
        return;
    };
    let Ok(namespaces) = Namespaces::from_spec(&spec) else {
        return;
    };
    if spec::check(&spec, &namespaces).is_err() {
        return;
    }
    let linux = spec.linux().as_ref();
    let mappings = linux.and_then(|linux| {
        let (uids, gids) = (linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref());
        Mappings::from_spec(uids, gids).ok()
    });
    let host = rootfs::Host {
        bundle,
        pivot: rootfs::Pivot::PivotRoot,
        cgroups: None,
        user: mappings.as_ref().filter(|mappings| !mappings.is_empty()),
        maker: runtime::Maker::Root,
    };
    if let Ok(plan) = rootfs::Plan::from_spec(&spec, &host) {
        let _ = (plan.sources().len(), plan.mapped_in_turn().count());
    }
    let _ = Seccomp::of(&spec, &Cache::default());
    let _ = Hooks::from_spec(&spec);
    let _ = net_devices::plan(&spec, &namespaces);
    let _ = own_namespaces::time_offsets(&spec, &namespaces);
    if let Some(process) = spec.process() {
        let _ = process::Plan::new("process", process, false, None);
    }
});
