// SPDX-License-Identifier: Apache-2.0
//! What the shim and init say to each other: any packet, taken for any message.
#![no_main]

use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use runtime::sync::{Channel, Kind};

fuzz_target!(|data: &[u8]| {
    let (a, b) = sys::packet::pair().expect("a socket pair");
    if data.is_empty() || sys::packet::send(&a, data, &[]).is_err() {
        return;
    }
    let _ = sys::packet::send(&a, data, &[]);
    let _ = sys::packet::send(&a, data, &[]);
    drop::<OwnedFd>(a);
    let channel = Channel::from(b);
    if let Ok(Some(message)) = channel.receive(8) {
        // Refusals are fine.
        let _ = message.body::<runtime::init::Plan>();
        let _ = message.body::<runtime::Failure>();
        let _ = message.body::<i32>();
    }
    let _ = channel.receive_signal();
    let _ = channel.expect(&[Kind::Ready]);
});
