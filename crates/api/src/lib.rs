//! What others read: REST bodies and paths, store keys and values, and a small client.
//!
//! The only crate that knows JSON for users. `keys`, `encode` and `cluster` speak the store's
//! language (docs/protocol.md, and Patroni's contract where the keys are Patroni's); `rest` the
//! agents' HTTP language; `client` asks. Deliberately absent: any decision, and the store's wire.
#![forbid(unsafe_code)]

pub mod client;
pub mod cluster;
pub use pgherd_config::{Secret, dynamic as config};
mod decode;
pub mod encode;
pub mod json;
pub mod keys;
pub mod race;
pub mod rest;
pub mod tls;
mod vouch;
pub mod words;

pub use client::{Client, ClientError, Response, origin};
pub use cluster::{Change, Cluster, MemberInfo, Record, Schedule, StatusSlots};
pub use encode::{Encoder, MemberSelf, PendingChange};
pub use keys::Keys;

/// What member keys and status bodies give as `version`: dotted integers that tell a Patroni in the
/// same cluster which of its behaviours to expect from us (contract 1.3; it must be >= 4.0.0).
pub const COMPATIBLE_VERSION: &str = "4.1.5";
