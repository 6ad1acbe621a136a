//! A key-value store with etcd's habits: revisions, leases that expire on a scan each 0.5 s and
//! never early, and a leader change that gives every lease its full time again and one second more.
//! Generic over keys and values; what the keys mean is `cluster_store`'s.

#[cfg(test)]
mod conforms;

use std::collections::BTreeMap;

use crate::clock::Micros;

/// A value with its revisions, as etcd keeps them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry<V> {
    pub(crate) value: V,
    pub(crate) created: u64,
    pub(crate) modified: u64,
    pub(crate) lease: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Micros,
    expires: Micros,
}

/// A condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Cmp<K> {
    /// Last written at this revision; 0: absent.
    Modified(K, u64),
    /// Hangs on this lease.
    Lease(K, i64),
}

/// An effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change<K, V> {
    Put(K, V, Option<i64>),
    Delete(K),
}

/// The time between two looks at the leases (measured: 0.5 s).
pub(crate) const SCAN: Micros = 500_000;
/// What a leader change adds to every lease (etcd's default election timeout).
pub(crate) const ELECTION: Micros = 1_000_000;

/// The store.
#[derive(Debug)]
pub(crate) struct StoreModel<K, V> {
    revision: u64,
    keys: BTreeMap<K, Entry<V>>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
}

impl<K: Ord + Clone, V> StoreModel<K, V> {
    pub(crate) fn new() -> Self {
        Self { revision: 1, keys: BTreeMap::new(), leases: BTreeMap::new(), next_lease: 7_000 }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, key: &K) -> Option<&Entry<V>> {
        self.keys.get(key)
    }

