//! The consensus store as agents see it: etcd's v3 API, a client, an embedded server, a conformance
//! suite. Leaves the meaning of keys, and every decision, to others; knows nothing of PostgreSQL.
//!
//! ```text
//! types, error   the store's words            client       etcd or the embedded server, one code
//! pb, convert    etcd's messages              embedded     the server for one machine
//!                                             conformance  what every store has to do
//! ```

mod client;
pub mod conformance;
mod convert;
pub mod embedded;
mod error;
pub mod pb;
mod tasks;
mod types;

pub use client::{
    ATTEMPT_TIMEOUT, Client, Credentials, Endpoint, InvalidEndpoint, Options, WatchEvent, Watcher,
};
pub use error::{Error, Refusal};
pub use types::{
    Compare, Event, Grant, Is, Key, KeyValue, Member, Op, OpReply, Range, RangeReply, Snapshot,
    Status, Target, Txn, TxnReply, Value, in_range, prefix_end,
};
