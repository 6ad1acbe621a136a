//! The decisions of one pgherd node, as values.
//!
//! Feed [`Node::handle`] with what happened and when; drain [`Node::poll_action`] for what to do;
//! call [`Node::handle`] with [`Input::Tick`] when [`Node::poll_deadline`] is due. Nothing else
//! changes a node. Deliberately absent: IO, clocks, randomness, async, logging, and English
//! outside `Display`.
#![forbid(unsafe_code)]

pub mod postgres;
pub mod time;
pub mod types;

pub use time::{Duration, Time};
pub use types::{
    Incarnation, Instance, InvalidName, LeaseId, Lsn, NodeName, Revision, SystemId, Term, Timeline,
};
