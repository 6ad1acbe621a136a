//! The suite on a synchronous model with a clock of its own, as the simulator uses it; and that the
//! suite notices models that are wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use pgherd_store::conformance::{Feature, Refused, Report, Subject, run};
use pgherd_store::{
    Compare, Event, Grant, Is, Key, KeyValue, Op, OpReply, Range, RangeReply, Target, Txn,
    TxnReply, in_range,
};

/// What a model gets wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Flaw {
    None,
    OverwritingCreates,
    ExpiryIsEarly,
    ExpiryTakesManyRevisions,
    WritingKeepsAlive,
    DeleteAndPutTogether,
    NothingCostsARevision,
    DetachedKeysExpire,
    ConditionsSeeNoLease,
    AbsentValuesAreEmpty,
    WatchSkipsItsStart,
    CompactionIsForgotten,
}

struct Lease {
    ttl: i64,
    deadline: Duration,
}

/// A store in its simplest form. Every async function of it is done at its first poll.
struct Model {
    flaw: Flaw,
    now: Duration,
    revision: u64,
    compacted: u64,
    kvs: BTreeMap<Key, KeyValue>,
    leases: BTreeMap<i64, Lease>,
    events: Vec<Event>,
    next_lease: i64,
}

impl Model {
    fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            now: Duration::ZERO,
            revision: 1,
            compacted: 0,
            kvs: BTreeMap::new(),
            leases: BTreeMap::new(),
            events: Vec::new(),
            next_lease: 1,
        }
    }

    fn read(&self, range: &Range) -> Vec<KeyValue> {
        let wanted = self.kvs.values().filter(|kv| in_range(&kv.key, &range.key, &range.range_end));
        wanted.cloned().collect()
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = self.kvs.get(&compare.key);
        let kv = found.cloned().unwrap_or_default();
        let order = match &compare.target {
            Target::Mod(n) => kv.mod_revision.cmp(n),
            Target::Create(n) => kv.create_revision.cmp(n),
            Target::Version(n) => kv.version.cmp(n),
            Target::Lease(_) if self.flaw == Flaw::ConditionsSeeNoLease => 0.cmp(&0),
            Target::Lease(n) => kv.lease.cmp(n),
            Target::Value(_) if found.is_none() && self.flaw != Flaw::AbsentValuesAreEmpty => {
                return false;
            }
            Target::Value(value) => kv.value.cmp(value),
        };
        match compare.is {
            Is::Equal => order.is_eq(),
            Is::NotEqual => order.is_ne(),
            Is::Greater => order.is_gt(),
            Is::Less => order.is_lt(),
        }
    }

    fn check(&self, steps: &[Op]) -> Result<(), Refused> {
        for (i, step) in steps.iter().enumerate() {
            let Op::Put { key, .. } = step else { continue };
            let clashes = |other: &Op| match other {
                Op::Put { key: other, .. } => other == key,
                Op::Delete { key: start, range_end } => in_range(key, start, range_end),
                Op::Range(_) => false,
            };
            let others = steps.iter().enumerate().filter(|(j, _)| *j != i);
            let clash = others.map(|(_, other)| other).any(clashes);
            if key.is_empty() || (clash && self.flaw != Flaw::DeleteAndPutTogether) {
                return Err(Refused::Invalid);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &Key, range_end: &Key, revision: u64) -> u64 {
        let doomed = self.read(&Range {
            key: key.clone(),
            range_end: range_end.clone(),
            ..Range::default()
        });
        for kv in &doomed {
            self.kvs.remove(&kv.key);
            self.events.push(Event::Delete { key: kv.key.clone(), revision });
        }
        doomed.len() as u64
    }

    fn put(&mut self, key: Key, value: Key, lease: i64, revision: u64) {
        let before = self.kvs.get(&key).filter(|_| self.flaw != Flaw::OverwritingCreates);
        let lease = match before {
            Some(before) if self.flaw == Flaw::DetachedKeysExpire && lease == 0 => before.lease,
            Some(_) | None => lease,
        };
        let kv = KeyValue {
            create_revision: before.map_or(revision, |before| before.create_revision),
            version: before.map_or(1, |before| before.version + 1),
            key: key.clone(),
            value,
            mod_revision: revision,
            lease,
        };
        if self.flaw == Flaw::WritingKeepsAlive {
            self.keep(lease);
        }
        self.events.push(Event::Put(kv.clone()));
        self.kvs.insert(key, kv);
    }

    fn keep(&mut self, id: i64) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        lease.deadline = self.now + Duration::from_secs(lease.ttl.unsigned_abs());
        Some(lease.ttl)
    }

    fn end(&mut self, id: i64) {
        self.leases.remove(&id);
        let keys: Vec<_> =
            self.kvs.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
        for (i, key) in keys.into_iter().enumerate() {
            if i == 0 || self.flaw == Flaw::ExpiryTakesManyRevisions {
                self.revision += 1;
            }
            self.delete(&key, &Key::new(), self.revision);
        }
    }
}

