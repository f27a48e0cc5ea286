// SPDX-License-Identifier: Apache-2.0
//! Whether a container has a relay, and where it leads.
//!
//! | annotation [`ANNOTATION`]        | the shim's own `NOTIFY_SOCKET` | relay                        |
//! |----------------------------------|--------------------------------|------------------------------|
//! | none                             | none                           | none                         |
//! | none                             | set                            | to that socket               |
//! | `on`, `true`, `1`                | any                            | to that socket, if it is set |
//! | `off`, `false`, `0`              | any                            | none                         |
//! | `/path` or `@name`               | any                            | to the socket it names       |
//!
//! A variable that the shim has merely inherited from containerd is containerd's, not its own: a
//! container must not speak for containerd to systemd. (The Go shim keeps it from runc, too.)

use crate::Error;

/// The annotation of a container's specification.
pub const ANNOTATION: &str = "io.containerd.rust.notify";

/// What is wanted for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// No socket.
    Off,
    /// A socket, whose state is kept; it leads nowhere.
    Local,
    /// A socket that leads to the shim's own service manager, in the shim's name.
    Own(String),
    /// A socket that leads to this one, in the name of the container's init: systemd takes a
    /// message for the unit in whose cgroup its sender is.
    Named(String),
}

impl Setting {
    /// Decides.
    ///
    /// # Errors
    /// The annotation says something else.
    pub fn decide(annotation: Option<&str>, own: Option<&str>) -> Result<Self, Error> {
        let own = own.filter(|socket| !socket.is_empty());
        Ok(match (annotation.map(str::trim), own) {
            (None | Some(""), None) => Self::Off,
            (None | Some(""), Some(own)) => Self::Own(own.to_owned()),
            (Some("off" | "false" | "0"), _) => Self::Off,
            (Some("on" | "true" | "1"), None) => Self::Local,
            (Some("on" | "true" | "1"), Some(own)) => Self::Own(own.to_owned()),
            (Some(socket), _) if socket.starts_with(['/', '@']) => Self::Named(socket.to_owned()),
            (Some(value), _) => {
                return Err(Error::Setting {
                    value: value.to_owned(),
                });
            }
        })
    }
}

/// The `NOTIFY_SOCKET` that is a program's own: what is in its environment, unless whoever called it
/// has the same.
pub fn own_socket(own: Option<String>, callers_environment: &[u8]) -> Option<String> {
    let own = own.filter(|socket| !socket.is_empty())?;
    let inherited = callers_environment
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"NOTIFY_SOCKET="))
        .any(|socket| socket == own.as_bytes());
    (!inherited).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds() {
        let own = Some("/run/n");
        let decide = |annotation, own| Setting::decide(annotation, own).unwrap();
        assert_eq!(decide(None, None), Setting::Off);
        assert_eq!(decide(None, Some("")), Setting::Off);
        assert_eq!(decide(None, own), Setting::Own("/run/n".into()));
        for on in ["on", "true", "1", " on "] {
            assert_eq!(decide(Some(on), None), Setting::Local);
            assert_eq!(decide(Some(on), own), Setting::Own("/run/n".into()));
        }
        for off in ["off", "false", "0"] {
            assert_eq!(decide(Some(off), own), Setting::Off);
        }
        assert_eq!(decide(Some("@x"), own), Setting::Named("@x".into()));
        assert_eq!(decide(Some("/x"), None), Setting::Named("/x".into()));
        for wrong in ["yes", "x", "relative/path"] {
            let error = Setting::decide(Some(wrong), own).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn what_is_inherited_from_the_caller_is_not_our_own() {
        let ours = Some("/run/systemd/notify".to_owned());
        let caller = b"A=b\0NOTIFY_SOCKET=/run/systemd/notify\0C=d\0";
        assert_eq!(own_socket(ours.clone(), caller), None);
        assert_eq!(own_socket(ours.clone(), b"A=b\0"), ours);
        assert_eq!(own_socket(ours.clone(), b"NOTIFY_SOCKET=/other\0"), ours);
        assert_eq!(own_socket(ours.clone(), b""), ours);
        assert_eq!(own_socket(Some(String::new()), b""), None);
        assert_eq!(own_socket(None, caller), None);
    }
}
