// SPDX-License-Identifier: Apache-2.0
//! Options of a runtime, in both encodings. Those that name a file are left out: the file would be
//! read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use options::Options;

fuzz_target!(|data: &[u8]| {
    for kind in ["containerd.runc.v1.Options", "runtimeoptions.v1.Options"] {
        if data.contains(&b'/') {
            return;
        }
        // A refusal is fine.
        if let Ok(options) = Options::from_any(kind, data) {
            let _ = options.state_root();
        }
    }
});