impl Subject for Model {
    async fn range(&mut self, range: Range) -> Result<RangeReply, Refused> {
        if range.key.is_empty() {
            return Err(Refused::Invalid);
        }
        let kvs = self.read(&range);
        let count = kvs.len() as u64;
        Ok(RangeReply { cluster_id: 1, revision: self.revision, kvs, count })
    }

    async fn txn(&mut self, txn: Txn) -> Result<TxnReply, Refused> {
        self.check(&txn.then)?;
        self.check(&txn.otherwise)?;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let steps = if succeeded { txn.then } else { txn.otherwise };
        let leases = steps.iter().filter_map(|step| match step {
            Op::Put { lease, .. } if *lease != 0 => Some(lease),
            Op::Put { .. } | Op::Delete { .. } | Op::Range(_) => None,
        });
        if !leases.into_iter().all(|lease| self.leases.contains_key(lease)) {
            return Err(Refused::LeaseNotFound);
        }
        let (revision, told) = (self.revision + 1, self.events.len());
        let mut responses = Vec::new();
        for step in steps {
            responses.push(match step {
                Op::Put { key, value, lease } => {
                    self.put(key, value, lease, revision);
                    OpReply::Put
                }
                Op::Delete { key, range_end } => {
                    OpReply::Delete { deleted: self.delete(&key, &range_end, revision) }
                }
                Op::Range(range) => OpReply::Range { kvs: self.read(&range) },
            });
        }
        if self.events.len() > told || self.flaw == Flaw::NothingCostsARevision {
            self.revision = revision;
        }
        Ok(TxnReply { revision: self.revision, succeeded, responses })
    }

    async fn lease_grant(&mut self, ttl_secs: i64) -> Result<Grant, Refused> {
        let (id, ttl) = (self.next_lease, ttl_secs.max(1));
        self.next_lease += 1;
        self.leases.insert(id, Lease { ttl, deadline: Duration::ZERO });
        self.keep(id);
        Ok(Grant { id, ttl })
    }

    async fn lease_keepalive(&mut self, id: i64) -> Result<Option<i64>, Refused> {
        Ok(self.keep(id))
    }

    async fn lease_revoke(&mut self, id: i64) -> Result<(), Refused> {
        if !self.leases.contains_key(&id) {
            return Err(Refused::LeaseNotFound);
        }
        self.end(id);
        Ok(())
    }

    async fn events_since(&mut self, prefix: Key, start: u64) -> Result<Vec<Event>, Refused> {
        if start < self.compacted && self.flaw != Flaw::CompactionIsForgotten {
            return Err(Refused::Compacted);
        }
        let first = start + u64::from(self.flaw == Flaw::WatchSkipsItsStart);
        let wanted = self.events.iter().filter(|event| event.revision() >= first);
        Ok(wanted.filter(|event| event.key().starts_with(&prefix)).cloned().collect())
    }

    async fn compact(&mut self, revision: u64) -> Result<(), Refused> {
        if revision > self.revision {
            return Err(Refused::Invalid);
        }
        if revision <= self.compacted {
            return Err(Refused::Compacted);
        }
        self.compacted = revision;
        Ok(())
    }

    async fn advance(&mut self, by: Duration) {
        self.now += by;
        let early = Duration::from_secs(u64::from(self.flaw == Flaw::ExpiryIsEarly));
        let over = self.leases.iter().filter(|(_, lease)| lease.deadline < self.now + early);
        let over: Vec<_> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.end(id);
        }
    }

    fn has(&self, feature: Feature) -> bool {
        match feature {
            Feature::PastReads | Feature::CountAndLimit => false,
        }
    }
}

fn report(flaw: Flaw) -> Report {
    run(&mut Model::new(flaw)).now_or_never().expect("a model never waits")
}

#[test]
fn a_synchronous_model_conforms() {
    report(Flaw::None).verdict().unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn every_flaw_is_noticed() {
    for flaw in [
        Flaw::OverwritingCreates,
        Flaw::ExpiryIsEarly,
        Flaw::ExpiryTakesManyRevisions,
        Flaw::WritingKeepsAlive,
        Flaw::DeleteAndPutTogether,
        Flaw::NothingCostsARevision,
        Flaw::DetachedKeysExpire,
        Flaw::ConditionsSeeNoLease,
        Flaw::AbsentValuesAreEmpty,
        Flaw::WatchSkipsItsStart,
        Flaw::CompactionIsForgotten,
    ] {
        assert!(report(flaw).verdict().is_err(), "nobody noticed {flaw:?}");
    }
}
