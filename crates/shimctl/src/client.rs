// SPDX-License-Identifier: Apache-2.0
//! Asking one shim.

use std::time::{Duration, Instant};

use diagnostics::{Call, SERVICE};
use task::status::Code;
use task::ttrpc::client::{CallError, Client as Connection};

use crate::discover::{self, Shim};

/// Why a shim said nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Silence {
    /// Its process is gone; its containers may live on.
    #[error("has died")]
    Dead,
    /// It is stopped by a signal, a debugger or a freezer: no use asking.
    #[error("is {0}")]
    Stopped(&'static str),
    /// It has no socket, or nobody listens there.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("does not answer within {0:?}")]
    Late(Duration),
    /// It does not know the call: it is an older one.
    #[error("cannot tell: it is of an older version")]
    Old,
    /// It said no.
    #[error("refuses: {0}")]
    Refused(String),
}

impl Silence {
    /// In a word, for tables and JSON.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Stopped(_) => "stopped",
            Self::Unreachable(_) => "unreachable",
            Self::Late(_) => "no-answer",
            Self::Old => "old-version",
            Self::Refused(_) => "refused",
        }
    }
}

/// A connection to a shim.
pub(crate) struct Client {
    connection: Connection,
    timeout: Duration,
    deadline: Instant,
}

impl Client {
    /// Connects. All calls together may take `timeout`, unless [`Client::patient`] allows for more.
    pub(crate) fn connect(shim: &Shim, timeout: Duration) -> Result<Self, Silence> {
        if shim.pid == 0 {
            return Err(Silence::Dead);
        }
        let Some(path) = &shim.socket else {
            return Err(Silence::Unreachable("it listens nowhere".to_owned()));
        };
        if let Some(how) = discover::stopped(shim.pid) {
            return Err(Silence::Stopped(how));
        }
        let deadline = Instant::now() + timeout;
        let address = format!("unix://{}", path.display());
        let mut connection = Connection::connect(&address, timeout)
            .map_err(|error| Self::silence(error, timeout))?;
        connection.set_namespace(&shim.namespace);
        Ok(Self {
            connection,
            timeout,
            deadline,
        })
    }

    /// Makes a call.
    pub(crate) fn call<C: Call>(&mut self, request: &C) -> Result<C::Response, Silence> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.call_within(request, left)
    }

    /// Makes a call that the shim may hold for so long.
    pub(crate) fn patient<C: Call>(
        &mut self,
        request: &C,
        hold: Duration,
    ) -> Result<C::Response, Silence> {
        if hold.is_zero() {
            return self.call(request);
        }
        self.call_within(request, hold + self.timeout.max(Duration::from_secs(1)))
    }

    /// Gives further calls the whole time again.
    pub(crate) fn again(&mut self) -> &mut Self {
        self.deadline = Instant::now() + self.timeout;
        self
    }

    fn call_within<C: Call>(
        &mut self,
        request: &C,
        left: Duration,
    ) -> Result<C::Response, Silence> {
        if left.is_zero() {
            return Err(Silence::Late(self.timeout));
        }
        let garbled = |error: protobuf::Error| Silence::Refused(error.to_string());
        let payload = request.write_to_bytes().map_err(garbled)?;
        let answer = self
            .connection
            .call(SERVICE, C::METHOD.name(), &payload, left)
            .map_err(|error| Self::silence(error, self.timeout))?;
        protobuf::Message::parse_from_bytes(&answer).map_err(garbled)
    }

    fn silence(error: CallError, timeout: Duration) -> Silence {
        match error {
            CallError::Timeout => Silence::Late(timeout),
            CallError::Status(status) if status.code == Code::Unimplemented => Silence::Old,
            CallError::Status(status) => Silence::Refused(status.message),
            CallError::Connection(error) => Silence::Unreachable(error.to_string()),
        }
    }
}
