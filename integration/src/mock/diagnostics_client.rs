// SPDX-License-Identifier: Apache-2.0
//! A client of the shim's own Diagnostics service.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diagnostics::{Call, SERVICE};

use super::error::{Error, Result};
use super::wire::Connection;

/// Longer than any poll is held.
const LIMIT: Duration = Duration::from_secs(70);

/// A connection that asks a shim about itself.
#[derive(Debug)]
pub struct Diagnostics(Mutex<Connection>);

impl Diagnostics {
    pub(crate) fn new(connection: Connection) -> Self {
        Self(Mutex::new(connection))
    }

    /// Makes one call.
    pub fn call<C: Call>(&self, request: &C) -> Result<C::Response> {
        let method = C::METHOD.name();
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connection
            .begin(SERVICE, method, request, "", LIMIT)
            .and_then(|stream| connection.finish(stream, LIMIT))
            .map_err(|cause| Error::Call {
                method: method.to_owned(),
                cause,
            })
    }
}
