// SPDX-License-Identifier: Apache-2.0
//! Spans in rows in which one is within another or beside it, and never overlaps with it: viewers
//! of traces take what overlaps in a row for an error, and draw it wrong.

use std::cmp::Reverse;

use diagnostics::v1::Span;

use super::tree;

/// How much earlier than the span around it one ends at least, in nanoseconds: a reader that counts
/// in whole ones must not see it end later.
const INSIDE: u64 = 2;

/// A span and where it is drawn.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    pub(crate) span: &'a Span,
    /// Index of its row.
    pub(crate) row: usize,
    pub(crate) end_ns: u64,
}

/// A row: what of an exec, or of the container's own (`""`), is in it.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) exec: &'a str,
    /// How many rows the same exec has before it.
    pub(crate) nth: usize,
    /// Spans that have begun and not ended: true and drawn end.
    open: Vec<(u64, u64)>,
}

impl Row<'_> {
    /// The drawn end of a span that would begin now; `None` if it overlaps with one of the row.
    fn take(&mut self, start: u64, end: u64) -> Option<u64> {
        while self.open.last().is_some_and(|(open, _)| *open <= start) {
            self.open.pop();
        }
        let drawn = match self.open.last() {
            Some((around, _)) if *around < end => return None,
            Some((_, around)) => end.min(around.saturating_sub(INSIDE)).max(start),
            None => end,
        };
        self.open.push((end, drawn));
        Some(drawn)
    }
}

/// Puts spans into rows, in the order in which they begin. Execs overlap with each other, so each
/// has rows of its own.
pub(crate) fn place(spans: &[Span]) -> (Vec<Row<'_>>, Vec<Placed<'_>>) {
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_by_key(|span| (span.start_mono_ns, Reverse(span.duration_ns), span.id));
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut placed = Vec::new();
    for span in sorted {
        let (start, end) = (span.start_mono_ns, tree::end(span));
        let fitting = rows
            .iter_mut()
            .enumerate()
            .filter(|(_, row)| row.exec == span.exec)
            .find_map(|(index, row)| Some((index, row.take(start, end)?)));
        let (row, end_ns) = fitting.unwrap_or_else(|| {
            let nth = rows.iter().filter(|row| row.exec == span.exec).count();
            rows.push(Row {
                exec: &span.exec,
                nth,
                open: vec![(end, end)],
            });
            (rows.len() - 1, end)
        });
        placed.push(Placed { span, row, end_ns });
    }
    (rows, placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u64, exec: &str, start: u64, end: u64) -> Span {
        Span {
            id,
            exec: exec.to_owned(),
            start_mono_ns: start,
            duration_ns: end - start,
            ..Span::default()
        }
    }

    #[test]
    fn what_is_within_or_beside_shares_a_row_and_what_overlaps_does_not() {
        let spans = [
            span(1, "", 100, 200),
            span(2, "", 100, 150),
            span(3, "", 150, 200),
            span(4, "", 190, 230),
            span(5, "", 200, 210),
            span(6, "e", 120, 300),
            span(7, "", 220, 220),
        ];
        let (rows, placed) = place(&spans);
        let names: Vec<_> = rows.iter().map(|row| (row.exec, row.nth)).collect();
        assert_eq!(names, [("", 0), ("e", 0), ("", 1)]);
        let of = |id| {
            let found = placed.iter().find(|placed| placed.span.id == id).unwrap();
            (found.row, found.end_ns)
        };
        assert_eq!([of(1), of(2), of(3)], [(0, 200), (0, 150), (0, 198)]);
        assert_eq!([of(4), of(5), of(6)], [(2, 230), (0, 210), (1, 300)]);
        assert_eq!(of(7), (0, 220));
    }

    #[test]
    fn nothing_ends_before_it_begins() {
        let spans = [span(1, "", 0, 10), span(2, "", 9, 10), span(3, "", 9, 10)];
        let (rows, placed) = place(&spans);
        assert_eq!(rows.len(), 1);
        assert!(
            placed
                .iter()
                .all(|one| one.end_ns >= one.span.start_mono_ns)
        );
    }
}
