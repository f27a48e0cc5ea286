// SPDX-License-Identifier: Apache-2.0
//! What a profile costs at create, compiled anew and kept from before: `cargo bench -p runtime`.

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use runtime::seccomp_filter::{Cache, Seccomp};

const TIMES: usize = 2000;

/// The median.
fn measure(
    mut once: impl FnMut() -> runtime::Result<Option<Seccomp>>,
) -> runtime::Result<Duration> {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let begin = Instant::now();
        black_box(once()?);
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times[TIMES / 2])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let profile = include_str!("../../seccomp/tests/data/containerd.json");
    let profile: serde_json::Value = serde_json::from_str(profile)?;
    let document = serde_json::json!({"ociVersion": "1.2.0", "linux": {"seccomp": profile}});
    let spec: Spec = serde_json::from_value(document)?;
    let anew = measure(|| Seccomp::of(black_box(&spec), &Cache::default()))?;
    let cache = Cache::default();
    let kept = measure(|| Seccomp::of(black_box(&spec), &cache))?;
    writeln!(
        std::io::stdout(),
        "containerd's profile: compiled {} us, kept {} us",
        anew.as_micros(),
        kept.as_micros()
    )?;
    Ok(())
}
