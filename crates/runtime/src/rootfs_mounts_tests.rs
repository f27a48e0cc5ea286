// SPDX-License-Identifier: Apache-2.0
//! These tests need root; each works in a mount namespace of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use sys::mount::Feature;

use super::overlay::{common_directory, escape_layer, split_layers};
use super::*;
use crate::rootfs::tests::isolated;

fn request(fstype: &str, source: &str, options: &[&str]) -> RootfsMount {
    RootfsMount {
        fstype: fstype.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

/// The mount table's lines for what is on or below a path.
fn table(path: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let below = |line: &&str| {
        MountInfo::parse(line).is_some_and(|info| info.is_below(path.to_str().unwrap()))
    };
    text.lines().filter(below).map(str::to_owned).collect()
}

/// Is a line of the mount table that of a read-only mount?
fn is_read_only(line: &str) -> bool {
    let options = line.split(' ').nth(5).unwrap_or_default();
    options.split(',').next() == Some("ro")
}

#[test]
fn a_read_only_bind_mount_is_read_only_and_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let (source, rootfs) = (
        directory.path().join("source"),
        directory.path().join("rootfs"),
    );
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    isolated(|| {
        let mounts = [request(
            "bind",
            source.to_str().unwrap(),
            &["rbind", "ro", "rprivate"],
        )];
        mount(&mounts, &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("file")).unwrap(), "x");
        assert!(fs::write(rootfs.join("file"), "y").is_err());
        assert!(is_read_only(&table(&rootfs)[0]));
        unmount(&rootfs).unwrap();
        assert!(table(&rootfs).is_empty());
        unmount(&rootfs).unwrap();
        unmount(&directory.path().join("absent")).unwrap();
        mount(&[], &directory.path().join("absent")).unwrap();
        assert!(!directory.path().join("absent").exists());
    });
}

fn layers(directory: &Path, count: usize, padding: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|index| {
            let layer = directory
                .join(format!("{index}{}", "x".repeat(padding)))
                .join("fs");
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("layer{index}")), "").unwrap();
            layer
        })
        .collect()
}

fn overlay(directory: &Path, layers: &[PathBuf]) -> RootfsMount {
    for name in ["upper", "work"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    let lower: Vec<&str> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let options = [
        format!("workdir={}", directory.join("work").display()),
        format!("upperdir={}", directory.join("upper").display()),
        format!("lowerdir={}", lower.join(":")),
    ];
    request(
        "overlay",
        "overlay",
        &options.each_ref().map(String::as_str),
    )
}

/// Overlays need a file system that can be their upper layer: not every `/tmp` is one.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn overlays_are_mounted_however_long_their_list_of_layers_is() {
    let kernels: [&[Feature]; 3] = [
        &[],
        &[Feature::AppendLowerdir],
        &[Feature::Detached, Feature::SetAttr],
    ];
    for (count, padding) in [(2, 0), (100, 30), (200, 0)] {
        for missing in kernels {
            let directory = scratch();
            let rootfs = directory.path().join("rootfs");
            let layers = layers(directory.path(), count, padding);
            let request = overlay(directory.path(), &layers);
            isolated(|| {
                let here = std::env::current_dir().unwrap();
                mount_with(&[request], &rootfs, &MountApi::without(missing)).unwrap();
                assert_eq!(fs::read_dir(&rootfs).unwrap().count(), count);
                fs::write(rootfs.join("new"), "x").unwrap();
                assert!(directory.path().join("upper/new").exists());
                assert_eq!(std::env::current_dir().unwrap(), here);
                let line = &table(&rootfs)[0];
                assert!(line.contains(" - overlay overlay rw,"), "{line}");
                unmount(&rootfs).unwrap();
            });
        }
    }
}

