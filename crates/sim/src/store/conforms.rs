//! The model under the conformance suite that etcd and the embedded server pass: the same generic
//! code that the simulation runs, here with byte keys. What only the suite needs (ranges, versions,
//! the history for watches, general conditions) is this adapter's.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use pgherd_store::conformance::{self, Feature, Refused, Subject};
use pgherd_store::{
    Compare, Event, Grant, Is, KeyValue, Op, OpReply, Range, RangeReply, Target, Txn, TxnReply,
    in_range,
};

use super::{Change, Cmp, Entry, SCAN, StoreModel};

/// A value with the number of its writes.
type Versioned = (Bytes, u64);

struct Model {
    store: StoreModel<Bytes, Versioned>,
    now: u64,
    events: Vec<Event>,
    compacted: u64,
}

/// What a transaction would leave: keys that it changes.
type Overlay = BTreeMap<Bytes, Option<KeyValue>>;

fn shown(key: &Bytes, entry: &Entry<Versioned>) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: entry.value.0.clone(),
        create_revision: entry.created,
        mod_revision: entry.modified,
        version: entry.value.1,
        lease: entry.lease.unwrap_or(0),
    }
}

impl Model {
    fn range_of(&self, range: &Range, overlay: &Overlay) -> Vec<KeyValue> {
        let mut found: BTreeMap<Bytes, KeyValue> = self
            .store
            .all()
            .filter(|(key, _)| in_range(key, &range.key, &range.range_end))
            .map(|(key, entry)| (key.clone(), shown(key, entry)))
            .collect();
        for (key, now) in overlay {
            if in_range(key, &range.key, &range.range_end) {
                match now {
                    Some(kv) => drop(found.insert(key.clone(), kv.clone())),
                    None => drop(found.remove(key)),
                }
            }
        }
        found.into_values().collect()
    }

    /// The conditions that the model knows go to the model; the others are judged here.
    fn holds(&mut self, compare: &Compare) -> bool {
        let entry = self.store.get(&compare.key);
        let number = |f: fn(&Entry<Versioned>) -> u64| entry.map_or(0, f);
        let order = match &compare.target {
            Target::Mod(given) if compare.is == Is::Equal => {
                let condition = Cmp::Modified(compare.key.clone(), *given);
                return self.store.txn(&[condition], []).is_some();
            }
            Target::Lease(given) if compare.is == Is::Equal && *given != 0 => {
                let condition = Cmp::Lease(compare.key.clone(), *given);
                return self.store.txn(&[condition], []).is_some();
            }
            Target::Mod(given) => number(|e| e.modified).cmp(given),
            Target::Create(given) => number(|e| e.created).cmp(given),
            Target::Version(given) => number(|e| e.value.1).cmp(given),
            Target::Lease(given) => entry.and_then(|e| e.lease).unwrap_or(0).cmp(given),
            Target::Value(given) => match entry {
                Some(entry) => entry.value.0.cmp(given),
                None => return false,
            },
        };
        match compare.is {
            Is::Equal => order == Ordering::Equal,
            Is::NotEqual => order != Ordering::Equal,
            Is::Greater => order == Ordering::Greater,
            Is::Less => order == Ordering::Less,
        }
    }

    /// No empty key, no key written twice.
    fn legal(&self, steps: &[Op]) -> Result<(), Refused> {
        let mut puts: Vec<&Bytes> = Vec::new();
        for step in steps {
            match step {
                Op::Put { key, .. } if key.is_empty() || puts.contains(&key) => {
                    return Err(Refused::Invalid);
                }
                Op::Put { key, .. } => puts.push(key),
                Op::Delete { key, .. } if key.is_empty() => return Err(Refused::Invalid),
                Op::Range(range) if range.key.is_empty() => return Err(Refused::Invalid),
                Op::Delete { .. } | Op::Range(_) => {}
            }
        }
        let deleted = |put: &Bytes| {
            steps.iter().any(|step| match step {
                Op::Delete { key, range_end } => in_range(put, key, range_end),
                Op::Put { .. } | Op::Range(_) => false,
            })
        };
        if puts.into_iter().any(deleted) { Err(Refused::Invalid) } else { Ok(()) }
    }

    /// Runs the steps: their answers, and the changes for the model.
    fn plan(&self, steps: Vec<Op>) -> Result<(Vec<OpReply>, Overlay), Refused> {
        let at = self.store.revision() + 1;
        let (mut overlay, mut replies) = (Overlay::new(), Vec::new());
        for step in steps {
            replies.push(match step {
                Op::Put { key, value, lease } => {
                    if lease != 0 && self.store.ttl(lease).is_none() {
                        return Err(Refused::LeaseNotFound);
                    }
                    let old = self.store.get(&key).map(|entry| shown(&key, entry));
                    let kv = KeyValue {
                        key: key.clone(),
                        value,
                        create_revision: old.as_ref().map_or(at, |o| o.create_revision),
                        mod_revision: at,
                        version: old.map_or(0, |o| o.version) + 1,
                        lease,
                    };
                    overlay.insert(key, Some(kv));
                    OpReply::Put
                }
                Op::Delete { key, range_end } => {
                    let range = Range { range_end, ..Range::one(key) };
                    let gone = self.range_of(&range, &overlay);
                    let deleted = gone.len() as u64;
                    overlay.extend(gone.into_iter().map(|kv| (kv.key, None)));
                    OpReply::Delete { deleted }
                }
                Op::Range(range) => OpReply::Range { kvs: self.range_of(&range, &overlay) },
            });
        }
        Ok((replies, overlay))
    }

