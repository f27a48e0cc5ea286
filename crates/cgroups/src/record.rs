// SPDX-License-Identifier: Apache-2.0
//! One container's directories as data: planned before they exist, kept in its saved state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::access;
use crate::error::{Error, Result};
use crate::layout::{Hierarchy, Kind, Layout, Mode};
use crate::systemd::{Driver, Unit};

/// Absolute path of the container's cgroup in each hierarchy, and its unit if systemd manages it.
///
/// The keys are those of runc's `cgroup_paths`: controller names and `name=systemd` on v1, the
/// empty string for v2. Co-mounted controllers have the same path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(rename = "cgroup_paths")]
    paths: BTreeMap<String, String>,
    #[serde(
        rename = "systemd_unit",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    unit: Option<Unit>,
}

/// A directory of the container: which hierarchy, and where below its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index into [`Layout::hierarchies`].
    pub(crate) hierarchy: usize,
    /// Clean, relative, not empty.
    pub(crate) path: String,
}

impl Place {
    pub(crate) fn hierarchy<'a>(&self, layout: &'a Layout) -> &'a Hierarchy {
        &layout.hierarchies()[self.hierarchy]
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// `linux.cgroupsPath` understood, cleaned.
#[derive(Debug, PartialEq, Eq)]
enum CgroupsPath {
    /// From the root of each hierarchy.
    Absolute(String),
    /// From our own cgroup (v1), from the root (v2).
    Relative(String),
}

impl Record {
    /// Absolute paths by controller.
    pub fn paths(&self) -> &BTreeMap<String, String> {
        &self.paths
    }

    /// The unit that the cgroup is.
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// Which directories the container's cgroup would be. Nothing is touched.
    pub(crate) fn plan(
        layout: &Layout,
        driver: Driver,
        path: Option<&str>,
        id: &str,
    ) -> Result<Self> {
        let unit = match driver {
            Driver::Cgroupfs => None,
            Driver::Systemd => Some(Unit::parse(path, id)?),
        };
        let path = match &unit {
            None => CgroupsPath::parse(path, id)?,
            Some(unit) => CgroupsPath::Absolute(unit.path()),
        };
        let mut paths = BTreeMap::new();
        for hierarchy in layout.hierarchies() {
            // Named hierarchies belong to other service managers; containers follow systemd's.
            if matches!(hierarchy.kind(), Kind::Named(name) if name != "name=systemd") {
                continue;
            }
            let path = match &path {
                CgroupsPath::Absolute(path) => path.clone(),
                CgroupsPath::Relative(path) if layout.mode() == Mode::V2 => path.clone(),
                CgroupsPath::Relative(path) => {
                    let own = hierarchy.own().ok_or_else(|| Error::OwnCgroupHidden {
                        mount_point: hierarchy.mount_point().to_owned(),
                    })?;
                    access::join(own, path)
                }
            };
            for key in hierarchy.keys() {
                paths.insert(key.clone(), hierarchy.absolute(&path));
            }
        }
        Ok(Self { paths, unit })
    }

    /// Goes down to `below`, clean and relative, in the hierarchy that these are the keys of.
    pub(crate) fn descend(&mut self, keys: &[String], below: &str) {
        for key in keys {
            if let Some(path) = self.paths.get_mut(key).filter(|_| !below.is_empty()) {
                *path = format!("{path}/{below}");
            }
        }
    }

    /// The directories, each once. A hierarchy that is not mounted (any more) is left out.
    pub(crate) fn places(&self, layout: &Layout) -> Result<Vec<Place>> {
        if let Some(unit) = self.unit.as_ref().filter(|unit| !unit.is_valid()) {
            return Err(Error::InvalidPath {
                path: unit.name().to_owned(),
                reason: "is recorded as a systemd unit, which it cannot be",
            });
        }
        let mut places: Vec<Place> = Vec::with_capacity(self.paths.len());
        for (index, hierarchy) in layout.hierarchies().iter().enumerate() {
            for path in hierarchy
                .keys()
                .iter()
                .filter_map(|key| self.paths.get(key))
            {
                let place = Place {
                    hierarchy: index,
                    path: relative(hierarchy, path)?,
                };
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        Ok(places)
    }
}

/// A recorded path below its hierarchy. A record is read from a file: it is not believed.
fn relative(hierarchy: &Hierarchy, path: &str) -> Result<String> {
    let below = path
        .strip_prefix(hierarchy.mount_point())
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|rest| !rest.is_empty() && clean(rest) == *rest && !rest.contains('\0'));
    below
        .map(str::to_owned)
        .ok_or_else(|| Error::OutsideHierarchy {
            path: path.to_owned(),
            mount_point: hierarchy.mount_point().to_owned(),
        })
}

impl CgroupsPath {
    fn parse(path: Option<&str>, id: &str) -> Result<Self> {
        let invalid = |path: &str, reason| Error::InvalidPath {
            path: path.to_owned(),
            reason,
        };
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Self::parse(Some(&format!("/{id}")), id);
        };
        if path.contains('\0') {
            return Err(invalid(path, "contains a NUL byte"));
        }
        let cleaned = clean(path);
        if cleaned.is_empty() {
            return Err(invalid(path, "names the root of the hierarchy"));
        }
        Ok(match path.starts_with('/') {
            true => Self::Absolute(cleaned),
            false => Self::Relative(cleaned),
        })
    }
}

