// SPDX-License-Identifier: Apache-2.0
//! `events` and `logs`: what comes.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use integration::mock::{Spec, StdioKind};
use serde_json::Value;

use super::scene::{Scene, command, until};

#[test]
fn events_are_told_in_order_and_can_be_filtered() {
    let scene = Scene::idle("eventful");
    let (status, _) = scene
        .container
        .output_of("e1", &["sh", "-c", "exit 3"])
        .unwrap();
    assert_eq!(status, 3);
    let lines = scene.shimctl(&["events", "--json"]).lines();
    let kinds: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["kind"].as_str())
        .collect();
    assert_eq!(
        kinds,
        ["create", "start", "exec-added", "exec-started", "exit"]
    );
    let exits = scene
        .shimctl(&["events", "-k", "exit,oom", "-C", "event"])
        .ok();
    assert_eq!(exits.lines().count(), 1, "{exits}");
    assert!(
        exits.contains("eventful/e1") && exits.contains("status=3"),
        "{exits}"
    );
    let none = scene.shimctl(&["events", "-C", "nobody"]);
    assert_eq!((none.out.as_str(), none.status), ("", 0));
    let later = scene.shimctl(&["events", "--since", "0.000001s"]);
    assert_eq!((later.out.as_str(), later.status), ("", 0));
}

#[test]
fn followed_events_come_at_once_also_of_a_shim_that_came_later() {
    let scene = Scene::idle("first");
    let mut child = command(scene.world.namespace(), &["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["kind"], "create");
    assert_eq!(next()["kind"], "start");
    scene.container.kill(9).unwrap();
    scene.container.wait().unwrap();
    let exit = next();
    assert_eq!(
        (&exit["kind"], &exit["exit_status"]),
        (&"exit".into(), &137.into())
    );

    let bundle = scene.world.bundle("later", &Spec::idle()).unwrap();
    let shim = scene.world.start(&bundle).unwrap();
    shim.create(&bundle, StdioKind::Null).unwrap();
    let created = next();
    assert_eq!(created["container"], "later");
    assert_eq!(created["kind"], "create");
    child.kill().unwrap();
    // The mock's world may have reaped it.
    let _ = child.wait();
}

#[test]
fn logs_of_all_shims_are_one_stream_in_the_order_of_time() {
    let scene = Scene::idle("one");
    let nothing = scene.shimctl(&["logs"]);
    assert_eq!((nothing.out.as_str(), nothing.status), ("", 0));
    assert!(nothing.err.contains("log-level ID debug"), "{nothing:?}");

    let bundle = scene
        .world
        .bundle("two", &Spec::new(&["/nowhere"]))
        .unwrap();
    let second = scene.world.start(&bundle).unwrap();
    assert!(second.create(&bundle, StdioKind::Null).is_err());
    let text = scene.shimctl(&["logs", "--level", "error"]).ok();
    assert!(
        text.contains("ERROR") && text.contains("/nowhere"),
        "{text}"
    );
    scene.shimctl(&["log-level", "one", "debug"]).ok();
    scene.container.status().unwrap();
    until("both are there, in order", || {
        let lines = scene.shimctl(&["logs", "--json"]).lines();
        let times: Vec<&str> = lines
            .iter()
            .filter_map(|line| line["time"].as_str())
            .collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
        let of = |shim: &str| lines.iter().any(|line| line["shim"] == shim);
        of("one") && of("two")
    });
    let only = scene.shimctl(&["logs", "--json", "-C", "two"]).lines();
    assert!(!only.is_empty() && only.iter().all(|line| line["container"] == "two"));
}
