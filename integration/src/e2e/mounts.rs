// SPDX-License-Identifier: Apache-2.0
//! The container's file system.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::container::Builder;
use crate::failure::{Failure, Outcome, SOON, wait_until};
use crate::host;
use crate::lab::Lab;
use crate::tests;

tests!["mounts";
    a_read_only_root_cannot_be_written,
    masked_paths_are_empty_and_read_only_paths_cannot_be_written,
    options_of_mounts_are_applied,
    a_bind_mount_shows_the_source_and_may_be_read_only,
    a_file_can_be_bound,
    later_mounts_lie_over_earlier_ones,
    a_recursive_bind_brings_the_mounts_below,
    a_mount_point_is_made_with_its_parents,
    a_mount_point_behind_a_link_stays_in_the_container,
    nothing_of_the_host_is_mounted_besides,
    mounts_of_a_container_do_not_reach_the_host,
    a_shared_mount_receives_what_the_host_mounts,
    the_rootfs_is_mounted_where_the_bundle_says,
    every_mount_of_the_default_document_is_there,
    a_program_may_serve_the_root_file_system,
];

fn with_mount<'a>(builder: Builder<'a>, mount: Value) -> Builder<'a> {
    builder.edit(|spec| {
        if let Some(all) = spec["mounts"].as_array_mut() {
            all.push(mount);
        }
    })
}

/// A folder on the host with a file `file` in it.
fn source(lab: &Lab, name: &str) -> Outcome<String> {
    let folder = lab.containerd().folder().join("source").join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("file"), "text\n")?;
    Ok(folder.to_string_lossy().into_owned())
}

fn a_read_only_root_cannot_be_written(lab: &Lab) -> Outcome {
    let script = "touch /file || echo refused; touch /run/file && echo written; \
                  mount -o remount,rw / || echo refused";
    let builder = lab
        .script(script)
        .edit(|spec| spec["root"]["readonly"] = true.into());
    assert_eq!(builder.run()?.success()?, "refused\nwritten\nrefused\n");
    Ok(())
}

fn masked_paths_are_empty_and_read_only_paths_cannot_be_written(lab: &Lab) -> Outcome {
    let script = "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; \
                  echo 1 >/proc/sys/kernel/domainname || echo refused; \
                  echo h >/proc/sysrq-trigger || echo refused; \
                  cat /proc/sys/kernel/ostype";
    let output = lab.script(script).run()?.success()?;
    assert_eq!(output, "0\n0\nrefused\nrefused\nLinux\n");
    Ok(())
}

fn options_of_mounts_are_applied(lab: &Lab) -> Outcome {
    let mount = json!({"destination": "/mnt", "type": "tmpfs", "source": "my-source",
                       "options": ["nosuid", "nodev", "noexec", "ro", "noatime", "size=64k",
                                   "mode=700"]});
    let script =
        "grep ' /mnt ' /proc/self/mounts; stat -c %a /mnt; touch /mnt/file || echo refused";
    let output = with_mount(lab.script(script), mount).run()?.success()?;
    let line = output.lines().next().unwrap_or_default();
    assert!(line.starts_with("my-source /mnt tmpfs "), "{output}");
    let options: Vec<_> = line
        .split(' ')
        .nth(3)
        .unwrap_or_default()
        .split(',')
        .collect();
    for wanted in [
        "ro", "nosuid", "nodev", "noexec", "noatime", "size=64k", "mode=700",
    ] {
        assert!(options.contains(&wanted), "no {wanted} in {line}");
    }
    // runc 1.1.5 gives a tmpfs the mode of the folder below.
    let mode = if lab.is_reference() && !lab.generation.at_least(1, 7) {
        "755"
    } else {
        "700"
    };
    assert!(output.ends_with(&format!("{mode}\nrefused\n")), "{output}");
    Ok(())
}

fn a_bind_mount_shows_the_source_and_may_be_read_only(lab: &Lab) -> Outcome {
    let source = source(lab, "bind")?;
    let script = "cat /mnt/file; touch /mnt/new || echo refused";
    for (option, wanted) in [("rw", "text\n"), ("ro", "text\nrefused\n")] {
        let mount = json!({"destination": "/mnt", "type": "bind", "source": source,
                           "options": ["rbind", option]});
        let finished = with_mount(lab.script(script), mount).run()?;
        assert_eq!(finished.stdout, wanted, "{option}");
    }
    assert!(fs::metadata(format!("{source}/new")).is_ok());
    Ok(())
}

