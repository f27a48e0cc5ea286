// SPDX-License-Identifier: Apache-2.0
//! The commands that print: each asks, and renders what was said.

pub(crate) mod diag;
pub(crate) mod events;
mod follow;
pub(crate) mod log_level;
pub(crate) mod logs;
pub(crate) mod outside;
pub(crate) mod ps;
pub(crate) mod redact;
pub(crate) mod stats;
pub(crate) mod sync;

use crate::complain;
use crate::error::Exit;
use crate::fleet::Answer;

/// Complains of shims that did not answer; says how the command ended.
pub(crate) fn exit_of<T>(answers: &[Answer<T>]) -> Exit {
    let mut exit = Exit::Success;
    for answer in answers {
        if let Err(silence) = &answer.said {
            complain(&format!("shim {}: {silence}", answer.shim.name()));
            exit = Exit::Partial;
        }
    }
    exit
}
