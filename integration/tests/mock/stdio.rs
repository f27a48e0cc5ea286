// SPDX-License-Identifier: Apache-2.0
//! What a process reads and writes.

use std::io::Write as _;

use integration::mock::api::Status;
use integration::mock::{Generation, Spec, Stdio, StdioKind, Subject, World};

use crate::scene::{ID, Scene};
use crate::{Outcome, Test, ours, shared};

pub(crate) const TESTS: &[Test] = &[
    shared("output_to_the_last_byte", output_to_the_last_byte),
    shared("exec_output_to_the_last_byte", exec_output_to_the_last_byte),
    shared("stdin_until_close_io", stdin_until_close_io),
    shared("exec_stdin_until_close_io", exec_stdin_until_close_io),
    shared(
        "client_that_leaves_is_no_end_of_stdin",
        client_that_leaves_is_no_end_of_stdin,
    ),
    ours("nobody_can_send_before_start", nobody_can_send_before_start),
    ours(
        "close_io_before_start_ends_stdin",
        close_io_before_start_ends_stdin,
    ),
    ours(
        "an_exec_whose_client_ends_its_input_at_once_ends",
        an_exec_whose_client_ends_its_input_at_once_ends,
    ),
    shared("terminal", terminal),
    shared("exec_terminal", exec_terminal),
    shared("output_to_a_file", output_to_a_file),
    shared("output_ends_at_delete", output_ends_at_delete),
];

/// 200,000 lines: 1.3 MB, far more than pipes hold.
const LINES: usize = 200_000;

fn expected() -> String {
    let mut text = String::new();
    for number in 1..=LINES {
        text.push_str(&number.to_string());
        text.push('\n');
    }
    text
}

fn output_to_the_last_byte(subject: &Subject) -> Outcome {
    let script = format!("seq {LINES}; echo failure >&2; exit 4");
    let scene = Scene::created(subject, &Spec::shell(&script), StdioKind::Output)?;
    assert_eq!(scene.container.run()?, 4);
    scene.container.delete()?;
    assert!(
        scene.container.io.out.text()? == expected(),
        "output differs"
    );
    assert_eq!(scene.container.io.err.text()?, "failure\n");
    Ok(())
}

fn exec_output_to_the_last_byte(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let script = format!("seq {LINES}; echo failure >&2; exit 4");
    let exec = scene
        .container
        .exec("e", &["/bin/sh", "-c", &script], StdioKind::Output)?;
    assert_eq!(exec.run()?, 4);
    assert!(exec.io.out.text()? == expected(), "output differs");
    assert_eq!(exec.io.err.text()?, "failure\n");
    scene.end()
}

fn stdin_until_close_io(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::new(&["/bin/cat"]), StdioKind::Full)?;
    scene.container.start()?;
    let mut stdin = scene.container.io.open_stdin()?;
    stdin.write_all(b"one\n")?;
    scene.container.io.out.wait_text("one\n")?;
    stdin.write_all(b"two\n")?;
    scene.shim.task.close_io(ID, "")?;
    drop(stdin);
    assert_eq!(scene.container.wait()?, 0);
    assert_eq!(scene.container.io.out.text()?, "one\ntwo\n");
    scene.finish()
}

fn exec_stdin_until_close_io(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let exec = scene
        .container
        .exec("e", &["/bin/wc", "-c"], StdioKind::Full)?;
    exec.start()?;
    let mut stdin = exec.io.open_stdin()?;
    stdin.write_all(&[b'x'; 300_000])?;
    scene.shim.task.close_io(ID, "e")?;
    drop(stdin);
    assert_eq!(exec.wait()?, 0);
    assert_eq!(exec.io.out.text()?.trim(), "300000");
    scene.end()
}

fn client_that_leaves_is_no_end_of_stdin(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::new(&["/bin/cat"]), StdioKind::Full)?;
    scene.container.start()?;
    for word in ["first\n", "second\n"] {
        let mut stdin = scene.container.io.open_stdin()?;
        stdin.write_all(word.as_bytes())?;
        drop(stdin);
        scene.container.io.out.wait_text(word)?;
    }
    scene.end()
}

/// A client as containerd's: it opens stdin, which waits for the shim, sends, closes, and calls
/// CloseIO.
fn hasty_client(scene: &Scene, io: &Stdio, exec: &str) -> std::thread::JoinHandle<()> {
    let (path, exec) = (io.stdin().to_owned(), exec.to_owned());
    let task = scene.shim.task.clone();
    std::thread::spawn(move || {
        std::fs::write(path, "sent\n").expect("write to stdin");
        task.close_io(ID, &exec).expect("CloseIO");
    })
}

