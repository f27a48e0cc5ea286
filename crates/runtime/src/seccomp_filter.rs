// SPDX-License-Identifier: Apache-2.0
//! `linux.seccomp`: the filter that a container's processes run under.
//!
//! Compiled in the shim, which keeps the last few: the containers of a node have the same profile
//! nearly all. Loaded by init, at the step where runc does it: see [`crate::init`].

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use ::seccomp::{Machine, Program};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::seccomp_agent::Agent;

/// Compiled profiles that are kept.
const KEPT: usize = 4;

/// A compiled profile, as it goes to init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Code, jumps when true and when false, operand of each instruction.
    pub instructions: Vec<(u16, u8, u8, u32)>,
}

impl Filter {
    /// Whether loading it makes a listener, which an agent must get.
    pub fn has_listener(&self) -> bool {
        self.flags & sys::seccomp::NEW_LISTENER != 0
    }
}

impl From<Program> for Filter {
    fn from(program: Program) -> Self {
        Self {
            flags: program.flags,
            instructions: program
                .instructions
                .iter()
                .map(|i| (i.code, i.jt, i.jf, i.k))
                .collect(),
        }
    }
}

/// What a container's processes have of seccomp.
#[derive(Debug, Clone)]
pub struct Seccomp {
    /// What init loads.
    pub filter: Arc<Filter>,
    /// Who gets the listener, if there is one.
    pub agent: Option<Agent>,
}

impl Seccomp {
    /// What a specification asks for; from `cache` if it was compiled before.
    ///
    /// # Errors
    /// The profile cannot be compiled, or a listener has nowhere to go.
    pub fn of(spec: &Spec, cache: &Cache) -> Result<Option<Self>> {
        let linux = spec.linux().as_ref();
        let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(None);
        };
        let filter = cache.compiled(profile)?;
        let agent = match filter.has_listener() {
            true => Some(Agent::of(profile)?),
            false => None,
        };
        Ok(Some(Self { filter, agent }))
    }
}

/// The compiled profiles of late, the last one used first.
#[derive(Debug, Default)]
pub struct Cache {
    /// Two keys of which nobody outside knows the secret: no two profiles meet.
    hashers: [RandomState; 2],
    entries: Mutex<Vec<([u64; 2], Arc<Filter>)>>,
}

impl Cache {
    fn compiled(&self, profile: &LinuxSeccomp) -> Result<Arc<Filter>> {
        let key = self.key(profile)?;
        if let Some(filter) = self.find(key) {
            return Ok(filter);
        }
        let machine = Machine::native().ok_or_else(|| Error::unsupported("linux.seccomp"))?;
        let program = ::seccomp::compile(profile, machine)
            .map_err(|e| Error::spec("linux.seccomp", e.to_string()))?;
        let filter = Arc::new(Filter::from(program));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(0, (key, Arc::clone(&filter)));
        entries.truncate(KEPT);
        Ok(filter)
    }

    fn find(&self, key: [u64; 2]) -> Option<Arc<Filter>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let place = entries.iter().position(|(other, _)| *other == key)?;
        entries[..=place].rotate_right(1);
        entries.first().map(|(_, filter)| Arc::clone(filter))
    }

    fn key(&self, profile: &LinuxSeccomp) -> Result<[u64; 2]> {
        let text =
            serde_json::to_vec(profile).map_err(|e| Error::spec("linux.seccomp", e.to_string()))?;
        Ok([0, 1].map(|index: usize| {
            let mut hasher = self.hashers[index].build_hasher();
            hasher.write(&text);
            hasher.finish()
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn profile(errno: u32) -> LinuxSeccomp {
        let document = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno});
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn a_profile_is_compiled_once_as_long_as_it_is_in_use() {
        let cache = Cache::default();
        let first = cache.compiled(&profile(1)).unwrap();
        for errno in 2..20 {
            let other = cache.compiled(&profile(errno)).unwrap();
            assert_ne!(first, other);
            assert!(Arc::ptr_eq(&first, &cache.compiled(&profile(1)).unwrap()));
        }
        assert_eq!(cache.entries.lock().unwrap().len(), KEPT);
        let again = cache.compiled(&profile(2)).unwrap();
        assert_eq!(*again, *Cache::default().compiled(&profile(2)).unwrap());
    }

    #[test]
    fn a_profile_that_cannot_be_compiled_is_refused_by_name() {
        let document = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
        let profile = serde_json::from_value(document).unwrap();
        let text = Cache::default().compiled(&profile).unwrap_err().to_string();
        assert_eq!(
            text,
            "invalid spec: linux.seccomp: SCMP_ACT_NOTIFY cannot be used as default action"
        );
    }
}
