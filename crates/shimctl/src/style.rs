// SPDX-License-Identifier: Apache-2.0
//! Where output goes: how wide it may be, and whether it may have colours.

use std::io::IsTerminal;

use crate::args::{Global, When};

/// Colours, by what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// Headings.
    Bold,
    /// What matters less.
    Dim,
    /// All is well.
    Good,
    /// Look here.
    Warn,
    /// Something is wrong.
    Bad,
    /// Names.
    Name,
}

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) colour: bool,
    /// Columns; `None` for as many as it takes.
    pub(crate) width: Option<usize>,
}

impl Style {
    /// Plain text of this width.
    #[cfg(test)]
    pub(crate) fn plain(width: usize) -> Self {
        Self {
            colour: false,
            width: Some(width),
        }
    }

    /// As standard output wants it.
    pub(crate) fn of_output(global: &Global) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !no_color && !dumb,
        };
        let width = (terminal && !global.wide).then(|| size().0);
        Self { colour, width }
    }

    pub(crate) fn paint(self, ink: Ink, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Good => "32",
            Ink::Warn => "33",
            Ink::Bad => "31",
            Ink::Name => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Columns and rows of the terminal at standard output.
pub(crate) fn size() -> (usize, usize) {
    let from_environment = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        }
        _ => (
            from_environment("COLUMNS").unwrap_or(80),
            from_environment("LINES").unwrap_or(24),
        ),
    }
}

/// Text of others, without what could command a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                '\u{fffd}'
            }
            c => c,
        })
        .collect()
}

/// How many columns a text takes.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

fn char_columns(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The text in so many columns at most, with an ellipsis if something is missing.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut fitted = String::new();
    let mut used = 0;
    for c in text.chars() {
        if used + char_columns(c) + 1 > width {
            break;
        }
        used += char_columns(c);
        fitted.push(c);
    }
    if width > 0 {
        fitted.push('…');
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_columns_and_cleaned() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("漢字漢字", 5), "漢字…");
        assert_eq!(fit("abc", 0), "");
        assert_eq!(columns("漢字a"), 5);
        assert_eq!(clean("a\x1b[2Jb\tc"), "a\u{fffd}[2Jb c");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let mut style = Style::plain(80);
        assert_eq!(style.paint(Ink::Bad, "x"), "x");
        style.colour = true;
        assert_eq!(style.paint(Ink::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(style.paint(Ink::Bad, ""), "");
    }
}
