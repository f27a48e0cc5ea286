// SPDX-License-Identifier: Apache-2.0
//! The command line, parsed as Go's `flag` package does it.
//!
//! `-x`, `--x`, `-x=v` and `-x v` are the same; a boolean flag takes a value only after `=`; the
//! first argument that is no flag, or `--`, ends the flags. containerd's callers rely on all of
//! it, and on the texts of the errors.

/// What the command line asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// What to do.
    pub(crate) action: Action,
    /// `-namespace`: containerd's namespace.
    pub(crate) namespace: String,
    /// `-id`: the container or sandbox.
    pub(crate) id: String,
    /// `-address`: containerd's gRPC socket, part of what our socket's name is made of.
    pub(crate) address: String,
    /// `-bundle`: given to `delete` only.
    pub(crate) bundle: String,
    /// `-socket`: listen here rather than on the inherited descriptor.
    pub(crate) socket: String,
    /// `-debug-socket`: likewise for the debug socket.
    pub(crate) debug_socket: String,
    /// `-debug`: log at debug level.
    pub(crate) debug: bool,
    /// `-log-level`, ours: the level in the numbers of containerd's bootstrap protocol.
    pub(crate) log_level: Option<i32>,
    /// `-notify-socket`, ours: the shim's own `NOTIFY_SOCKET`, for its containers.
    pub(crate) notify_socket: String,
    /// `-ready-fd`, ours: the inherited pipe on which the server says that it serves.
    pub(crate) ready_fd: Option<i32>,
}

/// The first argument that is no flag, or a flag that acts like one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Anything but the others: be the server.
    #[default]
    Serve,
    /// Make sure that a server runs and print its address.
    Start,
    /// Clean up after a container, whatever has become of its server.
    Delete,
    /// `-v`, `-version`: print the version.
    Version,
    /// `-info`: print what this runtime supports.
    Info,
    /// `-h`, `-help`: print the flags.
    Help,
}

/// A command line that cannot be used, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid boolean value {value:?} for -{name}: parse error")]
    NotBool { name: String, value: String },
    #[error("invalid value {value:?} for flag -{name}: parse error")]
    NotNumber { name: String, value: String },
    #[error("shim namespace cannot be empty")]
    NoNamespace,
    #[error("invalid {what} {value:?}: must be a name, not empty and not a path")]
    BadName { what: &'static str, value: String },
}

/// The flags, for `-help`.
pub(crate) const USAGE: &str = "\
  -namespace NAME       containerd's namespace
  -id ID                id of the container or sandbox
  -address PATH         containerd's gRPC socket
  -publish-binary PATH  ignored
  -bundle PATH          the bundle (delete)
  -socket PATH          socket to serve on instead of descriptor 3
  -debug-socket PATH    debug socket instead of descriptor 4
  -debug                log at debug level
  -info                 print what this runtime supports
  -v, -version          print the version
actions: start, delete; none: serve
";

impl Args {
    /// Parses the arguments after the program's name.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut parsed = Self::default();
        let (mut version, mut info, mut help) = (false, false, false);
        let mut args = args.into_iter();
        let mut positional = None;
        while let Some(arg) = args.next() {
            let Some((name, value)) = split(&arg)? else {
                positional = if arg == "--" { args.next() } else { Some(arg) };
                break;
            };
            let mut text = || match value {
                Some(value) => Ok(value.to_owned()),
                None => args
                    .next()
                    .ok_or_else(|| ArgsError::NoValue(name.to_owned())),
            };
            match name {
                "namespace" => parsed.namespace = text()?,
                "id" => parsed.id = text()?,
                "address" => parsed.address = text()?,
                "publish-binary" => drop(text()?),
                "bundle" => parsed.bundle = text()?,
                "socket" => parsed.socket = text()?,
                "debug-socket" => parsed.debug_socket = text()?,
                "debug" => parsed.debug = boolean(name, value)?,
                "v" | "version" => version = boolean(name, value)?,
                "info" => info = boolean(name, value)?,
                "h" | "help" => help = boolean(name, value)?,
                "log-level" => parsed.log_level = Some(number(name, &text()?)?),
                "notify-socket" => parsed.notify_socket = text()?,
                "ready-fd" => parsed.ready_fd = Some(number(name, &text()?)?),
                _ => return Err(ArgsError::Undefined(name.to_owned())),
            }
        }
        parsed.action = match positional.as_deref() {
            _ if help => Action::Help,
            _ if version => Action::Version,
            _ if info => Action::Info,
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            _ => Action::Serve,
        };
        parsed.check()?;
        Ok(parsed)
    }

    /// Refuses names that would lead out of the directories they are joined to.
    fn check(&self) -> Result<(), ArgsError> {
        if !matches!(self.action, Action::Serve | Action::Start | Action::Delete) {
            return Ok(());
        }
        if self.namespace.is_empty() {
            return Err(ArgsError::NoNamespace);
        }
        for (what, value) in [("namespace", &self.namespace), ("id", &self.id)] {
            let empty = value.is_empty() && self.action != Action::Serve;
            if empty || value == "." || value == ".." || value.contains(['/', '\0']) {
                return Err(ArgsError::BadName {
                    what,
                    value: value.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Name and value of a flag; `None` for what ends the flags.
fn split(arg: &str) -> Result<Option<(&str, Option<&str>)>, ArgsError> {
    let Some(rest) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
        return Ok(None);
    };
    let name = rest.strip_prefix('-').unwrap_or(rest);
    if rest == "-" {
        return Ok(None);
    }
    if name.is_empty() || name.starts_with(['-', '=']) {
        return Err(ArgsError::Syntax(arg.to_owned()));
    }
    Ok(Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    }))
}

/// What Go's `strconv.ParseBool` accepts.
fn boolean(name: &str, value: Option<&str>) -> Result<bool, ArgsError> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(ArgsError::NotBool {
            name: name.to_owned(),
            value: value.to_owned(),
        }),
    }
}

