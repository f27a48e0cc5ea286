// SPDX-License-Identifier: Apache-2.0
//! What a process is beyond ids, groups, limits and capabilities: how it is scheduled, which
//! memory it takes, what security modules think of it.
//!
//! Made and checked by the shim, applied by the process itself. What an exec leaves out it has from
//! the container's own process, as with runc.

use std::ffi::c_int;

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process,
    Scheduler as SchedulerSpec,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lsm;

/// No processor or memory node has a higher number than this: a bound on what we allocate.
const HIGHEST: usize = 64 * 1024;

const SCHED_DEADLINE: u32 = 6;

/// A set of processors or memory nodes, one bit for each, in words of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set(Vec<usize>);

impl Set {
    /// All that a machine can have.
    pub fn all() -> Self {
        Self(vec![usize::MAX; HIGHEST / usize::BITS as usize])
    }

    /// Parses a list as `0-3,7`. Blanks around a part and empty parts are fine.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(list: &str) -> std::result::Result<Self, String> {
        let number = |text: &str| match text.parse::<usize>() {
            Ok(number) if number <= HIGHEST => Ok(number),
            Ok(_) => Err(format!("numbers larger than {HIGHEST} are not supported")),
            Err(_) => Err(format!("{text:?} is not a number")),
        };
        let mut set = Self::default();
        for part in list
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("invalid range: {part}"));
            }
            (first..=last).for_each(|bit| set.insert(bit));
        }
        Ok(set)
    }

    fn insert(&mut self, bit: usize) {
        let bits = usize::BITS as usize;
        if self.0.len() <= bit / bits {
            self.0.resize(bit / bits + 1, 0);
        }
        if let Some(word) = self.0.get_mut(bit / bits) {
            *word |= 1 << (bit % bits);
        }
    }

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The words.
    pub fn words(&self) -> &[usize] {
        &self.0
    }
}

/// `process.scheduler`, as `sched_setattr(2)` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `linux.memoryPolicy`, as `set_mempolicy(2)` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// With its flags.
    mode: c_int,
    nodes: Set,
}

/// All of a process's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// AppArmor profile that the program is executed under.
    pub apparmor: Option<String>,
    /// SELinux label that the program is executed with.
    pub selinux: Option<String>,
    /// Scheduling policy.
    pub scheduler: Option<Scheduler>,
    /// Class and level as `ioprio_set(2)` packs them.
    pub io_priority: Option<u16>,
    /// Processors of an exec until it is in the container's cgroup.
    pub initial_affinity: Option<Set>,
    /// Processors of an exec from then on.
    pub final_affinity: Option<Set>,
    /// Execution domain.
    pub personality: Option<u32>,
    /// NUMA policy.
    pub memory_policy: Option<MemoryPolicy>,
}

impl Attributes {
    /// Takes the attributes of `process`, found at `field` of the document; what is left out comes
    /// from `inherited`.
    ///
    /// # Errors
    /// A value that is impossible, or that needs what the kernel does not have.
    pub fn new(field: &str, process: &Process, inherited: Option<&Self>) -> Result<Self> {
        let mut this = inherited.cloned().unwrap_or_default();
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(profile) = given(process.apparmor_profile()) {
            let field = format!("{field}.apparmorProfile");
            lsm::check_apparmor().map_err(|reason| Error::spec(&field, reason))?;
            check_text(&field, &profile)?;
            this.apparmor = Some(profile);
        }
        if let Some(label) = given(process.selinux_label()) {
            let field = format!("{field}.selinuxLabel");
            lsm::check_selinux().map_err(|reason| Error::spec(&field, reason))?;
            check_text(&field, &label)?;
            this.selinux = Some(label);
        }
        if let Some(scheduler) = process.scheduler() {
            this.scheduler = Some(self::scheduler(&format!("{field}.scheduler"), scheduler)?);
        }
        if let Some(priority) = process.io_priority() {
            let packed = io_priority(&format!("{field}.ioPriority"), priority)?;
            this.io_priority = Some(packed);
        }
        if let Some(affinity) = process.exec_cpu_affinity() {
            let set = |name: &str, list: &Option<String>| {
                let field = format!("{field}.execCPUAffinity.{name}");
                list.as_deref()
                    .filter(|list| !list.is_empty())
                    .map(|list| processors(&field, list))
                    .transpose()
            };
            this.initial_affinity = set("initial", affinity.initial())?;
            this.final_affinity = set("final", affinity.cpu_affinity_final())?;
        }
        Ok(this)
    }

    /// Whether the process is to be scheduled by deadlines.
    pub(crate) fn has_deadline(&self) -> bool {
        self.scheduler
            .is_some_and(|scheduler| scheduler.policy == SCHED_DEADLINE)
    }