#[test]
fn what_does_not_fit_in_a_page_even_so_is_an_error() {
    let directory = scratch();
    let rootfs = directory.path().join("rootfs");
    let layers = layers(directory.path(), 100, 60);
    let request = overlay(directory.path(), &layers);
    isolated(|| {
        let api = MountApi::without(&[Feature::AppendLowerdir]);
        let error = mount_with(&[request], &rootfs, &api).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::TOOBIG), "{error}");
        assert!(table(&rootfs).is_empty());
    });
}

#[test]
fn options_that_we_do_not_have_are_refused_by_name_before_anything_is_mounted() {
    let directory = tempfile::tempdir().unwrap();
    let rootfs = directory.path().join("rootfs");
    for option in [
        "direct-io",
        "X-containerd.mkfs",
        "uidmap=0:1",
        "uidmap=0:1:0",
        "gidmap=0:1:1:1",
        "gidmap=",
        "idmap",
        "rro",
    ] {
        let mounts = [
            request("tmpfs", "tmpfs", &[]),
            request("ext4", "/img", &["ro", option]),
        ];
        let error = mount(&mounts, &rootfs).unwrap_err().to_string();
        assert!(error.contains(&format!("{option:?}")), "{error}");
        assert!(!rootfs.exists());
    }
}

/// The table says where a mount is; until it is unmounted somebody may have put a link there.
#[test]
fn a_link_on_the_way_to_a_mount_does_not_lead_to_another_one() {
    let directory = tempfile::tempdir().unwrap();
    let (rootfs, host) = (
        directory.path().join("rootfs"),
        directory.path().join("host"),
    );
    for path in [rootfs.join("a"), host.join("mnt")] {
        fs::create_dir_all(path).unwrap();
    }
    symlink(&host, rootfs.join("link")).unwrap();
    symlink(host.join("mnt"), rootfs.join("a/last")).unwrap();
    isolated(|| {
        let victim = host.join("mnt");
        sys::mount::mount(Some("x"), &victim, Some("tmpfs"), 0, None).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&rootfs, flags, Mode::empty()).unwrap();
        for way in ["link/mnt", "a/last", "../host/mnt", "a/../link/mnt"] {
            assert!(
                unmount_in(&root, way, UnmountFlags::DETACH).is_err(),
                "{way}"
            );
            assert_eq!(table(&victim).len(), 1, "{way}");
        }
        let mine = rootfs.join("a/own");
        fs::create_dir(&mine).unwrap();
        sys::mount::mount(Some("x"), &mine, Some("tmpfs"), 0, None).unwrap();
        unmount(&rootfs).unwrap();
        assert!(table(&rootfs).is_empty());
        assert_eq!(table(&victim).len(), 1);
    });
}

/// As containerd has it: the source, where, each option by itself, the type without its prefix.
#[test]
fn a_file_system_that_a_program_serves_is_mounted_by_its_helper() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let (rootfs, helper) = (
        directory.path().join("rootfs"),
        directory.path().join("helper"),
    );
    let notes = directory.path().join("notes");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >{}\nmount -t tmpfs \"$1\" \"$2\" || exit 1\n\
         sleep 100 & exit 0\n",
        notes.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fuse::Fuse::of("fuse"), None);
    assert_eq!(fuse::Fuse::of("overlay"), None);
    isolated(|| {
        fs::create_dir(&rootfs).unwrap();
        let options = ["lowerdir=/a:/b", "ro", "idmap"];
        let wanted = request("fuse3.fuse-overlayfs", "overlay", &options);
        let fuse = fuse::Fuse::of(&wanted.fstype).unwrap();
        let program = helper.to_str().unwrap();
        let place = Place::open(&rootfs, "").unwrap();
        fuse.mount_by(program, &wanted, &place).unwrap();
        let said = fs::read_to_string(&notes).unwrap();
        let target = rootfs.display();
        assert_eq!(
            said,
            format!("overlay {target} -o lowerdir=/a:/b -o ro -o idmap -t fuse-overlayfs\n")
        );
        // Below the root, through what a link of the image leads to.
        fs::create_dir(rootfs.join("real")).unwrap();
        symlink("/real", rootfs.join("link")).unwrap();
        let place = Place::open(&rootfs, "link").unwrap();
        fuse.mount_by(program, &wanted, &place).unwrap();
        drop(place);
        assert!(
            table(&rootfs)[1].contains("/rootfs/real "),
            "{:?}",
            table(&rootfs)
        );
        unmount(&rootfs).unwrap();
        assert!(table(&rootfs).is_empty());
        let place = Place::open(&rootfs, "").unwrap();
        let error = fuse.mount_by("/nope", &wanted, &place).unwrap_err();
        assert!(
            error.to_string().starts_with("mount helper /nope on"),
            "{error}"
        );
        let error = mount(&[request("fuse.x", "x", &["X-containerd.a"])], &rootfs).unwrap_err();
        assert!(error.to_string().contains("X-containerd.a"), "{error}");
    });
}

