// SPDX-License-Identifier: Apache-2.0
//! Profiles of AppArmor, where the kernel has it and `apparmor_parser` is there: in the VM.

use std::path::Path;
use std::process::{Command, Stdio};

use containerd_client::tonic::Code;

use super::assert_status;
use crate::container::Builder;
use crate::failure::{Failure, Outcome, failed};
use crate::lab::Lab;
use crate::tests;

tests!["apparmor";
    a_profile_confines_init,
    a_profile_confines_an_exec,
    an_exec_without_a_profile_has_the_containers,
    a_profile_holds_without_new_privileges,
    a_profile_that_is_not_loaded_is_refused,
    a_profile_that_is_not_loaded_is_refused_for_an_exec,
];

/// A loaded profile that lets everything be done but writing below `/forbidden`. Removed at the
/// end.
struct Profile {
    name: String,
}

impl Profile {
    fn load(lab: &Lab) -> Outcome<Self> {
        require()?;
        let name = format!("{}-{}", lab.containerd().namespace(), lab.new_id());
        let this = Self { name };
        this.parser("--replace")?;
        Ok(this)
    }

    fn text(&self) -> String {
        format!(
            "profile {} flags=(attach_disconnected,mediate_deleted) {{\n\
             file,\ncapability,\nnetwork,\nmount,\nsignal,\nptrace,\nunix,\n\
             deny /forbidden/** wkl,\n}}\n",
            self.name
        )
    }

    fn parser(&self, action: &str) -> Outcome {
        use std::io::Write as _;
        let mut child = Command::new("apparmor_parser")
            .args(["--skip-cache", "--quiet", action])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.text().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(failed(format!("apparmor_parser {action}: {said}")));
        }
        Ok(())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // A profile that stays loaded harms nobody.
        let _ = self.parser("--remove");
    }
}

/// Skips the test where there is no AppArmor.
fn require() -> Outcome {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.first() == Some(&b'Y'))
        || !Path::new("/sys/kernel/security/apparmor/profiles").exists()
    {
        return Err(Failure::Exempt("the kernel has no AppArmor".to_owned()));
    }
    match Command::new("apparmor_parser").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Failure::Lacking("no apparmor_parser".to_owned())),
    }
}

/// Says who it is, and what it may do.
const LOOK: &str = "cat /proc/self/attr/current; mkdir -p /forbidden /allowed; \
                    (: >/allowed/x) 2>/dev/null && echo allowed; \
                    (: >/forbidden/x) 2>/dev/null || echo forbidden";

fn confined(name: &str) -> String {
    format!("{name} (enforce)\nallowed\nforbidden\n")
}

fn with_profile<'a>(builder: Builder<'a>, name: &str) -> Builder<'a> {
    builder.edit(|spec| {
        spec["process"]["apparmorProfile"] = name.into();
        spec["process"]["noNewPrivileges"] = false.into();
    })
}

fn a_profile_confines_init(lab: &Lab) -> Outcome {
    let profile = Profile::load(lab)?;
    let builder = with_profile(lab.script(LOOK), &profile.name);
    assert_eq!(builder.run()?.success()?, confined(&profile.name));
    Ok(())
}

fn a_profile_confines_an_exec(lab: &Lab) -> Outcome {
    let profile = Profile::load(lab)?;
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sh", "-c", LOOK]);
    let exec = exec.edit(|process| {
        process["apparmorProfile"] = profile.name.clone().into();
        process["noNewPrivileges"] = false.into();
    });
    assert_eq!(exec.run()?.success()?, confined(&profile.name));
    container.kill_and_finish()?;
    Ok(())
}

fn an_exec_without_a_profile_has_the_containers(lab: &Lab) -> Outcome {
    let profile = Profile::load(lab)?;
    let builder = with_profile(lab.container(["sleep", "1000"]), &profile.name);
    let container = builder.start()?;
    assert_eq!(container.shell("e", LOOK)?, confined(&profile.name));
    container.kill_and_finish()?;
    Ok(())
}

fn a_profile_holds_without_new_privileges(lab: &Lab) -> Outcome {
    let profile = Profile::load(lab)?;
    let builder = with_profile(lab.script(LOOK), &profile.name)
        .edit(|spec| spec["process"]["noNewPrivileges"] = true.into());
    assert_eq!(builder.run()?.success()?, confined(&profile.name));
    Ok(())
}

fn a_profile_that_is_not_loaded_is_refused(lab: &Lab) -> Outcome {
    require()?;
    let builder = with_profile(lab.container(["sleep", "1000"]), "no-such-profile");
    let status = builder.expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "unable to apply apparmor profile");
    Ok(())
}

fn a_profile_that_is_not_loaded_is_refused_for_an_exec(lab: &Lab) -> Outcome {
    require()?;
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["true"]).edit(|process| {
        process["apparmorProfile"] = "no-such-profile".into();
    });
    let exec = exec.add()?;
    let Err(status) = exec.start() else {
        crate::fail!("an exec with a profile that does not exist was started");
    };
    assert_status(&status, Code::Unknown, "unable to apply apparmor profile");
    exec.delete()?;
    container.kill_and_finish()?;
    Ok(())
}
