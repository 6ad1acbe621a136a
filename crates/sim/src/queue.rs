//! What will happen, in the order (time, number). Equal times keep the order of their making.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::clock::Micros;
use crate::event::Event;

struct Entry {
    at: Micros,
    seq: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The heap gives the greatest first, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// The queue, and with it the world's clock.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Entry>,
    seq: u64,
    pub(crate) now: Micros,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Micros, event: Event) {
        self.seq += 1;
        self.heap.push(Entry { at: at.max(self.now), seq: self.seq, event });
    }

    pub(crate) fn after(&mut self, delay: Micros, event: Event) {
        self.push(self.now + delay, event);
    }

    /// The next event not later than `until`; the clock moves to it.
    pub(crate) fn pop(&mut self, until: Micros) -> Option<Event> {
        if self.heap.peek().is_none_or(|e| e.at > until) {
            self.now = self.now.max(until);
            return None;
        }
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}
