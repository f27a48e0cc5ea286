// SPDX-License-Identifier: Apache-2.0
//! `exec`.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, Process};
use runtime::{Status, Stored};

use crate::Code;
use crate::args::Parsed;
use crate::common::{Common, write_pid_file};
use crate::error::{Attempt as _, EXEC_FAILED, Error, of_verb};
use crate::foreground::{Foreground, Signals};
use crate::inherited;
use crate::terminal::{Console, Wait, send_pidfd};

/// `exec`.
pub(crate) fn exec(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    of_verb(EXEC_FAILED, execute(common, parsed))
}

fn execute(common: &Common, parsed: &Parsed) -> Result<Code, Error> {
    let stored = common.stored(parsed.id())?;
    let refused = match stored.status() {
        Status::Stopped => Some("cannot exec in a stopped container"),
        Status::Paused if !parsed.is_set("ignore-paused") => {
            Some("cannot exec in a paused container (use --ignore-paused to override)")
        }
        _ => None,
    };
    if let Some(text) = refused {
        return Err(Error::Usage(text.to_owned()));
    }
    let process = process(parsed, &stored)?;
    let wait = match parsed.is_set("detach") {
        true => Wait::Detached,
        false => Wait::Foreground,
    };
    let signals = match wait {
        Wait::Foreground => Some(Signals::hold()?),
        Wait::Detached => None,
    };
    let terminal = process.terminal().unwrap_or(false);
    let console = Console::new(terminal, wait, parsed.value("console-socket"))?;
    let container = stored.container()?;
    let (runtime, log) = common.runtime()?;
    let mut inherited = inherited::take(parsed)?;
    inherited.cgroups = cgroups(parsed)?;
    let exec = container.exec_with(&runtime, &process, console.stdio()?, inherited)?;
    drop(log);
    let told = console.attach(exec.console).and_then(|relay| {
        send_pidfd(parsed.value("pidfd-socket"), b"setns", exec.pidfd.as_fd())?;
        write_pid_file(parsed.value("pid-file"), exec.pid)?;
        Ok(relay)
    });
    let relay = match told {
        Ok(relay) => relay,
        Err(error) => {
            // Nobody knows of it. ESRCH: it has ended by itself.
            let _ = sys::signals::send(&exec.pidfd, 9);
            return Err(error);
        }
    };
    match signals {
        None => Ok(0),
        Some(signals) => Foreground {
            pid: exec.pid,
            pidfd: exec.pidfd,
            relay,
            notify: None,
        }
        .wait(&signals),
    }
}

/// `--cgroup PATH` or `--cgroup CONTROLLER[,CONTROLLER...]:PATH`, the latter repeated.
fn cgroups(parsed: &Parsed) -> Result<BTreeMap<String, String>, Error> {
    let refuse = |argument: &str, reason: &str| {
        Err(Error::Usage(format!(
            "invalid --cgroup argument: {argument} ({reason})"
        )))
    };
    let arguments: Vec<&str> = parsed.values("cgroup").collect();
    let mut cgroups = BTreeMap::new();
    for argument in &arguments {
        let Some((controllers, path)) = argument.split_once(':') else {
            if arguments.len() != 1 {
                return refuse(argument, "missing <controller>: prefix");
            }
            return Ok(BTreeMap::from([(String::new(), (*argument).to_owned())]));
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return refuse(argument, "empty <controller> prefix");
            }
            let before = cgroups.insert(controller.to_owned(), path.to_owned());
            if before.is_some() {
                return refuse(argument, "controller specified multiple times");
            }
        }
    }
    Ok(cgroups)
}

