// SPDX-License-Identifier: Apache-2.0
//! `metrics`: OpenMetrics, on standard output and over HTTP.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use integration::mock::Spec;

use super::scene::{Scene, command, until};

/// The value of the first sample whose name and labels begin so.
fn value(text: &str, begin: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(begin));
    let line = line.unwrap_or_else(|| panic!("no {begin}: {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn metrics_are_open_metrics_of_containers_and_shims() {
    let spec = Spec::idle()
        .annotation("io.kubernetes.cri.sandbox-name", "shop")
        .annotation("io.kubernetes.cri.container-name", "web");
    let scene = Scene::of("measured", &spec, |_| ());
    scene.container.output_of("probe", &["true"]).unwrap();
    let text = scene.shimctl(&["metrics"]).ok();
    assert!(text.ends_with("# EOF\n"));
    let namespace = scene.world.namespace();
    let of_shim = format!("{{namespace=\"{namespace}\",shim=\"measured\"");
    assert_eq!(value(&text, &format!("shim_up{of_shim}")), 1.0);
    assert!(value(&text, &format!("shim_events_published_total{of_shim}")) >= 5.0);
    for operation in ["Create", "Start", "exec-Start"] {
        let begin = format!("shim_operation_seconds_count{of_shim},operation=\"{operation}\"}}");
        assert_eq!(value(&text, &begin), 1.0, "{operation}");
    }
    assert!(
        !text.contains("operation=\"Wait\""),
        "a Wait is no operation"
    );
    let of_container =
        format!("{{namespace=\"{namespace}\",container=\"measured\",pod=\"shop\",name=\"web\"");
    assert_eq!(
        value(&text, &format!("container_running{of_container}")),
        1.0
    );
    assert!(text.contains("container_cpu_seconds_total{"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, number) = line.rsplit_once(' ').unwrap();
        assert!(
            number.parse::<f64>().is_ok() && name.contains('{') || name.starts_with("shimctl"),
            "{line}"
        );
    }
    let few = scene.shimctl(&["metrics", "--max-containers", "0"]).ok();
    assert_eq!(value(&few, "shimctl_containers_omitted"), 1.0);
    assert!(!few.contains("container_running{"));
}

#[test]
fn metrics_are_served_on_a_unix_socket_and_nowhere_else_than_here() {
    let scene = Scene::idle("served");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let address = format!("unix:{}", path.display());
    let mut child = command(scene.world.namespace(), &["metrics", "--listen", &address])
        .spawn()
        .unwrap();
    until("it listens", || UnixStream::connect(&path).is_ok());
    let get = |target: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("application/openmetrics-text"), "{answer}");
    assert!(answer.contains("container=\"served\""), "{answer}");
    assert!(get("/etc/passwd").starts_with("HTTP/1.1 404 "));
    child.kill().unwrap();
    // The mock's world may have reaped it.
    let _ = child.wait();
    let refused = scene.shimctl(&["metrics", "--listen", "0.0.0.0:9099"]);
    assert_eq!(
        (refused.status, refused.out.as_str()),
        (1, ""),
        "{refused:?}"
    );
}
