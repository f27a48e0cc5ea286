// SPDX-License-Identifier: Apache-2.0
//! Options as a table of keys.
//!
//! Three spellings of one key exist: Go's field name in TOML (`SystemdCgroup`), the snake case of
//! its JSON tags (`systemd_cgroup`), and whatever a person types (Go's TOML readers ignore case).
//! Without underscores and in lower case they are one.

use serde_json::{Map, Value};

use crate::{Error, Options};

/// Options from TOML; keys that are not known, tables included, are ignored.
pub(crate) fn from_toml(text: &[u8]) -> Result<Options, Error> {
    from_table(basic_toml::from_slice(text).map_err(Error::Toml)?)
}

/// Options from a table; what is absent or null keeps its default.
pub(crate) fn from_table(table: Map<String, Value>) -> Result<Options, Error> {
    let mut options = Options::default();
    for (key, value) in table {
        if !value.is_null() {
            set(&mut options, &key, value)?;
        }
    }
    Ok(options)
}

fn set(o: &mut Options, key: &str, value: Value) -> Result<(), Error> {
    match key.replace('_', "").to_ascii_lowercase().as_str() {
        "nopivotroot" => o.no_pivot_root = flag(key, &value)?,
        "nonewkeyring" => o.no_new_keyring = flag(key, &value)?,
        "shimcgroup" => o.shim_cgroup = text(key, value)?,
        "iouid" => o.io_uid = number(key, &value)?,
        "iogid" => o.io_gid = number(key, &value)?,
        "binaryname" => o.binary_name = text(key, value)?,
        "root" => o.root = text(key, value)?,
        "criupath" => o.criu_path = text(key, value)?,
        "systemdcgroup" => o.systemd_cgroup = flag(key, &value)?,
        "criuimagepath" => o.criu_image_path = text(key, value)?,
        "criuworkpath" => o.criu_work_path = text(key, value)?,
        "taskapiaddress" => o.task_api_address = text(key, value)?,
        "taskapiversion" => o.task_api_version = number(key, &value)?,
        _ => {}
    }
    Ok(())
}

fn flag(key: &str, value: &Value) -> Result<bool, Error> {
    value
        .as_bool()
        .ok_or_else(|| wrong(key, "a boolean", value))
}

fn number(key: &str, value: &Value) -> Result<u32, Error> {
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| wrong(key, "a number of 32 bits", value))
}

fn text(key: &str, value: Value) -> Result<String, Error> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong(key, "a string", &other)),
    }
}

fn wrong(key: &str, want: &'static str, have: &Value) -> Error {
    Error::Type {
        key: key.to_owned(),
        want,
        have: have.to_string(),
    }
}

/// The table as Go's encoder writes it: zero values are left out.
pub(crate) fn to_table(o: &Options) -> Map<String, Value> {
    let entries: [(&str, Value); 13] = [
        ("no_pivot_root", o.no_pivot_root.into()),
        ("no_new_keyring", o.no_new_keyring.into()),
        ("shim_cgroup", o.shim_cgroup.as_str().into()),
        ("io_uid", o.io_uid.into()),
        ("io_gid", o.io_gid.into()),
        ("binary_name", o.binary_name.as_str().into()),
        ("root", o.root.as_str().into()),
        ("criu_path", o.criu_path.as_str().into()),
        ("systemd_cgroup", o.systemd_cgroup.into()),
        ("criu_image_path", o.criu_image_path.as_str().into()),
        ("criu_work_path", o.criu_work_path.as_str().into()),
        ("task_api_address", o.task_api_address.as_str().into()),
        ("task_api_version", o.task_api_version.into()),
    ];
    let is_set = |value: &Value| match value {
        Value::Bool(flag) => *flag,
        Value::String(text) => !text.is_empty(),
        other => other.as_u64() != Some(0),
    };
    entries
        .into_iter()
        .filter(|(_, v)| is_set(v))
        .map(|(k, v)| (k.to_owned(), v))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_containerds_configuration_is_understood() {
        let text = br#"
            BinaryName = "/usr/bin/runc"
            CriuImagePath = ""
            CriuPath = "/usr/sbin/criu"
            CriuWorkPath = "/w"
            IoGid = 4294967295
            IoUid = 0
            NoNewKeyring = false
            NoPivotRoot = true
            Root = '/run/custom'
            ShimCgroup = "/a b"
            SystemdCgroup = true
            SomethingNew = [1, 2]
            [Deeper]
            Root = "not this"
        "#;
        let want = Options {
            binary_name: "/usr/bin/runc".into(),
            criu_path: "/usr/sbin/criu".into(),
            criu_work_path: "/w".into(),
            io_gid: u32::MAX,
            no_pivot_root: true,
            root: "/run/custom".into(),
            shim_cgroup: "/a b".into(),
            systemd_cgroup: true,
            ..Options::default()
        };
        assert_eq!(from_toml(text).unwrap(), want);
        assert!(from_toml(b"systemdcgroup = true").unwrap().systemd_cgroup);
    }

    #[test]
    fn wrong_types_name_key_and_value() {
        let error = |text: &str| from_toml(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            error("SystemdCgroup = \"yes\""),
            "option SystemdCgroup: want a boolean, have \"yes\""
        );
        assert_eq!(
            error("IoUid = -1"),
            "option IoUid: want a number of 32 bits, have -1"
        );
        assert_eq!(error("Root = 5"), "option Root: want a string, have 5");
        assert_eq!(error("Root = "), "parse runtime options as TOML");
    }
}
