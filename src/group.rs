// SPDX-License-Identifier: Apache-2.0
//! Which containers share one server: those of a pod.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;

/// The only part of `config.json` that `start` looks at.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec<'a> {
    #[serde(borrow)]
    annotations: Option<Annotations<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Annotations<'a> {
    #[serde(borrow, rename = "io.containerd.runc.v2.group")]
    group: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "io.kubernetes.cri.sandbox-id")]
    sandbox: Option<Cow<'a, str>>,
}

/// The group of the container in `bundle`: named by annotation, else the container's own id.
///
/// A bundle without `config.json` is a sandbox that containerd starts without a specification.
pub(crate) fn of(bundle: &Path, id: &str) -> Result<String, Error> {
    let path = bundle.join("config.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(id.to_owned()),
        Err(source) => {
            return Err(Error::File {
                verb: "read",
                path,
                source,
            });
        }
    };
    named(&text)
        .map(|name| name.unwrap_or_else(|| id.to_owned()))
        .map_err(|source| Error::Spec { path, source })
}

fn named(spec: &[u8]) -> serde_json::Result<Option<String>> {
    let spec: Spec<'_> = serde_json::from_slice(spec)?;
    let annotations = spec.annotations.unwrap_or_default();
    Ok(annotations
        .group
        .or(annotations.sandbox)
        .map(Cow::into_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_annotation_comes_before_the_sandbox_and_both_before_the_id() {
        let group = |annotations: &str| {
            named(
                format!(r#"{{"ociVersion":"1.2.0","annotations":{annotations},"x":[1]}}"#)
                    .as_bytes(),
            )
            .unwrap()
        };
        let both = r#"{"a":"b","io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g\u0031"}"#;
        assert_eq!(group(both).as_deref(), Some("g1"));
        assert_eq!(
            group(r#"{"io.kubernetes.cri.sandbox-id":"pod"}"#).as_deref(),
            Some("pod")
        );
        assert_eq!(group("{}"), None);
        assert_eq!(group("null"), None);
    }

    #[test]
    fn a_bundle_without_a_specification_is_its_own_group() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(dir.path(), "abc").unwrap(), "abc");
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(matches!(of(dir.path(), "abc"), Err(Error::Spec { .. })));
    }
}
