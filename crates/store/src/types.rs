//! The store's words: keys, revisions, conditions, transactions and their replies, as agents and
//! models use them. Leaves the wire form to `convert` and `pb`, and what keys mean to the callers.

use bytes::Bytes;

/// A key: any bytes but none at all.
pub type Key = Bytes;
/// A value: any bytes.
pub type Value = Bytes;

/// A key with its value and its history, as the store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// The revision that created the key; overwriting keeps it.
    pub create_revision: u64,
    /// The revision of the last put.
    pub mod_revision: u64,
    /// How many puts since its creation, from 1.
    pub version: u64,
    /// The lease that the key hangs on; 0: none.
    pub lease: i64,
}

/// How a condition relates what the store has to what the caller gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// The same.
    Equal,
    /// Anything else.
    NotEqual,
    /// The store's is greater.
    Greater,
    /// The store's is less.
    Less,
}

/// What of a key a condition looks at. An absent key has 0 for every number; a condition on the
/// value of an absent key never holds, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The revision of its last put.
    Mod(u64),
    /// The revision of its creation.
    Create(u64),
    /// The number of puts since its creation.
    Version(u64),
    /// The lease that it hangs on.
    Lease(i64),
    /// Its value.
    Value(Value),
}

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key that it looks at.
    pub key: Key,
    /// The relation that must hold.
    pub is: Is,
    /// What is compared, and with what.
    pub target: Target,
}

impl Compare {
    /// Holds when `target` is equal.
    #[must_use]
    pub fn equal(key: impl Into<Key>, target: Target) -> Self {
        Self { key: key.into(), is: Is::Equal, target }
    }

    /// Holds when the key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Key>) -> Self {
        Self::equal(key, Target::Create(0))
    }

    /// Holds when the key exists.
    #[must_use]
    pub fn exists(key: impl Into<Key>) -> Self {
        Self { key: key.into(), is: Is::NotEqual, target: Target::Create(0) }
    }

    /// Holds when the last put of the key was at `revision`; 0: when it does not exist.
    #[must_use]
    pub fn mod_revision(key: impl Into<Key>, revision: u64) -> Self {
        Self::equal(key, Target::Mod(revision))
    }

    /// Holds when the key was created at `revision`.
    #[must_use]
    pub fn create_revision(key: impl Into<Key>, revision: u64) -> Self {
        Self::equal(key, Target::Create(revision))
    }

    /// Holds when the key hangs on `lease`.
    #[must_use]
    pub fn lease(key: impl Into<Key>, lease: i64) -> Self {
        Self::equal(key, Target::Lease(lease))
    }

    /// Holds when the key exists and has exactly this value.
    #[must_use]
    pub fn value(key: impl Into<Key>, value: impl Into<Value>) -> Self {
        Self::equal(key, Target::Value(value.into()))
    }
}

/// Which keys a read is about, and how it is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The key, or the first one.
    pub key: Key,
    /// Empty: only `key`. One zero byte: every key from `key` on. Else the first key beyond.
    pub range_end: Key,
    /// At most so many keys; 0: all.
    pub limit: u64,
    /// As of this revision; 0: now.
    pub revision: u64,
    /// May be answered from one member's memory without asking the others; may be stale.
    pub serializable: bool,
    /// Answer the number of keys only.
    pub count_only: bool,
}

impl Range {
    /// One key.
    #[must_use]
    pub fn one(key: impl Into<Key>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    /// Every key that begins with `prefix`; an empty prefix means every key.
    #[must_use]
    pub fn prefix(prefix: impl Into<Key>) -> Self {
        let prefix = prefix.into();
        let range_end = prefix_end(&prefix);
        // etcd refuses an empty key, so "all" begins at the least legal one.
        let key = if prefix.is_empty() { Bytes::from_static(&[0]) } else { prefix };
        Self { key, range_end, ..Self::default() }
    }
}

/// The first key that does not begin with `prefix`, in etcd's words: a single zero byte when there
/// is no such key.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

/// Whether `key` lies in the range that (`start`, `range_end`) names in etcd's words.
#[must_use]
pub fn in_range(key: &[u8], start: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key and hangs it on a lease (0: on none, also if it hung on one before).
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// Its lease from now on.
        lease: i64,
    },
    /// Deletes a key, or all keys of a range.
    Delete {
        /// The key, or the first one.
        key: Key,
        /// As in [`Range::range_end`].
        range_end: Key,
    },
    /// Reads within the transaction; sees the steps before it.
    Range(Range),
}

impl Op {
    /// Writes a key that hangs on no lease.
    #[must_use]
    pub fn put(key: impl Into<Key>, value: impl Into<Value>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: 0 }
    }

    /// Writes a key that hangs on `lease`.
    #[must_use]
    pub fn put_leased(key: impl Into<Key>, value: impl Into<Value>, lease: i64) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease }
    }

    /// Deletes one key.
    #[must_use]
    pub fn delete(key: impl Into<Key>) -> Self {
        Self::Delete { key: key.into(), range_end: Key::new() }
    }

    /// Deletes every key that begins with `prefix`.
    #[must_use]
    pub fn delete_prefix(prefix: impl Into<Key>) -> Self {
        let Range { key, range_end, .. } = Range::prefix(prefix);
        Self::Delete { key, range_end }
    }

    /// Reads one key.
    #[must_use]
    pub fn get(key: impl Into<Key>) -> Self {
        Self::Range(Range::one(key))
    }
}

/// A transaction: if all of `compare` hold then `then`, else `otherwise`, atomically. All its
/// writes have one revision. The store refuses two writes of one key, delete and put included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions; none: always.
    pub compare: Vec<Compare>,
    /// The steps when all conditions hold.
    pub then: Vec<Op>,
    /// The steps when one does not.
    pub otherwise: Vec<Op>,
}

/// What one step of a transaction answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// A put was done.
    Put,
    /// So many keys were deleted.
    Delete {
        /// How many.
        deleted: u64,
    },
    /// What a read found.
    Range {
        /// The keys, in order.
        kvs: Vec<KeyValue>,
    },
}

/// A transaction's answer. `succeeded` is false when a condition did not hold; that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// The store's revision after the transaction: that of its writes, if it made any.
    pub revision: u64,
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One answer for each step of the branch that was taken.
    pub responses: Vec<OpReply>,
}

/// A read's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// Whose store it is.
    pub cluster_id: u64,
    /// The store's revision at the time of the read.
    pub revision: u64,
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// How many keys the range has, whatever the limit.
    pub count: u64,
}

/// All keys of a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose store it is.
    pub cluster_id: u64,
    /// The store's revision at the time of the read.
    pub revision: u64,
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
}

/// One key's change, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written; this is what it is now.
    Put(KeyValue),
    /// The key was deleted, expired with its lease, or was revoked with it.
    Delete {
        /// The key.
        key: Key,
        /// When.
        revision: u64,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// A lease as the store granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease; never 0.
    pub id: i64,
    /// The time to live in seconds; the store may grant more than was asked for.
    pub ttl: i64,
}

/// A member's view of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whose store it is.
    pub cluster_id: u64,
    /// Which member answered.
    pub member_id: u64,
    /// The store's revision as this member knows it.
    pub revision: u64,
    /// The server's version.
    pub version: String,
    /// The member that leads the store; 0: this member knows none.
    pub leader: u64,
    /// The consensus term.
    pub raft_term: u64,
    /// Bytes on disk.
    pub db_size: u64,
    /// What this member complains about.
    pub errors: Vec<String>,
}

/// A member of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// It doesn't vote yet.
    pub is_learner: bool,
}
