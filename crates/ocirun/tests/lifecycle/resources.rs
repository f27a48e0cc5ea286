// SPDX-License-Identifier: Apache-2.0
//! Pausing, statistics, limits.

use super::*;

#[test]
fn a_paused_container_stands_still_until_it_is_resumed_or_killed() {
    let Some(lab) = Lab::new() else { return };
    let script = "while :; do echo x; sleep 0.01; done";
    let running = lab.start("c", &lab.bundle("b", ["sh", "-c", script]));
    let length = || running.output().len();
    wait_until("output", || length() > 0);
    assert!(lab.ocirun(["pause", "c"]).success());
    assert_eq!(lab.state("c")["status"], "paused");
    let then = length();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(length(), then);
    for (args, text) in [
        (&["pause", "c"][..], "container not running"),
        (
            &["start", "c"],
            "cannot start a container in the paused state",
        ),
        (&["exec", "c", "true"], "cannot exec in a paused container"),
        (&["delete", "c"], "that is not stopped: paused"),
    ] {
        let finished = lab.ocirun(args);
        assert!(finished.stderr.contains(text), "{args:?}: {finished:?}");
    }
    assert!(lab.ocirun(["resume", "c"]).success());
    wait_until("more output", || length() > then);
    assert!(
        lab.ocirun(["resume", "c"])
            .stderr
            .contains("container not paused")
    );
    assert!(lab.ocirun(["pause", "c"]).success());
    assert!(lab.ocirun(["kill", "c", "KILL"]).success());
    wait_until("its end", || lab.state("c")["status"] == "stopped");
}

#[test]
fn statistics_and_the_kernels_kills_are_events() {
    let Some(lab) = Lab::new() else { return };
    // Grows until it is killed; init lives on.
    let script = "echo ready; read x; (a=x; while :; do a=$a$a; done); sleep 1000";
    let bundle = lab.bundle("b", ["sh", "-c", script]);
    bundle.edit(|spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    });
    let input = lab.path("input");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &input,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let mut writer = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&input)
        .unwrap();
    let output = fs::File::create(lab.path("c.out")).unwrap();
    let status = lab
        .command(["run", "-d", "-b", bundle.name(), "c"])
        .stdin(fs::File::open(&input).unwrap())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap();
    assert!(status.success(), "{}", lab.output("c"));
    let stats = lab.ocirun(["events", "--stats", "c"]).stdout;
    assert!(
        stats.starts_with("{\"type\":\"stats\",\"id\":\"c\",\"data\":{"),
        "{stats}"
    );
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert!(
        stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0,
        "{stats}"
    );
    assert!(
        stats["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0,
        "{stats}"
    );
    assert!(
        stats["data"]["pids"]["current"].as_u64().unwrap() > 0,
        "{stats}"
    );

    let events = lab.path("events");
    let follower = lab
        .command(["events", "--interval", "50ms", "c"])
        .stdout(fs::File::create(&events).unwrap())
        .spawn()
        .unwrap();
    let mut follower = Killed(follower);
    let text = || fs::read_to_string(&events).unwrap();
    wait_until("statistics", || text().contains("\"stats\""));
    writer.write_all(b"go\n").unwrap();
    wait_until("the kill", || {
        text().contains("{\"type\":\"oom\",\"id\":\"c\"}\n")
    });
    assert!(lab.ocirun(["delete", "--force", "c"]).success());
    assert!(
        follower.0.wait().unwrap().success(),
        "it ends with the container"
    );
    let wrong = lab.ocirun(["events", "--interval", "0s", "c"]);
    assert!(wrong.stderr.contains("greater than 0"), "{wrong:?}");
}

#[test]
fn limits_are_changed_by_flags_and_by_a_document() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("b", ["sleep", "1000"]);
    bundle.edit(|spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        spec["linux"]["resources"]["pids"] = json!({"limit": 100});
    });
    let _running = lab.start("c", &bundle);
    let limits = || {
        let stats = lab.ocirun(["events", "--stats", "c"]).stdout;
        let stats: Value = serde_json::from_str(&stats).unwrap();
        let data = &stats["data"];
        (
            data["memory"]["usage"]["limit"].clone(),
            data["pids"]["limit"].clone(),
        )
    };
    assert_eq!(limits(), (json!(64 << 20), json!(100)));
    let updated = lab.ocirun(["update", "c", "--memory", "48m", "--pids-limit=50"]);
    assert!(updated.success(), "{updated:?}");
    assert_eq!(limits(), (json!(48 << 20), json!(50)));
    let file = lab.path("resources.json");
    fs::write(&file, json!({"pids": {"limit": 60}}).to_string()).unwrap();
    let command = lab
        .command(["update", "--resources", "-", "c"])
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert!(command.status.success(), "{command:?}");
    assert_eq!(limits(), (json!(48 << 20), json!(60)));
    let wrong = lab.ocirun(["update", "--memory", "much", "c"]);
    assert!(
        wrong.stderr.contains("invalid value for memory"),
        "{wrong:?}"
    );
}

/// The kernel's rule, which must not depend on when the limits are set: an exec would be refused as well.
#[test]
fn a_deadline_needs_all_processors() {
    let Some(lab) = Lab::new() else { return };
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs two processors");
        return;
    }
    let bundle = lab.bundle("c", ["true"]);
    bundle.edit(|spec| {
        spec["linux"]["resources"]["cpu"] = json!({"cpus": "0"});
        spec["process"]["scheduler"] = json!({"policy": "SCHED_DEADLINE", "runtime": 42_000,
            "deadline": 1_000_000, "period": 1_000_000});
    });
    let refused = lab.ocirun(["run", "-b", bundle.name(), "c"]);
    let hint = "process scheduler can't be used together with AllowedCPUs";
    assert!(refused.stderr.contains(hint), "{refused:?}");
    assert_eq!(fs::read_dir(lab.root()).unwrap().count(), 0);
}
