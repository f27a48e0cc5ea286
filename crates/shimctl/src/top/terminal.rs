// SPDX-License-Identifier: Apache-2.0
//! The terminal while `top` has it: raw, on the alternate screen, and given back as it was.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use sys::Call as _;

use crate::error::Error;

/// A key that was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Up,
    Down,
    /// Ctrl-C, or the terminal is gone.
    Interrupt,
}

/// The terminal; dropped, it is as before.
pub(crate) struct Terminal {
    before: Termios,
}

impl Terminal {
    pub(crate) fn open() -> Result<Self, Error> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            let error = std::io::Error::other("not a terminal: use --count or --json");
            return Err(Error::io("top")(error));
        }
        let before = tcgetattr(std::io::stdin()).call("tcgetattr", || "stdin")?;
        let mut raw = before.clone();
        raw.make_raw();
        // Reads return at once, with or without a key.
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).call("tcsetattr", || "stdin")?;
        let terminal = Self { before };
        // Alternate screen, no cursor, no wrapping.
        terminal.write("\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J")?;
        Ok(terminal)
    }

    /// Draws over what is there: without clearing first, so that nothing flickers.
    pub(crate) fn show(&self, lines: &[String]) -> Result<(), Error> {
        // Cleared before it is written: behind a line as wide as the screen, the cursor stands on the
        // last character.
        let text = lines.join("\r\n\x1b[K");
        self.write(&format!("\x1b[H\x1b[K{text}"))
    }

    /// Waits for a key.
    pub(crate) fn key(&self, limit: Duration) -> Result<Option<Key>, Error> {
        let limit = Timespec::try_from(limit).ok();
        let stdin = std::io::stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, limit.as_ref()) {
            // Another size of the window, or a stop and a continuation: draw again.
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            other => other.call("poll", || "stdin")?,
        };
        let mut bytes = [0; 16];
        let count = rustix::io::read(&stdin, &mut bytes[..]).call("read", || "stdin")?;
        Ok(match &bytes[..count] {
            [] | [3 | 4, ..] => Some(Key::Interrupt),
            b"\x1b[A" | b"\x1bOA" => Some(Key::Up),
            b"\x1b[B" | b"\x1bOB" => Some(Key::Down),
            [0x1b, ..] => None,
            [byte, ..] => Some(Key::Char(char::from(*byte))),
        })
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::io("write to the terminal"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.write("\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before);
    }
}
