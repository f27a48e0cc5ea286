// SPDX-License-Identifier: Apache-2.0
//! Containers that somebody makes who is not root.

use std::os::unix::fs::chown;
use std::process::Command;

use super::*;

/// Somebody whom the machine has no name for.
const USER: u32 = 54_321;

/// `ocirun` as that user, with his own state and bundle.
struct User<'a> {
    lab: &'a Lab,
    bundle: String,
}

impl<'a> User<'a> {
    fn new(lab: &'a Lab) -> Self {
        let bundle = lab.bundle("b", ["sleep", "1000"]);
        let path = bundle.name().to_owned();
        fs::remove_file(format!("{path}/config.json")).unwrap();
        let mut all = Command::new("chown");
        all.args(["-R", &format!("{USER}:{USER}"), &path]);
        assert!(lab.finish(&mut all).success());
        fs::create_dir(lab.root()).unwrap();
        chown(lab.root(), Some(USER), Some(USER)).unwrap();
        let user = Self { lab, bundle: path };
        let made = user.run(&["spec", "--rootless", "--bundle", &user.bundle]);
        assert!(made.success(), "{made:?}");
        user
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = format!("{}/config.json", self.bundle);
        let mut spec = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(&path, spec.to_string()).unwrap();
    }

    fn run(&self, args: &[&str]) -> lab::Finished {
        let mut command = Command::new("setpriv");
        let id = USER.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
        command.args([OCIRUN, "--root", self.lab.root().to_str().unwrap()]);
        self.lab.finish(command.args(args))
    }
}

#[test]
fn somebody_who_is_not_root_has_containers_of_his_own() {
    let Some(lab) = Lab::new() else { return };
    let user = User::new(&lab);
    user.edit(|spec| {
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/self/uid_map; exit 7"]);
        spec["root"]["readonly"] = false.into();
    });
    let finished = user.run(&["run", "-b", &user.bundle, "c"]);
    let words: Vec<&str> = finished.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "0", &USER.to_string(), "1"], "{finished:?}");
    assert_eq!(finished.code, Some(7));
    for (change, part) in [
        (
            json!({"cgroupsPath": "/x"}),
            "linux.cgroupsPath: a rootless container has no cgroup",
        ),
        (
            json!({"resources": {"pids": {"limit": 5}}}),
            "linux.resources: cannot set limits",
        ),
    ] {
        let mut before = Value::Null;
        user.edit(|spec| {
            before = spec.clone();
            for (key, value) in change.as_object().unwrap() {
                spec["linux"][key] = value.clone();
            }
        });
        let refused = user.run(&["run", "-b", &user.bundle, "c"]);
        assert!(refused.stderr.contains(part), "{refused:?}");
        user.edit(|spec| *spec = before);
    }
}

/// Entering takes the user namespace with all the others at once, and a process born after that.
#[test]
fn he_enters_them_and_ends_them() {
    let Some(lab) = Lab::new() else { return };
    let user = User::new(&lab);
    user.edit(|spec| {
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = json!(["sleep", "1000"]);
        spec["root"]["readonly"] = false.into();
    });
    let started = user.run(&["run", "-d", "-b", &user.bundle, "c"]);
    assert!(started.success(), "{started:?}");
    let script =
        "id -u; echo $$; readlink /proc/1/exe; readlink /proc/self/exe; echo x >/made; cat /made";
    let exec = user.run(&["exec", "c", "sh", "-c", script]);
    let lines: Vec<&str> = exec.stdout.lines().collect();
    let &["0", pid, "/bin/busybox", "/bin/busybox", "x"] = &lines[..] else {
        panic!("{exec:?}");
    };
    assert!(pid.parse::<u32>().unwrap() > 1);
    let made = std::path::Path::new(&user.bundle).join("rootfs/made");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(made).unwrap());
    assert_eq!(owner, USER);
    assert_eq!(user.run(&["exec", "c", "sh", "-c", "exit 9"]).code, Some(9));
    assert!(user.run(&["kill", "c", "KILL"]).success());
    wait_until("the end", || {
        user.run(&["state", "c"]).stdout.contains("\"stopped\"")
    });
    let deleted = user.run(&["delete", "c"]);
    assert!(deleted.success(), "{deleted:?}");
}
