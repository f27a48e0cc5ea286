// SPDX-License-Identifier: Apache-2.0
//! Documents that runc takes and the parser does not: they are changed to what runc takes them for.

use serde_json::{Value, json};

use crate::capabilities;

/// Names that the specification has, and the parser's for the same.
const OTHER_NAMES: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Changes a specification, or a process by itself; says whether there was anything to change.
pub(crate) fn repair(document: &mut Value) -> bool {
    let whole = document.get("process").is_some() || document.get("ociVersion").is_some();
    let process = match whole {
        true => document.get_mut("process"),
        false => Some(document),
    };
    let Some(process) = process.filter(|process| process.is_object()) else {
        return false;
    };
    // Every one of them, not only up to the first that has changed something.
    let changed = [
        drop_unknown_capabilities(process),
        complete_user(process),
        rename_scheduler_flags(process),
    ];
    changed.contains(&true)
}

/// Removes names of capabilities that we do not know. runc warns and goes on, too.
fn drop_unknown_capabilities(process: &mut Value) -> bool {
    let sets = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut);
    let mut dropped = false;
    for list in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        if let Some(list) = list.as_array_mut() {
            list.retain(|name| {
                let known = name.as_str().is_none_or(capabilities::is_known);
                if !known {
                    log::warn!("ignoring unknown capability {name}");
                    dropped = true;
                }
                known
            });
        }
    }
    dropped
}

/// Who is not named is root.
fn complete_user(process: &mut Value) -> bool {
    // It is one.
    let Some(process) = process.as_object_mut() else {
        return false;
    };
    let user = process.entry("user").or_insert(Value::Null);
    if user.is_null() {
        *user = json!({});
    }
    let Some(user) = user.as_object_mut() else {
        return false;
    };
    let before = user.len();
    for id in ["uid", "gid"] {
        user.entry(id).or_insert(json!(0));
    }
    user.len() > before
}

fn rename_scheduler_flags(process: &mut Value) -> bool {
    let flags = process
        .pointer_mut("/scheduler/flags")
        .and_then(Value::as_array_mut);
    let mut renamed = false;
    for flag in flags.into_iter().flatten() {
        let other = OTHER_NAMES.iter().find(|(name, _)| flag == name);
        if let Some((_, name)) = other {
            *flag = json!(name);
            renamed = true;
        }
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(mut document: Value) -> Option<Value> {
        repair(&mut document).then_some(document)
    }

    #[test]
    fn a_process_without_a_user_is_roots() {
        let root = json!({"uid": 0, "gid": 0});
        assert_eq!(
            repaired(json!({"args": ["x"]})),
            Some(json!({"args": ["x"], "user": root}))
        );
        assert_eq!(
            repaired(json!({"process": {"user": {"uid": 7}}})),
            Some(json!({"process": {"user": {"uid": 7, "gid": 0}}}))
        );
        assert_eq!(repaired(json!({"user": root})), None);
        for odd in [
            json!([]),
            json!(null),
            json!({"process": 1}),
            json!({"user": 1}),
        ] {
            assert_eq!(repaired(odd), None);
        }
    }

    #[test]
    fn flags_of_the_scheduler_have_the_specifications_names() {
        let all = [
            "SCHED_FLAG_RESET_ON_FORK",
            "SCHED_FLAG_DL_OVERRUN",
            "SCHED_FLAG_RECLAIM",
        ];
        let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
            "scheduler": {"policy": "SCHED_BATCH", "flags": all}});
        let process = crate::spec::parse_process(process.to_string().as_bytes()).unwrap();
        let flags = process.scheduler().as_ref().unwrap().flags();
        assert_eq!(flags.as_ref().unwrap().len(), 3);
    }
}
