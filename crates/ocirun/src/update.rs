// SPDX-License-Identifier: Apache-2.0
//! `update`: new limits for a container, by flags or as a document.

use std::io::Read as _;
use std::str::FromStr;

use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};
use serde_json::{Value, json};

use crate::Code;
use crate::args::Parsed;
use crate::common::Common;
use crate::error::{Attempt as _, Error};

/// No document of resources is larger.
const LARGEST: u64 = 1 << 20;

/// `update`.
pub(crate) fn update(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let container = common.stored(parsed.id())?.container()?;
    let document = match parsed.value("resources").filter(|path| !path.is_empty()) {
        Some(path) => given(path)?,
        None => by_flags(parsed)?,
    };
    let resources: LinuxResources = serde_json::from_value(document)
        .map_err(|e| Error::Usage(format!("invalid resources: {e}")))?;
    match rdt(parsed) {
        Some(shares) => container.update_with_intel_rdt(&resources, &shares)?,
        None => container.update(&resources)?,
    }
    Ok(0)
}

/// A document from a file, or from standard input for `-`.
fn given(path: &str) -> Result<Value, Error> {
    let mut text = String::new();
    let read = match path {
        "-" => std::io::stdin().take(LARGEST).read_to_string(&mut text),
        path => {
            std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
        }
    };
    read.attempt(|| format!("read resources from {path}"))?;
    serde_json::from_str(&text).map_err(|e| Error::Usage(format!("invalid resources: {e}")))
}

/// Shares of caches and memory bandwidth, if there are any to be changed.
fn rdt(parsed: &Parsed) -> Option<LinuxIntelRdt> {
    let given = |flag| parsed.value(flag).filter(|text| !text.is_empty());
    let (cache, memory) = (given("l3-cache-schema"), given("mem-bw-schema"));
    if cache.is_none() && memory.is_none() {
        return None;
    }
    let mut shares = LinuxIntelRdt::default();
    shares.set_l3_cache_schema(cache.map(str::to_owned));
    shares.set_mem_bw_schema(memory.map(str::to_owned));
    Some(shares)
}

fn by_flags(parsed: &Parsed) -> Result<Value, Error> {
    let mut document = json!({"memory": {}, "cpu": {}, "blockIO": {}});
    for (flag, section, field) in [
        ("cpu-period", "cpu", "period"),
        ("cpu-quota", "cpu", "quota"),
        ("cpu-burst", "cpu", "burst"),
        ("cpu-share", "cpu", "shares"),
        ("cpu-rt-period", "cpu", "realtimePeriod"),
        ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
        ("cpu-idle", "cpu", "idle"),
        ("blkio-weight", "blockIO", "weight"),
    ] {
        if let Some(number) = parsed.number::<i64>(flag)? {
            document[section][field] = number.into();
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(list) = parsed.value(flag) {
            document["cpu"][field] = list.into();
        }
    }
    for (flag, field) in [
        ("memory", "limit"),
        ("memory-reservation", "reservation"),
        ("memory-swap", "swap"),
    ] {
        if let Some(text) = parsed.value(flag).filter(|text| !text.is_empty()) {
            let bytes = bytes(text);
            let wrong = || Error::Usage(format!("invalid value for {flag}: {text:?}"));
            document["memory"][field] = bytes.ok_or_else(wrong)?.into();
        }
    }
    if let Some(limit) = parsed.number::<i64>("pids-limit")? {
        document["pids"] = json!({"limit": limit});
    }
    Ok(document)
}

/// A size as Docker writes it: `64m`, `1.5g`, `-1` for any.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = lower.split_at(end.unwrap_or(lower.len()));
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let number = f64::from_str(number.trim()).ok()?;
    let bytes = number * f64::from(shift).exp2();
    (bytes.is_finite() && (0.0..9e18).contains(&bytes)).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, size) in [
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("64m", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("1 k", Some(1024)),
            ("", None),
            ("x", None),
            ("-2", None),
            ("1x", None),
            ("99999999t", None),
        ] {
            assert_eq!(bytes(text), size, "{text:?}");
        }
    }

    #[test]
    fn shares_of_caches_are_asked_for_by_flags_of_their_own() {
        let parsed = |line: &str| {
            let words = line.split(' ').map(str::to_owned).collect();
            rdt(&Parsed::new(words, crate::verbs::GLOBAL, crate::verbs::VERBS).unwrap())
        };
        let shares = parsed("update --l3-cache-schema L3:0=f --kernel-memory 1m c").unwrap();
        assert_eq!(shares.l3_cache_schema().as_deref(), Some("L3:0=f"));
        assert_eq!(shares.mem_bw_schema(), &None);
        assert!(parsed("update --kernel-memory-tcp 1m --l3-cache-schema= c").is_none());
    }

    #[test]
    fn flags_make_a_document() {
        let line = "update --memory 64m --cpu-quota=-1 --cpuset-cpus 0-1 --pids-limit 7 c";
        let words = line.split(' ').map(str::to_owned).collect();
        let parsed = Parsed::new(words, crate::verbs::GLOBAL, crate::verbs::VERBS).unwrap();
        let document = by_flags(&parsed).unwrap();
        let resources: LinuxResources = serde_json::from_value(document).unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(64 << 20));
        assert_eq!(resources.pids().unwrap().limit(), 7);
    }
}
