// SPDX-License-Identifier: Apache-2.0
//! One time axis for everything: stretched where something happens, folded where nothing does.
//!
//! A container starts in milliseconds and lives for days. So the axis consists of pieces: busy ones
//! share the width by the time they take, idle ones between them have a fixed width and say how long
//! they are. Idle time in which the use was watched is wider, so that its curves can be read.

/// How wide a fold is.
const FOLD: f64 = 46.0;
/// What part of the width idle time gets that was watched.
const WATCHED: f64 = 0.4;
/// Spans and messages closer than this, as a part of the busy time, belong together.
const TOGETHER: f64 = 0.5;

/// A piece of the axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Piece {
    /// Nanoseconds.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Where it is drawn.
    pub(crate) left: f64,
    pub(crate) right: f64,
    /// Nothing happens in it.
    pub(crate) folded: bool,
}

/// The axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    pub(crate) pieces: Vec<Piece>,
}

impl Axis {
    /// An axis from `left` to `right` on which each of these intervals of time can be seen, and what was
    /// watched, if anything was.
    pub(crate) fn new(
        intervals: &[(u64, u64)],
        watched: Option<(u64, u64)>,
        left: f64,
        right: f64,
    ) -> Self {
        let mut busy = merge(intervals);
        if busy.is_empty() {
            busy.push(watched.unwrap_or((0, 1)));
        }
        // Folds take at most half of the width: the shortest gaps are drawn as they are.
        let most = (((right - left) / 2.0) / FOLD).floor().max(1.0) as usize;
        while busy.len() > most + 1 {
            let gap = |i: &usize| busy[i + 1].0 - busy[*i].1;
            let Some(shortest) = (0..busy.len() - 1).min_by_key(gap) else {
                break;
            };
            busy[shortest].1 = busy[shortest + 1].1;
            busy.remove(shortest + 1);
        }
        let idle = gaps(&busy, watched);
        let widths = idle_widths(&idle, watched, right - left);
        let room = (right - left) - widths.iter().sum::<f64>();
        let total: u64 = busy.iter().map(|(from, to)| to - from).sum();
        // A short busy time beside a long one must be seen, too.
        let least = room / (busy.len() as f64 * 4.0);
        let shares: Vec<f64> = busy
            .iter()
            .map(|(from, to)| ((to - from) as f64 / total.max(1) as f64 * room).max(least))
            .collect();
        let sum: f64 = shares.iter().sum();
        let busy = busy
            .iter()
            .zip(&shares)
            .map(|(interval, share)| (*interval, share / sum * room, false));
        let idle = idle
            .iter()
            .zip(&widths)
            .map(|(interval, width)| (*interval, *width, true));
        let mut all: Vec<((u64, u64), f64, bool)> = busy.chain(idle).collect();
        all.sort_by_key(|((from, _), ..)| *from);
        let mut at = left;
        let pieces = all.into_iter().map(|((from, to), width, folded)| {
            let piece = Piece {
                from,
                to,
                left: at,
                right: at + width,
                folded,
            };
            at += width;
            piece
        });
        Self {
            pieces: pieces.collect(),
        }
    }

    /// Where a moment is drawn.
    pub(crate) fn x(&self, at: u64) -> f64 {
        let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) else {
            return 0.0;
        };
        if at <= first.from {
            return first.left;
        }
        for piece in &self.pieces {
            if at <= piece.to {
                let part = (at - piece.from) as f64 / (piece.to - piece.from).max(1) as f64;
                return piece.left + part * (piece.right - piece.left);
            }
        }
        last.right
    }

    /// When the axis begins.
    pub(crate) fn begin(&self) -> u64 {
        self.pieces.first().map_or(0, |piece| piece.from)
    }

    /// Round moments within a piece, so far apart that their labels fit.
    pub(crate) fn ticks(piece: &Piece, apart: f64) -> Vec<u64> {
        let width = piece.right - piece.left;
        let span = piece.to - piece.from;
        let wanted = (width / apart).floor();
        if wanted < 1.0 || piece.folded {
            return Vec::new();
        }
        let mut step = 1u64;
        while span as f64 / step as f64 > wanted {
            // 1, 2, 5, 10, 20, …
            let digits = step.to_string();
            step = match digits.as_bytes().first() {
                Some(b'2') => step / 2 * 5,
                _ => step * 2,
            };
        }
        (0..)
            .map(|n| n * step)
            .take_while(|at| *at <= span)
            .map(|at| piece.from + at)
            .collect()
    }
}

/// Idle time: between the busy ones, and before and after them as far as it was watched.
fn gaps(busy: &[(u64, u64)], watched: Option<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut gaps: Vec<(u64, u64)> = busy.windows(2).map(|pair| (pair[0].1, pair[1].0)).collect();
    if let (Some((from, to)), Some(first), Some(last)) = (watched, busy.first(), busy.last()) {
        if from < first.0 {
            gaps.insert(0, (from, first.0));
        }
        if to > last.1 {
            gaps.push((last.1, to));
        }
    }
    gaps
}