    /// All keys, in order.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = (&K, &Entry<V>)> {
        self.keys.iter()
    }

    /// The time to live of a lease that exists.
    #[cfg(test)]
    pub(crate) fn ttl(&self, id: i64) -> Option<Micros> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// A new lease; whole seconds, rounded up, as etcd grants them.
    pub(crate) fn grant(&mut self, now: Micros, ttl: Micros) -> i64 {
        self.next_lease += 1;
        let ttl = ttl.div_ceil(1_000_000).max(1) * 1_000_000;
        self.leases.insert(self.next_lease, Lease { ttl, expires: now + ttl });
        self.next_lease
    }

    /// Renews; false when the lease is gone.
    pub(crate) fn keep_alive(&mut self, now: Micros, id: i64) -> bool {
        self.leases.get_mut(&id).is_some_and(|lease| {
            lease.expires = lease.expires.max(now + lease.ttl);
            true
        })
    }

    /// Removes a lease and its keys; returns the keys.
    pub(crate) fn revoke(&mut self, id: i64) -> Vec<K> {
        self.leases.remove(&id);
        let on_it = |entry: &Entry<V>| entry.lease == Some(id);
        let gone: Vec<K> =
            self.keys.iter().filter(|(_, e)| on_it(e)).map(|(k, _)| k.clone()).collect();
        if !gone.is_empty() {
            self.revision += 1;
        }
        for key in &gone {
            self.keys.remove(key);
        }
        gone
    }

    /// The look at the leases: revokes what has expired; returns the keys.
    pub(crate) fn scan(&mut self, now: Micros) -> Vec<K> {
        let expired = |lease: &Lease| lease.expires <= now;
        let ids: Vec<i64> =
            self.leases.iter().filter(|(_, l)| expired(l)).map(|(id, _)| *id).collect();
        ids.into_iter().flat_map(|id| self.revoke(id)).collect()
    }

    /// Another leader: every lease restarts.
    pub(crate) fn leader_change(&mut self, now: Micros) {
        for lease in self.leases.values_mut() {
            lease.expires = now + lease.ttl + ELECTION;
        }
    }

    fn holds(&self, condition: &Cmp<K>) -> bool {
        match condition {
            Cmp::Modified(key, revision) => {
                self.keys.get(key).map_or(0, |e| e.modified) == *revision
            }
            Cmp::Lease(key, id) => self.keys.get(key).is_some_and(|e| e.lease == Some(*id)),
        }
    }

    /// One transaction: the revision when it was applied, `None` when a compare did not hold or a
    /// lease doesn't exist. Without an effect the revision stays.
    pub(crate) fn txn(
        &mut self,
        compare: &[Cmp<K>],
        then: impl IntoIterator<Item = Change<K, V>>,
    ) -> Option<u64> {
        if !compare.iter().all(|c| self.holds(c)) {
            return None;
        }
        let then: Vec<_> = then.into_iter().collect();
        let known = |change: &Change<K, V>| match change {
            Change::Put(_, _, Some(id)) => self.leases.contains_key(id),
            Change::Put(_, _, None) | Change::Delete(_) => true,
        };
        if !then.iter().all(known) {
            return None;
        }
        let at = self.revision + 1;
        let mut changed = false;
        for change in then {
            match change {
                Change::Put(key, value, lease) => {
                    let created = self.keys.get(&key).map_or(at, |e| e.created);
                    self.keys.insert(key, Entry { value, created, modified: at, lease });
                    changed = true;
                }
                Change::Delete(key) => changed |= self.keys.remove(&key).is_some(),
            }
        }
        if changed {
            self.revision = at;
        }
        Some(self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Cmp, StoreModel};

    type Store = StoreModel<&'static str, u32>;
    const SECOND: u64 = 1_000_000;

    #[test]
    fn revisions_are_etcds() {
        let mut store = Store::new();
        assert_eq!(store.txn(&[Cmp::Modified("a", 0)], [Change::Put("a", 1, None)]), Some(2));
        assert_eq!(store.txn(&[Cmp::Modified("a", 0)], [Change::Put("a", 2, None)]), None);
        assert_eq!(store.txn(&[], [Change::Put("a", 3, None), Change::Put("b", 4, None)]), Some(3));
        let a = store.get(&"a").unwrap();
        assert_eq!((a.created, a.modified), (2, 3));
        assert_eq!(store.txn(&[], []), Some(3), "a compare alone changes nothing");
        assert_eq!(store.txn(&[], [Change::Delete("none")]), Some(3));
        assert_eq!(store.txn(&[], [Change::Delete("a")]), Some(4));
        store.txn(&[], [Change::Put("a", 9, None)]);
        assert_eq!(store.get(&"a").unwrap().created, 5, "a new life");
    }

    #[test]
    fn leases_expire_on_a_scan_and_never_early() {
        let mut store = Store::new();
        let id = store.grant(0, 2 * SECOND);
        store.txn(&[], [Change::Put("a", 1, Some(id))]);
        assert!(store.scan(2 * SECOND - 1).is_empty());
        assert!(store.keep_alive(SECOND, id));
        assert!(store.scan(3 * SECOND - 1).is_empty());
        store.leader_change(2 * SECOND);
        assert!(store.scan(5 * SECOND - 1).is_empty());
        let before = store.revision();
        assert_eq!(store.scan(5 * SECOND), ["a"]);
        assert_eq!(store.revision(), before + 1);
        assert!(!store.keep_alive(5 * SECOND, id));
        assert_eq!(store.txn(&[], [Change::Put("a", 1, Some(id))]), None, "no such lease");
    }

    #[test]
    fn a_lease_is_compared() {
        let mut store = Store::new();
        let (mine, other) = (store.grant(0, SECOND), store.grant(0, SECOND));
        store.txn(&[], [Change::Put("a", 1, Some(mine))]);
        assert_eq!(store.txn(&[Cmp::Lease("a", other)], []), None);
        assert!(store.txn(&[Cmp::Lease("a", mine)], []).is_some());
        store.txn(&[], [Change::Put("a", 1, None)]);
        assert_eq!(store.txn(&[Cmp::Lease("a", mine)], []), None, "a put without lease detaches");
    }
}
