// SPDX-License-Identifier: Apache-2.0
//! What containerd says to `start` on standard input, and what it wants to read in reply.
//!
//! | containerd | standard input            | reply                                   |
//! |------------|---------------------------|-----------------------------------------|
//! | 1.6        | options as `Any`, or none | the bare address                        |
//! | 1.7 – 2.2  | options as `Any`, or none | JSON; 1.7 refuses a version above 2     |
//! | 2.3 on     | `BootstrapParams`         | `BootstrapResult`                       |
//!
//! 1.7 and 2.0 to 2.2 cannot be told apart, so both are told 2: our one socket serves both
//! versions of the task service, and those containerds use the one they are told.

use std::io::Read;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use options::Options;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;

use crate::args::Args;

/// What Go reads at most.
const INPUT_MAX: u64 = 10 << 20;
/// The only protocol that we serve.
const PROTOCOL: &str = "ttrpc";

/// Standard input that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("read standard input")]
    Read(#[source] std::io::Error),
    #[error("standard input exceeds 10 MiB")]
    TooLong,
    #[error("standard input is neither bootstrap parameters nor options")]
    Decode(#[source] protobuf::Error),
    #[error("options")]
    Options(#[source] options::Error),
}

/// The version of the task service that a client is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskApi {
    /// `containerd.task.v2.Task`
    V2,
    /// `containerd.task.v3.Task`
    V3,
}

impl TaskApi {
    fn number(self) -> i32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// Who calls, and so how to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// containerd 1.6: reads an address.
    Plain,
    /// containerd 1.7 to 2.2: reads JSON.
    Json,
    /// containerd 2.3 and newer: reads protobuf.
    Bootstrap,
}

/// All that containerd says to `start` beyond the command line.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// The bootstrap parameters, if the caller speaks that protocol.
    pub(crate) params: Option<BootstrapParams>,
    /// The runtime's options.
    pub(crate) options: Options,
}

impl Request {
    /// Reads standard input to its end and decodes it.
    pub(crate) fn read(input: impl Read, args: &Args) -> Result<Self, InputError> {
        let mut bytes = Vec::new();
        input
            .take(INPUT_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(InputError::Read)?;
        if bytes.len() as u64 > INPUT_MAX {
            return Err(InputError::TooLong);
        }
        Self::decode(&bytes, args)
    }

    fn decode(bytes: &[u8], args: &Args) -> Result<Self, InputError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        // An Any decodes as BootstrapParams too (both begin with two strings): only the identity
        // that the command line repeats tells them apart.
        let params = BootstrapParams::parse_from_bytes(bytes)
            .ok()
            .filter(|p| p.instance_id == args.id && p.namespace == args.namespace);
        let decode =
            |any: &Any| Options::from_any(&any.type_url, &any.value).map_err(InputError::Options);
        if let Some(params) = params {
            let mut values = params.extensions.iter().filter_map(|e| e.value.as_ref());
            let options = match values.find(|any| Options::is_known_type(&any.type_url)) {
                Some(any) => decode(any)?,
                None => Options::default(),
            };
            return Ok(Self {
                params: Some(params),
                options,
            });
        }
        let any = Any::parse_from_bytes(bytes).map_err(InputError::Decode)?;
        Ok(Self {
            params: None,
            options: decode(&any)?,
        })
    }

    /// How to answer; `json` says whether the environment announces that JSON is understood.
    pub(crate) fn caller(&self, json: bool) -> Caller {
        match &self.params {
            Some(_) => Caller::Bootstrap,
            None if json => Caller::Json,
            None => Caller::Plain,
        }
    }

    /// The log level in the numbers of the protocol: below 0 is more, above is less than info.
    pub(crate) fn log_level(&self) -> Option<i32> {
        self.params
            .as_ref()
            .map(|p| p.log_level.value())
            .filter(|level| *level != 0)
    }
}

impl Caller {
    /// The version that this caller is told when the server serves both.
    pub(crate) fn preferred(self) -> TaskApi {
        match self {
            Self::Plain | Self::Json => TaskApi::V2,
            Self::Bootstrap => TaskApi::V3,
        }
    }