/// The path without empty, `.` and `..` components: `..` goes up, but never above the start.
pub(crate) fn clean(path: &str) -> String {
    let mut components = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    components.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<const N: usize>(paths: [(String, String); N]) -> Record {
        Record {
            paths: BTreeMap::from(paths),
            unit: None,
        }
    }

    fn parse(path: &str) -> Result<CgroupsPath> {
        CgroupsPath::parse(Some(path), "id")
    }

    #[test]
    fn paths_are_cleaned_and_cannot_climb() {
        let absolute = |p: &str| CgroupsPath::Absolute(p.to_owned());
        let relative = |p: &str| CgroupsPath::Relative(p.to_owned());
        assert_eq!(parse("/default/x").unwrap(), absolute("default/x"));
        assert_eq!(parse("//default/./x//").unwrap(), absolute("default/x"));
        assert_eq!(parse("/../../etc").unwrap(), absolute("etc"));
        assert_eq!(parse("/a/../../b/c/..").unwrap(), absolute("b"));
        assert_eq!(parse("../../x").unwrap(), relative("x"));
        assert_eq!(parse("x/y").unwrap(), relative("x/y"));
        // Colons alone do not make it systemd's.
        assert_eq!(parse("/pod:a:b").unwrap(), absolute("pod:a:b"));
        assert_eq!(parse("a:b").unwrap(), relative("a:b"));
        // As with runc: what it means is the driver's to say, not the path's.
        assert_eq!(parse("a.slice:b:c").unwrap(), relative("a.slice:b:c"));
    }

    #[test]
    fn no_path_means_the_id_at_the_root() {
        let expected = CgroupsPath::Absolute("id".to_owned());
        assert_eq!(CgroupsPath::parse(None, "id").unwrap(), expected);
        assert_eq!(parse("").unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_a_containers_cgroup_is_refused() {
        for path in ["/", "/..", "/a/..", ".", "../.."] {
            let error = parse(path).unwrap_err();
            assert!(
                matches!(error, Error::InvalidPath { .. }),
                "{path}: {error}"
            );
        }
        assert!(matches!(parse("/a\0b"), Err(Error::InvalidPath { .. })));
        assert!(CgroupsPath::parse(None, "..").is_err());
    }

    #[test]
    fn a_record_of_a_unit_has_its_place_and_survives_json() {
        let layout = Layout::detect().unwrap();
        let path = Some("a-b.slice:p:n");
        let record = Record::plan(&layout, Driver::Systemd, path, "id").unwrap();
        let end = "/a.slice/a-b.slice/p-n.scope";
        assert!(record.paths().values().all(|p| p.ends_with(end)));
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        let bad = json.replace("p-n.scope", "../p-n.scope");
        let record: Record = serde_json::from_str(&bad).unwrap();
        assert!(record.places(&layout).is_err());
    }

    #[test]
    fn a_record_names_every_controller_and_survives_json() {
        let layout = Layout::detect().unwrap();
        let record = Record::plan(&layout, Driver::Cgroupfs, Some("/top/x"), "id").unwrap();
        let keys: usize = layout.hierarchies().iter().map(|h| h.keys().len()).sum();
        assert_eq!(record.paths().len(), keys);
        assert!(record.paths().values().all(|p| p.ends_with("/top/x")));
        let json = serde_json::to_string(&record).unwrap();
        assert!(
            json.starts_with("{\"cgroup_paths\":{") && json.contains("/top/x\""),
            "{json}"
        );
        assert!(!json.contains("systemd_unit"), "{json}");
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }

    #[test]
    fn a_relative_path_is_below_our_own_cgroup_on_v1_and_the_root_on_v2() {
        let layout = Layout::detect().unwrap();
        let record = Record::plan(&layout, Driver::Cgroupfs, Some("../top/x"), "id").unwrap();
        let all = layout.hierarchies().iter();
        for (hierarchy, key) in all.flat_map(|h| h.keys().iter().map(move |key| (h, key))) {
            let above = match layout.mode() {
                Mode::V2 => "",
                _ => hierarchy.own().unwrap(),
            };
            let path = hierarchy.absolute(&access::join(above, "top/x"));
            assert_eq!(record.paths()[key], path);
        }
    }

    #[test]
    fn a_record_that_points_elsewhere_is_refused() {
        let layout = Layout::detect().unwrap();
        let first = &layout.hierarchies()[0];
        let root = first.mount_point();
        for path in [
            "/etc",
            root,
            &format!("{root}/../x"),
            &format!("{root}x/y"),
            &format!("{root}/"),
        ] {
            let record = of([(first.keys()[0].clone(), path.to_owned())]);
            let error = record.places(&layout).unwrap_err();
            assert!(
                matches!(error, Error::OutsideHierarchy { .. }),
                "{path}: {error}"
            );
        }
    }

    #[test]
    fn an_unknown_controller_of_a_record_is_left_out() {
        let layout = Layout::detect().unwrap();
        let record = of([("bogus".to_owned(), "/x/y".to_owned())]);
        assert_eq!(record.places(&layout).unwrap(), []);
    }
}
