// SPDX-License-Identifier: Apache-2.0
//! Taking secrets out of what goes into a bug report.
//!
//! The shim keeps no environment and no arguments; but an error text may quote some. So whatever
//! looks like `NAME=value` or `"name": "value"` with a telling name loses its value. Not a proof:
//! whoever sends a report reads it first, and the report says so.

/// What names of secrets contain.
const TELLING: [&str; 10] = [
    "pass",
    "secret",
    "token",
    "apikey",
    "api_key",
    "credential",
    "private_key",
    "privatekey",
    "auth",
    "cookie",
];

/// What stands in their place.
const GONE: &str = "[redacted]";

/// Takes the values of telling names out of a text.
pub(crate) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let separator = &after[..1];
        let value = &after[1..];
        let name: String = before
            .trim_end_matches(['"', '\'', '\\', ' '])
            .chars()
            .rev()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<String>()
            .to_lowercase();
        out.push_str(separator);
        rest = value;
        if !name.is_empty() && TELLING.iter().any(|word| name.contains(word)) {
            let lead = value.len() - value.trim_start_matches([' ', '\\', '"', '\'']).len();
            let quoted = value[..lead].ends_with(['"', '\'']);
            let end = value[lead..]
                .find(|c: char| match quoted {
                    true => matches!(c, '"' | '\'' | '\\' | '\n'),
                    false => c.is_whitespace() || matches!(c, ',' | ';' | '"' | ']' | '}'),
                })
                .map_or(value.len(), |end| lead + end);
            out.push_str(&value[..lead]);
            if end > lead {
                out.push_str(GONE);
            }
            rest = &value[end..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_telling_names_are_gone_and_nothing_else_is() {
        let cases = [
            ("DB_PASSWORD=hunter2 next", "DB_PASSWORD=[redacted] next"),
            (
                "{\"authToken\": \"ab c\", \"x\": 1}",
                "{\"authToken\": \"[redacted]\", \"x\": 1}",
            ),
            (
                "msg=\"env API_KEY=abc,def\"",
                "msg=\"env API_KEY=[redacted],def\"",
            ),
            ("MY-SECRET: s3cr3t;", "MY-SECRET: [redacted];"),
            ("path=/run/x time=12:30:15", "path=/run/x time=12:30:15"),
            ("exec: \"ls\": not found", "exec: \"ls\": not found"),
            ("TOKEN=", "TOKEN="),
            (
                "\"private_pid_namespace\": true",
                "\"private_pid_namespace\": true",
            ),
            ("PRIVATE_KEY=MII", "PRIVATE_KEY=[redacted]"),
            ("PASS=ü=ö", "PASS=[redacted]"),
        ];
        for (text, wanted) in cases {
            assert_eq!(redact(text), wanted);
        }
    }
}
