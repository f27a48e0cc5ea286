// SPDX-License-Identifier: Apache-2.0
//! The table of the specification's fields has all of them, says the same as the features document, and
//! none is lost when a document is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::rows;

/// Where in `config.json` of runtime-spec 1.3 which fields are, for Linux; of other platforms the roots.
#[rustfmt::skip]
const FIELDS: &[(&str, &str)] = &[
    ("", "ociVersion hostname domainname annotations solaris windows vm zos freebsd"),
    ("root.", "path readonly"),
    ("mounts[].", "destination type source options uidMappings gidMappings"),
    ("process.", "terminal consoleSize user cwd args commandLine env capabilities rlimits noNewPrivileges \
        apparmorProfile oomScoreAdj selinuxLabel ioPriority scheduler execCPUAffinity"),
    ("process.consoleSize.", "height width"),
    ("process.user.", "uid gid umask additionalGids username"),
    ("process.capabilities.", "bounding permitted effective inheritable ambient"),
    ("process.rlimits[].", "type soft hard"),
    ("process.ioPriority.", "class priority"),
    ("process.scheduler.", "policy nice priority flags runtime deadline period"),
    ("process.execCPUAffinity.", "initial final"),
    ("hooks.", "prestart createRuntime createContainer startContainer poststart poststop"),
    ("hooks.*[].", "path args env timeout"),
    ("linux.", "devices netDevices uidMappings gidMappings namespaces cgroupsPath rootfsPropagation sysctl \
        maskedPaths readonlyPaths mountLabel timeOffsets"),
    ("linux.namespaces[].", "type path"),
    ("linux.resources.", "unified devices hugepageLimits blockIO rdma"),
    ("linux.resources.pids.", "limit"),
    ("linux.resources.cpu.", "cpus mems period quota burst realtimePeriod realtimeRuntime shares idle"),
    ("linux.resources.memory.", "kernel kernelTCP limit reservation swap swappiness disableOOMKiller \
        useHierarchy checkBeforeUpdate"),
    ("linux.resources.network.", "classID priorities"),
    ("linux.seccomp.", "defaultAction defaultErrnoRet flags listenerPath listenerMetadata architectures"),
    ("linux.seccomp.syscalls[].", "names action errnoRet args"),
    ("linux.intelRdt.", "closID schemata l3CacheSchema memBwSchema enableMonitoring"),
    ("linux.memoryPolicy.", "mode nodes flags"),
    ("linux.personality.", "domain flags"),
];

/// Fields of earlier versions of the specification.
const FORMER_FIELDS: [&str; 2] = ["linux.intelRdt.enableCMT", "linux.intelRdt.enableMBM"];

/// The fields that a cell names: the first one in full, then those beside it by their last part. What
/// comes after a colon are values.
fn named_fields(cell: &str) -> Vec<String> {
    let cell = cell.split("`: ").next().unwrap();
    if !cell.starts_with('`') {
        return Vec::new();
    }
    let mut names = cell.split('`').skip(1).step_by(2);
    let first = names.next().unwrap();
    let place = first.rfind('.').map_or("", |dot| &first[..=dot]);
    let others = names.map(|name| format!("{place}{name}"));
    std::iter::once(first.to_owned()).chain(others).collect()
}

#[test]
fn the_table_has_every_field_of_the_specification_and_no_others() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/spec.md")).unwrap();
    let rows = rows(&document, 3);
    let named: BTreeSet<String> = rows.iter().flat_map(|row| named_fields(row[0])).collect();
    let names = |names: &'static str| names.split_whitespace();
    let fields = FIELDS
        .iter()
        .flat_map(|(place, list)| names(list).map(move |name| format!("{place}{name}")));
    let fields: BTreeSet<String> = fields.collect();
    let is_in = |field: &str, place: &str| {
        let rest = field.strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    for field in &fields {
        let has_row = named
            .iter()
            .any(|name| is_in(field, name) || is_in(name, field));
        assert!(has_row, "no row for {field}");
    }
    for name in named {
        let known = fields.contains(&name) || FORMER_FIELDS.contains(&name.as_str());
        assert!(known, "the specification has no field {name}");
    }
}

