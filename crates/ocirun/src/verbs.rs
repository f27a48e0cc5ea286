// SPDX-License-Identifier: Apache-2.0
//! Which verbs and flags there are: runc's, as its clients use them.

use crate::args::Takes::{Nothing, Value, Values};
use crate::args::{Arguments, Flag, Flags, Parsed, Takes, Verb};

const fn flag(name: &'static str, short: &'static str, takes: Takes, help: &'static str) -> Flag {
    Flag {
        name,
        short,
        takes,
        help,
    }
}

/// Flags of every verb.
pub(crate) const GLOBAL: &[Flag] = &[
    flag("debug", "", Nothing, "log more"),
    flag("log", "", Value, "file to log to (default: standard error)"),
    flag("log-format", "", Value, "text or json"),
    flag("root", "", Value, "directory of the containers' state"),
    flag(
        "systemd-cgroup",
        "",
        Nothing,
        "let systemd make the cgroups",
    ),
    flag("rootless", "", Value, "true, false or auto"),
    flag("help", "h", Nothing, "show help"),
    flag("version", "v", Nothing, "print the version"),
];

const BUNDLE: Flag = flag(
    "bundle",
    "b",
    Value,
    "directory with config.json (default: .)",
);
const CONSOLE: Flag = flag(
    "console-socket",
    "",
    Value,
    "socket that gets the terminal's master",
);
const PIDFD: Flag = flag(
    "pidfd-socket",
    "",
    Value,
    "socket that gets the process's pidfd",
);
const PID_FILE: Flag = flag("pid-file", "", Value, "file to write the process's pid to");
const NO_PIVOT: Flag = flag("no-pivot", "", Nothing, "do not use pivot_root");
const NO_KEYRING: Flag = flag(
    "no-new-keyring",
    "",
    Nothing,
    "keep the caller's session keyring",
);
const PRESERVE: Flag = flag(
    "preserve-fds",
    "",
    Value,
    "pass on so many descriptors from 3 on",
);
const DETACH: Flag = flag("detach", "d", Nothing, "do not wait for its end");
const SUBREAPER: Flag = flag(
    "no-subreaper",
    "",
    Nothing,
    "do not adopt the container's orphans",
);

const UPDATE: &[Flag] = &[
    flag(
        "resources",
        "r",
        Value,
        "file with the resources as JSON, - for standard input",
    ),
    flag("blkio-weight", "", Value, "share of block I/O, 10 to 1000"),
    flag(
        "cpu-period",
        "",
        Value,
        "microseconds of the quota's period",
    ),
    flag(
        "cpu-quota",
        "",
        Value,
        "microseconds of each period, -1 for all",
    ),
    flag("cpu-burst", "", Value, "microseconds that may be saved up"),
    flag("cpu-share", "", Value, "relative weight"),
    flag(
        "cpu-rt-period",
        "",
        Value,
        "microseconds of the real-time period",
    ),
    flag(
        "cpu-rt-runtime",
        "",
        Value,
        "microseconds of it for real-time processes",
    ),
    flag(
        "cpu-idle",
        "",
        Value,
        "1 to run only when nothing else does",
    ),
    flag("cpuset-cpus", "", Value, "processors"),
    flag("cpuset-mems", "", Value, "memory nodes"),
    flag("memory", "", Value, "bytes of memory, with k, m, g"),
    flag(
        "memory-reservation",
        "",
        Value,
        "bytes that are kept if possible",
    ),
    flag(
        "memory-swap",
        "",
        Value,
        "bytes of memory and swap together, -1 for any",
    ),
    flag("pids-limit", "", Value, "number of processes, -1 for any"),
];

const EVENTS: &[Flag] = &[
    flag("stats", "", Nothing, "print statistics once"),
    flag(
        "interval",
        "",
        Value,
        "how often to print statistics (default: 5s)",
    ),
];

const fn verb(
    name: &'static str,
    arguments: Arguments,
    usage: &'static str,
    flags: &'static [Flag],
    help: &'static str,
) -> Verb {
    Verb {
        name,
        arguments,
        usage,
        flags_end: Flags::Anywhere,
        flags,
        help,
    }
}

const fn verb_with_program(
    name: &'static str,
    arguments: Arguments,
    usage: &'static str,
    flags: &'static [Flag],
    help: &'static str,
) -> Verb {
    Verb {
        flags_end: Flags::BeforeArguments,
        ..verb(name, arguments, usage, flags, help)
    }
}

const ONE: Arguments = Arguments::Exactly(1);
const ID: &str = "CONTAINER";

