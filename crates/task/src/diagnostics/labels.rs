// SPDX-License-Identifier: Apache-2.0
//! What a container is called by those who made it: a few annotations of its specification.

use oci_spec::runtime::Spec;

/// The annotations that are kept. CRI's (containerd's `pkg/annotations`), and nerdctl's name.
const KEPT: [&str; 9] = [
    "io.kubernetes.cri.container-name",
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-uid",
    "io.kubernetes.cri.runtime-handler",
    "nerdctl/name",
];
/// The name of a container in its pod.
const NAME: &str = KEPT[0];
/// A pod with more names than these is told no restarts of the others.
const NAMES: usize = 64;
/// Bytes of a value that are kept: names are at most 253, an image's may be longer.
const LONGEST: usize = 256;

/// Those of one container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Box<[(&'static str, Box<str>)]>);

impl Labels {
    /// Picks them out of a specification.
    pub(crate) fn of(spec: &Spec) -> Self {
        let Some(annotations) = spec.annotations() else {
            return Self::default();
        };
        let kept = KEPT.iter().filter_map(|name| {
            let value = annotations.get(*name).filter(|value| !value.is_empty())?;
            Some((*name, cut(value).into()))
        });
        Self(kept.collect())
    }

    /// The name that it keeps when it is restarted, if it has one.
    fn lasting_name(&self) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| *name == NAME)?;
        Some(value)
    }

    /// Names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, &**value))
    }
}

/// How many containers of each name were made.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<(Box<str>, u32)>);

impl Made {
    /// One more; returns how many of its name there were before.
    pub(crate) fn count(&mut self, labels: &Labels) -> u32 {
        let Some(name) = labels.lasting_name() else {
            return 0;
        };
        match self.0.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, count)) => {
                *count += 1;
                *count - 1
            }
            None => {
                if self.0.len() < NAMES {
                    self.0.push((name.into(), 1));
                }
                0
            }
        }
    }
}

/// At most so many bytes of a text, whole characters only.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_people_know_are_kept_and_nothing_else() {
        let long = "\u{e9}".repeat(200);
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "annotations": {
                "io.kubernetes.cri.sandbox-name": "shop",
                "io.kubernetes.cri.container-name": "",
                "io.kubernetes.cri.image-name": long,
                "secret": "hidden",
            },
        });
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let labels = Labels::of(&spec);
        let found: Vec<_> = labels.iter().collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].0, "io.kubernetes.cri.image-name");
        assert_eq!(found[0].1, "\u{e9}".repeat(128));
        assert_eq!(found[1], ("io.kubernetes.cri.sandbox-name", "shop"));
        assert_eq!(Labels::of(&Spec::default()), Labels::default());
    }

    #[test]
    fn containers_of_the_same_name_are_restarts() {
        let named = |name: &str| Labels([(NAME, name.into())].into());
        let mut made = Made::default();
        let mut count = |labels: &Labels| made.count(labels);
        assert_eq!((count(&named("web")), count(&named("db"))), (0, 0));
        assert_eq!((count(&named("web")), count(&named("web"))), (1, 2));
        assert_eq!(
            (count(&Labels::default()), count(&Labels::default())),
            (0, 0)
        );
        for number in 0..NAMES {
            count(&named(&number.to_string()));
        }
        assert_eq!(made.0.len(), NAMES);
    }
}
