// SPDX-License-Identifier: Apache-2.0
//! One datagram of `sd_notify(3)`, as it comes from a container and as it goes on to the host.
//!
//! | line                          | passed on                                                      |
//! |-------------------------------|----------------------------------------------------------------|
//! | `READY=1`                     | with the `MAINPID` of the container, in one datagram           |
//! | `RELOADING=1`, `MONOTONIC_USEC` | yes; the time converted to the host's clock                  |
//! | `STOPPING=1`, `WATCHDOG=1`    | yes                                                            |
//! | `STATUS=`                     | UTF-8, without control characters, cut so that all fits        |
//! | `ERRNO=`, `EXIT_STATUS=`      | numbers only                                                   |
//! | `BUSERROR=`                   | names of D-Bus errors only                                     |
//! | `MAINPID=`                    | as the host's pid of a process of the container                |
//! | `EXTEND_TIMEOUT_USEC=`        | yes                                                            |
//! | `BARRIER=1`                   | alone and with one descriptor; see [`Datagram::Barrier`]       |
//! | all others                    | no: `FDSTORE`, `WATCHDOG_USEC`, `NOTIFYACCESS`, …              |
//!
//! As in systemd the order of lines means nothing, and of equal names the first counts.

use std::fmt;

/// The longest datagram that systemd reads (`NOTIFY_BUFFER_MAX`), and so we.
pub const LONGEST: usize = 4096;
/// The longest name of a D-Bus error.
const LONGEST_NAME: usize = 255;

/// What a datagram is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram {
    /// Lines to be passed on; perhaps none.
    Message(Message),
    /// The sender waits until its descriptor is closed, when all that it has sent before has been
    /// processed (`sd_notify_barrier(3)`).
    Barrier,
}

/// The lines of a datagram that may be passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Startup or reload is finished.
    pub ready: bool,
    /// A reload begins.
    pub reloading: bool,
    /// When the reload began: microseconds of the sender's `CLOCK_MONOTONIC`.
    pub monotonic_usec: Option<u64>,
    /// The end begins.
    pub stopping: bool,
    /// A text for people.
    pub status: Option<String>,
    /// Why the service failed.
    pub errno: Option<i32>,
    /// Why the service failed, as a D-Bus error.
    pub bus_error: Option<String>,
    /// How the service ended.
    pub exit_status: Option<u8>,
    /// The main process; in the sender's PID namespace when it comes, in ours when it goes on.
    pub main_pid: Option<i32>,
    /// The service is alive.
    pub watchdog: bool,
    /// Startup, runtime or shutdown takes so much longer.
    pub extend_timeout_usec: Option<u64>,
}

/// A datagram of which nothing can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A NUL byte is in it.
    Nul,
    /// A barrier with other lines beside it: systemd ignores all of them.
    BarrierWithMore,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nul => "a NUL byte in it",
            Self::BarrierWithMore => "BARRIER=1 beside other lines",
        })
    }
}

/// Reads a datagram.
///
/// # Errors
/// It is none of `sd_notify(3)`. A line that is unknown or malformed is no error: it is left out.
pub fn parse(data: &[u8]) -> Result<Datagram, Refused> {
    // The terminating NUL of a C string is often sent along.
    let data = data.strip_suffix(b"\0").unwrap_or(data);
    if data.contains(&0) {
        return Err(Refused::Nul);
    }
    let lines = || data.split(|byte| *byte == b'\n').filter(|l| !l.is_empty());
    if lines().any(|line| line == b"BARRIER=1") {
        return match lines().count() {
            1 => Ok(Datagram::Barrier),
            _ => Err(Refused::BarrierWithMore),
        };
    }
    let mut message = Message::default();
    for line in lines() {
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            message.take(&line[..at], &line[at + 1..]);
        }
    }
    Ok(Datagram::Message(message))
}

