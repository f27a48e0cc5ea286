// SPDX-License-Identifier: Apache-2.0
//! The last so many things of a kind, numbered.
//!
//! A ring is the bounded queue of everybody who follows it: a reader remembers the last number it
//! saw, and is told how many it missed.

use std::collections::VecDeque;

/// A fixed number of items; a new one takes the place of the oldest.
#[derive(Debug)]
pub struct Ring<T> {
    items: VecDeque<T>,
    capacity: usize,
    total: u64,
}

/// Where a reading stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The number to read on from.
    pub next: u64,
    /// Items overwritten before they were asked for.
    pub lost: u64,
}

impl<T> Ring<T> {
    /// A ring that keeps the last `capacity` items. Takes no memory yet.
    pub const fn new(capacity: usize) -> Self {
        Self {
            items: VecDeque::new(),
            capacity,
            total: 0,
        }
    }

    /// Takes all the memory it will ever take, so that [`Ring::push`] never allocates.
    pub fn reserve(&mut self) {
        self.items.reserve_exact(self.capacity - self.items.len());
    }

    /// Adds an item; returns its number, counted from 1, and the item that made room for it.
    pub fn push(&mut self, item: T) -> (u64, Option<T>) {
        let oldest = if self.items.len() >= self.capacity {
            self.items.pop_front()
        } else {
            None
        };
        self.items.push_back(item);
        self.total += 1;
        (self.total, oldest)
    }

    /// Drops the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// The oldest item.
    pub fn oldest(&self) -> Option<&T> {
        self.items.front()
    }

    /// Items after number `since`, each with its number, and how many of them are gone.
    pub fn since(&self, since: u64) -> (u64, impl DoubleEndedIterator<Item = (u64, &T)>) {
        let first = self.total - self.items.len() as u64 + 1;
        // A number from the future is one from an earlier life of the shim: begin anew.
        let since = if since > self.total { 0 } else { since };
        let lost = first.saturating_sub(since + 1);
        let skip = (since + 1).saturating_sub(first) as usize;
        let numbered = self.items.iter().enumerate();
        let items = numbered.map(move |(index, item)| (first + index as u64, item));
        (lost, items.skip(skip))
    }

    /// The wanted ones among the items after number `since`, at most `limit`.
    pub fn read<R>(
        &self,
        since: u64,
        limit: usize,
        mut wanted: impl FnMut(u64, &T) -> Option<R>,
    ) -> (Vec<R>, Position) {
        let (lost, items) = self.since(since);
        let mut found = Vec::new();
        let mut next = self.total;
        for (number, item) in items {
            if found.len() >= limit {
                next = number - 1;
                break;
            }
            found.extend(wanted(number, item));
        }
        (found, Position { next, lost })
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many are kept at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many there ever were: the number of the newest.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(items: u64) -> Ring<u64> {
        let mut ring = Ring::new(3);
        (1..=items).for_each(|item| assert_eq!(ring.push(item).0, item));
        ring
    }

    fn read(ring: &Ring<u64>, since: u64, limit: usize) -> (Vec<u64>, u64, u64) {
        let (items, position) = ring.read(since, limit, |number, item| {
            assert_eq!(number, *item);
            Some(*item)
        });
        (items, position.next, position.lost)
    }

    #[test]
    fn readers_see_each_item_once_and_are_told_what_they_missed() {
        let ring = ring(5);
        assert_eq!(read(&ring, 0, 9), (vec![3, 4, 5], 5, 2));
        assert_eq!(read(&ring, 1, 9), (vec![3, 4, 5], 5, 1));
        assert_eq!(read(&ring, 2, 9), (vec![3, 4, 5], 5, 0));
        assert_eq!(read(&ring, 3, 1), (vec![4], 4, 0));
        assert_eq!(read(&ring, 5, 9), (vec![], 5, 0));
        assert_eq!(read(&ring, 99, 9), (vec![3, 4, 5], 5, 2), "another life");
    }

    #[test]
    fn the_next_number_passes_what_is_not_wanted() {
        let (items, position) = ring(3).read(0, 9, |_, item| (*item == 2).then_some(*item));
        assert_eq!((items, position.next), (vec![2], 3));
    }

    #[test]
    fn an_empty_ring_has_nothing_and_lost_nothing() {
        assert_eq!(read(&ring(0), 0, 9), (vec![], 0, 0));
        assert_eq!((ring(2).len(), ring(2).total(), ring(7).len()), (2, 2, 3));
    }

    #[test]
    fn a_reserved_ring_never_grows() {
        let mut ring = ring(0);
        ring.reserve();
        let capacity = ring.items.capacity();
        (0..100).for_each(|item| {
            ring.push(item);
        });
        assert_eq!(ring.items.capacity(), capacity);
    }
}
