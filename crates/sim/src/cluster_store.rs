//! The store model with the cluster's keys in it, and the view of them that every watch shows.
//! Requests come as the core words them; delays and losses are the world's.

use std::sync::Arc;

use pgherd_core::cluster::{ClusterView, Compare, Key, Keyed, Op, Txn, Value};
use pgherd_core::{LeaseId, Revision};

use crate::clock::Micros;
use crate::store::{Change, Cmp, Entry, StoreModel};

/// The store with this cluster's keys.
#[derive(Debug)]
pub(crate) struct ClusterStore {
    model: StoreModel<Key, Value>,
    view: Arc<ClusterView>,
}

impl ClusterStore {
    pub(crate) fn new() -> Self {
        let model = StoreModel::new();
        let view = ClusterView { revision: Revision(model.revision()), ..ClusterView::default() };
        Self { model, view: Arc::new(view) }
    }

    /// Everything, as of now.
    pub(crate) fn view(&self) -> &Arc<ClusterView> {
        &self.view
    }

    pub(crate) fn grant(&mut self, now: Micros, ttl: Micros) -> LeaseId {
        LeaseId(self.model.grant(now, ttl))
    }

    pub(crate) fn keep_alive(&mut self, now: Micros, id: LeaseId) -> bool {
        self.model.keep_alive(now, id.0)
    }

    pub(crate) fn leader_change(&mut self, now: Micros) {
        self.model.leader_change(now);
    }

    /// Revokes expired leases; true when keys went with them.
    pub(crate) fn scan(&mut self, now: Micros) -> bool {
        let gone = self.model.scan(now);
        self.refresh(&gone);
        !gone.is_empty()
    }

    /// The revision when it was applied, `None` when refused.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Option<Revision> {
        let compare: Vec<Cmp<Key>> = txn
            .compare
            .iter()
            .map(|c| match c {
                Compare::Modified(key, revision) => Cmp::Modified(key.clone(), revision.0),
                Compare::Lease(key, id) => Cmp::Lease(key.clone(), id.0),
            })
            .collect();
        let then = txn.then.iter().map(|op| match op {
            Op::Put(key, value, lease) => {
                Change::Put(key.clone(), value.clone(), lease.map(|l| l.0))
            }
            Op::Delete(key) => Change::Delete(key.clone()),
        });
        let revision = self.model.txn(&compare, then)?;
        let touched: Vec<Key> = txn
            .then
            .iter()
            .map(|op| match op {
                Op::Put(key, ..) | Op::Delete(key) => key.clone(),
            })
            .collect();
        self.refresh(&touched);
        Some(Revision(revision))
    }

    /// An operator's write.
    pub(crate) fn put(&mut self, key: &Key, value: Value) {
        self.model.txn(&[], [Change::Put(key.clone(), value, None)]);
        self.refresh(std::slice::from_ref(key));
    }

    fn refresh(&mut self, touched: &[Key]) {
        if touched.is_empty() {
            return;
        }
        let view = Arc::make_mut(&mut self.view);
        view.revision = Revision(self.model.revision());
        for key in touched {
            let entry = self.model.get(key);
            if entry.is_none() {
                forget(view, key);
            } else if let Some(entry) = entry {
                show(view, key, entry);
            }
        }
    }
}

fn keyed<T>(entry: &Entry<Value>, value: T) -> Keyed<T> {
    Keyed {
        value,
        created: Revision(entry.created),
        modified: Revision(entry.modified),
        lease: entry.lease.map(LeaseId),
    }
}

fn show(view: &mut ClusterView, key: &Key, entry: &Entry<Value>) {
    match &entry.value {
        Value::Initialize(v) => view.initialize = Some(keyed(entry, *v)),
        Value::Config(v) => view.config = Some(keyed(entry, v.clone())),
        Value::Leader(v) => view.leader = Some(keyed(entry, v.clone())),
        Value::Term(v) => view.term = Some(keyed(entry, v.clone())),
        Value::Beat(v) => view.beat = Some(keyed(entry, v.clone())),
        Value::Claim(v) => view.claim = Some(keyed(entry, v.clone())),
        Value::Sync(v) => view.sync = Some(keyed(entry, v.clone())),
        Value::Status(v) => view.status = Some(keyed(entry, v.clone())),
        Value::Failover(v) => view.failover = v.clone().map(|v| keyed(entry, v)),
        Value::History(v) => view.history = Some(keyed(entry, v.clone())),
        Value::Failsafe(v) => view.failsafe = Some(keyed(entry, v.clone())),
        Value::Member(v) => {
            if let Key::Member(name) = key {
                view.members.insert(name.clone(), keyed(entry, v.clone()));
            }
        }
    }
}

fn forget(view: &mut ClusterView, key: &Key) {
    match key {
        Key::Initialize => view.initialize = None,
        Key::Config => view.config = None,
        Key::Leader => view.leader = None,
        Key::Term => view.term = None,
        Key::Beat => view.beat = None,
        Key::Claim => view.claim = None,
        Key::Sync => view.sync = None,
        Key::Status => view.status = None,
        Key::Failover => view.failover = None,
        Key::History => view.history = None,
        Key::Failsafe => view.failsafe = None,
        Key::Member(name) => drop(view.members.remove(name)),
    }
}
