// SPDX-License-Identifier: Apache-2.0
//! Output that does not come back to the client: files and logger programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use containerd_client::tonic::Code;

use super::assert_status;
use crate::failure::{Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::streams::Stdio;
use crate::tests;

tests!["logging";
    a_file_gets_both_streams_and_its_folder_is_made,
    a_file_is_appended_to,
    a_logger_gets_both_streams_its_arguments_and_nothing_else,
    a_logger_ends_with_its_container,
    an_exec_may_have_a_logger_of_its_own,
    a_missing_logger_is_an_error,
];

/// A folder of this test in the lab's.
fn folder(lab: &Lab, name: &str) -> Outcome<PathBuf> {
    let folder = lab.containerd().folder().join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn a_file_gets_both_streams_and_its_folder_is_made(lab: &Lab) -> Outcome {
    let file = folder(lab, "log-one")?.join("new/folder/log");
    let address = Stdio::Address(format!("file://{}", file.display()));
    let finished = lab
        .script("echo out; echo err >&2; exit 3")
        .stdio(address)
        .run()?;
    assert_eq!(finished.status, 3);
    let text = fs::read_to_string(&file)?;
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    Ok(())
}

fn a_file_is_appended_to(lab: &Lab) -> Outcome {
    let file = folder(lab, "log-two")?.join("log");
    fs::write(&file, "before\n")?;
    let address = Stdio::Address(format!("file://{}", file.display()));
    lab.script("echo one")
        .stdio(address.clone())
        .run()?
        .success()?;
    let container = lab
        .script("echo two; sleep 1000")
        .stdio(address.clone())
        .start()?;
    container
        .exec("e", ["echo", "three"])
        .stdio(address)
        .run()?
        .success()?;
    container.kill_and_finish()?;
    let text = fs::read_to_string(&file)?;
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.starts_with("before\none\n"), "{text}");
    Ok(())
}

/// A logger program: copies both streams into `folder`, says what it was given, and is ready. It
/// gets a SIGTERM with the end of the streams, and writes what it has all the same.
fn logger(folder: &Path) -> Outcome<PathBuf> {
    let path = folder.join("logger");
    let folder = folder.display();
    let script = format!(
        "#!/bin/bash\n\
         trap '' TERM\n\
         printf '%s\\n' \"$@\" >{folder}/args\n\
         tr '\\0' '\\n' </proc/$$/environ | grep '^CONTAINER_' | sort >{folder}/env\n\
         tr '\\0' '\\n' </proc/$$/environ | grep -c . >{folder}/env-count\n\
         exec 5>&-\n\
         cat <&3 >>{folder}/out &\n\
         cat <&4 >>{folder}/err &\n\
         exec 3<&- 4<&-\n\
         wait\n\
         echo done >{folder}/done\n"
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn address(logger: &Path) -> Stdio {
    Stdio::Address(format!("binary://{}?key=value", logger.display()))
}

fn a_logger_gets_both_streams_its_arguments_and_nothing_else(lab: &Lab) -> Outcome {
    let folder = folder(lab, "logger-one")?;
    let logger = logger(&folder)?;
    let container = lab
        .script("echo out; echo err >&2; exit 3")
        .stdio(address(&logger))
        .start()?;
    let id = container.id().to_owned();
    assert_eq!(container.finish()?.status, 3);
    assert_eq!(fs::read_to_string(folder.join("out"))?, "out\n");
    assert_eq!(fs::read_to_string(folder.join("err"))?, "err\n");
    assert_eq!(fs::read_to_string(folder.join("args"))?, "key\nvalue\n");
    let namespace = lab.containerd().namespace();
    let wanted = format!("CONTAINER_ID={id}\nCONTAINER_NAMESPACE={namespace}\n");
    assert_eq!(fs::read_to_string(folder.join("env"))?, wanted);
    assert_eq!(fs::read_to_string(folder.join("env-count"))?, "2\n");
    Ok(())
}

fn a_logger_ends_with_its_container(lab: &Lab) -> Outcome {
    let folder = folder(lab, "logger-two")?;
    let logger = logger(&folder)?;
    let mark = logger.to_string_lossy().into_owned();
    let container = lab
        .script("seq 1 1000; sleep 1000")
        .stdio(address(&logger))
        .start()?;
    wait_until(SOON, "the output", || {
        let text = fs::read_to_string(folder.join("out")).ok()?;
        text.ends_with("\n1000\n").then_some(())
    })?;
    assert!(!host::processes_with(&mark).is_empty());
    container.kill_and_finish()?;
    wait_until(SOON, "the end of the logger", || {
        host::processes_with(&mark).is_empty().then_some(())
    })?;
    assert!(folder.join("done").exists());
    Ok(())
}

fn an_exec_may_have_a_logger_of_its_own(lab: &Lab) -> Outcome {
    let folder = folder(lab, "logger-three")?;
    let logger = logger(&folder)?;
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sh", "-c", "echo out; exit 3"]);
    assert_eq!(exec.stdio(address(&logger)).run()?.status, 3);
    wait_until(SOON, "the end of the logger", || {
        folder.join("done").exists().then_some(())
    })?;
    assert_eq!(fs::read_to_string(folder.join("out"))?, "out\n");
    container.kill_and_finish()?;
    Ok(())
}

fn a_missing_logger_is_an_error(lab: &Lab) -> Outcome {
    let address = Stdio::Address("binary:///no/such/logger".to_owned());
    let status = lab
        .container(["true"])
        .stdio(address)
        .expect_create_to_fail()?;
    assert_status(&status, Code::Unknown, "/no/such/logger");
    Ok(())
}