/// Before Create is answered containerd does not know the task, and a CloseIO would be lost.
fn nobody_can_send_before_start(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::new(&["/bin/cat"]), StdioKind::Full)?;
    let client = hasty_client(&scene, &scene.container.io, "");
    // Nothing happens that could be waited for: some turns of the reactor must do.
    for _ in 0..20 {
        assert_eq!(scene.container.status()?, Status::CREATED);
        assert!(!client.is_finished(), "it could send");
    }
    scene.container.start()?;
    assert_eq!(scene.container.wait()?, 0);
    client.join().expect("the client panicked");
    assert_eq!(scene.container.io.out.text()?, "sent\n");
    scene.finish()
}

fn close_io_before_start_ends_stdin(subject: &Subject) -> Outcome {
    let scene = Scene::created(subject, &Spec::shell("cat; sleep 1000"), StdioKind::Full)?;
    scene.shim.task.close_io(ID, "")?;
    scene.container.start()?;
    let exec = scene.container.exec("e", &["/bin/cat"], StdioKind::Full)?;
    scene.shim.task.close_io(ID, "e")?;
    exec.start()?;
    assert_eq!(exec.wait()?, 0);
    scene.end()
}

fn an_exec_whose_client_ends_its_input_at_once_ends(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    for round in 0..20 {
        let name = format!("e{round}");
        let exec = scene
            .container
            .exec(&name, &["/bin/cat"], StdioKind::Full)?;
        let client = hasty_client(&scene, &exec.io, &name);
        exec.start()?;
        assert_eq!(exec.wait()?, 0);
        client.join().expect("the client panicked");
        assert_eq!(exec.io.out.text()?, "sent\n");
        exec.delete()?;
    }
    scene.end()
}

fn terminal(subject: &Subject) -> Outcome {
    let script = "tty; stty size; echo ready; read line; stty size; echo got $line; exit 6";
    let spec = Spec::shell(script).terminal().with(
        "/process/consoleSize",
        serde_json::json!({"height": 33, "width": 101}),
    );
    let scene = Scene::created(subject, &spec, StdioKind::Terminal)?;
    scene.container.start()?;
    let (out, task) = (&scene.container.io.out, &scene.shim.task);
    out.wait_text("ready\r\n")?;
    task.resize(ID, "", 132, 50)?;
    let mut stdin = scene.container.io.open_stdin()?;
    stdin.write_all(b"hello\n")?;
    assert_eq!(scene.container.wait()?, 6);
    scene.container.delete()?;
    let text = out.text()?;
    assert!(
        text.starts_with("/dev/pts/0\r\n33 101\r\nready\r\n"),
        "{text:?}"
    );
    assert!(text.ends_with("50 132\r\ngot hello\r\n"), "{text:?}");
    Ok(())
}

fn exec_terminal(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let script = format!("tty; seq {LINES}; exit 2");
    let exec = scene
        .container
        .exec("t", &["/bin/sh", "-c", &script], StdioKind::Terminal)?;
    exec.start()?;
    assert_eq!(exec.wait()?, 2);
    exec.delete()?;
    let text = exec.io.out.text()?;
    let wanted = expected().replace('\n', "\r\n");
    assert!(text.starts_with("/dev/pts/"), "{:?}", text.get(..40));
    assert!(
        text.ends_with(&wanted),
        "{} bytes instead of {}",
        text.len(),
        wanted.len()
    );
    scene.end()
}

fn output_to_a_file(subject: &Subject) -> Outcome {
    let world = World::new(subject)?;
    let bundle = world.bundle(ID, &Spec::shell("echo to stdout; echo to stderr >&2"))?;
    let shim = world.start(&bundle)?;
    let file = world.folder().join("logs/deep/out.log");
    let address = format!("file://{}", file.display());
    let container = shim.create_on(&bundle, Stdio::addresses("", &address, &address))?;
    assert_eq!(container.run()?, 0);
    container.delete()?;
    let text = std::fs::read_to_string(&file)?;
    assert!(text.contains("to stdout\n"), "{text:?}");
    // 1.6 closes the file when the first of the two streams ends.
    let old = !subject.is_ours() && subject.generation == Generation::V1_6;
    assert!(old || text.contains("to stderr\n"), "{text:?}");
    shim.shutdown(ID)?;
    Ok(())
}

/// A process that outlives its parent keeps stdout open. Delete cuts it off after ten seconds at
/// the latest; here the writer ends before.
fn output_ends_at_delete(subject: &Subject) -> Outcome {
    let scene = Scene::idle(subject)?;
    let script = "(sleep 0.5; echo late) & echo early";
    let exec = scene
        .container
        .exec("e", &["/bin/sh", "-c", script], StdioKind::Output)?;
    assert_eq!(exec.run()?, 0);
    assert_eq!(exec.io.out.text()?, "early\nlate\n");
    scene.end()
}
