// SPDX-License-Identifier: Apache-2.0
//! Which unit a container is, from `linux.cgroupsPath`: `slice:prefix:name`. Pure.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const DEFAULT_SLICE: &str = "system.slice";
/// The prefix where no path is given: runc's, by which people look for containers.
const DEFAULT_PREFIX: &str = "runc";
/// systemd's `UNIT_NAME_MAX`.
const LONGEST: usize = 255;

/// A scope of systemd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    name: String,
    slice: String,
}

impl Unit {
    /// Reads `slice:prefix:name`. An empty slice is `system.slice`; the unit is
    /// `prefix-name.scope`. Without a path it is `runc-<id>.scope`.
    ///
    /// # Errors
    /// It is not of that form, or systemd could not have such a unit.
    pub(crate) fn parse(path: Option<&str>, id: &str) -> Result<Self> {
        let path = path.filter(|path| !path.is_empty());
        let parts: Vec<&str> = match path {
            Some(path) => path.split(':').collect(),
            None => vec![DEFAULT_SLICE, DEFAULT_PREFIX, id],
        };
        let path = path.unwrap_or(id);
        let [slice, prefix, name] = parts[..] else {
            return Err(Error::SystemdPath(path.to_owned()));
        };
        let invalid = |reason| Error::InvalidPath {
            path: path.to_owned(),
            reason,
        };
        let unit = Self {
            name: format!("{prefix}-{name}.scope"),
            slice: match slice {
                "" => DEFAULT_SLICE.to_owned(),
                slice => slice.to_owned(),
            },
        };
        if name.is_empty() {
            return Err(invalid("has no name"));
        }
        if name.ends_with(".slice") {
            return Err(invalid("names a slice: a container is a scope"));
        }
        if !is_unit_name(&unit.name) {
            return Err(invalid("makes no name of a systemd unit"));
        }
        match expand(&unit.slice) {
            Some(_) => Ok(unit),
            None => Err(invalid("has an invalid slice")),
        }
    }

    /// Its name, as `cri-containerd-abc.scope`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the slice it is in, as `kubepods-burstable.slice`.
    pub fn slice(&self) -> &str {
        &self.slice
    }

    /// Where its cgroup is, from the root of a hierarchy.
    pub(crate) fn path(&self) -> String {
        let slice = expand(&self.slice).unwrap_or_default();
        crate::access::join(&slice, &self.name)
    }

    /// A unit from a file is not believed.
    pub(crate) fn is_valid(&self) -> bool {
        is_unit_name(&self.name) && self.name.ends_with(".scope") && expand(&self.slice).is_some()
    }
}

/// Letters, digits and some marks; no slash above all.
fn is_unit_name(name: &str) -> bool {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    name.len() <= LONGEST && !name.starts_with('.') && name.chars().all(is_valid)
}

/// The path of a slice: `a-b.slice` is in `a.slice`. The root slice, `-.slice`, is empty. `None`:
/// it is not the name of a slice.
fn expand(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(String::new());
    }
    if !is_unit_name(slice) {
        return None;
    }
    let mut path = String::new();
    let mut above = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        above.push_str(part);
        path = crate::access::join(&path, &format!("{above}.slice"));
        above.push('-');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<Unit> {
        Unit::parse(Some(path), "id")
    }

    #[test]
    fn a_unit_is_named_and_placed_as_by_runc() {
        for (path, name, place) in [
            (
                "system.slice:docker:abc",
                "docker-abc.scope",
                "system.slice/docker-abc.scope",
            ),
            (
                ":cri-containerd:a_b.c",
                "cri-containerd-a_b.c.scope",
                "system.slice/cri-containerd-a_b.c.scope",
            ),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
                "cri-containerd-abc.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
            ),
            ("-.slice:p:n", "p-n.scope", "p-n.scope"),
            ("a.slice::n", "-n.scope", "a.slice/-n.scope"),
        ] {
            let unit = parse(path).unwrap();
            assert_eq!((unit.name(), unit.path().as_str()), (name, place), "{path}");
            assert!(unit.is_valid());
        }
        let unit = Unit::parse(None, "abc").unwrap();
        assert_eq!(unit.path(), "system.slice/runc-abc.scope");
        assert_eq!(Unit::parse(Some(""), "abc").unwrap(), unit);
    }

    #[test]
    fn a_path_of_another_form_is_refused_in_runcs_words() {
        for path in ["/default/abc", "a:b", "a.slice:b:c:d"] {
            let text = parse(path).unwrap_err().to_string();
            assert!(
                text.contains("\"slice:prefix:name\" for systemd cgroups, got"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_a_unit_is_refused() {
        let long = format!("a.slice:p:{}", "n".repeat(250));
        for path in [
            "a:p:n",
            "a/b.slice:p:n",
            "../a.slice:p:n",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "a-.slice:p:n",
            ".slice:p:n",
            "a.slice:p:../n",
            "a.slice:p/q:n",
            "a.slice:p:n m",
            "a.slice:p:n\0",
            "a.slice:p:",
            "a.slice:p:n.slice",
            "a.slice:.:n",
            &long,
        ] {
            assert!(parse(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_unit_from_a_file_is_not_believed() {
        for (name, slice) in [
            ("../x.scope", "a.slice"),
            ("x.service", "a.slice"),
            ("x.scope", "../a.slice"),
        ] {
            let unit = Unit {
                name: name.to_owned(),
                slice: slice.to_owned(),
            };
            assert!(!unit.is_valid(), "{unit:?}");
        }
    }
}