    /// Adds what is of the container and all its processes.
    ///
    /// # Errors
    /// As [`Attributes::new`].
    pub fn of_container(mut self, linux: Option<&Linux>) -> Result<Self> {
        let Some(linux) = linux else { return Ok(self) };
        if let Some(personality) = linux.personality() {
            if personality.flags().as_ref().is_some_and(|f| !f.is_empty()) {
                return Err(Error::spec(
                    "linux.personality.flags",
                    "the specification has no flags yet",
                ));
            }
            self.personality = Some(match personality.domain() {
                LinuxPersonalityDomain::PerLinux => 0,
                LinuxPersonalityDomain::PerLinux32 => 8,
            });
        }
        if let Some(policy) = linux.memory_policy() {
            self.memory_policy = Some(memory_policy("linux.memoryPolicy", policy)?);
        }
        Ok(self)
    }
}

fn check_text(field: &str, text: &str) -> Result<()> {
    if text.contains(['\0', '\n']) {
        return Err(Error::spec(field, "contains a NUL byte or a line break"));
    }
    Ok(())
}

fn processors(field: &str, list: &str) -> Result<Set> {
    let set = Set::parse(list).map_err(|reason| Error::spec(field, reason))?;
    if set.is_empty() {
        return Err(Error::spec(
            field,
            format!("no members found in set {list:?}"),
        ));
    }
    Ok(set)
}

/// The rules are of `sched_setattr(2)` and runc's.
fn scheduler(field: &str, spec: &SchedulerSpec) -> Result<Scheduler> {
    use LinuxSchedulerPolicy as Policy;
    let policy = match spec.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => SCHED_DEADLINE,
    };
    let name = spec.policy();
    let (nice, priority) = (spec.nice().unwrap_or(0), spec.priority().unwrap_or(0));
    let fair = matches!(name, Policy::SchedOther | Policy::SchedBatch);
    if fair && !(-20..=19).contains(&nice) {
        let reason = format!("{nice} is impossible with policy {name}");
        return Err(Error::spec(format!("{field}.nice"), reason));
    }
    if priority != 0 && !matches!(name, Policy::SchedFifo | Policy::SchedRr) {
        let reason = "can only be specified for SCHED_FIFO or SCHED_RR policy";
        return Err(Error::spec(format!("{field}.priority"), reason));
    }
    let priority = u32::try_from(priority).map_err(|_| {
        Error::spec(
            format!("{field}.priority"),
            format!("{priority} is negative"),
        )
    })?;
    let times = [
        ("runtime", spec.runtime()),
        ("deadline", spec.deadline()),
        ("period", spec.period()),
    ];
    for (part, time) in times {
        if policy != SCHED_DEADLINE && time.is_some_and(|time| time != 0) {
            let reason = "can only be specified for SCHED_DEADLINE policy";
            return Err(Error::spec(format!("{field}.{part}"), reason));
        }
    }
    let flags = spec.flags().iter().flatten().map(|flag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    });
    Ok(Scheduler {
        policy,
        flags: flags.fold(0, |all, flag| all | flag),
        nice,
        priority,
        runtime: spec.runtime().unwrap_or(0),
        deadline: spec.deadline().unwrap_or(0),
        period: spec.period().unwrap_or(0),
    })
}

fn io_priority(field: &str, spec: &LinuxIOPriority) -> Result<u16> {
    let level = match u16::try_from(spec.priority()) {
        Ok(level) if level <= 7 => level,
        _ => {
            let reason = format!("{} is not from 0 to 7", spec.priority());
            return Err(Error::spec(format!("{field}.priority"), reason));
        }
    };
    let class = match spec.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    Ok((class << 13) | level)
}

fn memory_policy(field: &str, spec: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    use MemoryPolicyModeType as Mode;
    let list = spec.nodes().as_deref().unwrap_or_default();
    let nodes = Set::parse(list).map_err(|reason| Error::spec(format!("{field}.nodes"), reason))?;
    let refused = |reason: &str| {
        let reason = format!("mode {} {reason}", spec.mode());
        Err(Error::spec(format!("{field}.nodes"), reason))
    };
    let mode = match spec.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    match spec.mode() {
        Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() => {
            return refused("takes no nodes");
        }
        // The kernel takes none or more.
        Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred => {}
        _ if nodes.is_empty() => return refused("requires at least one node"),
        _ => {}
    }
    let flags = spec.flags().iter().flatten().map(|flag| match flag {
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
    });
    Ok(MemoryPolicy {
        mode: flags.fold(mode, |all, flag| all | flag),
        nodes,
    })
}

impl Scheduler {
    /// Applies it to the calling thread.
    ///
    /// # Errors
    /// `sched_setattr(2)`.
    pub fn apply(&self) -> sys::Result<()> {
        sys::sched::set_attributes(&sys::sched::Attributes {
            policy: self.policy,
            flags: self.flags,
            nice: self.nice,
            priority: self.priority,
            runtime: self.runtime,
            deadline: self.deadline,
            period: self.period,
        })
    }

    /// Why the kernel may have refused it, if there is more to say than the error number does.
    pub fn hint(&self, errno: sys::Errno) -> Option<&'static str> {
        // A deadline needs all processors of its domain.
        (self.policy == SCHED_DEADLINE && errno == sys::Errno::PERM)
            .then_some("process scheduler can't be used together with AllowedCPUs")
    }
}