    fn gone(&mut self, keys: Vec<Bytes>) {
        let revision = self.store.revision();
        self.events.extend(keys.into_iter().map(|key| Event::Delete { key, revision }));
    }
}

impl Subject for Model {
    async fn range(&mut self, range: Range) -> Result<RangeReply, Refused> {
        if range.key.is_empty() {
            return Err(Refused::Invalid);
        }
        let kvs = self.range_of(&range, &Overlay::new());
        let (revision, count) = (self.store.revision(), kvs.len() as u64);
        Ok(RangeReply { cluster_id: 1, revision, kvs, count })
    }

    async fn txn(&mut self, txn: Txn) -> Result<TxnReply, Refused> {
        self.legal(&txn.then)?;
        self.legal(&txn.otherwise)?;
        let succeeded = txn.compare.iter().all(|c| self.holds(c));
        let steps = if succeeded { txn.then } else { txn.otherwise };
        let (responses, overlay) = self.plan(steps)?;
        let changes: Vec<_> = overlay
            .iter()
            .map(|(key, now)| match now {
                Some(kv) => {
                    let lease = Some(kv.lease).filter(|l| *l != 0);
                    Change::Put(key.clone(), (kv.value.clone(), kv.version), lease)
                }
                None => Change::Delete(key.clone()),
            })
            .collect();
        let revision = self.store.txn(&[], changes).ok_or(Refused::LeaseNotFound)?;
        for (key, now) in overlay {
            self.events.push(match now {
                Some(_) => {
                    let entry = self.store.get(&key).expect("it was just put");
                    Event::Put(shown(&key, entry))
                }
                None => Event::Delete { key, revision },
            });
        }
        Ok(TxnReply { revision, succeeded, responses })
    }

    async fn lease_grant(&mut self, ttl_secs: i64) -> Result<Grant, Refused> {
        let id = self.store.grant(self.now, ttl_secs.max(0).unsigned_abs() * 1_000_000);
        let ttl = self.store.ttl(id).unwrap_or(0) / 1_000_000;
        Ok(Grant { id, ttl: ttl as i64 })
    }

    async fn lease_keepalive(&mut self, id: i64) -> Result<Option<i64>, Refused> {
        let alive = self.store.keep_alive(self.now, id);
        Ok(self.store.ttl(id).filter(|_| alive).map(|ttl| (ttl / 1_000_000) as i64))
    }

    async fn lease_revoke(&mut self, id: i64) -> Result<(), Refused> {
        if self.store.ttl(id).is_none() {
            return Err(Refused::LeaseNotFound);
        }
        let gone = self.store.revoke(id);
        self.gone(gone);
        Ok(())
    }

    async fn events_since(&mut self, prefix: Bytes, start: u64) -> Result<Vec<Event>, Refused> {
        if start < self.compacted {
            return Err(Refused::Compacted);
        }
        let wanted = |e: &&Event| e.revision() >= start && e.key().starts_with(&prefix);
        Ok(self.events.iter().filter(wanted).cloned().collect())
    }

    async fn compact(&mut self, revision: u64) -> Result<(), Refused> {
        if revision <= self.compacted {
            return Err(Refused::Compacted);
        }
        if revision > self.store.revision() {
            return Err(Refused::Invalid);
        }
        self.compacted = revision;
        Ok(())
    }

    async fn advance(&mut self, by: Duration) {
        let until = self.now + by.as_micros() as u64;
        while self.now < until {
            self.now = (self.now / SCAN * SCAN + SCAN).min(until);
            if self.now.is_multiple_of(SCAN) {
                let gone = self.store.scan(self.now);
                self.gone(gone);
            }
        }
    }

    fn has(&self, feature: Feature) -> bool {
        match feature {
            Feature::PastReads | Feature::CountAndLimit => false,
        }
    }
}

#[test]
fn the_model_passes_the_conformance_suite() {
    let store = StoreModel::new();
    let mut model = Model { store, now: 0, events: Vec::new(), compacted: 0 };
    let mut suite = pin!(conformance::run(&mut model));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(report) = suite.as_mut().poll(&mut context) else {
        panic!("a model never waits");
    };
    assert!(report.passed.len() > 30, "{report}");
    if let Err(report) = report.verdict() {
        panic!("{report}");
    }
}
