//! What the journal holds: snapshots and batches of effects, as protobuf messages of our own. Field
//! numbers never change meaning; a change that old versions can't read raises `FORMAT_VERSION`.
//! Leaves framing, checksums and files to `journal`.

use bytes::Bytes;
use prost::{Message, Oneof};

use crate::pb::KeyValue;

/// The journal's format. Other versions are refused.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// One record of the journal.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    /// What it is.
    #[prost(oneof = "Entry", tags = "1, 2")]
    pub entry: Option<Entry>,
}

/// The kinds of records.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Entry {
    /// Everything, at the beginning of each file.
    #[prost(message, tag = "1")]
    Snapshot(Snapshot),
    /// The writes that were made durable together.
    #[prost(message, tag = "2")]
    Batch(Batch),
}

/// The whole store.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Snapshot {
    /// Random, made with the directory: a new data file is a new cluster.
    #[prost(fixed64, tag = "1")]
    pub cluster_id: u64,
    /// Random, made with the directory.
    #[prost(fixed64, tag = "2")]
    pub member_id: u64,
    /// The revision of the last write.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// Revisions up to this one may have been used, whatever else the file says.
    #[prost(int64, tag = "4")]
    pub reserved: i64,
    /// The keys, in order.
    #[prost(message, repeated, tag = "5")]
    pub kvs: Vec<KeyValue>,
    /// The leases.
    #[prost(message, repeated, tag = "6")]
    pub leases: Vec<LeaseRow>,
    /// How often this store was opened.
    #[prost(uint64, tag = "7")]
    pub starts: u64,
}

/// Writes that were made durable together.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Batch {
    /// What each of them changed.
    #[prost(message, repeated, tag = "1")]
    pub effects: Vec<Effects>,
    /// A new reservation of revisions; 0: the old one stands.
    #[prost(int64, tag = "2")]
    pub reserved: i64,
}

/// What one write changed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Effects {
    /// The revision of its changes; 0 when it changed no key.
    #[prost(int64, tag = "1")]
    pub revision: i64,
    /// The keys, in the order in which they changed.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<Change>,
    /// New leases.
    #[prost(message, repeated, tag = "3")]
    pub granted: Vec<LeaseRow>,
    /// Leases that ended. Their keys are among `changes`.
    #[prost(int64, repeated, tag = "4")]
    pub gone: Vec<i64>,
}

impl Effects {
    /// Whether there is nothing to make durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.granted.is_empty() && self.gone.is_empty()
    }
}

/// One key's change.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Change {
    /// What it is now.
    #[prost(message, optional, tag = "1")]
    pub put: Option<KeyValue>,
    /// Without `put`: the key that was deleted.
    #[prost(bytes = "bytes", tag = "2")]
    pub delete: Bytes,
}

impl Change {
    pub(crate) fn put(kv: KeyValue) -> Self {
        Self { put: Some(kv), delete: Bytes::new() }
    }

    pub(crate) fn delete(key: Bytes) -> Self {
        Self { put: None, delete: key }
    }
}

/// A lease without its keys: they say themselves on which lease they hang.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LeaseRow {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds granted.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
}
