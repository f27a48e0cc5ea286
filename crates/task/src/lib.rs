// SPDX-License-Identifier: Apache-2.0
//! The Task service.

pub mod events;
pub mod publisher;
pub mod status;
pub mod ttrpc;