fn number(name: &str, value: &str) -> Result<i32, ArgsError> {
    value.parse().map_err(|_| ArgsError::NotNumber {
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    fn error(line: &str) -> String {
        parse(line).unwrap_err().to_string()
    }

    #[test]
    fn what_containerd_passes_is_understood() {
        let args = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id abc -bundle /b -debug start",
        );
        let want = Args {
            action: Action::Start,
            namespace: "k8s.io".into(),
            id: "abc".into(),
            address: "/run/containerd/containerd.sock".into(),
            bundle: "/b".into(),
            debug: true,
            ..Args::default()
        };
        assert_eq!(args.unwrap(), want);
    }

    #[test]
    fn all_forms_of_a_flag_are_the_same_and_the_last_wins() {
        for form in ["-id x", "--id x", "-id=x", "--id=x", "-id=y -id x"] {
            assert_eq!(
                parse(&format!("-namespace n {form}")).unwrap().id,
                "x",
                "{form}"
            );
        }
        assert_eq!(parse("-namespace=a=b").unwrap().namespace, "a=b");
        assert_eq!(parse("-id= -namespace n").unwrap().id, "");
        assert_eq!(parse("-id -debug -namespace n").unwrap().id, "-debug");
    }

    #[test]
    fn a_boolean_takes_its_value_only_after_an_equals_sign() {
        assert!(!parse("-namespace n -debug=false").unwrap().debug);
        assert!(parse("-namespace n -debug=T").unwrap().debug);
        let args = parse("-namespace n -id i -debug false start").unwrap();
        assert_eq!((args.debug, args.action), (true, Action::Serve));
        assert_eq!(
            error("-debug=maybe"),
            "invalid boolean value \"maybe\" for -debug: parse error"
        );
    }

    #[test]
    fn the_first_positional_is_the_action_and_ends_the_flags() {
        let action = |line: &str| parse(&format!("-namespace n -id i {line}")).unwrap().action;
        assert_eq!(action("start -nonsense"), Action::Start);
        assert_eq!(action("-- delete"), Action::Delete);
        assert_eq!(action("- start"), Action::Serve);
        assert_eq!(action("restart"), Action::Serve);
        assert_eq!(action("--"), Action::Serve);
        assert_eq!(action(""), Action::Serve);
    }

    #[test]
    fn version_and_info_need_no_namespace() {
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("--version start").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-h").unwrap().action, Action::Help);
        assert_eq!(error("start"), "shim namespace cannot be empty");
        assert_eq!(error(""), "shim namespace cannot be empty");
    }

    #[test]
    fn errors_are_worded_as_gos() {
        assert_eq!(
            error("-nonsense=1"),
            "flag provided but not defined: -nonsense"
        );
        assert_eq!(error("---id"), "bad flag syntax: ---id");
        assert_eq!(error("-=x"), "bad flag syntax: -=x");
        assert_eq!(error("-id"), "flag needs an argument: -id");
        assert_eq!(
            error("-ready-fd x"),
            "invalid value \"x\" for flag -ready-fd: parse error"
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for id in ["a/b", "..", ".", "/"] {
            assert!(matches!(
                parse(&format!("-namespace n -id {id} delete")),
                Err(ArgsError::BadName { what: "id", .. })
            ));
        }
        assert!(parse("-namespace n delete").is_err());
        assert!(parse("-namespace ../n -id i start").is_err());
    }
}
