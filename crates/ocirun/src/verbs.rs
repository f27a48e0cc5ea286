// SPDX-License-Identifier: Apache-2.0
//! Which verbs and flags there are: runc's, as its clients use them.

use crate::args::{Arguments, Flag, Flags, Parsed, Takes, Verb};

/// A table of flags: name, short name or nothing, what stands behind it, a line of help.
macro_rules! flags {
    ($($name:literal $short:literal $takes:ident $help:literal;)*) => {
        &[$(Flag { name: $name, short: $short, takes: Takes::$takes, help: $help }),*]
    };
}

/// Flags of every verb.
pub(crate) const GLOBAL: &[Flag] = flags! {
    "debug" "" Nothing "log more";
    "log" "" Value "file to log to (default: standard error)";
    "log-format" "" Value "text or json";
    "root" "" Value "directory of the containers' state";
    "systemd-cgroup" "" Nothing "let systemd make the cgroups";
    "rootless" "" Value "true, false or auto";
    "help" "h" Nothing "show help";
    "version" "v" Nothing "print the version";
};

/// Of what makes a process.
const PROCESS: &[Flag] = flags! {
    "console-socket" "" Value "socket that gets the terminal's master";
    "pidfd-socket" "" Value "socket that gets the process's pidfd";
    "pid-file" "" Value "file to write the process's pid to";
    "preserve-fds" "" Value "pass on so many descriptors from 3 on";
};

/// Of what may leave the process to itself.
const DETACH: &[Flag] = flags! {
    "detach" "d" Nothing "do not wait for its end";
};

const BUNDLE: &[Flag] = flags! {
    "bundle" "b" Value "directory with config.json (default: .)";
};

/// Of what makes a container.
const CREATE: &[Flag] = flags! {
    "no-pivot" "" Nothing "do not use pivot_root";
    "no-new-keyring" "" Nothing "keep the caller's session keyring";
};

const RUN: &[Flag] = flags! {
    "no-subreaper" "" Nothing "do not adopt the container's orphans";
    "keep" "" Nothing "do not delete the container at its end";
};

const EXEC: &[Flag] = flags! {
    "process" "p" Value "file with the process as JSON";
    "tty" "t" Nothing "give it a terminal";
    "user" "u" Value "UID[:GID]";
    "cwd" "" Value "working directory";
    "env" "e" Values "NAME=VALUE, may be repeated";
    "cap" "c" Values "add a capability, may be repeated";
    "additional-gids" "g" Values "add a group, may be repeated";
    "no-new-privs" "" Nothing "set no_new_privs";
    "apparmor" "" Value "AppArmor profile";
    "process-label" "" Value "SELinux label";
    "cgroup" "" Values "[CONTROLLER:]PATH of a cgroup below the container's";
    "ignore-paused" "" Nothing "allow it in a paused container";
};

const UPDATE: &[Flag] = flags! {
    "resources" "r" Value "file with the resources as JSON, - for standard input";
    "blkio-weight" "" Value "share of block I/O, 10 to 1000";
    "cpu-period" "" Value "microseconds of the quota's period";
    "cpu-quota" "" Value "microseconds of each period, -1 for all";
    "cpu-burst" "" Value "microseconds that may be saved up";
    "cpu-share" "" Value "relative weight";
    "cpu-rt-period" "" Value "microseconds of the real-time period";
    "cpu-rt-runtime" "" Value "microseconds of it for real-time processes";
    "cpu-idle" "" Value "1 to run only when nothing else does";
    "cpuset-cpus" "" Value "processors";
    "cpuset-mems" "" Value "memory nodes";
    "memory" "" Value "bytes of memory, with k, m, g";
    "memory-reservation" "" Value "bytes that are kept if possible";
    "memory-swap" "" Value "bytes of memory and swap together, -1 for any";
    "pids-limit" "" Value "number of processes, -1 for any";
    "l3-cache-schema" "" Value "share of the L3 cache (Intel RDT)";
    "mem-bw-schema" "" Value "share of memory bandwidth (Intel RDT)";
    "kernel-memory" "" Value "obsolete: ignored";
    "kernel-memory-tcp" "" Value "obsolete: ignored";
};

