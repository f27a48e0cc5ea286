// SPDX-License-Identifier: Apache-2.0
//! What a container may use of memory, processors, processes and devices' time.
//!
//! [`Limits`] is plain data in the units of the specification. Each controller turns its part
//! into steps, which is pure but for some looks at the present state; here they are taken.
//! What is not set is not touched. What cannot be set is an error that names the file and the
//! value, with the exceptions that each controller's module lists.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use sys::Errno;

use crate::access;
use crate::cgroup::Cgroup;
use crate::controllers;
use crate::error::{Error, Result};
use crate::layout::Mode;
use crate::record::Place;
use crate::tree;

mod block_io;
mod cpu;
mod inverse;
mod memory;
mod other;
mod undo;
mod update;

pub(crate) use block_io::converted as io_weight;
pub use block_io::{BlockIo, Device, Rate, Throttle, WeightDevice};
pub use cpu::Cpu;
pub(crate) use cpu::weight;
pub use memory::Memory;
pub use other::{HugepageLimit, Network, RdmaLimit};
pub use update::Change;

/// Limits of a container, as `linux.resources` of the specification has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory and swap.
    pub memory: Memory,
    /// Processor time, and which processors.
    pub cpu: Cpu,
    /// Number of processes and threads; -1 is no limit, 0 is one.
    pub pids: Option<i64>,
    /// Block devices.
    pub block_io: BlockIo,
    /// Huge pages.
    pub hugepages: Vec<HugepageLimit>,
    /// Marks on network traffic; v1 only.
    pub network: Network,
    /// RDMA devices.
    pub rdma: Vec<RdmaLimit>,
    /// Any file of a v2 cgroup by its name, and what to write to it.
    pub unified: BTreeMap<String, String>,
}

/// One thing to write.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    file: Cow<'static, str>,
    value: String,
    tolerance: Tolerance,
}

/// Which failure of a step is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tolerance {
    Nothing,
    /// The file may be missing: without it things are as they should be.
    Missing,
    /// The value may not fit yet (`EINVAL`): it is written again after all others.
    TooEarly,
}

impl Step {
    fn new(file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self {
            file: file.into(),
            value: value.to_string(),
            tolerance: Tolerance::Nothing,
        }
    }

    fn tolerate(mut self, tolerance: Tolerance) -> Self {
        self.tolerance = tolerance;
        self
    }
}

/// Reads a file of the controller at hand; `None` where it is missing.
type Read<'a> = &'a dyn Fn(&str) -> Result<Option<String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A controller of a container's cgroup.
struct Controller<'a> {
    cgroup: &'a Cgroup,
    /// Its name on the hierarchy that has it.
    name: &'a str,
    place: &'a Place,
    version: Version,
}

/// Where changes are noted that may have to be taken back.
type Noted<'a> = Option<&'a RefCell<undo::Journal>>;

impl Cgroup {
    /// Sets the limits that are given, and leaves all others as they are.
    ///
    /// # Errors
    /// A limit is impossible, its controller is not available, or the kernel refuses it. Others
    /// may have been set by then.
    pub fn set_limits(&self, limits: &Limits) -> Result<()> {
        self.set_limits_with(limits, None)
    }

    fn set_limits_with(&self, limits: &Limits, noted: Noted<'_>) -> Result<()> {
        self.set(noted, "cpuset", |_, _| Ok(cpu::cpuset(&limits.cpu)))?;
        self.set(noted, "cpu", |version, read| match version {
            Version::V1 => cpu::v1(&limits.cpu),
            Version::V2 => cpu::v2(&limits.cpu, read),
        })?;
        self.set(noted, "pids", |_, _| Ok(other::pids(limits.pids)))?;
        self.set(noted, "blkio", |version, read| match version {
            Version::V1 => block_io::v1(&limits.block_io, read),
            Version::V2 => block_io::v2(&limits.block_io, read),
        })?;
        self.set(noted, "hugetlb", |version, _| {
            other::hugepages(&limits.hugepages, version)
        })?;
        self.set(noted, "net_cls", |version, _| {
            other::class_id(&limits.network, version)
        })?;
        self.set(noted, "net_prio", |version, _| {
            other::priorities(&limits.network, version)
        })?;
        self.set(noted, "rdma", |_, _| Ok(other::rdma(&limits.rdma)))?;
        self.set_unified(&limits.unified, noted)?;
        // Last: from here on everything may be killed.
        self.set(noted, "memory", |version, read| match version {
            Version::V1 => memory::v1(&limits.memory, read),
            Version::V2 => memory::v2(&limits.memory, read),
        })
        .map_err(|error| self.explain_memory(error))
    }