#[test]
fn a_failure_undoes_what_was_mounted() {
    let directory = tempfile::tempdir().unwrap();
    let rootfs = directory.path().join("rootfs");
    let missing = directory.path().join("missing");
    isolated(|| {
        let mounts = [
            request("tmpfs", "tmpfs", &["size=1m"]),
            request("bind", missing.to_str().unwrap(), &["bind"]),
        ];
        let error = mount(&mounts, &rootfs).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT));
        assert!(
            error.to_string().contains(missing.to_str().unwrap()),
            "{error}"
        );
        assert!(table(&rootfs).is_empty());
    });
}

#[test]
fn a_target_stays_below_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let (rootfs, outside) = (
        directory.path().join("rootfs"),
        directory.path().join("outside"),
    );
    fs::create_dir_all(rootfs.join("inside")).unwrap();
    fs::create_dir(rootfs.join("outside")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink("../../../outside", rootfs.join("link")).unwrap();
    isolated(|| {
        let mut inside = request("tmpfs", "tmpfs", &["ro", "rslave"]);
        inside.target = "/inside".into();
        let mut link = request("bind", rootfs.to_str().unwrap(), &["bind", "ro"]);
        link.target = "link".into();
        mount(&[inside, link], &rootfs).unwrap();
        assert!(table(&outside).is_empty());
        assert!(is_read_only(&table(&rootfs.join("inside"))[0]));
        assert!(is_read_only(&table(&rootfs.join("outside"))[0]));
        // The root itself is no mount: what is below is found all the same.
        unmount(&rootfs).unwrap();
        assert!(table(&rootfs).is_empty());
    });
}

#[test]
fn everything_below_and_everything_stacked_is_unmounted() {
    let directory = tempfile::tempdir().unwrap();
    let rootfs = directory.path().join("a b");
    isolated(|| {
        for _ in 0..3 {
            mount(&[request("tmpfs", "tmpfs", &[])], &rootfs).unwrap();
        }
        for path in ["x", "x/y", "x/y/z", "w"] {
            let path = rootfs.join(path);
            fs::create_dir_all(&path).unwrap();
            sys::mount::mount(Some("t"), &path, Some("tmpfs"), 0, None).unwrap();
        }
        let begin = Instant::now();
        unmount(&rootfs).unwrap();
        assert!(table(&rootfs).is_empty());
        assert!(begin.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn a_busy_mount_is_waited_for_and_at_last_detached() {
    let directory = tempfile::tempdir().unwrap();
    let rootfs = directory.path().join("rootfs");
    isolated(|| {
        mount(&[request("tmpfs", "tmpfs", &[])], &rootfs).unwrap();
        let user = fs::File::create(rootfs.join("file")).unwrap();
        let error = unmount_within(&rootfs, WhenBusy::Fail, 2).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::BUSY));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(80));
                drop(user);
            });
            unmount(&rootfs).unwrap();
        });
        assert!(table(&rootfs).is_empty());
        // The same for one that is below what is no mount.
        let below = rootfs.join("below");
        fs::create_dir(&below).unwrap();
        sys::mount::mount(Some("t"), &below, Some("tmpfs"), 0, None).unwrap();
        let user = fs::File::create(below.join("file")).unwrap();
        let error = unmount_within(&rootfs, WhenBusy::Fail, 2).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::BUSY));
        unmount_within(&rootfs, WhenBusy::Detach, 2).unwrap();
        assert!(table(&rootfs).is_empty());
        drop(user);
        mount(&[request("tmpfs", "tmpfs", &[])], &rootfs).unwrap();
        let _user = fs::File::create(rootfs.join("file")).unwrap();
        unmount_within(&rootfs, WhenBusy::Detach, 2).unwrap();
        assert!(table(&rootfs).is_empty());
    });
}

