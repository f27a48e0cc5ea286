// SPDX-License-Identifier: Apache-2.0
//! How long a compilation takes, for the profiles of Docker and containerd: `cargo bench -p seccomp`.

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxSeccomp;
use seccomp::Machine;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, text) in [
        ("docker", include_str!("../tests/data/docker.json")),
        ("containerd", include_str!("../tests/data/containerd.json")),
    ] {
        let profile: LinuxSeccomp = serde_json::from_str(text)?;
        let program = seccomp::compile(&profile, Machine::X86_64)?;
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..2000 {
            let begin = Instant::now();
            black_box(seccomp::compile(black_box(&profile), Machine::X86_64)?);
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100].as_micros();
        writeln!(
            std::io::stdout(),
            "{name}: {} instructions, median {} us, 99 % {} us",
            program.instructions.len(),
            at(50),
            at(99)
        )?;
    }
    Ok(())
}