#[test]
fn the_features_document_says_the_same_as_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/spec.md")).unwrap();
    let rows = rows(&document, 3);
    let works = |field: &str| {
        let named = |row: &&Vec<&str>| named_fields(row[0]).iter().any(|name| name == field);
        let row = rows.iter().find(named).expect(field);
        row[1].starts_with("works")
    };
    let features = runtime::features::document();
    for (feature, field) in [
        ("/linux/apparmor/enabled", "process.apparmorProfile"),
        ("/linux/selinux/enabled", "process.selinuxLabel"),
        ("/linux/intelRdt/enabled", "linux.intelRdt.closID"),
        ("/linux/intelRdt/schemata", "linux.intelRdt.schemata"),
        (
            "/linux/intelRdt/monitoring",
            "linux.intelRdt.enableMonitoring",
        ),
        ("/linux/netDevices/enabled", "linux.netDevices"),
        ("/linux/cgroup/rdma", "linux.resources.rdma"),
        (
            "/linux/mountExtensions/idmap/enabled",
            "mounts[].uidMappings",
        ),
    ] {
        let said = features.pointer(feature).unwrap();
        assert_eq!(said, works(field), "{feature} and {field}");
    }
    assert!(works("linux.seccomp.syscalls[].names"));
    assert!(!features["linux"]["seccomp"]["enabled"].is_null());
    let list = |pointer: &str| -> Vec<String> {
        let list = features.pointer(pointer).unwrap().clone();
        serde_json::from_value(list).unwrap()
    };
    for hook in list("/hooks") {
        assert!(works(&format!("hooks.{hook}")), "{hook}");
    }
    assert!(!list("/linux/memoryPolicy/modes").is_empty() && works("linux.memoryPolicy.mode"));
    // Both in the words of their rows.
    let cells = |start: &str| -> String {
        let rows = rows.iter().filter(|row| row[0].starts_with(start));
        rows.map(|row| row[0]).collect()
    };
    let namespaces = cells("`linux.namespaces`: ");
    for kind in list("/linux/namespaces") {
        assert!(namespaces.contains(&format!("`{kind}`")), "{kind}");
    }
    let options = list("/mountOptions");
    for special in ["rro", "idmap", "ridmap", "tmpcopyup"] {
        let told = cells("`mounts[].options`").contains(&format!("`{special}`"));
        assert!(told && options.iter().any(|option| option == special));
    }
}

/// A document in which every field is.
fn whole_document() -> Value {
    serde_json::from_str(include_str!("config.json")).unwrap()
}

/// Finds a field, in all elements of the lists and maps on the way.
fn has_field(value: &Value, path: &[&str]) -> bool {
    let Some((name, rest)) = path.split_first() else {
        return true;
    };
    let (name, is_list) = match name.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (*name, false),
    };
    let inner: Vec<&Value> = match (name, value) {
        ("*", Value::Object(map)) => map.values().collect(),
        (name, value) => value.get(name).into_iter().collect(),
    };
    inner.into_iter().any(|value| match (is_list, value) {
        (true, Value::Array(items)) => items.iter().any(|item| has_field(item, rest)),
        (true, _) => false,
        (false, value) => has_field(value, rest),
    })
}

/// What of a document is not in another one, or not the same.
fn lost(before: &Value, after: &Value, place: &str) -> Vec<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .flat_map(|(name, value)| {
                let place = format!("{place}/{name}");
                let after = after.get(name).unwrap_or(&Value::Null);
                lost(value, after, &place)
            })
            .collect(),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            let pairs = before.iter().zip(after);
            pairs
                .flat_map(|(before, after)| lost(before, after, &format!("{place}/-")))
                .collect()
        }
        (before, after) if before == after => Vec::new(),
        (before, after) => vec![format!("{place}: {before} became {after}")],
    }
}

fn parsed(document: &Value) -> Result<Value, String> {
    let json = document.to_string();
    let spec = runtime::spec::parse_config(Path::new("/bundle"), json.as_bytes());
    let spec = spec.map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(spec).unwrap())
}

#[test]
fn no_field_of_the_specification_is_lost_on_the_way_in() {
    let document = whole_document();
    let platforms = ["solaris", "windows", "vm", "zos", "freebsd"];
    for (place, names) in FIELDS {
        for name in names.split_whitespace() {
            let field = format!("{place}{name}");
            let path: Vec<&str> = field.split('.').collect();
            let is_there = platforms.contains(&name) || has_field(&document, &path);
            assert!(is_there, "no {field} in tests/config.json");
        }
    }
    let lost = lost(&document, &parsed(&document).unwrap(), "");
    assert!(lost.is_empty(), "{lost:#?}");
}

