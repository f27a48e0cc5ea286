// SPDX-License-Identifier: Apache-2.0
//! Streams through FIFOs: to the last byte, across clients that come and go.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::container::RuncOptions;
use crate::failure::{Failure, Outcome, SOON};
use crate::lab::Lab;
use crate::process::EXIT;
use crate::streams::{Stdin, Stdio};
use crate::tests;

tests!["stdio";
    a_hundred_megabytes_arrive_to_the_last_byte,
    output_of_an_exec_arrives_to_the_last_byte,
    output_is_kept_for_a_reader_that_comes_after_the_exit,
    a_slow_reader_loses_nothing,
    stdin_reaches_its_end_when_it_is_closed,
    a_client_that_goes_does_not_end_stdin,
    a_client_can_attach_again,
    ten_megabytes_go_through_stdin_and_back,
    streams_end_with_the_process_although_a_child_holds_them,
    a_child_of_an_exec_that_holds_stdout_does_not_hold_delete,
    closing_stdin_twice_is_fine,
    streams_belong_to_the_user_that_the_options_name,
];

const CHUNK: usize = 10 * 1024 * 1024;

/// Makes a file of random bytes, says its checksum on stderr, and writes it ten times.
const TEN_TIMES: &str = "head -c 10485760 /dev/urandom >/tmp/data; sha256sum </tmp/data >&2; \
                         for i in 0 1 2 3 4 5 6 7 8 9; do cat /tmp/data; done";

fn check_chunks(data: &[u8], count: usize, checksum: &str) {
    assert_eq!(data.len(), count * CHUNK);
    for (number, chunk) in data.chunks(CHUNK).enumerate() {
        let digest = Sha256::digest(chunk);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, checksum[..64], "chunk {number}");
    }
}

fn a_hundred_megabytes_arrive_to_the_last_byte(lab: &Lab) -> Outcome {
    let container = lab.script(TEN_TIMES).start()?;
    assert_eq!(container.wait()?, 0);
    container.delete()?;
    let data = container.streams.stdout()?.wait_end(EXIT)?;
    let checksum = container.streams.stderr()?.text();
    check_chunks(&data, 10, &checksum);
    container.remove()
}

fn output_of_an_exec_arrives_to_the_last_byte(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sh", "-c", TEN_TIMES]).start()?;
    assert_eq!(exec.wait()?, 0);
    exec.delete()?;
    let data = exec.streams.stdout()?.wait_end(EXIT)?;
    check_chunks(&data, 10, &exec.streams.stderr()?.text());
    container.kill_and_finish()?;
    Ok(())
}

fn output_is_kept_for_a_reader_that_comes_after_the_exit(lab: &Lab) -> Outcome {
    if lab.is_reference() {
        let reason = "the Go shim closes the FIFO when its copy is done, reader or no reader";
        return Err(Failure::Exempt(reason.to_owned()));
    }
    let script = "read line; head -c 50000 /dev/zero; exit 3";
    let mut container = lab.script(script).with_stdin().start()?;
    container.streams.stop_reading();
    container.streams.stdin()?.write("go\n")?;
    assert_eq!(container.wait()?, 3);
    container.streams.read_again()?;
    container.streams.stdout()?.wait_for_bytes(50_000, SOON)?;
    container.finish()?;
    Ok(())
}

/// The reader sleeps while a megabyte waits: the container waits, and nothing is dropped.
fn a_slow_reader_loses_nothing(lab: &Lab) -> Outcome {
    let script = "read line; head -c 1048576 /dev/zero; echo done >&2; echo end";
    let mut container = lab.script(script).with_stdin().start()?;
    container.streams.stop_reading();
    container.streams.stdin()?.write("go\n")?;
    std::thread::sleep(Duration::from_millis(300));
    assert!(container.streams.stderr()?.text().is_empty());
    assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
    container.streams.read_again()?;
    let finished = container.finish()?;
    assert_eq!(finished.stdout.len(), 1_048_576 + 4);
    assert!(finished.stdout.ends_with("end\n"));
    Ok(())
}

fn stdin_reaches_its_end_when_it_is_closed(lab: &Lab) -> Outcome {
    let container = lab.script("cat; echo end; exit 4").with_stdin().start()?;
    let mut stdin = container.streams.stdin()?;
    stdin.write("some\nlines")?;
    drop(stdin);
    container.close_stdin()?;
    let finished = container.finish()?;
    assert_eq!(
        (finished.status, finished.stdout.as_str()),
        (4, "some\nlinesend\n")
    );
    Ok(())
}