impl Message {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"READY" => self.ready |= value == b"1",
            b"RELOADING" => self.reloading |= value == b"1",
            b"STOPPING" => self.stopping |= value == b"1",
            b"WATCHDOG" => self.watchdog |= value == b"1",
            b"MONOTONIC_USEC" => first(&mut self.monotonic_usec, || number(value)),
            b"EXTEND_TIMEOUT_USEC" => first(&mut self.extend_timeout_usec, || number(value)),
            b"ERRNO" => first(&mut self.errno, || number(value).filter(|n| *n >= 0)),
            b"EXIT_STATUS" => first(&mut self.exit_status, || number(value)),
            b"MAINPID" => first(&mut self.main_pid, || number(value).filter(|pid| *pid > 0)),
            b"BUSERROR" => first(&mut self.bus_error, || bus_error(value)),
            b"STATUS" => first(&mut self.status, || status(value)),
            _ => {}
        }
    }

    /// Whether there is nothing to be passed on.
    pub fn is_empty(&self) -> bool {
        let nothing_but_a_clock = Self {
            monotonic_usec: self.monotonic_usec,
            ..Self::default()
        };
        *self == nothing_but_a_clock
    }

    /// The datagram for the host, of at most [`LONGEST`] bytes: a status is cut if it must be.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn fmt::Display| {
            use fmt::Write as _;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}={value}");
        };
        // First, as some readers stop at READY.
        if let Some(pid) = self.main_pid {
            line("MAINPID", &pid);
        }
        for (name, set) in [
            ("READY", self.ready),
            ("RELOADING", self.reloading),
            ("STOPPING", self.stopping),
            ("WATCHDOG", self.watchdog),
        ] {
            if set {
                line(name, &1);
            }
        }
        if let Some(time) = self.monotonic_usec.filter(|_| self.reloading) {
            line("MONOTONIC_USEC", &time);
        }
        if let Some(errno) = self.errno {
            line("ERRNO", &errno);
        }
        if let Some(name) = &self.bus_error {
            line("BUSERROR", name);
        }
        if let Some(status) = self.exit_status {
            line("EXIT_STATUS", &status);
        }
        if let Some(time) = self.extend_timeout_usec {
            line("EXTEND_TIMEOUT_USEC", &time);
        }
        if let Some(status) = &self.status {
            let room = LONGEST.saturating_sub(text.len() + "STATUS=\n".len());
            let mut end = status.len().min(room);
            while !status.is_char_boundary(end) {
                end -= 1;
            }
            text.push_str("STATUS=");
            text.push_str(&status[..end]);
        }
        text.trim_end_matches('\n').as_bytes().to_vec()
    }
}

impl fmt::Display for Message {
    /// The lines beside each other, for logs and events.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = String::from_utf8_lossy(&self.encode()).replace('\n', " ");
        f.write_str(&lines)
    }
}