/// The verbs.
pub(crate) const VERBS: &[Verb] = &[
    verb(
        "create",
        ONE,
        ID,
        &[
            BUNDLE, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE,
        ],
        "create a container",
    ),
    verb(
        "run",
        ONE,
        ID,
        &[
            BUNDLE,
            CONSOLE,
            PIDFD,
            PID_FILE,
            NO_PIVOT,
            NO_KEYRING,
            PRESERVE,
            DETACH,
            SUBREAPER,
            flag(
                "keep",
                "",
                Nothing,
                "do not delete the container at its end",
            ),
        ],
        "create and start a container",
    ),
    verb("start", ONE, ID, &[], "start a created container"),
    verb_with_program(
        "exec",
        Arguments::AtLeast(1),
        "CONTAINER PROGRAM [ARGUMENT...] | --process FILE CONTAINER",
        &[
            CONSOLE,
            PIDFD,
            PID_FILE,
            PRESERVE,
            DETACH,
            flag("process", "p", Value, "file with the process as JSON"),
            flag("tty", "t", Nothing, "give it a terminal"),
            flag("user", "u", Value, "UID[:GID]"),
            flag("cwd", "", Value, "working directory"),
            flag("env", "e", Values, "NAME=VALUE, may be repeated"),
            flag("cap", "c", Values, "add a capability, may be repeated"),
            flag(
                "additional-gids",
                "g",
                Values,
                "add a group, may be repeated",
            ),
            flag("no-new-privs", "", Nothing, "set no_new_privs"),
            flag("apparmor", "", Value, "AppArmor profile"),
            flag("process-label", "", Value, "SELinux label"),
            flag("cgroup", "", Values, "cgroup below the container's"),
            flag(
                "ignore-paused",
                "",
                Nothing,
                "allow it in a paused container",
            ),
        ],
        "run one more process in a container",
    ),
    verb("state", ONE, ID, &[], "print the state of a container"),
    verb(
        "list",
        Arguments::Exactly(0),
        "",
        &[
            flag("format", "f", Value, "table or json"),
            flag("quiet", "q", Nothing, "print ids only"),
        ],
        "list containers",
    ),
    verb_with_program(
        "ps",
        Arguments::AtLeast(1),
        "CONTAINER [OPTION OF PS...]",
        &[flag("format", "f", Value, "table or json")],
        "list the processes of a container",
    ),
    verb_with_program(
        "kill",
        Arguments::AtLeast(1),
        "CONTAINER [SIGNAL]",
        &[flag("all", "a", Nothing, "signal all processes")],
        "send a signal to a container (default: TERM)",
    ),
    verb(
        "delete",
        ONE,
        ID,
        &[flag("force", "f", Nothing, "kill it if it runs")],
        "delete a container",
    ),
    verb("pause", ONE, ID, &[], "suspend a container"),
    verb("resume", ONE, ID, &[], "resume a paused container"),
    verb(
        "update",
        ONE,
        ID,
        UPDATE,
        "change the limits of a container",
    ),
    verb(
        "events",
        ONE,
        ID,
        EVENTS,
        "print what happens to a container",
    ),
    verb(
        "spec",
        Arguments::Exactly(0),
        "",
        &[BUNDLE],
        "write a new config.json",
    ),
    verb(
        "features",
        Arguments::Exactly(0),
        "",
        &[],
        "print what is supported",
    ),
    verb("help", Arguments::AtLeast(0), "[VERB]", &[], "show help"),
];

/// The text of help, if it is asked for.
pub(crate) fn help(parsed: &Parsed) -> Option<String> {
    let wanted = parsed.is_set("help")
        || parsed.verb() == "help"
        || (parsed.verb().is_empty() && !parsed.is_set("version"));
    if !wanted {
        return None;
    }
    let of = VERBS.iter().find(|verb| match parsed.verb() {
        "help" => verb.name == parsed.id(),
        verb_name => verb.name == verb_name,
    });
    Some(
        match of.or(parsed.description().filter(|verb| verb.name != "help")) {
            Some(verb) => help_of(verb),
            None => overview(),
        },
    )
}

fn overview() -> String {
    let verbs: Vec<_> = VERBS
        .iter()
        .map(|verb| format!("   {:<10} {}\n", verb.name, verb.help))
        .collect();
    format!(
        "NAME:\n   ocirun - run OCI containers\n\n\
         USAGE:\n   ocirun [global flags] VERB [flags] [arguments]\n\n\
         COMMANDS:\n{}\nGLOBAL OPTIONS:\n{}",
        verbs.concat(),
        flags(GLOBAL)
    )
}

fn help_of(verb: &Verb) -> String {
    format!(
        "NAME:\n   ocirun {} - {}\n\nUSAGE:\n   ocirun {} [flags] {}\n\nOPTIONS:\n{}",
        verb.name,
        verb.help,
        verb.name,
        verb.usage,
        flags(verb.flags)
    )
}

fn flags(flags: &[Flag]) -> String {
    let line = |flag: &Flag| {
        let value = if flag.takes == Nothing { "" } else { " value" };
        let short = match flag.short {
            "" => String::new(),
            short => format!(", -{short}"),
        };
        let names = format!("--{}{short}{value}", flag.name);
        format!("   {names:<28} {}\n", flag.help)
    };
    flags.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help_for(line: &str) -> Option<String> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        help(&Parsed::new(words, GLOBAL, VERBS).unwrap())
    }

    #[test]
    fn help_is_there_for_all_and_for_one() {
        for line in ["", "help", "--help", "-h"] {
            assert!(help_for(line).unwrap().contains("COMMANDS:"), "{line}");
        }
        for line in ["help exec", "exec --help", "exec -h"] {
            let text = help_for(line).unwrap();
            assert!(text.starts_with("NAME:\n   ocirun exec"), "{text}");
            assert!(text.contains("--env, -e value"), "{text}");
        }
        assert!(help_for("state c1").is_none() && help_for("--version").is_none());
    }

    #[test]
    fn no_verb_has_two_flags_of_one_name() {
        for verb in VERBS {
            let mut names: Vec<_> = verb
                .flags
                .iter()
                .chain(GLOBAL)
                .flat_map(|flag| [flag.name, flag.short])
                .filter(|name| !name.is_empty())
                .collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", verb.name);
        }
    }
}
