//! The embedded store's state machine: keys, leases, one revision per write. Pure: no clock, no
//! disk, no randomness. `execute` decides and applies a write and says what it changed; `apply`
//! repeats such changes elsewhere (after a restart, and on the copy that readers see).
//! Leaves past revisions to `history`, durability to `journal`, ordering to `writer`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::check;
use super::record::{Change, Effects, LeaseRow};
use super::refusal::Refusal;
use crate::pb::{
    self, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op, response_op,
};

/// The shortest time to live; a request for less gets this.
pub const MIN_TTL_SECS: i64 = 1;
/// The longest, as etcd has it.
pub const MAX_TTL_SECS: i64 = 9_000_000_000;

/// What keys and values may need together; an agent's cluster needs some kilobytes. All of it must
/// fit into memory three times, and into one record of the journal.
pub const MAX_BYTES: usize = 256 << 20;

/// A request that changes something.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A transaction; single puts and deletes are transactions of one step.
    Txn(TxnRequest),
    /// A new lease. The id was chosen by the caller and is not 0.
    Grant {
        /// The lease.
        id: i64,
        /// Seconds asked for.
        ttl: i64,
    },
    /// The end of a lease, asked for or expired: deletes its keys in one revision.
    Revoke {
        /// The lease.
        id: i64,
    },
}

/// The answer to a [`Write`].
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// To a transaction.
    Txn(TxnResponse),
    /// To a grant: the seconds granted.
    Granted {
        /// Seconds.
        ttl: i64,
    },
    /// To a revocation.
    Revoked,
}

/// A lease and what hangs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Seconds granted.
    pub ttl: i64,
    /// When it expires, in the time that the callers give.
    pub deadline: Duration,
    /// Its expiry is decided and on its way; it can't be kept alive any more.
    pub doomed: bool,
    /// Its keys.
    pub keys: BTreeSet<Bytes>,
}

/// Everything that the store knows now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    revision: i64,
    kvs: BTreeMap<Bytes, KeyValue>,
    leases: BTreeMap<i64, Lease>,
    /// Of keys and values.
    bytes: usize,
}

impl State {
    /// A state without keys at some revision.
    #[must_use]
    pub fn at_revision(revision: i64) -> Self {
        Self { revision, ..Self::default() }
    }

    /// The state that a snapshot holds. Every lease gets its full ttl from `now`.
    #[must_use]
    pub fn restore(now: Duration, revision: i64, kvs: Vec<KeyValue>, leases: &[LeaseRow]) -> Self {
        let mut state = Self::at_revision(revision);
        for row in leases {
            state.grant(now, row.id, row.ttl);
        }
        for kv in kvs {
            state.put(kv);
        }
        state
    }

    /// The revision of the last write.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Goes on from a later revision, without a change at it.
    pub fn skip_to(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    /// The keys, in order.
    pub fn kvs(&self) -> impl Iterator<Item = &KeyValue> {
        self.kvs.values()
    }

    /// The leases, by id.
    #[must_use]
    pub fn leases(&self) -> &BTreeMap<i64, Lease> {
        &self.leases
    }

    /// Starts a lease's life anew; its ttl, or none when it is gone or about to be.
    pub fn keep_alive(&mut self, now: Duration, id: i64) -> Option<i64> {
        let lease = self.leases.get_mut(&id).filter(|lease| !lease.doomed)?;
        // An overdue lease that the expiry check hasn't met yet is late, not gone: like etcd, we
        // let it live.
        lease.deadline = deadline(now, lease.ttl);
        Some(lease.ttl)
    }

    /// Dooms the leases whose time is over, and names them. Never early: `now` is past the deadline.
    pub fn doom_expired(&mut self, now: Duration) -> Vec<i64> {
        let expired = self.leases.iter_mut().filter(|(_, l)| !l.doomed && l.deadline < now);
        expired
            .map(|(id, lease)| {
                lease.doomed = true;
                *id
            })
            .collect()
    }

    /// Takes the doom off a lease whose end could not be queued.
    pub fn spare(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.doomed = false;
        }
    }

    /// Decides a write and applies it: its answer, and what it changed (possibly nothing).
    ///
    /// # Errors
    /// [`Refusal`]; then nothing was changed.
    pub fn execute(&mut self, now: Duration, write: Write) -> Result<(Done, Effects), Refusal> {
        match write {
            Write::Txn(txn) => {
                let (response, effects) = self.txn(&txn)?;
                Ok((Done::Txn(response), effects))
            }
            Write::Grant { id, ttl } => {
                if ttl > MAX_TTL_SECS {
                    return Err(Refusal::TtlTooLarge);
                }
                if self.leases.contains_key(&id) {
                    return Err(Refusal::LeaseExists);
                }
                let ttl = ttl.max(MIN_TTL_SECS);
                self.grant(now, id, ttl);
                let granted = vec![LeaseRow { id, ttl }];
                Ok((Done::Granted { ttl }, Effects { granted, ..Effects::default() }))
            }
            Write::Revoke { id } => {
                let lease = self.leases.get(&id).ok_or(Refusal::LeaseNotFound)?;
                let mut effects = Effects { gone: vec![id], ..Effects::default() };
                if !lease.keys.is_empty() {
                    effects.revision = self.revision + 1;
                    effects.changes = lease.keys.iter().cloned().map(Change::delete).collect();
                }
                self.apply(now, &effects);
                Ok((Done::Revoked, effects))
            }
        }
    }