const EVENTS: &[Flag] = flags! {
    "stats" "" Nothing "print statistics once";
    "interval" "" Value "how often to print statistics (default: 5s)";
};

/// The same name as that of a global flag, and another meaning; runc's.
const SPEC: &[Flag] = flags! {
    "rootless" "" Nothing "for who is not root";
};

const LIST: &[Flag] = flags! {
    "format" "f" Value "table or json";
    "quiet" "q" Nothing "print ids only";
};

const PS: &[Flag] = flags! { "format" "f" Value "table or json"; };
const KILL: &[Flag] = flags! { "all" "a" Nothing "signal all processes"; };
const DELETE: &[Flag] = flags! { "force" "f" Nothing "kill it if it runs"; };

/// A table of verbs: name, where its flags end, how many arguments, the arguments as help shows
/// them, its flags, a line of help.
macro_rules! verbs {
    ($($name:literal $end:ident $number:ident($n:literal) $usage:literal $flags:tt $help:literal;)*) => {
        &[$(Verb {
            name: $name,
            arguments: Arguments::$number($n),
            usage: $usage,
            flags_end: Flags::$end,
            flags: &$flags,
            help: $help,
        }),*]
    };
}

/// The verbs.
pub(crate) const VERBS: &[Verb] = verbs! {
    "create" Anywhere Exactly(1) "CONTAINER" [BUNDLE, PROCESS, CREATE]
        "create a container";
    "run" Anywhere Exactly(1) "CONTAINER" [BUNDLE, PROCESS, CREATE, DETACH, RUN]
        "create and start a container";
    "start" Anywhere Exactly(1) "CONTAINER" []
        "start a created container";
    "exec" BeforeArguments AtLeast(1)
        "CONTAINER PROGRAM [ARGUMENT...] | --process FILE CONTAINER" [PROCESS, DETACH, EXEC]
        "run one more process in a container";
    "state" Anywhere Exactly(1) "CONTAINER" []
        "print the state of a container";
    "list" Anywhere Exactly(0) "" [LIST]
        "list containers";
    "ps" BeforeArguments AtLeast(1) "CONTAINER [OPTION OF PS...]" [PS]
        "list the processes of a container";
    "kill" BeforeArguments AtLeast(1) "CONTAINER [SIGNAL]" [KILL]
        "send a signal to a container (default: TERM)";
    "delete" Anywhere Exactly(1) "CONTAINER" [DELETE]
        "delete a container";
    "pause" Anywhere Exactly(1) "CONTAINER" []
        "suspend a container";
    "resume" Anywhere Exactly(1) "CONTAINER" []
        "resume a paused container";
    "update" Anywhere Exactly(1) "CONTAINER" [UPDATE]
        "change the limits of a container";
    "events" Anywhere Exactly(1) "CONTAINER" [EVENTS]
        "print what happens to a container";
    "spec" Anywhere Exactly(0) "" [BUNDLE, SPEC]
        "write a new config.json";
    "features" Anywhere Exactly(0) "" []
        "print what is supported";
    "help" Anywhere AtLeast(0) "[VERB]" []
        "show help";
};

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
        flags(&[GLOBAL])
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

fn flags(tables: &[&[Flag]]) -> String {
    let line = |flag: &Flag| {
        let value = if flag.takes == Takes::Nothing {
            ""
        } else {
            " value"
        };
        let short = match flag.short {
            "" => String::new(),
            short => format!(", -{short}"),
        };
        let names = format!("--{}{short}{value}", flag.name);
        format!("   {names:<28} {}\n", flag.help)
    };
    tables.iter().copied().flatten().map(line).collect()
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
                .copied()
                .flatten()
                .chain(GLOBAL)
                .flat_map(|flag| [flag.name, flag.short])
                .filter(|name| !name.is_empty() && (verb.name, *name) != ("spec", "rootless"))
                .collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", verb.name);
        }
    }
}
