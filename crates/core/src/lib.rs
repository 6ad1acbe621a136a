//! The decisions of one pgherd node, as values.
//!
//! Feed [`Node::handle`] with what happened and when; drain [`Node::poll_action`] for what to do;
//! call [`Node::handle`] with [`Input::Tick`] when [`Node::poll_deadline`] is due. Nothing else
//! changes a node. Deliberately absent: IO, clocks, randomness, async, logging, and English
//! outside `Display`.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod disk;
mod facts;
mod foreign;
pub mod input;
pub mod mutant;
pub mod node;
pub mod peer;
mod plan;
pub mod policy;
pub mod postgres;
pub mod quorum;
pub mod reason;
pub mod record;
mod requests;
mod state;
pub mod tags;
pub mod time;
pub mod types;
pub mod vouch;
mod waits;

pub use input::{Action, Durable, Input, OpId, Promise, RequestId, StoreOutcome, StoreRequest};
pub use node::{Node, NodeConfig, Restarts, Timer};
pub use policy::{Policy, Repair, SynchronousMode};
pub use reason::{Decision, Reason, Situation};
pub use tags::Tags;
pub use time::{Duration, Time};
pub use types::{
    Incarnation, Instance, InvalidLsn, InvalidName, LeaseId, Lsn, NodeName, Revision, SystemId,
    Term, Timeline,
};
