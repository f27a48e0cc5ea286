// SPDX-License-Identifier: Apache-2.0
//! Nodes and links of `/dev`.

use super::*;

fn devices() -> Value {
    json!({"devices": [
        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o20660, "uid": 7, "gid": 8},
        {"path": "/dev/loop77", "type": "b", "major": 7, "minor": 77},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/elsewhere/zero", "type": "u", "major": 1, "minor": 5},
        {"path": "/top", "type": "c", "major": 1, "minor": 5},
    ]})
}

#[test]
fn nodes_have_their_type_numbers_mode_and_owner() {
    let bundle = Bundle::new();
    let plan = bundle.plan(json!([proc(), tmpfs("/dev", &["mode=755"])]), devices());
    isolated(|| {
        enter(&plan).unwrap();
        let tun = fs::metadata("/dev/net/tun").unwrap();
        assert_eq!(tun.rdev(), rustix::fs::makedev(10, 200));
        assert_eq!((tun.mode() & 0o7777, tun.uid(), tun.gid()), (0o660, 7, 8));
        let block = fs::metadata("/dev/loop77").unwrap();
        assert!(block.file_type().is_block_device());
        assert_eq!(block.mode() & 0o7777, 0o666);
        let pipe = fs::metadata("/dev/pipe").unwrap();
        assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o7777 == 0o600);
        for path in ["/elsewhere/zero", "/top"] {
            assert_eq!(
                fs::metadata(path).unwrap().rdev(),
                rustix::fs::makedev(1, 5)
            );
        }
    });
}

#[test]
fn nodes_of_the_image_stay_and_wrong_ones_are_covered() {
    for missing in KERNELS {
        let bundle = Bundle::new();
        fs::create_dir(bundle.image("dev")).unwrap();
        fs::write(bundle.image("dev/null"), "not a device").unwrap();
        fs::write(bundle.image("dev/ptmx"), "not a link").unwrap();
        symlink("/etc", bundle.image("dev/fd")).unwrap();
        let plan = bundle.plan(json!([proc()]), json!({"maskedPaths": ["/etc/passwd"]}));
        for _ in 0..2 {
            isolated(|| {
                enter_with(&plan, MountApi::without(missing)).unwrap();
                for name in ["null", "zero"] {
                    let metadata = fs::symlink_metadata(format!("/dev/{name}")).unwrap();
                    assert!(metadata.file_type().is_char_device());
                }
                assert_eq!(fs::read_link("/dev/ptmx").unwrap(), Path::new("pts/ptmx"));
                assert_eq!(fs::read("/etc/passwd").unwrap(), b"");
            });
        }
        assert_eq!(
            fs::read_to_string(bundle.image("dev/null")).unwrap(),
            "not a device"
        );
    }
}

#[test]
fn a_bound_dev_is_left_as_it_is() {
    let bundle = Bundle::new();
    fs::create_dir(bundle.host("dev")).unwrap();
    let mounts = json!([proc(), bind("/dev", &bundle.host("dev"), &["rbind", "ro"])]);
    let plan = bundle.plan(mounts, devices());
    isolated(|| {
        enter(&plan).unwrap();
        assert_eq!(fs::read_dir("/dev").unwrap().count(), 0);
        assert!(options("/dev").starts_with("ro,"));
        assert!(!Path::new("/top").exists());
    });
}
