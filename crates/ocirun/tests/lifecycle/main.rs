// SPDX-License-Identifier: Apache-2.0
//! The life of containers as whoever drives a runtime by command line sees it.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../lab/mod.rs"]
mod lab;
mod life;
mod notify;
mod places;
mod processes;
mod resources;
mod rootless;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use lab::{Killed, Lab, OCIRUN, wait_until};
use serde_json::{Value, json};