    /// Repeats what `execute` did elsewhere; returns the events, each with what was there before.
    pub fn apply(&mut self, now: Duration, effects: &Effects) -> Vec<pb::Event> {
        for row in &effects.granted {
            self.grant(now, row.id, row.ttl);
        }
        let mut events = Vec::with_capacity(effects.changes.len());
        for change in &effects.changes {
            events.extend(self.change(effects.revision, change));
        }
        for id in &effects.gone {
            self.leases.remove(id);
        }
        self.revision = self.revision.max(effects.revision);
        events
    }

    fn change(&mut self, revision: i64, change: &Change) -> Option<pb::Event> {
        match &change.put {
            Some(kv) => {
                let prev_kv = self.put(kv.clone());
                let kv = Some(kv.clone());
                Some(pb::Event { r#type: pb::EventType::Put.into(), kv, prev_kv })
            }
            None => {
                let prev_kv = self.remove(&change.delete)?;
                let key = prev_kv.key.clone();
                let kv = Some(KeyValue { key, mod_revision: revision, ..KeyValue::default() });
                let prev_kv = Some(prev_kv);
                Some(pb::Event { r#type: pb::EventType::Delete.into(), kv, prev_kv })
            }
        }
    }

    fn grant(&mut self, now: Duration, id: i64, ttl: i64) {
        let lease =
            Lease { ttl, deadline: deadline(now, ttl), doomed: false, keys: BTreeSet::new() };
        self.leases.insert(id, lease);
    }

    fn put(&mut self, kv: KeyValue) -> Option<KeyValue> {
        let before = self.remove(&kv.key);
        self.bytes += kv.key.len() + kv.value.len();
        if let Some(lease) = self.leases.get_mut(&kv.lease) {
            lease.keys.insert(kv.key.clone());
        }
        self.kvs.insert(kv.key.clone(), kv);
        before
    }

    fn remove(&mut self, key: &Bytes) -> Option<KeyValue> {
        let before = self.kvs.remove(key)?;
        self.bytes -= before.key.len() + before.value.len();
        if let Some(lease) = self.leases.get_mut(&before.lease) {
            lease.keys.remove(key);
        }
        Some(before)
    }

    // ---- transactions ----

    /// Whether these conditions hold now.
    #[must_use]
    pub fn holds(&self, conditions: &[pb::Compare]) -> bool {
        conditions.iter().all(|condition| {
            let mut kvs = self.in_range(&condition.key, &condition.range_end).peekable();
            if kvs.peek().is_none() {
                return check::condition_of_absent(condition);
            }
            kvs.all(|kv| check::condition(condition, kv))
        })
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<(TxnResponse, Effects), Refusal> {
        check::txn(txn)?;
        let succeeded = self.holds(&txn.compare);
        let steps = if succeeded { &txn.success } else { &txn.failure };
        self.check_steps(steps)?;
        let mut effects = Effects { revision: self.revision + 1, ..Effects::default() };
        let mut responses = Vec::with_capacity(steps.len());
        for step in steps {
            responses.push(ResponseOp { response: Some(self.step(step, &mut effects)?) });
        }
        if effects.changes.is_empty() {
            effects.revision = 0;
        } else {
            self.revision = effects.revision;
        }
        let header = self.header();
        Ok((TxnResponse { header, succeeded, responses }, effects))
    }

    /// A transaction whose branches only read.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read_txn(&self, txn: &TxnRequest) -> Result<TxnResponse, Refusal> {
        check::txn(txn)?;
        let succeeded = self.holds(&txn.compare);
        let steps = if succeeded { &txn.success } else { &txn.failure };
        self.check_steps(steps)?;
        let ranges = steps.iter().filter_map(|step| match &step.request {
            Some(request_op::Request::Range(range)) => Some(self.range(range)),
            Some(_) | None => None,
        });
        let responses = ranges
            .map(|range| ResponseOp { response: Some(response_op::Response::Range(range)) })
            .collect();
        Ok(TxnResponse { header: self.header(), succeeded, responses })
    }

    /// Whatever can be refused is refused before the first step changes anything.
    fn check_steps(&self, steps: &[RequestOp]) -> Result<(), Refusal> {
        for step in steps {
            match &step.request {
                Some(request_op::Request::Put(put)) => self.check_put(put)?,
                Some(request_op::Request::Range(range)) => {
                    if range.revision > self.revision {
                        return Err(Refusal::FutureRevision);
                    }
                    if range.revision > 0 && range.revision != self.revision {
                        return Err(Refusal::Unsupported(
                            "reading a past revision inside a transaction",
                        ));
                    }
                }
                Some(request_op::Request::DeleteRange(_) | request_op::Request::Txn(_)) | None => {}
            }
        }
        Ok(())
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), Refusal> {
        // Looked at for each put alone: a transaction may pass the limit by its own size.
        if self.bytes + put.key.len() + put.value.len() > MAX_BYTES {
            return Err(Refusal::NoSpace);
        }
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && !self.kvs.contains_key(&put.key) {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    fn step(
        &mut self,
        step: &RequestOp,
        effects: &mut Effects,
    ) -> Result<response_op::Response, Refusal> {
        let revision = effects.revision;
        let header = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
        Ok(match &step.request {
            Some(request_op::Request::Range(range)) => {
                let mut response = self.range(range);
                let wrote = !effects.changes.is_empty();
                response.header = header(if wrote { revision } else { self.revision });
                response_op::Response::Range(response)
            }
            Some(request_op::Request::Put(put)) => {
                let change = Change::put(self.next(put, revision));
                let event = self.change(revision, &change);
                effects.changes.push(change);
                let prev_kv = event.and_then(|e| e.prev_kv).filter(|_| put.prev_kv);
                response_op::Response::Put(pb::PutResponse { header: header(revision), prev_kv })
            }
            Some(request_op::Request::DeleteRange(delete)) => {
                let mut response = self.delete_range(delete, effects);
                let wrote = !effects.changes.is_empty();
                response.header = header(if wrote { revision } else { self.revision });
                response_op::Response::DeleteRange(response)
            }
            Some(request_op::Request::Txn(_)) => {
                return Err(Refusal::Unsupported("a transaction inside a transaction"));
            }
            None => return Err(Refusal::Unsupported("a step that is none we know")),
        })
    }

    /// What a put makes of its key.
    fn next(&self, put: &PutRequest, revision: i64) -> KeyValue {
        let before = self.kvs.get(&put.key);
        let value = match before {
            Some(before) if put.ignore_value => before.value.clone(),
            Some(_) | None => put.value.clone(),
        };
        let lease = match before {
            Some(before) if put.ignore_lease => before.lease,
            Some(_) | None => put.lease,
        };
        KeyValue {
            key: put.key.clone(),
            create_revision: before.map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |before| before.version + 1),
            value,
            lease,
        }
    }

    fn delete_range(
        &mut self,
        delete: &DeleteRangeRequest,
        effects: &mut Effects,
    ) -> pb::DeleteRangeResponse {
        let doomed: Vec<Bytes> =
            self.in_range(&delete.key, &delete.range_end).map(|kv| kv.key.clone()).collect();
        let deleted = i64::try_from(doomed.len()).unwrap_or(i64::MAX);
        let mut prev_kvs = Vec::new();
        for key in doomed {
            let change = Change::delete(key);
            let event = self.change(effects.revision, &change);
            effects.changes.push(change);
            if delete.prev_kv {
                prev_kvs.extend(event.and_then(|event| event.prev_kv));
            }
        }
        pb::DeleteRangeResponse { header: None, deleted, prev_kvs }
    }

    // ---- reading ----

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision, ..ResponseHeader::default() })
    }

    /// The keys that (`key`, `range_end`) names in etcd's words, in order.
    pub fn in_range(&self, key: &Bytes, range_end: &Bytes) -> impl Iterator<Item = &KeyValue> {
        let upper = match range_end.as_ref() {
            [] => Bound::Included(key.clone()),
            [0] => Bound::Unbounded,
            // An end before the start names nothing; BTreeMap would panic.
            end if end < key.as_ref() => Bound::Excluded(key.clone()),
            _ => Bound::Excluded(range_end.clone()),
        };
        let lower = match &upper {
            Bound::Excluded(end) if end == key => None,
            Bound::Excluded(_) | Bound::Included(_) | Bound::Unbounded => Some(key.clone()),
        };
        lower
            .into_iter()
            .flat_map(move |lower| self.kvs.range((Bound::Included(lower), upper.clone())))
            .map(|(_, kv)| kv)
    }

    /// Answers a read of the present; the revision in the request was looked at by the caller.
    #[must_use]
    pub fn range(&self, request: &RangeRequest) -> RangeResponse {
        let kvs: Vec<KeyValue> = self.in_range(&request.key, &request.range_end).cloned().collect();
        RangeResponse { header: self.header(), ..check::present(request, kvs) }
    }
}

fn deadline(now: Duration, ttl: i64) -> Duration {
    now + Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