/// How wide idle times are drawn.
fn idle_widths(idle: &[(u64, u64)], watched: Option<(u64, u64)>, width: f64) -> Vec<f64> {
    let seen = |(from, to): &(u64, u64)| {
        let (begin, end) = watched.unwrap_or((0, 0));
        (*to).min(end).saturating_sub((*from).max(begin)) as f64
    };
    let total: f64 = idle.iter().map(seen).sum();
    idle.iter()
        .map(|gap| match total > 0.0 {
            true => (seen(gap) / total * width * WATCHED).max(FOLD),
            false => FOLD,
        })
        .collect()
}

/// Intervals that overlap or nearly touch become one; all get a little air.
fn merge(intervals: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut sorted: Vec<(u64, u64)> = intervals.to_vec();
    sorted.sort_unstable();
    let busy: u64 = sorted
        .iter()
        .map(|(from, to)| to.saturating_sub(*from))
        .sum();
    let together = ((busy as f64 * TOGETHER) as u64).max(200_000);
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in sorted {
        match merged.last_mut() {
            Some((_, end)) if from <= end.saturating_add(together) => *end = (*end).max(to),
            _ => merged.push((from, to)),
        }
    }
    for (from, to) in &mut merged {
        let air = ((*to - *from) / 40).max(20_000);
        *from = from.saturating_sub(air);
        *to += air;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn idle_time_is_folded_and_order_is_kept() {
        let day = 86_400_000 * MS;
        let life = [(10 * MS, 14 * MS), (day, day + 2 * MS)];
        let axis = Axis::new(&life, None, 100.0, 1100.0);
        assert_eq!(axis.pieces.len(), 3);
        assert!(axis.pieces[1].folded);
        assert_eq!(axis.pieces[0].left, 100.0);
        assert!((axis.pieces[2].right - 1100.0).abs() < 1e-6);
        let moments = [
            0,
            10 * MS,
            12 * MS,
            14 * MS,
            day / 2,
            day,
            day + MS,
            2 * day,
        ];
        let places: Vec<f64> = moments.iter().map(|at| axis.x(*at)).collect();
        assert!(
            places.windows(2).all(|pair| pair[0] <= pair[1]),
            "{places:?}"
        );
        assert!(axis.x(12 * MS) - axis.x(10 * MS) > 250.0);
    }

    #[test]
    fn what_is_close_is_one_piece_and_many_gaps_still_fit() {
        let axis = Axis::new(&[(0, 4 * MS), (5 * MS, 6 * MS)], None, 0.0, 1000.0);
        assert_eq!(axis.pieces.len(), 1);
        let many: Vec<_> = (0..100)
            .map(|n| (n * 1000 * MS, n * 1000 * MS + MS))
            .collect();
        let axis = Axis::new(&many, None, 0.0, 1000.0);
        assert!(axis.pieces.iter().all(|piece| piece.right > piece.left));
        assert!((axis.pieces.last().unwrap().right - 1000.0).abs() < 1e-6);
        assert_eq!(Axis::new(&[], None, 0.0, 10.0).pieces.len(), 1);
    }

    #[test]
    fn what_was_watched_has_room_for_its_curves_and_operations_keep_most() {
        let life = [(0, 10 * MS), (2000 * MS, 2003 * MS)];
        let axis = Axis::new(&life, Some((5 * MS, 4000 * MS)), 0.0, 1000.0);
        let folded: Vec<bool> = axis.pieces.iter().map(|piece| piece.folded).collect();
        assert_eq!(folded, [false, true, false, true]);
        assert!((axis.pieces.last().unwrap().right - 1000.0).abs() < 1e-6);
        let idle = axis.x(2000 * MS) - axis.x(11 * MS);
        assert!((150.0..250.0).contains(&idle), "{idle}");
        assert!(axis.x(10 * MS) - axis.x(0) > 300.0);
        assert!(axis.x(3999 * MS) < axis.x(4000 * MS));
    }

    #[test]
    fn ticks_are_round_and_apart() {
        let piece = Piece {
            from: 5 * MS,
            to: 9 * MS,
            left: 0.0,
            right: 800.0,
            folded: false,
        };
        let ticks = Axis::ticks(&piece, 80.0);
        assert_eq!(ticks.first(), Some(&(5 * MS)));
        assert!(ticks.len() >= 4 && ticks.len() <= 11, "{ticks:?}");
        assert!(
            ticks.windows(2).all(|pair| pair[1] - pair[0] == 500_000),
            "{ticks:?}"
        );
    }
}