fn a_file_can_be_bound(lab: &Lab) -> Outcome {
    let source = source(lab, "file")?;
    let mount = json!({"destination": "/etc/deep/name", "type": "bind",
                       "source": format!("{source}/file"), "options": ["bind", "ro"]});
    let script = "cat /etc/deep/name; echo x >/etc/deep/name || echo refused";
    let output = with_mount(lab.script(script), mount).run()?.success()?;
    assert_eq!(output, "text\nrefused\n");
    Ok(())
}

fn later_mounts_lie_over_earlier_ones(lab: &Lab) -> Outcome {
    let source = source(lab, "order")?;
    let tmpfs = json!({"destination": "/mnt", "type": "tmpfs", "source": "t", "options": []});
    let bind = json!({"destination": "/mnt/below", "type": "bind", "source": source,
                      "options": ["rbind"]});
    let builder = with_mount(with_mount(lab.script("ls /mnt /mnt/below"), tmpfs), bind);
    assert_eq!(
        builder.run()?.success()?,
        "/mnt:\nbelow\n\n/mnt/below:\nfile\n"
    );
    Ok(())
}

/// Mounts a tmpfs on the host until dropped.
struct HostMount(String);

impl HostMount {
    fn new(path: &str) -> Outcome<Self> {
        fs::create_dir_all(path)?;
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("t", path, "tmpfs", none, None::<&std::ffi::CStr>)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        // What stays mounted the lab's end unmounts.
        let _ = rustix::mount::unmount(self.0.as_str(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn a_recursive_bind_brings_the_mounts_below(lab: &Lab) -> Outcome {
    let source = source(lab, "recursive")?;
    let below = HostMount::new(&format!("{source}/below"))?;
    fs::write(format!("{}/inner", below.0), "inner\n")?;
    let script = "ls /mnt/below";
    for (option, wanted) in [("rbind", "inner\n"), ("bind", "")] {
        let mount = json!({"destination": "/mnt", "type": "bind", "source": source,
                           "options": [option, "rprivate"]});
        let output = with_mount(lab.script(script), mount).run()?.success()?;
        assert_eq!(output, wanted, "{option}");
    }
    Ok(())
}

fn a_mount_point_is_made_with_its_parents(lab: &Lab) -> Outcome {
    let mount = json!({"destination": "/a/b/c", "type": "tmpfs", "source": "t", "options": []});
    let output = with_mount(lab.script("touch /a/b/c/file && ls /a/b/c"), mount).run()?;
    assert_eq!(output.success()?, "file\n");
    Ok(())
}

/// The image has a link that points to a folder of the host: the mount must land in the container.
fn a_mount_point_behind_a_link_stays_in_the_container(lab: &Lab) -> Outcome {
    let outside = source(lab, "outside")?;
    let image = lab.containerd().folder().join("linked-rootfs");
    fs::create_dir_all(&image)?;
    let mut container = with_mount(
        lab.script(&format!(
            "ls -a {outside}; touch /link/inside; ls {outside}"
        )),
        json!({"destination": "/link", "type": "tmpfs", "source": "t", "options": []}),
    )
    .record()?;
    // One more overlay layer with the link.
    symlink(&outside, image.join("link"))?;
    let overlay = container.rootfs_mut().first_mut();
    if let Some(mount) = overlay {
        let extra = image.to_string_lossy();
        for option in &mut mount.options {
            if let Some(lower) = option.strip_prefix("lowerdir=") {
                *option = format!("lowerdir={extra}:{lower}");
            }
        }
    }
    container.create()?;
    container.start()?;
    let output = container.finish()?.success()?;
    assert!(output.ends_with("inside\n"), "{output}");
    let entries = fs::read_dir(&outside)?.count();
    assert_eq!(entries, 1, "the host's folder was touched");
    Ok(())
}

fn nothing_of_the_host_is_mounted_besides(lab: &Lab) -> Outcome {
    let output = lab
        .script("cut -d' ' -f 5 /proc/self/mountinfo | sort")
        .run()?
        .success()?;
    let allowed = ["/", "/proc", "/dev", "/sys", "/run"];
    for line in output.lines() {
        let first = line.split('/').nth(1).unwrap_or_default();
        assert!(
            allowed.contains(&format!("/{first}").as_str()),
            "{line} in {output}"
        );
    }
    Ok(())
}

fn mounts_of_a_container_do_not_reach_the_host(lab: &Lab) -> Outcome {
    let source = source(lab, "inside")?;
    let mount = json!({"destination": "/mnt", "type": "bind", "source": source,
                       "options": ["rbind", "rprivate"]});
    let script = "mkdir -p /mnt/below; mount -t tmpfs t /mnt/below && echo mounted; sleep 1000";
    let builder = with_mount(lab.script(script), mount).edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            if let Some(all) = spec["process"]["capabilities"][set].as_array_mut() {
                all.push("CAP_SYS_ADMIN".into());
            }
        }
    });
    let container = builder.start()?;
    container.streams.stdout()?.wait_for("mounted")?;
    assert!(host::mounts_below(source.as_ref()).is_empty());
    container.kill_and_finish()?;
    Ok(())
}

fn a_shared_mount_receives_what_the_host_mounts(lab: &Lab) -> Outcome {
    let source = source(lab, "shared")?;
    let outer = HostMount::new(&source)?;
    let shared = rustix::mount::MountPropagationFlags::SHARED;
    rustix::mount::mount_change(source.as_str(), shared)?;
    let mount = json!({"destination": "/mnt", "type": "bind", "source": source,
                       "options": ["rbind", "rslave"]});
    let builder = with_mount(lab.container(["sleep", "1000"]), mount).edit(|spec| {
        spec["linux"]["rootfsPropagation"] = "rslave".into();
    });
    let container = builder.start()?;
    let below = HostMount::new(&format!("{source}/below"))?;
    fs::write(format!("{}/late", below.0), "")?;
    assert_eq!(container.shell("e", "ls /mnt/below")?, "late\n");
    drop(below);
    drop(outer);
    container.kill_and_finish()?;
    Ok(())
}

fn the_rootfs_is_mounted_where_the_bundle_says(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let rootfs = lab.containerd().bundle(container.id()).join("rootfs");
    assert_eq!(host::mounts_below(&rootfs), std::slice::from_ref(&rootfs));
    container.shell("e", "touch /mark")?;
    assert!(rootfs.join("mark").exists());
    container.kill_and_finish()?;
    Ok(())
}

fn every_mount_of_the_default_document_is_there(lab: &Lab) -> Outcome {
    let output = lab.script("cat /proc/self/mountinfo").run()?.success()?;
    let wanted = [
        ("/proc", "proc", "rw,nosuid,nodev,noexec"),
        ("/dev", "tmpfs", "rw,nosuid"),
        ("/dev/pts", "devpts", "rw,nosuid,noexec"),
        ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec"),
        ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec"),
        ("/run", "tmpfs", "rw,nosuid"),
    ];
    for (point, kind, options) in wanted {
        let found = output.lines().any(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            fields[4] == point
                && fields[5].starts_with(options)
                && line.contains(&format!(" - {kind} "))
        });
        assert!(found, "no {point} {kind} {options} in {output}");
    }
    Ok(())
}

