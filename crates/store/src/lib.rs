//! The consensus store as agents see it: etcd's v3 API, a client, an embedded server, a conformance
//! suite. Leaves the meaning of keys, and every decision, to others; knows nothing of PostgreSQL.
//!
//! ```text
//! types, error   the store's words            client       etcd or the embedded server, one code
//! pb, convert    etcd's messages              embedded     the server for one machine
//!                                             conformance  what every store has to do
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pgherd_store::{Client, Compare, Op, Options, Txn, WatchEvent};
//! use std::time::Duration;
//!
//! let client = Client::new(Options::new(vec!["http://127.0.0.1:2379".parse()?]));
//! let within = Duration::from_secs(2);
//! let lease = client.lease_grant(5, within).await?;
//! let txn = Txn {
//!     compare: vec![Compare::absent("/service/demo/leader")],
//!     then: vec![Op::put_leased("/service/demo/leader", "node-1", lease.id)],
//!     ..Txn::default()
//! };
//! let mine = client.txn(txn, within).await?.succeeded;
//! let mut watcher = client.watch_prefix("/service/demo/");
//! while let Some(event) = watcher.next().await {
//!     if let WatchEvent::Changed { revision, events } = event {
//!         println!("{mine} {revision} {events:?}");
//!     }
//! }
//! # Ok(()) }
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
    ATTEMPT_TIMEOUT, Client, Credentials, DISCOVERY_INTERVAL, Endpoint, InvalidEndpoint, Options,
    Order, Srv, TlsFiles, WatchEvent, Watcher,
};
pub use error::{CertificateTrouble, Error, LookupTrouble, Obstacle, Refusal};
pub use types::{
    Compare, Event, Grant, Is, Key, KeyValue, Member, Op, OpReply, Range, RangeReply, Snapshot,
    Status, Target, Txn, TxnReply, Value, in_range, prefix_end,
};
