// SPDX-License-Identifier: Apache-2.0
//! `-v` and `-info`: what this program is and what its runtime supports.
//!
//! containerd runs `-info` once for each runtime handler, and again before every container that
//! has id-mapped mounts.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use options::Options;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;

use crate::RUNTIME;
use crate::bootstrap::InputError;
use crate::error::Error;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const REVISION: &str = env!("SHIM_REVISION");
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
const INPUT_MAX: u64 = 10 << 20;

/// The text of `-v`.
pub(crate) fn version(program: &OsStr) -> String {
    let name = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    format!(
        "{name}:\n  Version:  {VERSION}\n  Revision: {REVISION}\n  Rust version: {}\n\n",
        env!("SHIM_RUSTC")
    )
}

/// The reply to `-info`; `input` may hold the options of a runtime handler.
pub(crate) fn run(input: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    input
        .take(INPUT_MAX)
        .read_to_end(&mut bytes)
        .map_err(InputError::Read)?;
    let given = Any::parse_from_bytes(&bytes)
        .ok()
        .filter(|any| !any.type_url.is_empty());
    if let Some(any) = given
        .as_ref()
        .filter(|any| Options::is_known_type(&any.type_url))
    {
        Options::from_any(&any.type_url, &any.value)
            .and_then(|options| options.check_binary())
            .map_err(InputError::Options)?;
    }
    let mut version = RuntimeVersion::new();
    version.version = VERSION.to_owned();
    version.revision = REVISION.to_owned();
    let mut info = RuntimeInfo::new();
    info.name = RUNTIME.to_owned();
    info.version = Some(version).into();
    info.options = given.into();
    info.features = Some(Any {
        type_url: FEATURES.to_owned(),
        value: runtime::features::document().to_string().into_bytes(),
        ..Any::default()
    })
    .into();
    // Encoding into memory fails only for a message without a size: none of ours.
    Ok(info.write_to_bytes().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(input: &[u8]) -> RuntimeInfo {
        RuntimeInfo::parse_from_bytes(&run(input).unwrap()).unwrap()
    }

    #[test]
    fn containerd_finds_what_it_looks_for() {
        let info = info(b"");
        assert_eq!(
            (info.name.as_str(), info.version.version.as_str()),
            (RUNTIME, VERSION)
        );
        assert_eq!(info.features.type_url, FEATURES);
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert!(
            features["mountOptions"]
                .as_array()
                .unwrap()
                .contains(&"rro".into())
        );
        assert!(features["linux"].is_object());
        assert!(info.options.is_none());
    }

    #[test]
    fn options_come_back_and_a_foreign_runtime_is_refused() {
        let any = |type_url: &str, value: &[u8]| {
            let any = Any {
                type_url: type_url.into(),
                value: value.into(),
                ..Any::default()
            };
            any.write_to_bytes().unwrap()
        };
        let known = any("containerd.runc.v1.Options", b"\x32\x04runc");
        assert_eq!(info(&known).options.type_url, "containerd.runc.v1.Options");
        assert_eq!(
            info(&any("other.Options", b"?")).options.type_url,
            "other.Options"
        );
        assert!(run(&any("containerd.runc.v1.Options", b"\x32\x03no-")[..]).is_err());
        assert!(info(b"\xff\xff").options.is_none());
    }

    #[test]
    fn the_version_is_printed_as_containerds_shims_do() {
        let text = version(OsStr::new("/usr/bin/containerd-shim-rust-v2"));
        assert!(text.starts_with(&format!(
            "containerd-shim-rust-v2:\n  Version:  {VERSION}\n"
        )));
        assert!(text.ends_with("\n\n"));
    }
}
