//! The changes since the last compaction: for watches from a revision, and for reads of the past.
//! Leaves the present to `state`.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::refusal::Refusal;
use super::state::State;
use crate::pb::{Event, KeyValue};
use crate::types::in_range;

/// Older revisions are forgotten by themselves.
const MAX_REVISIONS: usize = 10_000;
/// So are they when keys and values together need more than this.
const MAX_BYTES: usize = 32 << 20;

/// The past, as far as it is kept.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Revisions below this one are forgotten.
    compacted: i64,
    revisions: VecDeque<(i64, Vec<Event>)>,
    bytes: usize,
}

impl History {
    /// A past that begins at `revision`, before which nothing is known.
    #[must_use]
    pub(crate) fn begin(revision: i64) -> Self {
        Self { compacted: revision, ..Self::default() }
    }

    /// The first revision that isn't forgotten.
    #[must_use]
    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Adds the changes of a new revision.
    pub(crate) fn push(&mut self, revision: i64, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.bytes += size(&events);
        self.revisions.push_back((revision, events));
        while self.revisions.len() > MAX_REVISIONS || self.bytes > MAX_BYTES {
            let Some((oldest, events)) = self.revisions.pop_front() else { return };
            self.bytes -= size(&events);
            self.compacted = oldest + 1;
        }
    }

    /// Forgets everything before `revision`; `current` is the store's.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] and [`Refusal::FutureRevision`], as etcd has them.
    pub(crate) fn compact(&mut self, revision: i64, current: i64) -> Result<(), Refusal> {
        if revision > current {
            return Err(Refusal::FutureRevision);
        }
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        while let Some((oldest, events)) = self.revisions.front() {
            if *oldest >= revision {
                break;
            }
            self.bytes -= size(events);
            self.revisions.pop_front();
        }
        self.compacted = revision;
        Ok(())
    }

    /// The changes from `start` on, oldest first, by revision.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] when some of them are forgotten.
    pub(crate) fn since(
        &self,
        start: i64,
    ) -> Result<impl Iterator<Item = &(i64, Vec<Event>)>, Refusal> {
        if start < self.compacted {
            return Err(Refusal::Compacted);
        }
        let first = self.revisions.partition_point(|(revision, _)| *revision < start);
        Ok(self.revisions.iter().skip(first))
    }

    /// The keys of a range as they were at `revision`: the present, with what came later undone.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] and [`Refusal::FutureRevision`].
    pub(crate) fn at(
        &self,
        revision: i64,
        state: &State,
        key: &Bytes,
        range_end: &Bytes,
    ) -> Result<Vec<KeyValue>, Refusal> {
        if revision > state.revision() {
            return Err(Refusal::FutureRevision);
        }
        if revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        let mut kvs: BTreeMap<Bytes, KeyValue> =
            state.in_range(key, range_end).map(|kv| (kv.key.clone(), kv.clone())).collect();
        let later = self.revisions.iter().rev().take_while(|(at, _)| *at > revision);
        for event in later.flat_map(|(_, events)| events.iter().rev()) {
            let Some(kv) = &event.kv else { continue };
            if !in_range(&kv.key, key, range_end) {
                continue;
            }
            match &event.prev_kv {
                Some(before) => kvs.insert(kv.key.clone(), before.clone()),
                None => kvs.remove(&kv.key),
            };
        }
        Ok(kvs.into_values().collect())
    }
}

fn size(events: &[Event]) -> usize {
    let one = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    events.iter().map(|event| one(&event.kv) + one(&event.prev_kv)).sum()
}
