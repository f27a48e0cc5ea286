// SPDX-License-Identifier: Apache-2.0
//! A small HTTP server for scrapers: on a Unix socket or a loopback address, nowhere else.
//!
//! One request at a time: a scrape takes milliseconds. Requests are bounded in size and time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use crate::complain;
use crate::error::{Error, Exit};

/// A request is no longer than this.
const LONGEST: usize = 8192;
/// How long a client may take for its request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(2);
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the process is ended.
pub(crate) fn serve(address: &str, mut scrape: impl FnMut() -> String) -> Result<Exit, Error> {
    if let Some(path) = address.strip_prefix("unix:") {
        let listener = unix(Path::new(path))?;
        for stream in listener.incoming() {
            let answered = stream.and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                answer(&mut stream, &mut scrape)
            });
            note(answered);
        }
    } else {
        let listener = tcp(address)?;
        for stream in listener.incoming() {
            let answered = stream.and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                answer(&mut stream, &mut scrape)
            });
            note(answered);
        }
    }
    Ok(Exit::Failure)
}

fn note(answered: std::io::Result<()>) {
    if let Err(error) = answered {
        complain(&format!("metrics: {error}"));
        // Out of descriptors, perhaps: no busy loop.
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn unix(path: &Path) -> Result<UnixListener, Error> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        // Left by one that was killed; if it cannot be removed, binding says why.
        let _ = std::fs::remove_file(path);
    }
    let failed = || format!("listen at {}", path.display());
    let listener = UnixListener::bind(path).map_err(Error::io(failed()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(Error::io(failed()))?;
    Ok(listener)
}

/// Metrics tell of every container of the node: not for other machines.
fn tcp(address: &str) -> Result<TcpListener, Error> {
    let refused = |reason| Error::Address {
        address: address.to_owned(),
        reason,
    };
    let parsed: SocketAddr = address
        .parse()
        .map_err(|_| refused("neither unix:/path nor an address and a port"))?;
    if !parsed.ip().is_loopback() {
        return Err(refused(
            "other machines could reach it: only 127.0.0.0/8 and [::1]",
        ));
    }
    TcpListener::bind(parsed).map_err(Error::io(format!("listen at {parsed}")))
}

fn answer(
    stream: &mut (impl Read + Write),
    scrape: &mut impl FnMut() -> String,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let count = stream.read(&mut chunk)?;
        request.extend_from_slice(&chunk[..count]);
        if count == 0 || request.len() > LONGEST {
            return respond(stream, "400 Bad Request", "text/plain", "no request\n");
        }
    }
    let line = String::from_utf8_lossy(&request);
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => respond(stream, "200 OK", TYPE, &scrape()),
        (Some("GET"), _) => respond(stream, "404 Not Found", "text/plain", "see /metrics\n"),
        _ => respond(stream, "405 Method Not Allowed", "text/plain", "GET only\n"),
    }
}

fn respond(stream: &mut impl Write, status: &str, kind: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Both(std::io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Both {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Both {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.1.write(data)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn ask(request: &str) -> String {
        let mut both = Both(std::io::Cursor::new(request.into()), Vec::new());
        answer(&mut both, &mut || "x 1\n# EOF\n".to_owned()).unwrap();
        String::from_utf8(both.1).unwrap()
    }

    #[test]
    fn scrapers_get_metrics_and_others_an_error() {
        let text = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nx 1\n# EOF\n"));
        assert!(text.contains("Content-Length: 10\r\n"));
        assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask("garbage").starts_with("HTTP/1.1 400"));
        assert!(ask(&"x".repeat(100_000)).starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn only_the_own_machine_may_ask() {
        for refused in ["0.0.0.0:9099", "10.0.0.1:1", "[::]:1", "localhost", "x"] {
            assert!(
                matches!(tcp(refused), Err(Error::Address { .. })),
                "{refused}"
            );
        }
        assert!(tcp("127.0.0.1:0").is_ok());
    }
}