/// The words that fields may have.
#[rustfmt::skip]
const WORDS: &[(&str, &str)] = &[
    ("/process/ioPriority/class", "IOPRIO_CLASS_RT IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE"),
    ("/process/scheduler/policy", "SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE \
        SCHED_DEADLINE"),
    ("/process/scheduler/flags/0", "SCHED_FLAG_RESET_ON_FORK SCHED_FLAG_RECLAIM SCHED_FLAG_DL_OVERRUN \
        SCHED_FLAG_KEEP_POLICY SCHED_FLAG_KEEP_PARAMS SCHED_FLAG_UTIL_CLAMP_MIN SCHED_FLAG_UTIL_CLAMP_MAX"),
    ("/process/rlimits/0/type", "RLIMIT_AS RLIMIT_CORE RLIMIT_CPU RLIMIT_DATA RLIMIT_FSIZE RLIMIT_LOCKS \
        RLIMIT_MEMLOCK RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_NOFILE RLIMIT_NPROC RLIMIT_RSS RLIMIT_RTPRIO \
        RLIMIT_RTTIME RLIMIT_SIGPENDING RLIMIT_STACK"),
    ("/linux/namespaces/0/type", "mount pid network uts ipc user cgroup time"),
    ("/linux/devices/0/type", "c b u p"),
    ("/linux/resources/devices/0/type", "a c b"),
    ("/linux/rootfsPropagation", "private shared slave unbindable"),
    ("/linux/personality/domain", "LINUX LINUX32"),
    ("/linux/memoryPolicy/mode", "MPOL_DEFAULT MPOL_BIND MPOL_INTERLEAVE MPOL_WEIGHTED_INTERLEAVE \
        MPOL_PREFERRED MPOL_PREFERRED_MANY MPOL_LOCAL"),
    ("/linux/memoryPolicy/flags/0", "MPOL_F_NUMA_BALANCING MPOL_F_RELATIVE_NODES MPOL_F_STATIC_NODES"),
    ("/linux/seccomp/defaultAction", "SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_TRAP \
        SCMP_ACT_ERRNO SCMP_ACT_TRACE SCMP_ACT_ALLOW SCMP_ACT_LOG SCMP_ACT_NOTIFY"),
    ("/linux/seccomp/syscalls/0/args/0/op", "SCMP_CMP_NE SCMP_CMP_LT SCMP_CMP_LE SCMP_CMP_EQ SCMP_CMP_GE \
        SCMP_CMP_GT SCMP_CMP_MASKED_EQ"),
    ("/linux/seccomp/flags/0", "SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_LOG \
        SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
    ("/linux/seccomp/architectures/0", "SCMP_ARCH_X86 SCMP_ARCH_X86_64 SCMP_ARCH_X32 SCMP_ARCH_ARM \
        SCMP_ARCH_AARCH64 SCMP_ARCH_LOONGARCH64 SCMP_ARCH_M68K SCMP_ARCH_MIPS SCMP_ARCH_MIPS64 \
        SCMP_ARCH_MIPS64N32 SCMP_ARCH_MIPSEL SCMP_ARCH_MIPSEL64 SCMP_ARCH_MIPSEL64N32 SCMP_ARCH_PPC \
        SCMP_ARCH_PPC64 SCMP_ARCH_PPC64LE SCMP_ARCH_S390 SCMP_ARCH_S390X SCMP_ARCH_SH SCMP_ARCH_SHEB \
        SCMP_ARCH_PARISC SCMP_ARCH_PARISC64 SCMP_ARCH_RISCV64"),
];

#[test]
fn every_word_of_the_specification_is_understood() {
    for (field, words) in WORDS {
        for word in words.split_whitespace() {
            let mut document = whole_document();
            *document.pointer_mut(field).unwrap() = word.into();
            let understood = parsed(&document);
            assert!(understood.is_ok(), "{field} {word}: {understood:?}");
        }
        let mut document = whole_document();
        *document.pointer_mut(field).unwrap() = "NO_SUCH_WORD".into();
        // It is looked at later, and refused by the plan.
        if *field != "/linux/rootfsPropagation" {
            let error = parsed(&document).unwrap_err();
            assert!(error.contains("NO_SUCH_WORD"), "{field}: {error}");
        }
    }
}