fn a_client_that_goes_does_not_end_stdin(lab: &Lab) -> Outcome {
    let container = lab.container(["cat"]).with_stdin().start()?;
    for word in ["one\n", "two\n", "three\n"] {
        container.streams.stdin()?.write(word)?;
        container.streams.stdout()?.wait_for(word)?;
    }
    assert_eq!(container.state()?.status().as_str_name(), "RUNNING");
    container.close_stdin()?;
    assert_eq!(container.finish()?.success()?, "one\ntwo\nthree\n");
    Ok(())
}

fn a_client_can_attach_again(lab: &Lab) -> Outcome {
    let script = "while read line; do echo got $line; done";
    let mut container = lab.script(script).with_stdin().start()?;
    for word in ["one", "two", "three"] {
        container.streams.stdin()?.write(format!("{word}\n"))?;
        container
            .streams
            .stdout()?
            .wait_for(&format!("got {word}\n"))?;
        container.streams.read_again()?;
    }
    container.close_stdin()?;
    assert_eq!(container.finish()?.status, 0);
    Ok(())
}

fn ten_megabytes_go_through_stdin_and_back(lab: &Lab) -> Outcome {
    let container = lab.container(["cat"]).with_stdin().start()?;
    let mut data = vec![0; CHUNK];
    for (number, word) in data.chunks_mut(4).enumerate() {
        word.copy_from_slice(&u32::try_from(number)?.to_le_bytes());
    }
    let mut stdin = container.streams.stdin()?;
    stdin.write(&data)?;
    drop(stdin);
    container.close_stdin()?;
    assert_eq!(container.wait()?, 0);
    container.delete()?;
    assert!(container.streams.stdout()?.wait_end(EXIT)? == data);
    container.remove()
}

/// Without a PID namespace of its own nothing kills a child that has another process group, but
/// the shim does; the reader sees the end.
fn streams_end_with_the_process_although_a_child_holds_them(lab: &Lab) -> Outcome {
    let container = lab
        .script("setsid sleep 1000 & echo out")
        .sharing("pid")
        .start()?;
    assert_eq!(container.wait()?, 0);
    let finished = container.finish()?;
    assert_eq!(finished.stdout, "out\n");
    Ok(())
}

/// The child lives on in the container: Delete waits for its output for a while (two seconds or
/// ten), and then cuts it off.
fn a_child_of_an_exec_that_holds_stdout_does_not_hold_delete(lab: &Lab) -> Outcome {
    let container = lab.container(["sleep", "1000"]).start()?;
    let exec = container.exec("e", ["sh", "-c", "echo out; setsid sleep 1000 & exit 2"]);
    let finished = exec.run()?;
    assert_eq!((finished.status, finished.stdout.as_str()), (2, "out\n"));
    assert_eq!(lab.client().pids(container.id())?.len(), 2);
    container.kill_and_finish()?;
    Ok(())
}

fn closing_stdin_twice_is_fine(lab: &Lab) -> Outcome {
    let container = lab.container(["cat"]).with_stdin().start()?;
    container.streams.stdin()?.write("x")?;
    let exec = container
        .exec("e", ["cat"])
        .stdio(Stdio::Fifos(Stdin::Open))
        .start()?;
    exec.streams.stdin()?.write("y")?;
    exec.close_stdin()?;
    exec.close_stdin()?;
    assert_eq!(exec.finish_process()?.success()?, "y");
    // There is nothing to close.
    let null = container.exec("n", ["sleep", "1000"]).start()?;
    null.close_stdin()?;
    null.kill(Signal::KILL)?;
    null.finish_process()?;
    container.close_stdin()?;
    container.close_stdin()?;
    assert_eq!(container.finish()?.success()?, "x");
    Ok(())
}

/// A user who is not root can open them again by their names in procfs.
fn streams_belong_to_the_user_that_the_options_name(lab: &Lab) -> Outcome {
    let options = RuncOptions {
        io_uid: 1000,
        io_gid: 1000,
        ..RuncOptions::default()
    };
    let script = "echo out >/dev/stdout; echo err >/dev/stderr; stat -L -c '%u %g' /proc/self/fd/1";
    let builder = lab.script(script).options(&options).edit(|spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let finished = builder.run()?;
    assert_eq!(finished.status, 0, "{finished:?}");
    assert_eq!(finished.stdout, "out\n1000 1000\n");
    assert_eq!(finished.stderr, "err\n");
    Ok(())
}
