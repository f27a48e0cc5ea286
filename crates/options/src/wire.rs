// SPDX-License-Identifier: Apache-2.0
//! The two protobuf messages, decoded field by field.
//!
//! By hand, because `criu_path` (reserved since containerd 2.0, still sent by 1.7) and the whole
//! of `runtimeoptions.v1.Options` are missing from the generated messages.

use protobuf::CodedInputStream;
use protobuf::rt::WireType;

use crate::{Error, Options, table};

/// Full name of the options that containerd sends to `io.containerd.runc.v2`.
pub(crate) const RUNC: &str = "containerd.runc.v1.Options";
/// Full name of the options that containerd sends to every other runtime.
pub(crate) const GENERIC: &str = "runtimeoptions.v1.Options";

const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// Decodes `containerd.runc.v1.Options`.
pub(crate) fn runc(bytes: &[u8]) -> Result<Options, Error> {
    let mut options = Options::default();
    let o = &mut options;
    decode(bytes, |tag, input| {
        match tag {
            (1, VARINT) => o.no_pivot_root = input.read_bool()?,
            (2, VARINT) => o.no_new_keyring = input.read_bool()?,
            (3, BYTES) => o.shim_cgroup = input.read_string()?,
            (4, VARINT) => o.io_uid = input.read_uint32()?,
            (5, VARINT) => o.io_gid = input.read_uint32()?,
            (6, BYTES) => o.binary_name = input.read_string()?,
            (7, BYTES) => o.root = input.read_string()?,
            (8, BYTES) => o.criu_path = input.read_string()?,
            (9, VARINT) => o.systemd_cgroup = input.read_bool()?,
            (10, BYTES) => o.criu_image_path = input.read_string()?,
            (11, BYTES) => o.criu_work_path = input.read_string()?,
            (12, BYTES) => o.task_api_address = input.read_string()?,
            (13, VARINT) => o.task_api_version = input.read_uint32()?,
            _ => return Ok(false),
        }
        Ok(true)
    })
    .map_err(|source| Error::Wire {
        message: RUNC,
        source,
    })?;
    Ok(options)
}

/// Decodes `runtimeoptions.v1.Options` and the TOML in it, or in the file that it names.
pub(crate) fn generic(bytes: &[u8]) -> Result<Options, Error> {
    let (mut path, mut body) = (String::new(), Vec::new());
    decode(bytes, |tag, input| {
        match tag {
            // 1 is the type of what the body holds; callers leave it empty or make one up.
            (2, BYTES) => path = input.read_string()?,
            (3, BYTES) => body = input.read_bytes()?,
            _ => return Ok(false),
        }
        Ok(true)
    })
    .map_err(|source| Error::Wire {
        message: GENERIC,
        source,
    })?;
    // containerd sends the one or the other.
    if !body.is_empty() {
        return table::from_toml(&body);
    }
    if path.is_empty() {
        return Ok(Options::default());
    }
    let text = std::fs::read(&path).map_err(|source| Error::File {
        verb: "read",
        path,
        source,
    })?;
    table::from_toml(&text)
}

/// Walks the fields of a message; `take` says whether it has read the field.
fn decode(
    bytes: &[u8],
    mut take: impl FnMut((u32, u32), &mut CodedInputStream<'_>) -> protobuf::Result<bool>,
) -> protobuf::Result<()> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if take((tag >> 3, tag & 7), &mut input)? {
            continue;
        }
        let wire = WireType::new(tag & 7).ok_or_else(malformed)?;
        input.skip_field(wire)?;
    }
    Ok(())
}

fn malformed() -> protobuf::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "unknown wire type").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::shim::oci::Options as Generated;
    use protobuf::Message;

    /// The generated message is the oracle.
    fn generated() -> Generated {
        let mut m = Generated::new();
        m.no_pivot_root = true;
        m.no_new_keyring = true;
        m.shim_cgroup = "/shims".into();
        m.io_uid = 4_000_000_000;
        m.io_gid = 7;
        m.binary_name = "runc".into();
        m.root = "/run/x".into();
        m.systemd_cgroup = true;
        m.criu_image_path = "/image".into();
        m.criu_work_path = "/work".into();
        m.task_api_address = "ttrpc+unix:///a".into();
        m.task_api_version = 3;
        m
    }

    #[test]
    fn every_field_of_the_message_arrives() {
        let mut bytes = generated().write_to_bytes().unwrap();
        bytes.extend([8 << 3 | 2, 4]);
        bytes.extend(b"criu");
        let options = Options::from_any("containerd.runc.v1.Options", &bytes).unwrap();
        let want = Options {
            no_pivot_root: true,
            no_new_keyring: true,
            shim_cgroup: "/shims".into(),
            io_uid: 4_000_000_000,
            io_gid: 7,
            binary_name: "runc".into(),
            root: "/run/x".into(),
            criu_path: "criu".into(),
            systemd_cgroup: true,
            criu_image_path: "/image".into(),
            criu_work_path: "/work".into(),
            task_api_address: "ttrpc+unix:///a".into(),
            task_api_version: 3,
        };
        assert_eq!(options, want);
    }

    #[test]
    fn any_prefix_of_the_type_is_fine_and_unknown_fields_are_skipped() {
        // Field 99 twice (varint, bytes), field 3 with the wire type of field 1.
        let bytes = [0x98, 0x06, 1, 0x9a, 0x06, 2, 1, 2, 3 << 3, 5, 9 << 3, 1];
        for prefix in ["", "types.containerd.io/", "type.googleapis.com/"] {
            let options = Options::from_any(&format!("{prefix}{RUNC}"), &bytes).unwrap();
            assert_eq!(
                options,
                Options {
                    systemd_cgroup: true,
                    ..Options::default()
                }
            );
        }
    }

    #[test]
    fn broken_and_foreign_messages_are_errors() {
        let cut = &generated().write_to_bytes().unwrap()[..9];
        assert!(matches!(
            Options::from_any(RUNC, cut),
            Err(Error::Wire { .. })
        ));
        assert!(matches!(
            Options::from_any(RUNC, &[0x0f]),
            Err(Error::Wire { .. })
        ));
        let error = Options::from_any("containerd.windows.v1.Options", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unsupported options type \"containerd.windows.v1.Options\""
        );
        assert_eq!(Options::from_any("", &[]).unwrap(), Options::default());
    }

    fn generic_message(field: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![1 << 3 | 2, 1, b't', field << 3 | 2, text.len() as u8];
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn the_generic_message_means_the_same_by_body_or_by_path() {
        let toml = "SystemdCgroup = true\nIoUid = 5 # owner\n";
        let want = Options {
            systemd_cgroup: true,
            io_uid: 5,
            ..Options::default()
        };
        let by_body = Options::from_any(GENERIC, &generic_message(3, toml)).unwrap();
        assert_eq!(by_body, want);

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let path = file.path().to_str().unwrap();
        let by_path = Options::from_any(GENERIC, &generic_message(2, path)).unwrap();
        assert_eq!(by_path, want);

        let error = Options::from_any(GENERIC, &generic_message(2, "/nope")).unwrap_err();
        assert_eq!(error.to_string(), "read /nope");
        assert_eq!(Options::from_any(GENERIC, &[]).unwrap(), Options::default());
    }
}
