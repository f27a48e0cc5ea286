// SPDX-License-Identifier: Apache-2.0
//! The bytes of a ttrpc connection: requests come out, or it ends.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use task::ttrpc::{Connection, Input, Method};

fuzz_target!(|data: &[u8]| {
    let (mut peer, ours) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("a flag");
    peer.set_nonblocking(true).expect("a flag");
    let mut connection = Connection::new(ours.into());
    let mut requests = Vec::new();
    // In two parts: a frame may be cut anywhere.
    let (first, second) = data.split_at(data.len() / 2);
    for part in [first, second] {
        if peer.write_all(part).is_err() {
            return;
        }
        loop {
            match connection.read(&mut requests) {
                Ok(Input::More) => {}
                Ok(Input::Drained) => break,
                Ok(Input::Closed) | Err(_) => return,
            }
        }
    }
    for request in requests {
        for method in Method::ALL {
            // A refusal is fine.
            let _ = method.decode(&request.payload);
        }
        let _ = connection.reply(request.stream, Ok(Vec::new()));
    }
});
