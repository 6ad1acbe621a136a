//! Lines that wait for the writer: a bounded number, and the count of those that found no room.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sink::Sink;

/// What threads that must never wait hand to one that may.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// There is something for the writer.
    news: Condvar,
    /// The writer has written everything.
    written: Condvar,
}

struct Inner {
    lines: VecDeque<String>,
    bound: usize,
    lost: u64,
    sink: Option<Sink>,
    busy: bool,
    closed: bool,
}

/// What the writer takes at once.
pub(super) struct Batch {
    pub(super) lines: VecDeque<String>,
    /// So many found no room since the last one.
    pub(super) lost: u64,
    /// Where to write from now on, if that has changed.
    pub(super) sink: Option<Sink>,
}

impl Queue {
    pub(super) fn new(bound: usize) -> Self {
        let lines = VecDeque::new();
        let inner = Inner { lines, bound, lost: 0, sink: None, busy: false, closed: false };
        Self { inner: Mutex::new(inner), news: Condvar::new(), written: Condvar::new() }
    }

    /// Held for a few instructions only; nobody writes under it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a line, or counts it as lost.
    pub(super) fn push(&self, line: String) {
        let mut inner = self.lock();
        if inner.lines.len() < inner.bound && !inner.closed {
            inner.lines.push_back(line);
            drop(inner);
            self.news.notify_one();
        } else {
            inner.lost += 1;
        }
    }

    /// Another bound, another place.
    pub(super) fn change(&self, bound: usize, sink: Sink) {
        let mut inner = self.lock();
        inner.bound = bound;
        inner.sink = Some(sink);
        drop(inner);
        self.news.notify_one();
    }

    /// Waits for something to write; `None` when there will be nothing any more.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut inner = self.lock();
        while inner.lines.is_empty() && inner.sink.is_none() {
            if inner.closed {
                return None;
            }
            inner = self.news.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.busy = true;
        let lost = std::mem::take(&mut inner.lost);
        Some(Batch { lines: std::mem::take(&mut inner.lines), lost, sink: inner.sink.take() })
    }

    /// The batch is written.
    pub(super) fn done(&self) {
        self.lock().busy = false;
        self.written.notify_all();
    }

    /// Waits until everything is written, but no longer than this.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut inner = self.lock();
        while !inner.closed && (inner.busy || !inner.lines.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.written.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// No line is taken any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use super::*;

    #[test]
    fn who_finds_no_room_is_counted_and_waits_for_nothing() {
        let queue = Queue::new(2);
        for line in ["a", "b", "c", "d"] {
            queue.push(line.to_owned());
        }
        queue.flush(Duration::from_millis(1));
        let batch = queue.take().unwrap();
        assert_eq!((batch.lines.len(), batch.lost), (2, 2));
        queue.push("e".to_owned());
        let batch = queue.take().unwrap();
        assert_eq!((batch.lines.len(), batch.lost), (1, 0));
        queue.done();
        queue.close();
        assert!(queue.take().is_none());
    }
}
