// SPDX-License-Identifier: Apache-2.0
//! One HTTP POST over plain TCP.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::config::{Config, Protocol};

/// The least that is still waited for.
const LEAST: Duration = Duration::from_millis(1);

/// Sends `body`; an answer other than 2xx is an error.
pub(super) fn post(config: &Config, body: &[u8], deadline: Instant) -> Result<()> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left < LEAST {
            Err(Error::from(ErrorKind::TimedOut))
        } else {
            Ok(left)
        }
    };
    let mut last = Error::from(ErrorKind::AddrNotAvailable);
    let mut stream = None;
    for address in config.authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left()?) {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(e) => last = e,
        }
    }
    let Some(mut stream) = stream else {
        return Err(last);
    };
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(head(config, body.len()).as_bytes())?;
    stream.write_all(body)?;
    let mut answer = [0; 64];
    let mut got = 0;
    // "HTTP/1.1 200": no more of the answer is of interest.
    while got < 12 {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut answer[got..])? {
            0 => break,
            read => got += read,
        }
    }
    let line = String::from_utf8_lossy(&answer[..got]);
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    match code {
        Some(code) if code.starts_with('2') => Ok(()),
        Some(code) => Err(Error::other(format!("the collector answered {code}"))),
        None => Err(Error::from(ErrorKind::InvalidData)),
    }
}

fn head(config: &Config, length: usize) -> String {
    let kind = match config.protocol {
        Protocol::Protobuf => "application/x-protobuf",
        Protocol::Json => "application/json",
    };
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n",
        config.path, config.authority
    );
    for (key, value) in &config.headers {
        head.push_str(key);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}
