// SPDX-License-Identifier: Apache-2.0
//! Which task service does a server speak that somebody else has started?
//!
//! A pod's socket may belong to another version of this shim or to another shim altogether,
//! while containerd or we are being replaced. Naming the wrong version in the reply to `start`
//! makes the container unreachable, so the server is asked: `Connect` never fails in a shim that
//! has the service, and is `Unimplemented` in one that has not.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::ConnectRequest;
use protobuf::Message as _;
use ttrpc::proto::{Code, Request, Response};

use crate::bootstrap::TaskApi;
use crate::socket;

/// How long the server may take to answer before it counts as busy.
const PATIENCE: Duration = Duration::from_secs(1);
/// A header: length and stream as big-endian 32-bit numbers, type, flags.
const HEADER: usize = 10;
const TYPE_REQUEST: u8 = 1;
/// No answer to `Connect` is longer.
const ANSWER_MAX: usize = 64 << 10;

/// What a server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It speaks this version, of those asked for.
    Speaks(TaskApi),
    /// It is there, but did not answer in time or not in a way that tells.
    Unclear,
    /// It has gone while we asked.
    Gone,
}

enum Reply {
    Served,
    Refused,
    Silent,
    Closed,
}

/// Asks the server at `path`, the preferred version first.
pub(crate) fn ask(path: &Path, namespace: &str, id: &str, preferred: TaskApi) -> Answer {
    let other = match preferred {
        TaskApi::V2 => TaskApi::V3,
        TaskApi::V3 => TaskApi::V2,
    };
    let Ok(fd) = socket::connect(path) else {
        return Answer::Gone;
    };
    let mut stream = UnixStream::from(fd);
    let limits = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    if limits.is_err() {
        return Answer::Unclear;
    }
    for (stream_id, api) in [(1, preferred), (3, other)] {
        match call(&mut stream, stream_id, api, namespace, id) {
            Reply::Served => return Answer::Speaks(api),
            Reply::Refused => {}
            Reply::Silent => return Answer::Unclear,
            Reply::Closed => return Answer::Gone,
        }
    }
    Answer::Unclear
}

fn call(stream: &mut UnixStream, id: u32, api: TaskApi, namespace: &str, task: &str) -> Reply {
    let mut connect = ConnectRequest::new();
    connect.id = task.to_owned();
    let mut request = Request::new();
    request.service = match api {
        TaskApi::V2 => "containerd.task.v2.Task".to_owned(),
        TaskApi::V3 => "containerd.task.v3.Task".to_owned(),
    };
    request.method = "Connect".to_owned();
    request.timeout_nano = i64::try_from(PATIENCE.as_nanos()).unwrap_or(0);
    let mut meta = ttrpc::proto::KeyValue::new();
    meta.key = "containerd-namespace-ttrpc".to_owned();
    meta.value = namespace.to_owned();
    request.metadata.push(meta);
    let Ok(payload) = connect.write_to_bytes() else {
        return Reply::Silent;
    };
    request.payload = payload;
    let Ok(body) = request.write_to_bytes() else {
        return Reply::Silent;
    };

    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend(u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend([TYPE_REQUEST, 0]);
    frame.extend(body);
    match exchange(stream, &frame) {
        Ok(answer) => judge(&answer),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Reply::Silent,
        Err(e) if e.kind() == ErrorKind::InvalidData => Reply::Silent,
        Err(_) => Reply::Closed,
    }
}

fn exchange(stream: &mut UnixStream, frame: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(frame)?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if length > ANSWER_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn judge(answer: &[u8]) -> Reply {
    match Response::parse_from_bytes(answer) {
        Ok(response) => match response.status.as_ref() {
            Some(status) if status.code() != Code::OK => Reply::Refused,
            _ => Reply::Served,
        },
        Err(_) => Reply::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A server that has only the one service.
    fn serve_one(listener: UnixListener, service: &'static str) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut header = [0; HEADER];
            while stream.read_exact(&mut header).is_ok() {
                let length = u32::from_be_bytes(header[..4].try_into().unwrap());
                let mut body = vec![0; length as usize];
                stream.read_exact(&mut body).unwrap();
                let request = Request::parse_from_bytes(&body).unwrap();
                assert_eq!(request.method, "Connect");
                assert_eq!(request.metadata[0].value, "ns");
                let mut response = Response::new();
                if request.service != service {
                    let status = response.status.mut_or_insert_default();
                    status.set_code(Code::UNIMPLEMENTED);
                }
                let body = response.write_to_bytes().unwrap();
                header[..4].copy_from_slice(&(body.len() as u32).to_be_bytes());
                header[8] = 2;
                stream.write_all(&header).unwrap();
                stream.write_all(&body).unwrap();
            }
        })
    }

    #[test]
    fn the_version_that_is_served_wins_over_the_preferred_one() {
        let dir = tempfile::tempdir().unwrap();
        for (service, api) in [
            ("containerd.task.v2.Task", TaskApi::V2),
            ("containerd.task.v3.Task", TaskApi::V3),
        ] {
            let path = dir.path().join(service);
            for preferred in [TaskApi::V2, TaskApi::V3] {
                let server = serve_one(UnixListener::bind(&path).unwrap(), service);
                assert_eq!(ask(&path, "ns", "id", preferred), Answer::Speaks(api));
                server.join().unwrap();
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_server_that_hangs_up_or_is_not_there_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(ask(&path, "ns", "id", TaskApi::V3), Answer::Gone);
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
        assert_eq!(ask(&path, "ns", "id", TaskApi::V3), Answer::Gone);
        server.join().unwrap();
    }
}
