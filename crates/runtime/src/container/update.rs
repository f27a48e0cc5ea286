// SPDX-License-Identifier: Apache-2.0
//! Changing the resources of a container that exists.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use cgroups::{DeviceRules, Limits};
use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};

use super::Container;
use crate::cgroup_config::CgroupConfig;
use crate::error::{Error, Result};
use crate::resources;

/// What is in force.
#[derive(Debug, Clone)]
pub(super) struct Resources {
    pub(super) devices: DeviceRules,
    pub(super) limits: Limits,
}

/// What is in force, taken out of the container for the time of an update: nothing is locked while
/// systemd is asked.
struct Borrowed<'a> {
    place: &'a Mutex<Option<Resources>>,
    resources: Resources,
}

impl<'a> Borrowed<'a> {
    fn take(place: &'a Mutex<Option<Resources>>) -> Result<Self> {
        let resources = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        let resources = resources.ok_or_else(|| {
            Error::NotPossible("another update of the container is under way".to_owned())
        })?;
        Ok(Self { place, resources })
    }
}

impl Deref for Borrowed<'_> {
    type Target = Resources;

    fn deref(&self) -> &Resources {
        &self.resources
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Resources {
        &mut self.resources
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let resources = self.resources.clone();
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(resources);
    }
}

impl Container {
    /// Sets what `resources` gives and leaves the rest as it is: all of it, or nothing.
    ///
    /// Device rules are set only if they differ from those in force: callers repeat the whole of a
    /// container's resources, and something else may have changed its devices since (a hook that
    /// adds a GPU).
    ///
    /// # Errors
    /// A value is impossible, or the kernel refuses it; what was set by then is taken back.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let (devices, update) = resources::plan(Some(resources))?;
        let devices = resources
            .devices()
            .as_ref()
            .is_some_and(|list| !list.is_empty())
            .then_some(devices);
        let mut held = Borrowed::take(&self.resources)?;
        let devices = devices.filter(|new| *new != held.devices);
        let apply = held.limits.to_apply(&update);
        let change = self
            .cgroup
            .change_limits(&apply, &held.limits)
            .map_err(|source| Error::Cgroup {
                attempt: "unable to apply cgroup limits",
                source,
            })?;
        let after = Resources {
            devices: devices.clone().unwrap_or_else(|| held.devices.clone()),
            limits: held.limits.merged(&update),
        };
        let set = match &devices {
            Some(new) => self.set_devices(new),
            None => Ok(()),
        };
        if let Err(error) = set.and_then(|()| self.save_limits(&after.limits)) {
            if devices.is_some() {
                if let Err(e) = self.set_devices(&held.devices) {
                    log::error!("undo update of {}: {e}", self.id);
                }
            }
            for e in change.undo() {
                log::error!("undo update of {}: {e}", self.id);
            }
            return Err(error);
        }
        *held = after;
        Ok(())
    }

    /// As [`Self::update`], with other shares of caches and memory bandwidth besides.
    ///
    /// # Errors
    /// As for that; or the machine or the container has no such shares, or the kernel refuses them.
    pub fn update_with_intel_rdt(
        &self,
        resources: &LinuxResources,
        shares: &LinuxIntelRdt,
    ) -> Result<()> {
        let group = self.intel_rdt.as_ref().ok_or_else(|| {
            Error::NotPossible("Intel RDT is not enabled for the container".to_owned())
        })?;
        // First what few machines have: if it is refused, nothing else has been changed.
        let change = group.update(shares)?;
        self.update(resources).inspect_err(|_| {
            if let Err(e) = change.undo() {
                log::error!("undo update of {}: {e}", self.id);
            }
        })
    }

    fn set_devices(&self, rules: &DeviceRules) -> Result<()> {
        // systemd has rules of its own beside ours, which must not be narrower.
        let told = self.cgroup.tell_systemd(&Limits::default(), Some(rules));
        told.and_then(|_| self.cgroup.set_devices(rules))
            .map_err(|source| Error::Cgroup {
                attempt: "unable to apply device rules",
                source,
            })
    }

    fn save_limits(&self, limits: &Limits) -> Result<()> {
        let mut state = self.directory.load()?.ok_or(Error::DoesNotExist)?;
        state.config.cgroups = CgroupConfig::from(limits);
        self.directory.save(&state)
    }
}