/// Sets what has not been set.
fn first<T>(place: &mut Option<T>, value: impl FnOnce() -> Option<T>) {
    if place.is_none() {
        *place = value();
    }
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(value).ok()?.trim();
    // Rust takes a plus sign, systemd none.
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

fn bus_error(value: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(value).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let valid = !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(plain);
    valid.then(|| name.to_owned())
}

/// The empty status is one too: it takes back the last one.
fn status(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    Some(text.chars().filter(|c| !is_control(*c)).collect())
}

/// Control characters, and those that change the direction or the lines of a terminal.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        match parse(text.as_bytes()).unwrap() {
            Datagram::Message(message) => message,
            Datagram::Barrier => panic!("a barrier"),
        }
    }

    fn passed(text: &str) -> String {
        String::from_utf8(message(text).encode()).unwrap()
    }

    #[test]
    fn ready_counts_in_any_line() {
        assert!(message("READY=1").ready);
        assert!(message("STATUS=x\nREADY=1\n").ready);
        assert!(message("\n\nX=y\nREADY=1\0").ready);
        assert!(!message("READY=0").ready);
        assert!(!message("XREADY=1").ready);
        assert!(!message("READY=1 ").ready);
    }

    #[test]
    fn every_line_of_the_list_passes_and_no_other() {
        let lines = [
            "MAINPID=7",
            "READY=1",
            "RELOADING=1",
            "STOPPING=1",
            "WATCHDOG=1",
            "MONOTONIC_USEC=123",
            "ERRNO=2",
            "BUSERROR=org.freedesktop.DBus.Error.TimedOut",
            "EXIT_STATUS=3",
            "EXTEND_TIMEOUT_USEC=500000",
            "STATUS=all is well",
        ];
        assert_eq!(passed(&lines.join("\n")), lines.join("\n"));
        let reversed: Vec<_> = lines.iter().rev().copied().collect();
        assert_eq!(passed(&reversed.join("\n")), lines.join("\n"));
        for refused in [
            "FDSTORE=1",
            "FDSTOREREMOVE=1\nFDNAME=x",
            "FDPOLL=0",
            "WATCHDOG_USEC=1",
            "WATCHDOG=trigger",
            "NOTIFYACCESS=all",
            "RESTART_RESET=1",
            "MAINPIDFDID=1",
            "VSOCK_CID=3",
            "X_ANYTHING=1",
            "nonsense",
            "",
        ] {
            assert!(message(refused).is_empty(), "{refused}");
            assert_eq!(passed(refused), "");
        }
    }

    #[test]
    fn values_are_checked() {
        for refused in [
            "ERRNO=x",
            "ERRNO=-1",
            "ERRNO=99999999999",
            "ERRNO=+1",
            "BUSERROR=a b",
            "BUSERROR=",
            "MAINPID=0",
            "MAINPID=-1",
            "MAINPID=1;reboot",
            "EXIT_STATUS=256",
            "EXTEND_TIMEOUT_USEC=-5",
        ] {
            assert!(message(refused).is_empty(), "{refused}");
        }
        let data = [b"STATUS=".as_slice(), &[0xff, 0xfe]].concat();
        assert_eq!(parse(&data), Ok(Datagram::Message(Message::default())));
    }

    #[test]
    fn a_status_has_no_control_characters_and_may_be_empty() {
        assert_eq!(passed("STATUS=a\x1b[31mb\tc\u{202e}d"), "STATUS=a[31mbcd");
        assert_eq!(passed("STATUS="), "STATUS=");
        assert!(!message("STATUS=").is_empty());
    }

    #[test]
    fn a_long_status_is_cut_between_characters_and_nothing_else_is_lost() {
        let long = format!("STATUS={}\nREADY=1\nMAINPID=12", "ü".repeat(3000));
        let datagram = message(&long).encode();
        assert!(datagram.len() <= LONGEST && datagram.len() > LONGEST - 8);
        let text = String::from_utf8(datagram).unwrap();
        assert!(text.starts_with("MAINPID=12\nREADY=1\nSTATUS=ü"), "{text}");
    }

    #[test]
    fn of_equal_names_the_first_counts() {
        assert_eq!(passed("STATUS=a\nSTATUS=b"), "STATUS=a");
        assert_eq!(passed("MAINPID=1\nMAINPID=2"), "MAINPID=1");
    }

    #[test]
    fn a_time_without_a_reload_says_nothing() {
        assert!(message("MONOTONIC_USEC=5").is_empty());
        assert_eq!(passed("READY=1\nMONOTONIC_USEC=5"), "READY=1");
    }

    #[test]
    fn a_barrier_stands_alone() {
        assert_eq!(parse(b"BARRIER=1"), Ok(Datagram::Barrier));
        assert_eq!(parse(b"BARRIER=1\n"), Ok(Datagram::Barrier));
        assert_eq!(parse(b"BARRIER=1\nREADY=1"), Err(Refused::BarrierWithMore));
        assert_eq!(
            parse(b"BARRIER=0"),
            Ok(Datagram::Message(Message::default()))
        );
        assert_eq!(parse(b"READY=1\0STOPPING=1"), Err(Refused::Nul));
    }

    #[test]
    fn whatever_a_container_sends_is_no_panic_and_stays_small() {
        let mut seed = 1u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            (seed >> 33) as usize
        };
        let pieces: [&[u8]; 12] = [
            b"READY",
            b"=",
            b"1",
            b"\n",
            b"STATUS=",
            b"MAINPID=",
            b"\xff",
            b"\0",
            "ü".as_bytes(),
            b"BARRIER=1",
            b"-",
            b"999999999999999999999",
        ];
        for _ in 0..20_000 {
            let data: Vec<u8> = (0..random() % 40)
                .flat_map(|_| pieces[random() % pieces.len()].to_vec())
                .collect();
            if let Ok(Datagram::Message(message)) = parse(&data) {
                assert!(message.encode().len() <= LONGEST);
            }
        }
    }
}
