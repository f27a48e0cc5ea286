// SPDX-License-Identifier: Apache-2.0
//! Real devices between two namespaces of the test's own: these tests need root.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::*;

/// Runs `ip` in the calling thread's namespace; its output.
fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn in_a_new_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::namespace::unshare(UnshareFlags::NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn device(name: &str, new_name: &str) -> Device {
    Device {
        name: name.into(),
        new_name: new_name.into(),
    }
}

/// Calls `work` in one namespace with a descriptor of another, then `check` in the other with the
/// result.
fn between<T: Send>(work: impl FnOnce(&OwnedFd) -> T + Send, check: impl FnOnce(T) + Send) {
    let (to_host, namespace) = mpsc::channel();
    let (to_container, moved) = mpsc::channel();
    let (checked, end) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            in_a_new_namespace(move || {
                let path = "/proc/thread-self/ns/net";
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                to_host
                    .send(rustix::fs::open(path, flags, Mode::empty()).unwrap())
                    .unwrap();
                check(moved.recv().unwrap());
            });
            drop(checked);
        });
        let namespace = namespace.recv().unwrap();
        in_a_new_namespace(move || {
            to_container.send(work(&namespace)).unwrap();
            // The peer lives here, and its end would be the device's. Nothing is ever sent.
            assert_eq!(end.recv(), Err::<(), _>(mpsc::RecvError));
        });
    });
}

#[test]
fn a_device_arrives_with_its_new_name_and_its_addresses_and_is_up() {
    between(
        |namespace| {
            ip("link add d0 type veth peer name d1");
            ip("addr add 10.1.2.3/24 brd + dev d0");
            ip("addr add 10.9.9.1 peer 10.9.9.2/32 dev d0");
            ip("addr add 169.254.7.7/16 scope link dev d0");
            ip("link set d0 up");
            ip("addr add fd00::5/64 dev d0 nodad");
            let to = Destination::Namespace(namespace.as_fd());
            let moved = move_to(&device("d0", "eth7"), to).unwrap();
            assert!(!ip("-o link").contains("d0@"));
            moved
        },
        |moved| {
            moved.configure().unwrap();
            let link = ip("-o link show eth7");
            assert!(link.contains(",UP"), "{link}");
            let addresses = ip("-o addr show eth7");
            for wanted in [
                "inet 10.1.2.3/24 brd 10.1.2.255 scope global",
                "inet 10.9.9.1 peer 10.9.9.2/32",
                "inet6 fd00::5/64 scope global",
            ] {
                assert!(addresses.contains(wanted), "{wanted}: {addresses}");
            }
            assert!(!addresses.contains("169.254.7.7"), "{addresses}");
        },
    );
}

#[test]
fn what_cannot_be_moved_is_named() {
    between(
        |namespace| {
            ip("link add d0 type veth peer name d1");
            let to = Destination::Namespace(namespace.as_fd());
            let missing = move_to(&device("nope", "x"), to).unwrap_err().to_string();
            assert_eq!(
                missing,
                "error moving network device nope into the network namespace: netlink(find link \
                 nope): no such device"
            );
            // There is one of this name already.
            let taken = move_to(&device("d0", "lo"), to).unwrap_err().to_string();
            assert!(
                taken.contains("netlink(move link d0 as lo): file exists"),
                "{taken}"
            );
        },
        |()| (),
    );
}

#[test]
fn names_are_the_kernels() {
    for (name, is_valid) in [
        ("eth0", true),
        ("a23456789012345", true),
        ("a234567890123456", false),
        ("", false),
        (".", false),
        ("..", false),
        ("a/b", false),
        ("a b", false),
        ("a:b", false),
    ] {
        assert_eq!(valid(name), is_valid, "{name:?}");
    }
}