    /// Takes the steps of one controller. That it is missing matters only if it has any.
    fn set(
        &self,
        noted: Noted<'_>,
        name: &'static str,
        steps: impl Fn(Version, Read<'_>) -> Result<Vec<Step>>,
    ) -> Result<()> {
        match self.controller(name) {
            Some(controller) => {
                let steps = steps(controller.version, &|file| controller.read(file))?;
                match steps.is_empty() {
                    true => Ok(()),
                    false => controller.apply(steps, noted),
                }
            }
            // As on a machine where it is there and everything at its default.
            None => match steps(self.usual_version(), &|_| Ok(None))?.is_empty() {
                true => Ok(()),
                false => Err(Error::NoController {
                    controller: name.to_owned(),
                }),
            },
        }
    }

    fn usual_version(&self) -> Version {
        match self.layout().mode() {
            Mode::V2 => Version::V2,
            Mode::V1 | Mode::Hybrid => Version::V1,
        }
    }

    /// Where a controller is, by its name on v1.
    fn controller<'a>(&'a self, name: &'static str) -> Option<Controller<'a>> {
        let on_v2 = match name {
            "blkio" => "io",
            name => name,
        };
        match self.v1_place(name) {
            Some(place) => Some(Controller {
                cgroup: self,
                name,
                place,
                version: Version::V1,
            }),
            None => self.unified_controller(on_v2),
        }
    }

    fn unified_controller<'a>(&'a self, name: &'a str) -> Option<Controller<'a>> {
        let place = self.unified_place()?;
        let available = place.hierarchy(self.layout()).available();
        let is_available = name == "cgroup" || available.iter().any(|a| a == name);
        is_available.then_some(Controller {
            cgroup: self,
            name,
            place,
            version: Version::V2,
        })
    }

    /// Writes what is given for single v2 files, line by line.
    fn set_unified(&self, unified: &BTreeMap<String, String>, noted: Noted<'_>) -> Result<()> {
        for (file, value) in unified {
            let invalid = |reason: &str| Error::InvalidLimit {
                limit: "unified",
                reason: format!("{file:?} {reason}"),
            };
            if file.contains(['/', '\0']) {
                return Err(invalid("must be a file name"));
            }
            let Some((name, _)) = file.split_once('.') else {
                return Err(invalid("must be of the form controller.parameter"));
            };
            if self.unified_place().is_none() {
                return Err(invalid("needs cgroup v2"));
            }
            let controller = self.unified_controller(name).ok_or(Error::NoController {
                controller: name.to_owned(),
            })?;
            let lines = value.lines().map(|line| Step::new(file.clone(), line));
            controller.apply(lines.collect(), noted)?;
        }
        Ok(())
    }

    /// v1 refuses a limit below the usage that it cannot reclaim: says how much that is.
    fn explain_memory(&self, error: Error) -> Error {
        let Error::SetLimit { value, source, .. } = &error else {
            return error;
        };
        let (Errno::BUSY, Some(controller)) = (source.errno(), self.controller("memory")) else {
            return error;
        };
        let read = |file| controller.read(file).ok().flatten();
        match (
            read("memory.usage_in_bytes"),
            read("memory.max_usage_in_bytes"),
        ) {
            (Some(usage), Some(peak)) => Error::MemoryInUse {
                limit: value.clone(),
                usage,
                peak,
            },
            _ => error,
        }
    }
}

impl Controller<'_> {
    fn read(&self, file: &str) -> Result<Option<String>> {
        let root = self.place.hierarchy(self.cgroup.layout()).root();
        tree::vanishing(access::read(root, &self.place.file(file)))
            .map_err(|error| self.cgroup.failed("read limits of", self.place, error))
    }

    fn apply(&self, steps: Vec<Step>, noted: Noted<'_>) -> Result<()> {
        self.enable()?;
        let mut again = Vec::new();
        for step in steps {
            match (self.write(&step, noted), step.tolerance) {
                (Ok(()), _) => {}
                (Err(error), Tolerance::Missing) if error.errno() == Errno::NOENT => {}
                (Err(error), Tolerance::TooEarly) if error.errno() == Errno::INVAL => {
                    again.push(step);
                }
                (Err(error), _) => return Err(self.failed(step, error)),
            }
        }
        for step in again {
            self.write(&step, noted)
                .map_err(|error| self.failed(step, error))?;
        }
        Ok(())
    }

    /// On pure v2 this was done when the cgroup was made. On a hybrid hardly ever is a controller
    /// of v2 needed: then it is enabled, and it alone.
    fn enable(&self) -> Result<()> {
        let layout = self.cgroup.layout();
        if self.version == Version::V1 || layout.mode() == Mode::V2 || self.name == "cgroup" {
            return Ok(());
        }
        controllers::enable_one(self.place.hierarchy(layout), &self.place.path, self.name).map_err(
            |error| {
                self.cgroup
                    .failed("enable controllers of", self.place, error)
            },
        )
    }

    fn write(&self, step: &Step, noted: Noted<'_>) -> sys::Result<()> {
        let root = self.place.hierarchy(self.cgroup.layout()).root();
        let path = self.place.file(&step.file);
        let Some(noted) = noted else {
            return access::write(root, &path, &step.value);
        };
        // What cannot be read cannot be restored; writing it may still succeed.
        let before = access::read(root, &path).ok();
        access::write(root, &path, &step.value)?;
        if let Some(value) = before.and_then(|content| undo::value(step, &content)) {
            noted.borrow_mut().note(undo::Undo {
                hierarchy: self.place.hierarchy,
                path,
                value,
            });
        }
        Ok(())
    }

    fn failed(&self, step: Step, source: sys::Error) -> Error {
        if source.errno() == Errno::NOENT && !self.is_enabled() {
            return Error::NoController {
                controller: self.name.to_owned(),
            };
        }
        let hierarchy = self.place.hierarchy(self.cgroup.layout());
        Error::SetLimit {
            file: hierarchy.absolute(&self.place.file(&step.file)),
            value: step.value,
            source,
        }
    }

    /// v2: whether the ancestors let this cgroup have the controller.
    fn is_enabled(&self) -> bool {
        if self.version == Version::V1 || self.name == "cgroup" {
            return true;
        }
        let enabled = self.read("cgroup.controllers").ok().flatten();
        enabled.is_none_or(|names| names.split_whitespace().any(|name| name == self.name))
    }
}

#[cfg(test)]
mod tests;
