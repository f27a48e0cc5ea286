// SPDX-License-Identifier: Apache-2.0
//! What the `OTEL_*` variables ask for.
//!
//! Source: OpenTelemetry's specification of the SDK's environment variables and of the OTLP
//! exporter. What we cannot do (gRPC, TLS) is refused by name.

use std::time::Duration;

/// The encoding of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `http/protobuf`, the default.
    Protobuf,
    /// `http/json`.
    Json,
}

/// Where and how spans are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Host and port.
    pub authority: String,
    /// Path of the request.
    pub path: String,
    /// The encoding.
    pub protocol: Protocol,
    /// Headers of the request.
    pub headers: Vec<(String, String)>,
    /// How long a request may take.
    pub timeout: Duration,
    /// Attributes of the resource, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Whether calls that are part of no trace begin one.
    pub sample_roots: bool,
}

impl Config {
    /// Reads the variables through `get`; `None` if they ask for nothing.
    ///
    /// # Errors
    /// They ask for what is not supported or makes no sense; the text says what.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let of_traces = |name: &str| {
            get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
                .or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => return Err(format!("OTEL_TRACES_EXPORTER: {other} is not supported")),
        }
        let endpoint = match get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            Some(endpoint) => endpoint,
            None => match get("OTEL_EXPORTER_OTLP_ENDPOINT") {
                Some(base) => format!("{}/v1/traces", base.trim_end_matches('/')),
                None => return Ok(None),
            },
        };
        let protocol = match of_traces("PROTOCOL").as_deref() {
            None | Some("http/protobuf") => Protocol::Protobuf,
            Some("http/json") => Protocol::Json,
            Some(other) => {
                return Err(format!(
                    "OTEL_EXPORTER_OTLP_PROTOCOL: {other} is not supported"
                ));
            }
        };
        let sample_roots = match get("OTEL_TRACES_SAMPLER").as_deref() {
            None | Some("always_on" | "parentbased_always_on") => true,
            Some("parentbased_always_off") => false,
            Some("always_off") => return Ok(None),
            Some(other) => return Err(format!("OTEL_TRACES_SAMPLER: {other} is not supported")),
        };
        let (authority, path) = split(&endpoint)?;
        let timeout = match of_traces("TIMEOUT") {
            None => 10_000,
            Some(text) => text
                .parse()
                .map_err(|_| format!("OTEL_EXPORTER_OTLP_TIMEOUT: {text:?} is no number"))?,
        };
        let mut resource = pairs(&get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        if let Some(name) = get("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        Ok(Some(Self {
            authority,
            path,
            protocol,
            headers: pairs(&of_traces("HEADERS").unwrap_or_default()),
            timeout: Duration::from_millis(timeout),
            resource,
            sample_roots,
        }))
    }
}

/// Host with port, and path.
fn split(endpoint: &str) -> Result<(String, String), String> {
    let refused = |why: &str| Err(format!("OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint:?}: {why}"));
    let rest = match endpoint.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) => return refused(&format!("{scheme} is not supported")),
        None => return refused("not a URL"),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    // What goes into a request's head must not be able to end it.
    let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if authority.is_empty() || authority.contains('@') || !clean(authority) || !clean(path) {
        return refused("not a URL of a host");
    }
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if has_port { "" } else { ":80" };
    Ok((format!("{authority}{port}"), path.to_owned()))
}

/// `key=value,key=value`, the values percent-encoded. What is no pair is left out.
fn pairs(text: &str) -> Vec<(String, String)> {
    let printable = |text: &str| text.bytes().all(|byte| !byte.is_ascii_control());
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), percent_decoded(value.trim())))
        .filter(|(key, value)| !key.is_empty() && printable(key) && printable(value))
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = match (first, after) {
            (b'%', [a, b, ..]) => std::str::from_utf8(&[*a, *b])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Option<Config>, String> {
        Config::from_variables(|name| {
            let mut found = variables.iter().filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_is_given() {
        assert_eq!(config(&[]), Ok(None));
        assert_eq!(config(&[("OTEL_TRACES_EXPORTER", "otlp")]), Ok(None));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
        ] {
            assert_eq!(config(&[endpoint, off]), Ok(None));
        }
    }

    #[test]
    fn the_variables_of_traces_come_first() {
        let found = config(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%20c, d = e,bad"),
            ("OTEL_SERVICE_NAME", "shim"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,k=v"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(
            (found.authority.as_str(), found.path.as_str()),
            ("c:4318", "/v1/traces")
        );
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(found.headers, [pair("a", "b c"), pair("d", "e")]);
        assert_eq!(
            found.resource,
            [pair("k", "v"), pair("service.name", "shim")]
        );
        assert_eq!(
            (found.protocol, found.sample_roots),
            (Protocol::Protobuf, true)
        );
        let found = config(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[::1]:9/x"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(
            (found.authority.as_str(), found.path.as_str()),
            ("[::1]:9", "/x")
        );
        assert_eq!(found.protocol, Protocol::Json);
        assert_eq!(found.timeout, Duration::from_millis(250));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (endpoint, more) in [
            ("https://c", ("X", "")),
            ("c:4318", ("X", "")),
            ("http://c d/", ("X", "")),
            ("http://u@c/", ("X", "")),
            ("http://c", ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")),
            ("http://c", ("OTEL_TRACES_EXPORTER", "zipkin")),
            ("http://c", ("OTEL_TRACES_SAMPLER", "jaeger_remote")),
        ] {
            let refused = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), more]);
            assert!(refused.unwrap_err().starts_with("OTEL_"), "{endpoint}");
        }
    }
}