/// The process that is asked for: a whole document, or the container's own with changes.
fn process(parsed: &Parsed, stored: &Stored) -> Result<Process, Error> {
    if let Some(path) = parsed.value("process").filter(|path| !path.is_empty()) {
        let json = std::fs::read(path).attempt(|| format!("open {path}"))?;
        return Ok(runtime::spec::parse_process(&json)?);
    }
    let program = parsed.arguments.get(1..).unwrap_or_default();
    if program.is_empty() {
        return Err(Error::Usage("process args cannot be empty".to_owned()));
    }
    let bundle = stored.bundle()?;
    let base = bundle.spec().process().clone();
    let mut process =
        base.ok_or_else(|| Error::Usage("the container has no process".to_owned()))?;
    process.set_args(Some(program.to_vec()));
    process.set_terminal(Some(parsed.is_set("tty")));
    if let Some(cwd) = parsed.value("cwd").filter(|cwd| !cwd.is_empty()) {
        process.set_cwd(PathBuf::from(cwd));
    }
    if let Some(profile) = parsed.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = parsed.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if parsed.value("no-new-privs").is_some() {
        process.set_no_new_privileges(Some(parsed.is_set("no-new-privs")));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(parsed.values("env").map(str::to_owned));
    process.set_env(Some(env));
    set_user(parsed, &mut process)?;
    add_capabilities(parsed, &mut process)?;
    Ok(process)
}

/// `--user UID[:GID]` and `--additional-gids`, numbers only and all of them: half a number is
/// somebody else's id (CVE-2026-30892).
fn set_user(parsed: &Parsed, process: &mut Process) -> Result<(), Error> {
    let id = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|id| *id != u32::MAX && text.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| Error::Usage(format!("{text:?} is not a user or group id")))
    };
    let mut user = process.user().clone();
    if let Some(text) = parsed.value("user") {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        user.set_uid(id(uid)?);
        if let Some(gid) = gid {
            user.set_gid(id(gid)?);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in parsed.values("additional-gids") {
        groups.push(id(gid)?);
    }
    user.set_additional_gids((!groups.is_empty()).then_some(groups));
    process.set_user(user);
    Ok(())
}

/// `--cap` adds to what the process may, and never to what it passes on (CVE-2022-29162).
fn add_capabilities(parsed: &Parsed, process: &mut Process) -> Result<(), Error> {
    let mut added: HashSet<Capability> = HashSet::new();
    for name in parsed.values("cap") {
        let value = serde_json::Value::String(name.to_owned());
        let capability = serde_json::from_value(value)
            .map_err(|_| Error::Usage(format!("unknown capability {name:?}")))?;
        added.insert(capability);
    }
    if added.is_empty() {
        return Ok(());
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<HashSet<Capability>>| {
        let own = set.iter().flatten().copied();
        Some(own.chain(added.iter().copied()).collect::<HashSet<_>>())
    };
    let bounding = with(sets.bounding());
    let effective = with(sets.effective());
    let permitted = with(sets.permitted());
    // An ambient capability must be inheritable, and that is for the document to say.
    if sets.inheritable().is_some() {
        let ambient = with(sets.ambient());
        sets.set_ambient(ambient);
    }
    sets.set_bounding(bounding);
    sets.set_effective(effective);
    sets.set_permitted(permitted);
    process.set_capabilities(Some(sets));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::{GLOBAL, VERBS};

    fn parsed(line: &str) -> Parsed {
        Parsed::new(line.split(' ').map(str::to_owned).collect(), GLOBAL, VERBS).unwrap()
    }

    #[test]
    fn a_user_is_a_number_and_nothing_else() {
        let mut process = Process::default();
        set_user(&parsed("exec -u 7:8 -g 9 -g 10 c x"), &mut process).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.user().additional_gids(), &Some(vec![9, 10]));
        for user in [
            "1000x",
            "x",
            "",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            "1:",
            "1:x",
        ] {
            let line = format!("exec --user={user} c x");
            let error = set_user(&parsed(&line), &mut process).unwrap_err();
            assert!(
                error.to_string().contains("is not a user or group id"),
                "{user}"
            );
        }
        assert_eq!(process.user().uid(), 7);
    }

    #[test]
    fn cgroups_are_for_all_hierarchies_or_by_controller() {
        let of = |line: &str| cgroups(&parsed(line)).map_err(|e| e.to_string());
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(of("exec c x").unwrap(), BTreeMap::new());
        assert_eq!(
            of("exec --cgroup sub c x").unwrap(),
            BTreeMap::from([pair("", "sub")])
        );
        assert_eq!(
            of("exec --cgroup cpu,memory:a --cgroup pids:b c x").unwrap(),
            BTreeMap::from([pair("cpu", "a"), pair("memory", "a"), pair("pids", "b")])
        );
        for line in [
            "--cgroup a --cgroup b",
            "--cgroup :a",
            "--cgroup a:b --cgroup a:c",
        ] {
            assert!(
                of(&format!("exec {line} c x"))
                    .unwrap_err()
                    .contains("invalid --cgroup")
            );
        }
    }

    #[test]
    fn an_added_capability_is_not_inheritable() {
        let mut process = Process::default();
        let mut sets = process.capabilities().clone().unwrap_or_default();
        sets.set_inheritable(None);
        sets.set_ambient(None);
        process.set_capabilities(Some(sets));
        add_capabilities(&parsed("exec --cap CAP_SYS_ADMIN c x"), &mut process).unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        for set in [sets.bounding(), sets.effective(), sets.permitted()] {
            assert!(set.as_ref().unwrap().contains(&Capability::SysAdmin));
        }
        assert!(sets.inheritable().is_none() && sets.ambient().is_none());
        let mut sets = sets.clone();
        sets.set_inheritable(Some(HashSet::from([Capability::Chown])));
        process.set_capabilities(Some(sets));
        add_capabilities(&parsed("exec --cap CAP_KILL c x"), &mut process).unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.ambient(), &Some(HashSet::from([Capability::Kill])));
        assert_eq!(sets.inheritable().as_ref().unwrap().len(), 1);
        assert!(add_capabilities(&parsed("exec --cap CAP_FLY c x"), &mut process).is_err());
    }
}