#[test]
fn a_symlink_instead_of_the_root_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (rootfs, other) = (
        directory.path().join("rootfs"),
        directory.path().join("other"),
    );
    symlink(&other, &rootfs).unwrap();
    isolated(|| {
        mount(&[request("tmpfs", "tmpfs", &[])], &other).unwrap();
        fs::create_dir(other.join("x")).unwrap();
        sys::mount::mount(Some("t"), other.join("x"), Some("tmpfs"), 0, None).unwrap();
        unmount(&rootfs).unwrap();
        assert_eq!(table(&other).len(), 2);
    });
}

#[test]
fn layers_are_split_and_escaped_as_overlay_reads_them() {
    assert_eq!(split_layers(r"/a\:b:/c\\d"), ["/a:b", r"/c\d"]);
    assert_eq!(escape_layer(r"a:b\,"), r"a\:b\\\,");
    let paths = [
        "/s/1/fs".to_owned(),
        "/s/12/fs".to_owned(),
        "/s/13".to_owned(),
    ];
    assert_eq!(common_directory(&paths), "/s/");
    assert_eq!(common_directory(&paths[..1]), "/s/1/");
    assert_eq!(common_directory(&["/".to_owned(), "/a".to_owned()]), "");
}

/// The owner of a file as `rootfs` shows it.
fn owner(path: &Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

const MAPS: [&str; 2] = ["uidmap=0:100000:1000,5000:7:1", "gidmap=0:200000:1000"];

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

#[test]
fn the_lower_layers_of_an_overlay_are_mapped_and_the_upper_is_not() {
    let kernels: [&[Feature]; 2] = [&[], &[Feature::DetachedLowerdir]];
    for missing in kernels {
        for count in [1, 3, 60] {
            let directory = scratch();
            let rootfs = directory.path().join("rootfs");
            let layers = layers(directory.path(), count, 20);
            let odd = layers[0].join("odd");
            fs::write(&odd, "").unwrap();
            std::os::unix::fs::chown(&odd, Some(5000), Some(999)).unwrap();
            let mut request = overlay(directory.path(), &layers);
            request.options.extend(MAPS.map(str::to_owned));
            isolated(|| {
                let before = table(Path::new("/")).len();
                mount_with(&[request], &rootfs, &MountApi::without(missing)).unwrap();
                assert_eq!(table(Path::new("/")).len(), before + 1);
                assert_eq!(fs::read_dir(&rootfs).unwrap().count(), count + 1);
                assert_eq!(owner(&rootfs.join("layer0")), (100_000, 200_000));
                assert_eq!(owner(&rootfs.join("odd")), (7, 200_999));
                fs::write(rootfs.join("new"), "x").unwrap();
                assert_eq!(owner(&rootfs.join("new")), (0, 0));
                assert!(directory.path().join("upper/new").exists());
                // Copied up as whom it seemed to be.
                fs::write(rootfs.join("layer0"), "x").unwrap();
                assert_eq!(
                    owner(&directory.path().join("upper/layer0")),
                    (100_000, 200_000)
                );
                let line = &table(&rootfs)[0];
                assert!(line.contains(" - overlay overlay rw,"), "{line}");
                // In the fallback layers have short names.
                let by_name = line.contains("lowerdir=0") || line.contains("lowerdir+=0");
                assert_eq!(
                    by_name,
                    !missing.is_empty() || !kernel_is_at_least(6, 15),
                    "{line}"
                );
                unmount(&rootfs).unwrap();
                assert!(table(&rootfs).is_empty());
            });
            // What helped is gone: the folder is as it was.
            assert_eq!(fs::read_dir(&rootfs).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_bind_mount_and_a_file_system_are_mapped_with_all_their_flags() {
    let directory = tempfile::tempdir().unwrap();
    let (source, rootfs) = (
        directory.path().join("source"),
        directory.path().join("rootfs"),
    );
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    isolated(|| {
        let [uids, gids] = MAPS;
        let options = ["rbind", "ro", "nosuid", "rslave", uids, gids];
        mount(
            &[request("bind", source.to_str().unwrap(), &options)],
            &rootfs,
        )
        .unwrap();
        assert_eq!(owner(&rootfs.join("file")), (100_000, 200_000));
        assert!(
            table(&rootfs)[0].contains(" ro,nosuid,"),
            "{:?}",
            table(&rootfs)
        );
        unmount(&rootfs).unwrap();

        mount(
            &[request(
                "tmpfs",
                "t",
                &["noexec", "mode=711", "size=64k", uids, gids],
            )],
            &rootfs,
        )
        .unwrap();
        assert_eq!(owner(&rootfs), (100_000, 200_000));
        let line = &table(&rootfs)[0];
        assert!(
            line.contains(",noexec,") && line.contains("size=64k,mode=711"),
            "{line}"
        );
        unmount(&rootfs).unwrap();
    });
}

#[test]
fn one_half_of_a_mapping_is_refused() {
    for option in MAPS {
        let mounts = [request("bind", "/", &["bind", option])];
        let error = mount(&mounts, Path::new("/nope")).unwrap_err().to_string();
        assert!(error.contains("as well"), "{error}");
    }
}

/// An ext4 file system in a file, if there is a program that makes one.
fn image(directory: &Path) -> Option<PathBuf> {
    let path = directory.join("image");
    fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let made = std::process::Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&path)
        .output();
    made.is_ok_and(|output| output.status.success())
        .then_some(path)
}

#[test]
fn a_file_is_mounted_by_a_loop_device_that_goes_with_the_mount() {
    let directory = tempfile::tempdir().unwrap();
    let rootfs = directory.path().join("rootfs");
    let Some(image) = image(directory.path()) else {
        // Said loudly: the harness has no word for it.
        println!("SKIPPED: there is no mkfs.ext4");
        return;
    };
    let backing = |line: &str| {
        let device = line
            .split(' ')
            .rev()
            .nth(1)
            .unwrap()
            .trim_start_matches("/dev/")
            .to_owned();
        fs::read_to_string(format!("/sys/block/{device}/loop/backing_file"))
    };
    let path = image.to_str().unwrap();
    isolated(|| {
        for options in [
            &["loop"][..],
            &["loop", "ro", "direct-io"],
            &["loop", "ro", MAPS[0], MAPS[1]],
        ] {
            mount(&[request("ext4", path, options)], &rootfs).unwrap();
            let line = table(&rootfs).remove(0);
            assert_eq!(backing(&line).unwrap(), format!("{path}\n"));
            assert_eq!(is_read_only(&line), options.contains(&"ro"), "{line}");
            let expected = if options.len() == 4 {
                (100_000, 200_000)
            } else {
                (0, 0)
            };
            assert_eq!(owner(&rootfs.join("lost+found")), expected);
            unmount(&rootfs).unwrap();
            // Freed by its last user, which may be another mount namespace's copy for a moment.
            let begin = Instant::now();
            while backing(&line).is_ok_and(|file| file == format!("{path}\n")) {
                assert!(begin.elapsed() < Duration::from_secs(5), "{line} is left");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let error = mount(&[request("ext4", "/nope", &["loop"])], &rootfs).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
    });
}
