// SPDX-License-Identifier: Apache-2.0
//! Tables that fit the terminal: columns are shortened where that does little harm, then the least
//! important ones are left out.

use crate::style::{Ink, Style, columns, fit};

/// Where a column's texts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) head: &'static str,
    pub(crate) align: Align,
    /// How far it may be shortened; 0: not at all.
    pub(crate) least: usize,
    /// The higher, the earlier it is left out; 0: never.
    pub(crate) expendable: u8,
}

impl Column {
    pub(crate) const fn left(head: &'static str) -> Self {
        Self {
            head,
            align: Align::Left,
            least: 0,
            expendable: 0,
        }
    }

    pub(crate) const fn right(head: &'static str) -> Self {
        Self {
            align: Align::Right,
            ..Self::left(head)
        }
    }

    /// May be shortened to so many columns.
    pub(crate) const fn down_to(self, least: usize) -> Self {
        Self { least, ..self }
    }

    /// May be left out.
    pub(crate) const fn expendable(self, expendable: u8) -> Self {
        Self { expendable, ..self }
    }
}

/// A text and its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) ink: Option<Ink>,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ink: None,
        }
    }

    pub(crate) fn ink(text: impl Into<String>, ink: Ink) -> Self {
        Self {
            text: text.into(),
            ink: Some(ink),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Between columns.
const GAP: usize = 2;

/// Writes a table, with a final newline; nothing without rows.
pub(crate) fn render(columns_of: &[Column], rows: &[Vec<Cell>], style: Style) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut widths: Vec<usize> = columns_of
        .iter()
        .map(|column| columns(column.head))
        .collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(&cell.text));
        }
    }
    let mut shown: Vec<usize> = (0..columns_of.len()).collect();
    if let Some(limit) = style.width {
        squeeze(columns_of, &mut widths, &mut shown, limit);
    }
    let mut text = String::new();
    let head: Vec<Cell> = columns_of
        .iter()
        .map(|column| Cell::ink(column.head, Ink::Bold))
        .collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        let mut pending = 0;
        for (position, index) in shown.iter().enumerate() {
            let (Some(cell), width) = (row.get(*index), widths[*index]) else {
                continue;
            };
            let fitted = fit(&cell.text, width);
            let padding = width.saturating_sub(columns(&fitted));
            let painted = match cell.ink {
                Some(ink) => style.paint(ink, &fitted),
                None => fitted.clone(),
            };
            pending += if position == 0 { 0 } else { GAP };
            if columns_of[*index].align == Align::Right {
                pending += padding;
            }
            if !fitted.is_empty() {
                // No blanks at the end of a line.
                line.extend(std::iter::repeat_n(' ', std::mem::take(&mut pending)));
                line.push_str(&painted);
            } else {
                pending += columns(&fitted);
            }
            if columns_of[*index].align == Align::Left {
                pending += padding;
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Makes the table fit, as far as it can.
fn squeeze(columns_of: &[Column], widths: &mut [usize], shown: &mut Vec<usize>, limit: usize) {
    loop {
        let total: usize =
            shown.iter().map(|i| widths[*i]).sum::<usize>() + GAP * shown.len().saturating_sub(1);
        let Some(excess) = total.checked_sub(limit).filter(|excess| *excess > 0) else {
            return;
        };
        // The widest that can give gives first, so that all of them end up alike.
        let room = |i: usize| match columns_of[i].least {
            0 => 0,
            least => widths[i].saturating_sub(least.max(columns(columns_of[i].head))),
        };
        if shown.iter().map(|i| room(*i)).sum::<usize>() >= excess {
            for _ in 0..excess {
                let widest = shown
                    .iter()
                    .copied()
                    .filter(|i| {
                        let least = columns_of[*i].least.max(columns(columns_of[*i].head));
                        columns_of[*i].least > 0 && widths[*i] > least
                    })
                    .max_by_key(|i| widths[*i]);
                if let Some(widest) = widest {
                    widths[widest] -= 1;
                }
            }
            return;
        }
        let least_wanted = shown
            .iter()
            .enumerate()
            .filter(|(_, i)| columns_of[**i].expendable > 0)
            .max_by_key(|(_, i)| columns_of[**i].expendable)
            .map(|(position, _)| position);
        match least_wanted {
            Some(position) => {
                shown.remove(position);
            }
            None => {
                // Nothing left to leave out: everything that may be shortened is, wholly.
                for i in shown.iter() {
                    if columns_of[*i].least > 0 {
                        widths[*i] = widths[*i].min(columns_of[*i].least);
                    }
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::left("NAME").down_to(6),
        Column::right("PID"),
        Column::left("IMAGE").down_to(8).expendable(2),
        Column::left("NOTE").expendable(1),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        let row = |cells: [&str; 4]| cells.map(Cell::from).to_vec();
        vec![
            row(["abcdefghijklmnop", "7", "docker.io/library/x", "note"]),
            row(["b", "12345", "", ""]),
        ]
    }

    #[test]
    fn a_table_with_room_is_whole() {
        let text = render(&COLUMNS, &rows(), Style::plain(80));
        let expected = "\
NAME                PID  IMAGE                NOTE
abcdefghijklmnop      7  docker.io/library/x  note
b                 12345
";
        assert_eq!(text, expected);
    }

    #[test]
    fn columns_are_shortened_and_then_left_out() {
        let text = render(&COLUMNS, &rows(), Style::plain(40));
        let expected = "\
NAME             PID  IMAGE         NOTE
abcdefghijkl…      7  docker.io/l…  note
b              12345
";
        assert_eq!(text, expected);
        let text = render(&COLUMNS, &rows(), Style::plain(20));
        let expected = "\
NAME       PID  NOTE
abcdef…      7  note
b        12345
";
        assert_eq!(text, expected);
        for width in 14..100 {
            let text = render(&COLUMNS, &rows(), Style::plain(width));
            assert!(
                text.lines().all(|line| columns(line) <= width),
                "{width}:\n{text}"
            );
        }
    }

    #[test]
    fn no_rows_are_no_table() {
        assert_eq!(render(&COLUMNS, &[], Style::plain(80)), "");
    }
}