/// What a program needs to serve a file system, if the machine has it.
fn needs_fuse() -> Outcome {
    if fs::File::open("/dev/fuse").is_err() {
        // The kernel's business: nothing that scripts/setup could install.
        let reason = "this machine has no /dev/fuse";
        return Err(Failure::Exempt(reason.to_owned()));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    for program in ["mount.fuse3", "fuse-overlayfs"] {
        let mut folders = std::env::split_paths(&path);
        if !folders.any(|folder| folder.join(program).is_file()) {
            return Err(Failure::Lacking(format!("this machine has no {program}")));
        }
    }
    Ok(())
}

/// The layers that the kernel would put together, put together by fuse-overlayfs.
fn a_program_may_serve_the_root_file_system(lab: &Lab) -> Outcome {
    needs_fuse()?;
    let script = "grep ' / / ' /proc/self/mountinfo; echo new >/new; cat /new; sleep 1000";
    let mut container = lab.script(script).record()?;
    for mount in container.rootfs_mut() {
        assert_eq!(mount.r#type, "overlay");
        mount.r#type = "fuse3.fuse-overlayfs".to_owned();
        // The kernel's own.
        mount.options.retain(|option| option.contains("dir="));
    }
    container.create()?;
    container.start()?;
    container.streams.stdout()?.wait_for("new\n")?;
    let rootfs = lab.containerd().bundle(container.id()).join("rootfs");
    let servers = || {
        let mut all = host::processes_with(&rootfs.to_string_lossy());
        all.retain(|process| process.command.contains("fuse-overlayfs"));
        all
    };
    assert_eq!(servers().len(), 1);
    assert_eq!(fs::read_to_string(rootfs.join("new"))?, "new\n");
    assert_eq!(container.shell("e", "cat /new")?, "new\n");
    let output = container.kill_and_finish()?.stdout;
    assert!(output.contains(" - fuse.fuse-overlayfs "), "{output}");
    wait_until(SOON, "the end of the program", || {
        servers().is_empty().then_some(())
    })
}