    /// The reply to `start`.
    pub(crate) fn reply(self, address: &str, api: TaskApi) -> Vec<u8> {
        match self {
            Self::Plain => address.as_bytes().to_vec(),
            // In the order of Go's encoder.
            Self::Json => format!(
                r#"{{"version":{},"address":{},"protocol":"{PROTOCOL}"}}"#,
                api.number(),
                serde_json::Value::from(address),
            )
            .into_bytes(),
            Self::Bootstrap => {
                let mut result = BootstrapResult::new();
                result.version = api.number();
                result.address = address.to_owned();
                result.protocol = PROTOCOL.to_owned();
                // Encoding into memory fails only for a message without a size: none of ours.
                result.write_to_bytes().unwrap_or_default()
            }
        }
    }
}

/// The level of our log for a number of the bootstrap protocol: the nearest known one.
pub(crate) fn level_filter(level: i32) -> log::LevelFilter {
    match level {
        ..=-7 => log::LevelFilter::Trace,
        -6..=-3 => log::LevelFilter::Debug,
        -2..=1 => log::LevelFilter::Info,
        2..=5 => log::LevelFilter::Warn,
        6.. => log::LevelFilter::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;

    fn args() -> Args {
        Args {
            id: "abc".into(),
            namespace: "k8s.io".into(),
            ..Args::default()
        }
    }

    fn any(type_url: &str, value: &[u8]) -> Any {
        Any {
            type_url: type_url.into(),
            value: value.into(),
            ..Any::default()
        }
    }

    fn params(id: &str) -> BootstrapParams {
        let mut params = BootstrapParams::new();
        params.instance_id = id.into();
        params.namespace = "k8s.io".into();
        for value in [
            any("x/unknown.v1.Thing", b"?"),
            any("containerd.runc.v1.Options", &[72, 1]),
        ] {
            let mut extension = Extension::new();
            extension.value = Some(value).into();
            params.extensions.push(extension);
        }
        params
    }

    fn decode(bytes: &[u8]) -> Request {
        Request::decode(bytes, &args()).unwrap()
    }

    #[test]
    fn nothing_an_any_and_bootstrap_parameters_are_told_apart() {
        let nothing = decode(&[]);
        assert_eq!(nothing.caller(false), Caller::Plain);
        assert_eq!(nothing.caller(true), Caller::Json);

        let legacy = any("containerd.runc.v1.Options", &[72, 1])
            .write_to_bytes()
            .unwrap();
        let legacy = decode(&legacy);
        assert!(legacy.params.is_none() && legacy.options.systemd_cgroup);

        let bootstrap = decode(&params("abc").write_to_bytes().unwrap());
        assert_eq!(bootstrap.caller(true), Caller::Bootstrap);
        assert!(bootstrap.options.systemd_cgroup);
    }

    #[test]
    fn an_any_that_decodes_as_parameters_of_somebody_else_is_an_any() {
        let bytes = params("other").write_to_bytes().unwrap();
        let error = Request::decode(&bytes, &args()).unwrap_err();
        assert!(
            matches!(error, InputError::Decode(_) | InputError::Options(_)),
            "{error:?}"
        );

        let empty = any("", b"").write_to_bytes().unwrap();
        assert!(decode(&empty).params.is_none());
    }

    #[test]
    fn options_of_an_unknown_type_are_refused_and_garbage_too() {
        let other = any("some.other.Options", b"").write_to_bytes().unwrap();
        assert!(matches!(
            Request::decode(&other, &args()),
            Err(InputError::Options(_))
        ));
        assert!(matches!(
            Request::decode(&[0xff; 8], &args()),
            Err(InputError::Decode(_))
        ));
    }

    #[test]
    fn input_is_bounded() {
        let long = std::io::repeat(0);
        assert!(matches!(
            Request::read(long, &args()),
            Err(InputError::TooLong)
        ));
    }

    #[test]
    fn the_three_replies_have_exactly_these_bytes() {
        let reply = |caller: Caller| caller.reply("unix:///s/1", caller.preferred());
        assert_eq!(reply(Caller::Plain), b"unix:///s/1");
        assert_eq!(
            String::from_utf8(reply(Caller::Json)).unwrap(),
            r#"{"version":2,"address":"unix:///s/1","protocol":"ttrpc"}"#
        );
        assert_eq!(
            reply(Caller::Bootstrap),
            b"\x08\x03\x12\x0bunix:///s/1\x1a\x05ttrpc"
        );
    }

    #[test]
    fn levels_map_to_the_nearest() {
        let levels = [-8, -4, 0, 4, 8, 10, 12].map(level_filter);
        use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
        assert_eq!(levels, [Trace, Debug, Info, Warn, Error, Error, Error]);
        assert_eq!(level_filter(-100), Trace);
    }
}