impl MemoryPolicy {
    /// Applies it to the calling thread.
    ///
    /// # Errors
    /// `set_mempolicy(2)`.
    pub fn apply(&self) -> sys::Result<()> {
        sys::persona::set_memory_policy(self.mode, self.nodes.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn attributes(process: Value, linux: Value) -> Result<Attributes> {
        let mut document = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
        for (key, value) in process.as_object().unwrap() {
            document[key] = value.clone();
        }
        let process: Process = serde_json::from_value(document).unwrap();
        let linux: Linux = serde_json::from_value(linux).unwrap();
        Attributes::new("process", &process, None)?.of_container(Some(&linux))
    }

    #[test]
    fn lists_of_processors_are_taken_as_runc_takes_them() {
        assert_eq!(Set::parse("0-3, 7,,").unwrap().words(), [0x8f]);
        assert_eq!(Set::parse("64,1").unwrap().words(), [2, 1]);
        assert!(Set::parse("").unwrap().is_empty());
        for (list, text) in [
            ("3-1", "invalid range: 3-1"),
            ("x", "\"x\" is not a number"),
            ("-1", "\"\" is not a number"),
            ("70000", "numbers larger than 65536 are not supported"),
        ] {
            assert_eq!(Set::parse(list).unwrap_err(), text);
        }
    }

    #[test]
    fn all_is_in_the_words_of_the_kernel() {
        let all = attributes(
            json!({
                "scheduler": {"policy": "SCHED_BATCH", "nice": 5,
                              "flags": ["SCHED_RESET_ON_FORK", "SCHED_FLAG_KEEP_PARAMS"]},
                "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
                "execCPUAffinity": {"initial": "1", "final": "0-1"},
            }),
            json!({
                "personality": {"domain": "LINUX32"},
                "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
            }),
        )
        .unwrap();
        let scheduler = all.scheduler.unwrap();
        assert_eq!(
            (scheduler.policy, scheduler.flags, scheduler.nice),
            (3, 0x11, 5)
        );
        assert_eq!(all.io_priority, Some((2 << 13) | 6));
        assert_eq!(all.initial_affinity.unwrap().words(), [2]);
        assert_eq!(all.final_affinity.unwrap().words(), [3]);
        assert_eq!(all.personality, Some(8));
        let policy = all.memory_policy.unwrap();
        assert_eq!(
            (policy.mode, policy.nodes.words()),
            (2 | 1 << 15, &[1usize][..])
        );
    }

    #[test]
    fn impossible_values_are_refused_by_their_json_path() {
        let process = [
            (
                json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}),
                "process.scheduler.nice: 20 is impossible with policy SCHED_OTHER",
            ),
            (
                json!({"scheduler": {"policy": "SCHED_OTHER", "priority": 3}}),
                "process.scheduler.priority: can only",
            ),
            (
                json!({"scheduler": {"policy": "SCHED_FIFO", "priority": -3}}),
                "process.scheduler.priority: -3 is negative",
            ),
            (
                json!({"scheduler": {"policy": "SCHED_RR", "runtime": 3}}),
                "process.scheduler.runtime: can only",
            ),
            (
                json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}),
                "process.ioPriority.priority: 8 is not",
            ),
        ];
        for (change, text) in process {
            let error = attributes(change, json!({})).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let linux = [
            (
                json!({"personality": {"domain": "LINUX", "flags": ["x"]}}),
                "linux.personality.flags",
            ),
            (
                json!({"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}),
                "linux.memoryPolicy.nodes: mode MPOL_LOCAL takes no nodes",
            ),
            (
                json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": ""}}),
                "linux.memoryPolicy.nodes: mode MPOL_BIND requires at least one node",
            ),
            (
                json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "x"}}),
                "linux.memoryPolicy.nodes: \"x\" is not a number",
            ),
        ];
        for (change, text) in linux {
            let error = attributes(json!({}), change).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn an_exec_has_what_it_leaves_out_from_the_container() {
        let process = json!({
            "user": {"uid": 0, "gid": 0}, "cwd": "/",
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
        });
        let process: Process = serde_json::from_value(process).unwrap();
        let container = Attributes {
            io_priority: Some(1),
            personality: Some(8),
            ..Attributes::default()
        };
        let exec = Attributes::new("process", &process, Some(&container)).unwrap();
        assert_eq!(
            (exec.io_priority, exec.personality),
            (Some(3 << 13), Some(8))
        );
    }

    #[test]
    fn without_the_security_module_a_profile_is_refused_by_name() {
        if lsm::check_apparmor().is_err() {
            let error = attributes(json!({"apparmorProfile": "x"}), json!({})).unwrap_err();
            let text = "process.apparmorProfile: config provided but apparmor not supported";
            assert!(error.to_string().contains(text), "{error}");
        }
        if lsm::check_selinux().is_err() {
            let error = attributes(json!({"selinuxLabel": "x"}), json!({})).unwrap_err();
            let text = "process.selinuxLabel: selinux label is specified in config, but selinux is \
                        disabled or not supported";
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
